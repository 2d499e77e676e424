/* reload_call - `wayside reload`: asks a host that runs to reload, and waits. Part of reload.
 */
#ifndef WAY_RELOAD_CALL_H
#define WAY_RELOAD_CALL_H

#include "base.h"

/* Sends WAYSIDE RELOAD and these words to the console at "host:port" or "unix:/path". 0: it is
 * in charge, `said` tells what and where; -1: it is not, or nobody answers. */
int way_reload_call(const char *console, unsigned words, const char *const *word,
                    struct way_buf *said, struct way_err *err) WAY_MUST_CHECK;

#endif
