/* policy_text - the bytes of a policy. Part of policy: policy_parts.h. */
#ifndef WAY_POLICY_TEXT_H
#define WAY_POLICY_TEXT_H

#include "policy_parts.h"
#include "runtime_files.h"

/* policies/default.lua; NULL: not part of this program. */
const struct way_runtime_file *way_policy_built_in(void);
/* A file beside the policy: of a sealed text what it keeps, else read. The text is the
 * caller's. */
int way_policy_read_beside(const struct way_policy_text *t, const char *file, char **text,
                           size_t *n, struct way_err *err) WAY_MUST_CHECK;

#endif
