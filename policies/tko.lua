--- tko: mcrouter's, a node is knocked out by time-outs in a row, or at once when it can't be reached.
--
-- Situation  You come from mcrouter, or want its rule: slowness must repeat, absence need not, and only a probe, never
--            time and never traffic, brings a node back.
-- Behaviour  `threshold` commands in a row that time out (soft), or one connection that can't be made (hard), knock a
--            node out. Other errors neither count nor end the row; an answer ends it. The first probe comes after
--            `initial` seconds and each later one after half as much again, up to `max`; every wait is 5 to 50 % longer,
--            so that many workers don't probe together. Commands that fail are dealt with by the default.
-- Knobs      With `enter` above 0 it fails open: when so many nodes are out, the next is not marked, nor any other until
--            no more than `exit` are out.
-- Caveats    In mcrouter each process counts for itself and probes for itself; here all workers share a row, a mark and
--            one probe. A refused dial counts there twice (the connection and its request), here once. `enter` and `exit`
--            are numbers of nodes, not percentages. The last node that serves is only suspected for soft errors
--            (limits.guard), which mcrouter would knock out.
local wayside = require "wayside"

return wayside.policy {
    name = "tko",
    version = "1",

    options = {
        threshold = { default = 3, min = 1, help = "commands in a row that time out" },
        initial   = { default = 10, unit = "s", min = 0.001, help = "from a mark to its first probe" },
        max       = { default = 60, unit = "s", min = 0.001, help = "longest wait for a probe" },
        enter     = { default = 0, min = 0, help = "nodes out at which no more are marked; 0: never" },
        exit      = { default = 0, min = 0, help = "nodes out at which marking begins again" },
    },

    memory = { node = { out = 0, delay = 0 }, cluster = { out = 0, open = 0 } },

    counters = function(options) return {
        soft = wayside.consecutive { classes = "soft", edge = { at_least = options.threshold } },
    } end,

    classes = {
        { error = "timeout", phase = { "write", "read" }, class = "soft", blame = "node" },
        { phase = "connect", error = { "refused", "timeout", "unreachable", "reset", "eof" }, class = "hard", blame = "node" },
        wayside.default.classes,
    },

    mark = function(self, node, event)
        local o, m, all = self.options, node.memory, self.cluster.memory
        if event.kind == "probe" and not event.error and m.out == 1 then
            m.out = 0
            -- As the original has it: the exit itself does not count down.
            if all.open == 1 and all.out == o.exit then all.open = 0 else all.out = all.out - 1 end
            node.counters.soft:reset()
            return { state = "healthy", reason = "answers" }
        end
        local knocked = event.kind == "edge" and "soft" or event.class == "hard" and event.kind ~= "probe" and "hard"
        if not knocked or m.out == 1 or node.state == "draining" then return nil end
        if o.enter > 0 and all.open == 0 and all.out == o.enter then all.open = 1 end
        if all.open == 1 then
            node.counters.soft:reset()                           -- to be told of the next row, too
            return nil
        end
        m.out, m.delay, all.out = 1, 0, all.out + 1
        return { state = "failing", reason = knocked }
    end,

    probe = function(self, node)
        local o, m = self.options, node.memory
        if m.out == 0 then return nil end
        -- In whole milliseconds, cut as the original cuts them.
        local wait = m.delay
        if wait == 0 then wait = o.initial * 1000 elseif wait < 2 then wait = 2 else wait = math.floor(wait * 1.5) end
        wait = math.min(wait, o.max * 1000)
        m.delay = wait
        return { after = math.floor(wait * (1.05 + 0.45 * wayside.random())) / 1000 }
    end,
}
