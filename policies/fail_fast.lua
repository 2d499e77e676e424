--- fail_fast: an answer now, or an error now.
--
-- Situation  The caller has something better to do than to wait: a cache before a database, a fallback of its own.
-- Behaviour  The first failure that blames a node takes it out and drops its connections, so that what waits on them
--            fails too. From then on each command for it gets its error at once, without a socket. Nothing is ever
--            held; one thing is tried again, and at once: what a connection lost that the node had closed while idle.
--            The topology is refreshed as fast as it can be, and a probe that read data brings the node back.
-- Knobs      `wait` between probes. How long the first command waits is timeouts.read: make it short.
-- Caveats    A failover is a second or two of errors. One slow answer takes a replica out; of a master's only the
--            silence does (see limits.guard).
local wayside = require "wayside"

return wayside.policy {
    name = "fail-fast",
    version = "1",

    options = {
        wait    = { default = 0.2, unit = "s", min = 0.05, help = "from a mark to its first probe, and between probes" },
        timeout = { default = 0.2, unit = "s", min = 0.01, help = "of a probe" },
    },

    mark = function(_, node, event)
        if node.state == "draining" then return nil end          -- the operator's business
        if event.kind == "expiry" then return nil end
        if event.kind == "change" then
            local promoted = event.change == "role" and node.role == "master" and node.state ~= "healthy"
            return promoted and { state = "healthy", reason = "promoted" } or {}
        end
        if not event.error then
            if node.state == "healthy" then return nil end
            return { state = "healthy", reason = "answers" }
        end
        if node.state == "failing" then return nil end           -- known already
        return { state = "failing", reason = event.reply or event.error, refresh = true, connections = "drop" }
    end,

    backoff = function(_, _, event)
        local lost = event.class == "stale_connection" and event.attempt == 1
        return lost and { retry = "same" } or nil
    end,

    probe = function(self, node, event)
        local o = self.options
        if event.kind == "change" then return { after = 0, timeout = o.timeout } end      -- new, or of a new role: look
        if node.state == "healthy" or node.state == "draining" then return nil end
        return { after = o.wait * (0.8 + 0.4 * wayside.random()), timeout = o.timeout }
    end,
}
