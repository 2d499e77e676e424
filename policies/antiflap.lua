--- antiflap: the memcached proxy's, failures in a row take a node out, and one that keeps failing stays out longer.
--
-- Situation  A node that breaks, comes back, answers a little and breaks again does more harm than one that is away.
-- Behaviour  More than `limit` network errors in a row take a node out; it is probed every `retry` seconds and is back when
--            a probe succeeds. With `flap_time` above 0, each error that follows the last one (or the connection's
--            beginning) within that time is a flap, one that comes later starts anew. More than `limit` flaps take the
--            node out for retry * ramp ^ flaps seconds, in whole seconds, at most `max`, even if it answers meanwhile.
-- Knobs      See `options`. The original's defaults: flapping is not watched unless `flap_time` is set.
-- Caveats    In the original a new connection that is greeted ends the row, here an answered command does. A broken
--            connection is one error however much it carried, in both; there each worker thread counts for itself.
--            Waits below a second are cut to 0 there; here the host's limits on probes then set the pace.
--            The last node that serves is only suspected unless it can't be reached (limits.guard).
local wayside = require "wayside"

local function out(self, node, seconds, reason)
    local m = node.memory
    m.wait = math.min(seconds, self.options.max)
    node.counters.row:reset()
    return { state = "failing", reason = reason }
end

return wayside.policy {
    name = "antiflap",
    version = "1",

    options = {
        limit     = { default = 3, min = 1, help = "errors in a row, and flaps, that are borne" },
        retry     = { default = 3, unit = "s", min = 0.1, help = "from a mark to a probe" },
        flap_time = { default = 0, unit = "s", min = 0, help = "an error so soon after the last is a flap; 0: none is" },
        ramp      = { default = 1.5, min = 1, help = "how much longer for each flap" },
        max       = { default = 3600, unit = "s", min = 1, help = "longest wait" },
    },

    memory = { node = { flaps = 0, last = 0, wait = 0 } },

    -- Network errors only; what a node says while it is loading is no error of its connection.
    counters = function(options) return {
        row = wayside.consecutive { classes = { "down", "slow" }, count = "events", edge = { above = options.limit } },
    } end,

    mark = function(self, node, event)
        local o, m = self.options, node.memory
        if node.state == "draining" then return nil end
        if event.kind == "probe" then
            if event.error or node.state == "healthy" then return nil end
            m.wait = 0
            return { state = "healthy", reason = "answers" }
        end
        local broken = event.error and event.phase ~= "connect" and (event.class == "down" or event.class == "slow")
        if broken and node.state ~= "failing" then
            local since = m.last > 0 and event.now - m.last or event.connection_age
            m.flaps = o.flap_time > 0 and since <= o.flap_time and m.flaps + 1 or 0
            m.last = event.now
            if m.flaps > o.limit then return out(self, node, math.floor(o.retry * o.ramp ^ m.flaps), "flapping") end
        end
        if event.kind == "edge" and node.state ~= "failing" then return out(self, node, o.retry, "errors") end
    end,

    probe = function(_, node)
        if node.state == "healthy" or node.state == "draining" then return nil end
        return { after = node.memory.wait, command = { "PING" } }
    end,
}
