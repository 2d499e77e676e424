/* reload_watch - a reload when the policy's files were changed. Part of reload.
 *
 * Watches the folder of the policy in charge. A change counts once every file that was
 * written there has been closed, or renamed into place, and nothing has moved for a moment:
 * half a file is never loaded. What is the same policy all the same is left alone. */
#ifndef WAY_RELOAD_WATCH_H
#define WAY_RELOAD_WATCH_H

#include "reload.h"

struct way_reload_watch;

/* On reload's loop, before it runs or from its thread; freed before reload. */
struct way_reload_watch *way_reload_watch_new(struct way_loop *loop,
                                              struct way_reload *reload);
void way_reload_watch_free(struct way_reload_watch *w); /* NULL is nothing */

#endif
