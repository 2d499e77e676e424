--- default: good sense for production.
--
-- Situation  Any Redis Cluster whose nodes now and then die, freeze, restart, get slow or change roles.
-- Behaviour  Hard evidence (refused, unreachable, a dial that timed out, a fresh connection that breaks) takes a node out
--            at once. Time-outs of reads and writes make it suspect first, so that others are preferred, and take it
--            out after `slow_row` in a row. The way back is a probe that reads data: the first after `wait` seconds,
--            doubled with every relapse up to `wait_max`, so that a flapping node stays out longer each time. A replica
--            that is new is used where nothing better is until its first probe is answered.
--            Reads try other nodes of the shard, then wait for one; writes that were never sent wait up to `hold` for
--            the master or its successor. A write that may have been executed is answered with an error.
-- Knobs      See `options`. For slightly old answers while a master is down, set stale_reads.
-- Caveats    A failover of Redis takes as long as cluster-node-timeout says: to ride through it, raise `hold` and
--            timeouts.total beyond that. With `recover = "time"` a node comes back untested.
local wayside = require "wayside"

-- Waits between the attempts of one command: short, and never the same for two clients.
local between = wayside.backoff { base = 0.02, factor = 2, cap = 0.5, jitter = "full" }

-- Where the answer is an error, or can't be blamed on anybody else.
local bad_reply = {
    { error = "reply", reply = { "LOADING", "MASTERDOWN" }, class = "not_ready" },
    { error = "reply", reply = { "READONLY", "MOVED", "ASK" }, class = "stale_route" },
    { error = "reply", message = { "ERR READONLY", "READONLY You can't write against a read only" },
        class = "stale_route" },                                                  -- as some servers and scripts put it
    { error = "reply", reply = { "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS" }, class = "again" },
    { error = "reply", reply = "BUSY", class = "busy" },                          -- a script that does not end
    { error = "reply", message = "ERR max number of clients", class = "busy" },
    { error = "reply", reply = { "WRONGPASS", "NOAUTH", "NOPERM" }, class = "config" },
    { error = "reply", class = "answer" },                                        -- every other one *is* the answer
}

return wayside.policy {
    name = "default",
    version = "1",

    options = {
        slow_row    = { default = 2, min = 1, help = "time-outs in a row that take a node out" },
        wait        = { default = 1, unit = "s", min = 0.05, help = "from a mark to its first probe, and between probes" },
        wait_max    = { default = 30, unit = "s", min = 0.05, help = "most of that, after relapses" },
        calm        = { default = 60, unit = "s", min = 0, help = "healthy for so long: earlier relapses are forgotten" },
        recover     = { default = "probe", one_of = { "probe", "time" }, help = "what ends a mark" },
        ramp        = { default = 5, unit = "s", min = 0, help = "time in which a recovered node's share grows back" },
        attempts    = { default = 3, min = 1, help = "attempts of a read before it waits" },
        hold        = { default = 2, unit = "s", min = 0, help = "longest wait of a command for a usable node" },
        stale_reads = { default = false, help = "true: reads may go to replicas while the master fails" },
        timeout     = { default = 0.5, unit = "s", min = 0.01, help = "of a probe" },
    },

    -- Relapses: how often in succession the node was taken out soon after it had come back.
    memory = { node = { strikes = 0 } },

    classes = {
        bad_reply,
        { error = "timeout", class = "slow" },
        -- A connection that served before and is closed while no reply has begun: an idle time-out, a restart.
        { error = { "eof", "reset" }, phase = { "write", "read" }, step = { "route", "queue", "resolve", "dial", "tls",
            "hello", "send", "wait" }, reused = true, replies_read = 0, class = "stale_connection" },
        { error = "auth", class = "config" },
        { error = { "overflow", "shed", "no_node" }, class = "local" },
        { error = { "cancelled", "deadline" }, class = "caller" },
        { error = { "refused", "reset", "eof", "unreachable", "dns", "tls", "certificate", "protocol" }, class = "down" },
    },

    mark = function(self, node, event)
        local o, state, kind, class = self.options, node.state, event.kind, event.class
        if state == "draining" then return nil end               -- the operator's business
        if kind == "change" then
            -- Asks for a probe. A new replica may be loading yet: others are preferred until that is answered. One with a
            -- reason has been marked before, in another process.
            local new = event.change == "added" and node.role == "replica" and state == "healthy" and not node.reason
            return new and { state = "suspect", reason = "new" } or {}
        end
        if kind == "expiry" then return nil end                  -- the mark's time is over: healthy
        if kind == "edge" then return nil end                    -- of a counter that another policy declared
        if not event.error then
            -- A probe that read data, or an answered command on a node that was in doubt: it is back.
            if state == "healthy" then return nil end
            return { state = "healthy", ramp = state == "failing" and o.ramp or 0, reason = "answers" }
        end
        if state == "failing" then return nil end                -- known already
        if event.blame ~= "node" then                            -- a probe that met an election, a move, a wrong password
            return state == "suspect" and node.reason == "new" and { state = "healthy", reason = "answers" } or nil
        end
        local soft = class == "busy" or class == "slow" and event.phase ~= "connect" and node.failures < o.slow_row
        if soft and kind ~= "probe" then
            -- Others are preferred; the probe that follows, or the next time-out, decides.
            return state ~= "suspect" and { state = "suspect", reason = class } or nil
        end
        local memory = node.memory
        local strikes = memory.strikes
        if state == "healthy" and event.now - node.since > o.calm then strikes = 0 end
        if class ~= "not_ready" then strikes = math.min(strikes + 1, 16) end             -- loading is no relapse
        memory.strikes = strikes
        return {
            state = "failing",
            seconds = o.recover == "time" and math.min(o.wait_max, o.wait * 2 ^ (strikes - 1)) or nil,
            reason = event.reply or event.error,
            refresh = node.role == "master",                     -- its replica may have taken over
        }
    end,

    backoff = function(self, _, event)
        local o, class, attempt = self.options, event.class, event.attempt
        local reads = event.commands == "reads"
        -- Executed or not, nobody knows: the client has to.
        if not reads and event.certainty == "unknown" then return nil end
        -- Our own limits are full: more attempts would not help.
        local nowhere = event.error == "no_node"
        if class == "local" and not nowhere then return nil end
        if class ~= "again" and not nowhere then
            -- The connection was old, the node may be fine: at once, and once, by a new one.
            if attempt == 1 and class == "stale_connection" then return { retry = "same" } end
            local after = attempt > 1 and between(attempt - 1) or 0
            -- The topology is being refreshed: to the master that it names.
            if class == "stale_route" and attempt <= o.attempts then return { retry = "master", after = after } end
            if reads and attempt < o.attempts then
                return { retry = "other", after = after, stale_reads = o.stale_reads }
            end
            -- Writes that were not sent: the master may have failed on one connection only.
            if not reads and attempt == 1 then return { retry = "master" } end
        end
        -- The slot is moving, the cluster is voting, or no node can be used: wait, within reason.
        return { retry = "hold", within = o.hold - event.age, stale_reads = o.stale_reads }
    end,

    probe = function(self, node, event)
        local o = self.options
        if event.kind == "change" then return { after = 0, timeout = o.timeout } end      -- new, or of a new role: look
        if node.state == "healthy" or node.state == "draining" then return nil end
        if node.state == "suspect" and event.kind ~= "probe" then return { after = 0.05, timeout = o.timeout } end
        local wait = math.min(o.wait_max, o.wait * 2 ^ math.max(0, node.memory.strikes - 1))
        return { after = wait * (0.8 + 0.4 * wayside.random()), timeout = o.timeout }
    end,
}
