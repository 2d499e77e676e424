--- go_redis: go-redis's rules for pipelines, with its constants as options.
--
-- Situation  You come from go-redis with RouteRandomly or ReadOnly and want its behaviour, one mark for all workers.
-- Behaviour  Whatever goes wrong with a node, in any phase, marks it as failing for `failing_timeout` seconds, counted from
--            the truncated second as the original does: 15 means 14 to 15. Nothing but time clears a mark, no probe is
--            sent. Reads go to a random node of the shard. A failed pipeline is tried again up to `max_redirects`
--            times, after min + U[0, min * 2^attempt) seconds, at most max.
-- Knobs      read_only = false is the client without ReadOnly: reads go to masters, and a broken read marks nobody.
--            That is the original's blind spot; so was, until its issue 2960, every phase but the read.
-- Caveats    For single commands the original differs: a first failure is retried on the same node and marks nobody, a
--            second marks, LOADING from a replica marks at once. wayside answers all as pipelines. A connection
--            that served before and closes is no fault of the node here (class stale_connection), and a write that may
--            have been executed is not sent again, where the original sends it. A mark clears only as a whole shard's
--            last resort in the original (it then asks the master anyway); here the host tries a last node itself.
local wayside = require "wayside"

return wayside.policy {
    name = "go-redis",
    version = "1",

    options = {
        failing_timeout = { default = 15, unit = "s", min = 1, help = "how long a mark lasts, from the truncated second" },
        max_redirects   = { default = 3, min = 0, help = "attempts after the first" },
        min             = { default = 0.01, unit = "s", min = 0, help = "least wait before another attempt" },
        max             = { default = 1, unit = "s", min = 0, help = "longest wait before another attempt" },
        read_only       = { default = true, help = "reads may go to replicas, and a broken read marks" },
    },

    pick = function(options) return options.read_only and "random" or "master" end,

    mark = function(self, _, event)
        local o = self.options
        if not event.error then return nil end
        if event.phase == "read" and not o.read_only then return nil end
        return {
            state = "failing",
            seconds = math.floor(event.unix) + o.failing_timeout - event.unix,
            reason = event.reply or event.error,
        }
    end,

    probe = function() return nil end,

    backoff = function(self, _, event)
        local o = self.options
        if event.attempt > o.max_redirects then return nil end
        return { retry = "other", after = math.min(o.max, o.min + wayside.random() * o.min * 2 ^ event.attempt) }
    end,
}
