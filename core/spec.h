/* spec - runs the specs of policies in a Lua state of its own: `wayside test FILE...`.
 *
 * A spec is the operator's own text, as trusted as a shell script: all of Lua is there,
 * with `require "wayside.test"` and as much of busted as core/runtime/spec.lua offers. */
#ifndef WAY_SPEC_H
#define WAY_SPEC_H

#include "base.h"

/* 0: all passed; 1: some failed; -1: a file can't be loaded, or holds no test. What passed
 * and failed is printed on standard output. */
int way_spec_run(const char *const *file, unsigned files,
                 struct way_err *err) WAY_MUST_CHECK;

#endif
