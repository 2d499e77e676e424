--- drain: a replica that is to be taken down says so itself.
--
-- Situation  Planned maintenance, by people or tools that reach the Redis servers and not every gateway before them.
-- Behaviour  `CONFIG SET replica-priority 0` on a replica, which also keeps it from being promoted, drains it in every
--            gateway: it gets no new commands, finishes what it has, and its connections close. A priority above 0, or
--            its becoming a master, ends that. It is seen by a look at each replica every `every` seconds. A replica
--            is drained only while its shard has another node that is healthy, and after it went down while it drained,
--            it is no failure that it does not answer: it is looked at as before, and serves again once it answers
--            with another priority. All else is the default's.
-- Knobs      `every` is how long the announcement takes, and what each replica pays for it: one INFO.
-- Caveats    A master is not drained: move it first (CLUSTER FAILOVER on a replica), then it is one. Priority 0 that was
--            set for other reasons drains too. A drain by an operator's command to one gateway needs no policy.
local wayside = require "wayside"

-- The priority that a replica tells; nil from a master, and from what is no INFO.
local function priority(event)
    local told = event.kind == "probe" and not event.error and wayside.info(event.answer)
    return told and (told.slave_priority or told.replica_priority)
end

return wayside.policy {
    name = "drain",
    version = "1",

    options = {
        every = { default = 2, unit = "s", min = 0.05, help = "between two looks at a replica" },
    },

    memory = { node = { leaving = 0 } },

    mark = function(self, node, event)
        local memory, told = node.memory, priority(event)
        if memory.leaving == 0 then
            if told ~= 0 or node.role ~= "replica" or node.state ~= "healthy" or node.shard.healthy < 2 then
                return wayside.default.mark(self, node, event)
            end
            memory.leaving = 1
            return { state = "draining", connections = "drain", reason = "announced" }
        end
        -- One whose drain somebody else ended is the default's again.
        local over = node.state ~= "draining" or told and told ~= 0 or node.role == "master"
        if not over then return event.kind == "change" and {} or nil end
        memory.leaving = 0
        if node.state ~= "draining" then return wayside.default.mark(self, node, event) end
        return { state = "healthy", ramp = 5, reason = "announced" }
    end,

    probe = function(self, node, event)
        local wanted = node.memory.leaving == 0 and wayside.default.probe(self, node, event)
        if wanted then return wanted end
        return node.role == "replica" and { after = self.options.every, command = { "INFO", "replication" } } or nil
    end,
}
