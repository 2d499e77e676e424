--- ride_through: through a failover without an error.
--
-- Situation  Masters have replicas, and the cluster replaces one that died within seconds. Slightly old answers are
--            better than none, and a late write is better than a refused one.
-- Behaviour  Any failure that blames a node takes it out at once, drops its connections and asks for a refresh. Reads go
--            to another node of the shard at once, a replica too, while the master is out. Writes that were not sent,
--            and reads that nobody can serve, wait up to `hold` for the new master, or for the old one to answer again.
--            A write that may have been executed is answered with an error: the client has to look. A node is back
--            when a probe has read data, or when the cluster has made it a master.
-- Knobs      `hold` should be longer than a failover: cluster-node-timeout and one to two seconds.
-- Caveats    timeouts.total has to be longer than `hold`, or it ends the wait; limits.held_bytes bounds what may wait.
--            limits.retry_burst bounds how many reads may go again when a node with all of them in flight is lost.
--            Reads may see the past, for as long as the master is out.
local wayside = require "wayside"

return wayside.policy {
    name = "ride-through",
    version = "1",

    options = {
        hold    = { default = 6, unit = "s", min = 0, help = "longest wait of a command for a usable node" },
        wait    = { default = 0.5, unit = "s", min = 0.05, help = "from a mark to its first probe, and between probes" },
        timeout = { default = 0.5, unit = "s", min = 0.01, help = "of a probe" },
    },

    mark = function(_, node, event)
        if node.state == "draining" then return nil end          -- the operator's business
        if event.kind == "expiry" then return nil end
        if event.kind == "change" then
            -- What the cluster has just made a master, most of its masters have found alive.
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

    backoff = function(self, _, event)
        local reads, class = event.commands == "reads", event.class
        if not reads and event.certainty == "unknown" then return nil end
        -- Our own limits are full: more attempts would not help.
        if class == "local" and event.error ~= "no_node" then return nil end
        -- The connection was old, the node may be fine: at once by a new one.
        if class == "stale_connection" and event.attempt == 1 then return { retry = "same" } end
        if reads and event.attempt <= 2 and class ~= "again" then return { retry = "other", stale_reads = true } end
        return { retry = "hold", within = self.options.hold - event.age, stale_reads = true }
    end,

    probe = function(self, node, event)
        local o = self.options
        if event.kind == "change" then return { after = 0, timeout = o.timeout } end      -- new, or of a new role: look
        if node.state == "healthy" or node.state == "draining" then return nil end
        return { after = o.wait * (0.8 + 0.4 * wayside.random()), timeout = o.timeout }
    end,
}
