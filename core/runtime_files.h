/* runtime_files - the Lua files that are part of the program, carried inside it.
 *
 * The array is generated when wayside is built: every core/runtime/NAME.lua under the name
 * "runtime/NAME.lua", and "policies/default.lua". It ends with a NULL name, is constant,
 * and may be read by any thread. So the binary needs no installed file. */
#ifndef WAY_RUNTIME_FILES_H
#define WAY_RUNTIME_FILES_H

struct way_runtime_file {
    const char *name;   /* ro, as above */
    const char *text;   /* ro, ends with a NUL that `size` does not count */
    unsigned long size; /* ro, bytes */
};

extern const struct way_runtime_file way_runtime_files[];

#endif
