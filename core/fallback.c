/* fallback - see fallback.h. Small enough to be right by reading. */
#include "fallback.h"

#include <stdio.h>

static const double fails_for = 5, probes_every = 1;

void way_fallback_mark(const struct way_view *node, const struct way_event *e,
                       struct way_mark *out)
{
    memset(out, 0, sizeof *out);
    bool well = e->error == WAY_ERROR_NONE;
    if (!well && (e->blame != WAY_BLAME_NODE || !way_event_hard(e)))
        return;
    if (well && (e->kind != WAY_KIND_PROBE || node->verdict.state == WAY_STATE_HEALTHY))
        return; /* an expiry that is answered by nil makes the node healthy too */
    out->given = true;
    out->has = WAY_MARK_STATE | (well ? 0 : WAY_MARK_SECONDS | WAY_MARK_REASON);
    out->state = well ? WAY_STATE_HEALTHY : WAY_STATE_FAILING;
    out->seconds = well ? 0 : fails_for;
    if (!well)
        snprintf(out->reason, sizeof out->reason, "%s", way_error_name(e->error));
}

void way_fallback_backoff(const struct way_view *node, const struct way_event *e,
                          struct way_retry *out)
{
    (void)node;
    memset(out, 0, sizeof *out);
    out->within = -1;
    bool safe = e->commands == WAY_COMMANDS_READS ||
                (e->has_certainty && e->certainty == WAY_CERTAINTY_UNSENT);
    if (safe && e->attempt <= 1)
        out->kind = WAY_RETRY_OTHER;
}

void way_fallback_probe(const struct way_view *node, const struct way_event *e,
                        struct way_probe *out)
{
    (void)e;
    memset(out, 0, sizeof *out);
    out->given = node->verdict.state != WAY_STATE_HEALTHY;
    out->after = probes_every;
}
