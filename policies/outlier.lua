--- outlier: out for a while is who answers worse than the others do.
--
-- Situation  Nodes that do alike work should fail alike. One that fails more is sick, whatever it fails with, and no
--            probe would find it out. Envoy's outlier detection, and gRPC's.
-- Behaviour  A node is taken out when `consecutive` commands in a row failed; and by a sweep every `interval` seconds, for
--            what was counted since the last one: when its success rate is more than `stdev` standard deviations below
--            the mean of all, or, with `failure_percentage`, when `threshold` percent failed. It stays out for `base`
--            seconds times the number of its ejections, `max` at most; each interval of good conduct takes one off
--            that number. No more than `share` percent of the nodes are out at once.
-- Knobs      `like = "grpc"`: sweeps judge first and take back then, the threshold must be exceeded, `share` may be reached
--            by the last ejection; set `consecutive` to 0, which it does not have. `one`: one may go whatever `share`
--            says, for it is less than a node in small clusters.
-- Caveats    A dead node costs `consecutive` failures each time it comes back, for nothing probes it. The guard lets no
--            master and no last node of a shard be taken out for this, they become suspect. With less than `min_hosts`
--            nodes of enough volume sweeps judge nobody.
local wayside = require "wayside"

local function eject(self, node, now, reason, out)
    local o, memory, nodes = self.options, node.memory, self.cluster.nodes
    local room = o.one and out == 0 or 100 * (out + 1) / nodes <= o.share
    if o.like == "grpc" then room = 100 * out / nodes < o.share end
    if memory.ejected > 0 or node.state == "draining" or not room then return nil end
    if memory.times * o.base < o.max + o.base then memory.times = memory.times + 1 end
    memory.ejected, memory.jitter = now, wayside.random() * o.jitter
    return { node = node, state = "failing", reason = reason }
end

local function take_back(self, node, now)
    local o, memory = self.options, node.memory
    local left = memory.ejected + math.min(o.base * memory.times, math.max(o.base, o.max)) + memory.jitter - now
    if memory.ejected == 0 or left > 0 or left == 0 and o.like == "grpc" then return nil end
    memory.ejected, memory.back = 0, now
    node.counters.row:reset()
    return { node = node, state = "healthy", reason = "served" }
end

local function forgive(self, node, now)
    local o, memory = self.options, node.memory
    local calm = o.like == "grpc" or now - memory.back >= o.interval
    if memory.ejected == 0 and memory.times > 0 and calm then memory.times = memory.times - 1 end
end

--- The success rates, in percent, of the nodes that have enough volume, and the rate that is too low: none where there
-- are too few of them.
local function success_rates(self, nodes, volume)
    local o, rates, sum, square = self.options, {}, 0, 0
    for _, node in ipairs(nodes) do
        local rate = node.counters.rate
        if node.memory.ejected == 0 and rate.volume >= volume then
            rates[#rates + 1] = { node = node, success = 100 * (rate.volume - rate.failed) / rate.volume }
            sum = sum + rates[#rates].success
        end
    end
    if #rates < o.min_hosts then return {} end
    local mean = sum / #rates
    for _, each in ipairs(rates) do square = square + (each.success - mean) ^ 2 end
    return rates, mean - o.stdev * math.sqrt(square / #rates)
end

return wayside.policy {
    name = "outlier",
    version = "1",

    options = {
        like               = { default = "envoy", one_of = { "envoy", "grpc" }, help = "whose rules where they differ" },
        consecutive        = { default = 5, min = 0, help = "failures in a row that take a node out, 0: none do" },
        interval           = { default = 10, unit = "s", min = 0.05, max = 3600, help = "between two sweeps" },
        base               = { default = 30, unit = "s", min = 0.05, help = "out for so long the first time" },
        max                = { default = 300, unit = "s", min = 0.05, help = "out for so long at most" },
        jitter             = { default = 0, unit = "s", min = 0, help = "up to so much longer" },
        share              = { default = 10, unit = "%", min = 0, max = 100, help = "of the nodes that may be out" },
        one                = { default = true, help = "one may be out whatever share says" },
        min_hosts          = { default = 5, min = 1, help = "nodes with enough volume, or nobody is judged" },
        success_rate       = { default = true, help = "judge by the mean of all" },
        stdev              = { default = 1.9, min = 0, help = "standard deviations below the mean that are allowed" },
        volume             = { default = 100, min = 1, help = "commands since the last sweep, or it is not judged" },
        failure_percentage = { default = false, help = "judge by its own failures" },
        threshold          = { default = 85, unit = "%", min = 0, max = 100, help = "of them that are too many" },
        failure_volume     = { default = 50, min = 1, help = "as volume, for failure_percentage" },
    },

    memory = { node = { ejected = 0, times = 0, back = 0, jitter = 0 } },
    -- Each sweep empties the window, which is longer than any interval.
    counters = { row = wayside.consecutive {}, rate = wayside.window { seconds = 7200 } },
    every = function(options) return options.interval end,
    probe = function() end,

    mark = function(self, node, event)
        local most, all = self.options.consecutive, self.cluster
        if not event.error or event.kind == "probe" or most == 0 or node.counters.row.value < most then return nil end
        node.counters.row:reset()
        local answer = eject(self, node, event.now, "consecutive", all.failing + all.suspect)
        return answer and { state = answer.state, reason = answer.reason } or nil
    end,

    tick = function(self, nodes, event)
        local o, now, answers, judged, out = self.options, event.now, {}, {}, 0
        local function put(answer, by)
            if answer then answers[#answers + 1], out = answer, out + by end
        end
        for _, node in ipairs(nodes) do
            if node.memory.ejected > 0 then out = out + 1 else judged[#judged + 1] = node end
        end
        local function serve()
            for _, node in ipairs(nodes) do
                -- Whom this sweep took out has not served yet.
                if node.memory.ejected < now then put(take_back(self, node, now), -1) end
            end
        end
        if o.like == "envoy" then serve() end
        local rates, floor = success_rates(self, judged, o.volume)
        for _, each in ipairs(o.success_rate and rates or {}) do
            if each.success < floor then put(eject(self, each.node, now, "success_rate", out), 1) end
        end
        for _, each in ipairs(o.failure_percentage and success_rates(self, judged, o.failure_volume) or {}) do
            local over = 100 - each.success - o.threshold
            if over > 0 or over == 0 and o.like == "envoy" then
                put(eject(self, each.node, now, "failure_percentage", out), 1)
            end
        end
        if o.like == "grpc" then serve() end
        for _, node in ipairs(nodes) do
            if node.memory.back ~= now then forgive(self, node, now) end
            node.counters.rate:reset()
        end
        return answers
    end,
}
