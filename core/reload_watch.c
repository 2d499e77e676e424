/* reload_watch - see reload_watch.h.
 *
 *   CLOSED ──modified──▶ OPEN (its name is kept) ──closed, gone, replaced──▶ CLOSED
 *     └─ for QUIET seconds, and no name is kept: reload
 *
 * The folder, not the file, for most programs write a new file and rename it, and what the
 * policy requires lies there too. A name that is kept for ever (its writer hangs) holds up
 * every reload by the watch, and none by hand. */
#include "reload_watch.h"

#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

static const double QUIET = 0.2, LOOK = 1;
enum { NAMES = 16, PATH_BYTES = 4096, EVENTS_BYTES = 8192 };
#define ENDS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE)

struct way_reload_watch {
    struct way_loop *loop;
    struct way_reload *reload;
    int fd, folder_wd; /* -1: none */
    ev_io io;
    ev_timer quiet; /* runs while something has changed */
    ev_timer look;  /* is it still the folder? */
    char folder[PATH_BYTES];
    char *open[NAMES]; /* being written */
};

/* Of the policy in charge; "": it is no file. */
static void folder_of(const struct way_reload_watch *w, char *out, size_t n)
{
    struct way_reload_status status;
    char path[PATH_BYTES];
    way_reload_status(w->reload, &status);
    out[0] = 0;
    if (!strcmp(status.file, "default") || !strcmp(status.file, "none"))
        return;
    snprintf(path, sizeof path, "%s", status.file);
    char *slash = strrchr(path, '/');
    if (slash == path)
        slash[1] = 0;
    else if (slash)
        *slash = 0;
    snprintf(out, n, "%s", slash ? path : ".");
}

static void forget_names(struct way_reload_watch *w)
{
    for (unsigned i = 0; i < NAMES; i++) {
        way_free(w->open[i]);
        w->open[i] = NULL;
    }
}

static void changed(struct way_reload_watch *w)
{
    ev_timer_again(w->loop->ev, &w->quiet);
}

/* Watches the folder that is meant now: it may have been made anew, or the policy moved. */
static void watch_folder(struct way_reload_watch *w)
{
    char folder[PATH_BYTES];
    folder_of(w, folder, sizeof folder);
    bool same = !strcmp(folder, w->folder);
    if (w->folder_wd >= 0 && same)
        return;
    if (w->folder_wd >= 0)
        inotify_rm_watch(w->fd, w->folder_wd);
    forget_names(w);
    w->folder_wd = !folder[0]
                       ? -1
                       : inotify_add_watch(w->fd, folder,
                                           IN_MODIFY | IN_CREATE | ENDS | IN_ONLYDIR |
                                               IN_DELETE_SELF | IN_MOVE_SELF);
    if (w->folder_wd < 0 && folder[0] && !same)
        way_log(WAY_WARN, "watch=%s error=\"%s\"", folder, strerror(errno));
    if (w->folder_wd >= 0 && same)
        changed(w); /* it was away meanwhile */
    snprintf(w->folder, sizeof w->folder, "%s", folder);
}

static char **find_name(struct way_reload_watch *w, const char *name)
{
    for (unsigned i = 0; i < NAMES; i++)
        if (w->open[i] && !strcmp(w->open[i], name))
            return &w->open[i];
    return NULL;
}

static void note(struct way_reload_watch *w, const struct inotify_event *e)
{
    const char *name = e->len ? e->name : "";
    char **kept = find_name(w, name);
    if (e->mask & IN_IGNORED && e->wd == w->folder_wd)
        w->folder_wd = -1;
    if (e->wd != w->folder_wd && !(e->mask & (IN_Q_OVERFLOW | IN_IGNORED)))
        return; /* of a folder that was left */
    if (e->mask & (IN_DELETE_SELF | IN_MOVE_SELF)) {
        inotify_rm_watch(w->fd, w->folder_wd);
        w->folder_wd = -1;
    }
    if (e->mask & ENDS && kept) {
        way_free(*kept);
        *kept = NULL;
    } else if (e->mask & IN_MODIFY && !kept) {
        for (unsigned i = 0; i < NAMES && !kept; i++)
            if (!w->open[i])
                *(kept = &w->open[i]) = way_strdup(name);
    }
    changed(w);
}

static void on_events(struct ev_loop *ev, ev_io *io, int events)
{
    (void)ev, (void)events;
    struct way_reload_watch *w = way_container(io, struct way_reload_watch, io);
    _Alignas(struct inotify_event) char bytes[EVENTS_BYTES];
    ssize_t n = read(w->fd, bytes, sizeof bytes);
    for (ssize_t at = 0; n > 0 && at < n;) {
        const struct inotify_event *e = (const void *)(bytes + at);
        note(w, e);
        at += (ssize_t)(sizeof *e + e->len);
    }
}

static void on_quiet(struct ev_loop *ev, ev_timer *t, int events)
{
    (void)events;
    struct way_reload_watch *w = way_container(t, struct way_reload_watch, quiet);
    ev_timer_stop(ev, t);
    for (unsigned i = 0; i < NAMES; i++)
        if (w->open[i])
            return; /* its end begins this anew */
    way_reload_soon(w->reload, "watch", true);
}

static void on_look(struct ev_loop *ev, ev_timer *t, int events)
{
    (void)ev, (void)events;
    watch_folder(way_container(t, struct way_reload_watch, look));
}

struct way_reload_watch *way_reload_watch_new(struct way_loop *loop,
                                              struct way_reload *reload)
{
    struct way_reload_watch *w = way_zalloc(sizeof *w);
    w->loop = loop;
    w->reload = reload;
    w->folder_wd = -1;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd < 0) {
        way_log(WAY_WARN, "watch=none error=\"%s\"", strerror(errno));
        way_free(w);
        return NULL;
    }
    ev_io_init(&w->io, on_events, w->fd, EV_READ);
    ev_io_start(loop->ev, &w->io);
    ev_timer_init(&w->quiet, on_quiet, 0., QUIET);
    ev_timer_init(&w->look, on_look, LOOK, LOOK);
    ev_timer_start(loop->ev, &w->look);
    watch_folder(w);
    return w;
}

void way_reload_watch_free(struct way_reload_watch *w)
{
    if (!w)
        return;
    ev_io_stop(w->loop->ev, &w->io);
    ev_timer_stop(w->loop->ev, &w->quiet);
    ev_timer_stop(w->loop->ev, &w->look);
    close(w->fd);
    forget_names(w);
    way_free(w);
}
