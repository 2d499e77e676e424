/* luatext - on which line of a Lua file a field of its table was written.
 *
 * A loaded table no longer knows. So the text is read once more, when there is something to
 * complain of, by a reader that knows just enough Lua: words, strings, comments, brackets
 * and blocks. It answers for table constructors, and for a name that is assigned in only one
 * place; else it says that it doesn't know. Pure; any bytes may be given. */
#ifndef WAY_LUATEXT_H
#define WAY_LUATEXT_H

#include "base.h"

/* A path is written as Lua would: cluster.seeds, listen[2], cluster.zones["a:1"]. These put
 * one step behind what the zero-terminated `path` of `size` bytes holds; what does not fit
 * leaves a path that is found nowhere. */
void way_luatext_step(char *path, size_t size, struct way_span key);
void way_luatext_index(char *path, size_t size, unsigned index);

/* The line, from 1, that gives the field, or for an entry of a list that is not found, the
 * list. 0: not known. */
unsigned way_luatext_line(struct way_span text, const char *path);

#endif
