--- success_rate: Finagle's failure accrual, by the share of answered commands or by failures in a row.
--
-- Situation  Clients of Finagle or Linkerd; or a rule that old successes count less and less for, rather than a window
--            with an edge.
-- Behaviour  A node is dead when the average of its results, in which each weighs e^-1 as much after `window` more of them
--            (over = "results") or so many seconds (over = "time"), falls below `required`, or after `row` failures in a
--            row. It stays so for 5 seconds, then for 5 * 2^(k-1) and as much again at random, at most 300. Then one
--            command goes there: if it is answered, node and average start afresh; if not, it is dead for longer.
-- Knobs      over = "time" with `min_requests`: fewer results within the window prove nothing.
-- Caveats    In Finagle each client has its own average and its own deaths; here all workers share them, and within one
--            pass of a worker the answered commands count before the failed ones. With over = "time", a pass is one
--            result. A dead node is preferred least there but used when all are dead; here the guard (limits.guard) keeps
--            the last one as suspect. Errors that blame nobody give the trial back.
local wayside = require "wayside"

local function die(self, node, reason)
    local o, m = self.options, node.memory
    local seconds = o.least
    if m.deaths > 0 then
        local half = o.least * 2 ^ (m.deaths - 1)
        seconds = half + wayside.random() * half
        if half * 2 > o.most then seconds = o.most end
    end
    m.deaths = math.min(m.deaths + 1, 64)
    return { state = "failing", seconds = seconds, reason = reason }
end

return wayside.policy {
    name = "success-rate",
    version = "1",

    options = {
        over         = { default = "time", one_of = { "time", "results" }, help = "what `window` counts" },
        window       = { default = 30, min = 1, help = "seconds, or results" },
        required     = { default = 0.8, min = 0, max = 1, help = "share of answered commands below which a node is dead" },
        min_requests = { default = 5, min = 0, help = "over time: results in the window that prove something" },
        row          = { default = 5, min = 1, help = "failures in a row that kill" },
        least        = { default = 5, unit = "s", min = 0.001, help = "first time a node is dead" },
        most         = { default = 300, unit = "s", min = 0.001, help = "longest time" },
    },

    memory = { node = { deaths = 0 } },

    counters = function(o)
        local by_time = o.over == "time"
        return {
            failed = wayside.ewma { tau = by_time and o.window or nil, results = not by_time and o.window or nil },
            recent = wayside.window { seconds = by_time and o.window or 1, buckets = 10 },
            row = wayside.consecutive {},
        }
    end,

    mark = function(self, node, event)
        local o, counters = self.options, node.counters
        local alive = node.state == "healthy" or node.state == "suspect"
        if event.error and event.kind ~= "probe" and alive then
            local enough = o.over == "time" and counters.recent.volume >= o.min_requests
                or o.over == "results" and counters.failed.volume >= o.window
            if enough and 1 - counters.failed.value < o.required then return die(self, node, "success_rate") end
            return counters.row.value >= o.row and die(self, node, "row") or nil
        elseif event.kind == "expiry" and node.state == "failing" then
            return { state = "probing", trials = 1 }
        elseif event.trial and node.state == "probing" then
            if event.error and event.blame == "node" then return die(self, node, "trial") end
            if event.error then return nil end
            node.memory.deaths = 0
            counters.failed:reset()
            counters.row:reset()
            return { state = "healthy", reason = "revived" }
        end
    end,

    probe = function() return nil end,
}
