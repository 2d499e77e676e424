--- bounded_staleness: reads from replicas that are near enough to their master, else from the master.
--
-- Situation  Replicas take load off the masters, but an answer must not be older than so and so.
-- Behaviour  Each node is asked INFO replication every `every` seconds. A replica takes reads while its link is up, it has
--            heard of its master within `silent` seconds, and it is at most `behind` bytes behind. What it tells is
--            kept as a number of the node, `fresh`, which `route` reads: staleness is no failure, so a stale replica
--            keeps its state and its connections. Reads go to a fresh replica, drawn anew for each; without one, to
--            the master. Writes go to the master. Failures are the default's, and its probes come before ours.
-- Knobs      `behind` in bytes of the replication stream: what the master writes in the time that you can bear, less
--            what it writes in `every`. `silent` must be above repl-ping-replica-period (10 seconds).
-- Caveats    What was true when the probe was answered may be older by `every` when it is used. While the master is
--            out no read is answered from a replica unless backoff says stale_reads (the default's option), and a
--            replica's link is down then: it takes no reads until the failover is through. `route` is asked for
--            each command.
local wayside = require "wayside"

return wayside.policy {
    name = "bounded-staleness",
    version = "1",

    options = {
        behind = { default = 1048576, unit = "bytes", min = 0, help = "most that a replica may lack" },
        silent = { default = 12, unit = "s", min = 0, help = "longest since the replica heard of its master" },
        every  = { default = 1, unit = "s", min = 0.05, help = "between two looks at a node's replication" },
    },

    memory = { node = { fresh = 0 } },

    mark = function(self, node, event)
        local o, memory, told = self.options, node.memory, node.replication
        if event.kind == "change" or event.error then
            memory.fresh = 0                                     -- new, of a new role, or in doubt: not before it tells
        elseif event.kind == "probe" and (wayside.info(event.answer) or {}).role then
            -- behind is below 0 where nobody can tell: the master has not been asked yet.
            local fresh = node.role == "replica" and told.link_up and told.last_io <= o.silent
                and told.behind >= 0 and told.behind <= o.behind
            memory.fresh = fresh and 1 or 0
        end
        return wayside.default.mark(self, node, event)
    end,

    probe = function(self, node, event)
        return wayside.default.probe(self, node, event)
            or { after = self.options.every, command = { "INFO", "replication" }, connection = "pooled" }
    end,

    pick = "master",

    route = function(_, request, nodes)
        if request.write then return nil end
        local chosen, seen, tried = nil, 0, request.tried
        for index = 1, #nodes do
            local node = nodes[index]
            if node.role == "replica" and index ~= tried and node.state == "healthy" and node.memory.fresh == 1 then
                seen = seen + 1
                if seen == 1 or wayside.random() * seen < 1 then chosen = index end
            end
        end
        return chosen
    end,
}
