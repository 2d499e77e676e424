--- haproxy: checks with rise and fall, and traffic observed between them.
--
-- Situation  You come from HAProxy with `check inter fall rise`, `observe layer7`, `error-limit` and `on-error`.
-- Behaviour  A node's health is a number from 0 to rise + fall - 1, full at first. A failed check takes one off, and below
--            `rise` the node is out, at 0; a good one adds one, and at `rise` it is in, at full. Checks come every `inter`
--            seconds at full, `downinter` at 0, else `fastinter`. `error_limit` failed commands in a row bring the next
--            check after `fastinter`, and what `on_error` says: nothing more (fastinter), a failed check (fail-check),
--            all but the last failed check (sudden-death), or the node out at once (mark-down).
-- Knobs      See `options`; the defaults are HAProxy's. A check reads data from the node (`command` "data"), or says PING.
-- Caveats    A check's time-out is the host's. Slow start is continuous here and in steps there. Weights of a half-down
--            server do not exist. The row of errors ends with an answered command, and with a good check as there.
--            The last node that serves is only suspected for errors of traffic (limits.guard), not for failed checks.
local wayside = require "wayside"

return wayside.policy {
    name = "haproxy",
    version = "1",

    options = {
        inter       = { default = 2, unit = "s", min = 0.01, help = "between checks of a node that is well" },
        fastinter   = { default = 2, unit = "s", min = 0.01, help = "between checks on the way up or down" },
        downinter   = { default = 2, unit = "s", min = 0.01, help = "between checks of a node that is out" },
        rise        = { default = 2, min = 1, help = "good checks that bring it in" },
        fall        = { default = 3, min = 1, help = "failed checks that take it out" },
        error_limit = { default = 10, min = 1, help = "failed commands in a row" },
        on_error    = { default = "fail-check", one_of = { "fastinter", "fail-check", "sudden-death", "mark-down" },
            help = "what these are" },
        slowstart   = { default = 0, unit = "s", min = 0, help = "time in which its share grows back" },
        command     = { default = "data", one_of = { "data", "PING" }, help = "a check" },
    },

    memory = function(o) return { node = { health = o.rise + o.fall - 1, fast = 0 } } end,

    counters = function(o) return { errors = wayside.consecutive { edge = { at_least = o.error_limit } } } end,

    mark = function(self, node, event)
        local o, m, errors = self.options, node.memory, node.counters.errors
        local h, top = m.health, o.rise + o.fall - 1
        if node.state == "draining" then return nil end
        if event.kind == "probe" and not event.error then
            errors:reset()
            h = h + 1
            if h >= o.rise then h = top end
        elseif event.kind == "probe" then
            h = math.max(0, h - 1)
        elseif event.kind == "edge" then
            errors:reset()
            m.fast = 1
            if o.on_error == "fastinter" or h < o.rise then return {} end          -- {}: the next check is set anew
            if o.on_error == "sudden-death" and h > o.rise then h = o.rise + 1 end
            if o.on_error == "mark-down" then h = o.rise end
            h = h - 1
        else
            return nil
        end
        local up = h >= o.rise
        if not up and h < m.health then h = 0 end                                  -- on the way down: out at once
        local was_up = m.health >= o.rise
        m.health = h
        if up and not was_up then return { state = "healthy", ramp = o.slowstart, reason = "rise" } end
        if was_up and not up then return { state = "failing", reason = event.error or event.counter } end
        return {}
    end,

    probe = function(self, node)
        local o, m = self.options, node.memory
        local after = m.health == 0 and o.downinter or o.fastinter
        if m.health == o.rise + o.fall - 1 and m.fast == 0 then after = o.inter end
        m.fast = 0
        return { after = after, command = o.command == "data" and "data" or { o.command } }
    end,
}
