--- two_strikes: one slow answer is bad luck, a second is a reason.
--
-- Situation  Replicas that now and then pause for a backup; a read that meets the pause is better asked elsewhere, but
--            a node is not to be left out for one pause.
-- Behaviour  What is hard evidence (refused, unreachable) takes a node out at once. A time-out is a strike; the second
--            within `forget` seconds takes the node out, for `out` seconds at first and twice as long each time it
--            comes again, up to `cap`, a little more or less so that nodes don't come back together. All else is the
--            default's.
-- Knobs      `forget`, `out`, `cap`.
-- Caveats    A node that pauses every `forget` seconds and a bit is never taken out.
local wayside = require "wayside"

return wayside.policy {
    name = "two-strikes",
    version = "1",

    options = {
        forget = { default = 30, unit = "s", min = 1, help = "a strike counts for so long" },
        out    = { default = 5, unit = "s", min = 0.1, help = "how long a node is out for the first time" },
        cap    = { default = 60, unit = "s", min = 1, help = "how long it is out at most" },
    },

    memory = { node = { struck_at = 0, times_out = 0 } },

    mark = function(self, node, event)
        local o, memory = self.options, node.memory
        if event.class ~= "slow" then return wayside.default.mark(self, node, event) end
        local again = memory.struck_at > 0 and event.now - memory.struck_at < o.forget
        memory.struck_at = again and 0 or event.now
        if not again then return nil end
        local seconds = math.min(o.cap, o.out * 2 ^ memory.times_out)
        memory.times_out = memory.times_out + 1
        return { state = "failing", seconds = seconds * (0.9 + 0.2 * wayside.random()), reason = "strikes", refresh = true }
    end,
}
