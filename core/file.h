/* file - a file read whole, and at rest.
 *
 * What changes while it is read is read again: size, times and place must be the same before
 * and after. Who writes in two steps, a second apart, is not found out by that. */
#ifndef WAY_FILE_H
#define WAY_FILE_H

#include "base.h"

/* At most `most` bytes. The text has a NUL behind it and is the caller's (way_free). What is
 * no plain file is read once. -1: missing, unreadable, longer, or never at rest (half a
 * second). */
int way_file_read(const char *path, size_t most, char **text, size_t *n,
                  struct way_err *err) WAY_MUST_CHECK;

#endif
