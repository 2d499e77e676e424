--- backoff: the default, but with waits between dials and between attempts that you can set.
--
-- Situation  A node that restarts should not be met by all clients at once, and a command's attempts should not fall
--            into step with everybody else's.
-- Behaviour  Dials: gRPC's connection backoff. From the beginning of one attempt to the next `base` seconds, `factor` times
--            more with each failure in a row up to `cap`, then `jitter` to both sides, but for the first; a dial may take
--            `connect_timeout`, or as long as the wait is. Commands that the default would send again wait before that:
--            "full" draws from 0 to e, "equal" from e / 2 to e, "decorrelated" from retry_base to three times the last
--            wait, where e = retry_base * 2 ^ (attempt - 1); none is longer than retry_cap.
-- Knobs      See `options`; gRPC's defaults for dials, AWS's names for jitter.
-- Caveats    One worker's failed dial keeps all workers from dialing the node; gRPC's channels wait each for itself. The
--            host's own limits.dial_interval holds too. While a dial waits, commands for the node fail at once.
--            What the default holds waits for a change of the table, not for these.
local wayside = require "wayside"

return wayside.policy {
    name = "backoff",
    version = "1",

    options = {
        base            = { default = 1, unit = "s", min = 0.001, help = "first wait between dials" },
        factor          = { default = 1.6, min = 1, help = "how much longer each time" },
        cap             = { default = 120, unit = "s", min = 0.001, help = "longest, before jitter" },
        jitter          = { default = 0.2, min = 0, max = 1, help = "share of a wait, to both sides" },
        connect_timeout = { default = 20, unit = "s", min = 0.001, max = 3600, help = "least time that a dial is given" },
        retry_base      = { default = 0.02, unit = "s", min = 0.001, help = "first wait between a command's attempts" },
        retry_cap       = { default = 0.5, unit = "s", min = 0.001, help = "longest of these" },
        retry_jitter    = { default = "full", one_of = { "full", "equal", "decorrelated" }, help = "how they are drawn" },
    },

    reconnect = function(self, _, event)
        local o = self.options
        local settings = { base = o.base, factor = o.factor, cap = o.cap, jitter = event.attempt > 1 and o.jitter or nil }
        local wait = wayside.backoff(settings)(event.attempt)
        return {
            after = math.max(0, event.began + wait - event.now),
            timeout = math.min(3600, math.max(o.connect_timeout, wait)),
        }
    end,

    backoff = function(self, node, event)
        local o = self.options
        local answer = wayside.default.backoff(self, node, event)
        if not answer or answer.retry == "hold" then return answer end
        local settings = { base = o.retry_base, cap = o.retry_cap, jitter = o.retry_jitter }
        answer.after = wayside.backoff(settings)(event.attempt, event.waited)
        return answer
    end,
}
