--- circuit_breaker: a share of failed or slow calls opens it, a handful of trials closes it.
--
-- Situation  Nodes that are neither well nor dead: some commands fail, or take too long, and no single one of them proves
--            anything. The rules of resilience4j, which with other knobs are those of Hystrix and of Sentinel.
-- Behaviour  Calls are counted per node over the last `size` of them, or `size` seconds. When at least `min_calls` were seen
--            and `rate` of them failed, or `slow_rate` took longer than `slow_after`, on a success too, the node is
--            left out for `open` seconds. Then `permits` commands go there; when all have ended the same shares decide
--            whether it is closed, its counts forgotten, or open again. No probes: traffic is the test.
-- Knobs      Hystrix: over = "time", size = 10, buckets = 10, min_calls = 20, open = 5, permits = 1.
--            Sentinel: over = "time", size = 1, buckets = 1, min_calls = 5, compare = "above", permits = 1.
-- Caveats    A call is a command; a broken connection fails all that it carried. Whether calls were slow is judged by the
--            last of each batch of replies, and a time-out is slow besides. The original checks a tumbling or sliding
--            window when a call ends, and Hystrix every half second: here after each pass. In Sentinel and Hystrix a call
--            is refused while open; here it goes to another node, and the last one that serves is only suspected
--            (limits.guard). What blames nobody gives its trial back, as an ignored error gives its permit.
local wayside = require "wayside"

return wayside.policy {
    name = "circuit-breaker",
    version = "1",

    options = {
        over       = { default = "count", one_of = { "count", "time" }, help = "what `size` counts: calls, or seconds" },
        size       = { default = 100, min = 1, max = 8192, help = "calls, or seconds, that are looked back on" },
        buckets    = { default = 10, min = 1, max = 100, help = "of the seconds" },
        min_calls  = { default = 100, min = 1, help = "fewer prove nothing" },
        rate       = { default = 0.5, min = 0, max = 1, help = "share of failed calls that opens" },
        slow_rate  = { default = 1, min = 0, max = 1, help = "share of slow calls that opens" },
        slow_after = { default = 60, unit = "s", min = 0.001, help = "longer than that is slow" },
        compare    = { default = "at_least", one_of = { "at_least", "above" }, help = "how shares are compared" },
        open       = { default = 60, unit = "s", min = 0, help = "how long it stays open" },
        permits    = { default = 10, min = 1, max = 1000, help = "trials when that is over" },
    },

    memory = { node = { returned = 0, failed = 0, slow = 0 } },

    counters = function(o)
        local function share(most, settings)
            settings.edge = { [o.compare] = most, min_volume = o.over == "count" and math.min(o.min_calls, o.size) or o.min_calls }
            if o.over == "time" then
                settings.seconds, settings.buckets = o.size, o.buckets
                return wayside.window(settings)
            end
            settings.size = o.size
            return wayside.ring(settings)
        end
        return { failures = share(o.rate, {}), slow = share(o.slow_rate, { classes = "slow", slower = o.slow_after }) }
    end,

    mark = function(self, node, event)
        local o, m = self.options, node.memory
        if event.kind == "edge" and (node.state == "healthy" or node.state == "suspect") then
            return { state = "failing", seconds = o.open, reason = event.counter }
        elseif event.kind == "expiry" and node.state == "failing" then
            m.returned, m.failed, m.slow = 0, 0, 0
            return { state = "probing", trials = o.permits }
        elseif event.trial and node.state == "probing" then
            if event.error and event.blame ~= "node" then return nil end
            local n = math.max(1, event.n)
            m.returned = m.returned + n
            if event.error then m.failed = m.failed + n end
            if event.class == "slow" or event.latency > o.slow_after then m.slow = m.slow + n end
            if m.returned < o.permits then return nil end
            node.counters.failures:reset()
            node.counters.slow:reset()
            local function too_many(n_bad, most)
                local share = n_bad / m.returned
                return share > most or o.compare == "at_least" and share == most
            end
            local bad = too_many(m.failed, o.rate) and "failures" or too_many(m.slow, o.slow_rate) and "slow"
            if bad then return { state = "failing", seconds = o.open, reason = bad } end
            return { state = "healthy", reason = "closed" }
        end
    end,

    probe = function() return nil end,
}
