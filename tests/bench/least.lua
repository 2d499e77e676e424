--- least: the fewest words that answer. What the cost of one event is compared with (policy_event.c): the floor of a
-- policy in Lua with memory that it commits.
local wayside = require "wayside"

return wayside.policy {
    name = "least",
    version = "1",
    memory = { node = { n = 0 } },
    classes = { { class = "down" } },
    mark = function(_, node, event)
        if not event.error then return { state = "healthy" } end
        node.memory.n = node.memory.n + 1
        return { state = "failing" }
    end,
    backoff = function() return { retry = "other" } end,
}
