/* console - the commands that begin with WAYSIDE, answered from what control knows. */
#ifndef WAY_CONSOLE_H
#define WAY_CONSOLE_H

#include "base.h"
#include "control.h"
#include "tell.h"

enum {
    WAY_CONSOLE_WORD = 256, /* bytes of a word */
    WAY_CONSOLE_WORDS = 16, /* of a request */
};

/* argv: what follows the word WAYSIDE, as strings. Puts exactly one reply, an error for
 * what is not understood; or promises one. */
void way_console_run(struct way_control *c, unsigned argc, char *const *argv,
                     struct way_tell *t);

#endif
