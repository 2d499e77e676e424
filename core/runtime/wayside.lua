--- wayside: the module that policies require.
--
-- Made once per state, with the host's table: what needs C comes from there. Bad usage raises at load, where the
-- policy's author sees it.

local host = ... -- random(), log(level, text), info(answer), read_only(table, what)

local wayside = {}

--- A policy. Its fields are checked when the host takes it.
---@param policy table
---@return table policy itself
function wayside.policy(policy)
    if type(policy) ~= "table" then error("wayside.policy: expected a table, got " .. type(policy), 2) end
    return policy
end

wayside.random, wayside.log, wayside.info = host.random, host.log, host.info

local function positive(settings, name, standard)
    local value = settings[name]
    if value == nil then value = standard end
    if type(value) ~= "number" or not (value > 0 and value < math.huge) then
        error("wayside.backoff: " .. name .. ": expected a number above 0, got " .. tostring(value), 3)
    end
    return value
end

local backoff_settings = { base = true, factor = true, cap = true, jitter = true }

--- A wait that grows: base, base * factor, ... up to cap.
--
-- jitter "full" draws from 0 to it, "equal" from half of it to it, "decorrelated" from base to three times the last wait
-- (capped), and a share such as 0.2 spreads it by so much to both sides, after the cap.
---@param settings table base, factor (2), cap (60), jitter (none)
---@return fun(attempt: number, last: number|nil): number seconds; attempt counts from 1
function wayside.backoff(settings)
    if type(settings) ~= "table" then error("wayside.backoff: expected a table, got " .. type(settings), 2) end
    for name in pairs(settings) do
        if not backoff_settings[name] then error("wayside.backoff: no setting '" .. tostring(name) .. "'", 2) end
    end
    local base, factor = positive(settings, "base"), positive(settings, "factor", 2)
    local cap, jitter = positive(settings, "cap", 60), settings.jitter
    local share = type(jitter) == "number" and jitter >= 0 and jitter <= 1
    if not (jitter == nil or share or jitter == "full" or jitter == "equal" or jitter == "decorrelated") then
        error("wayside.backoff: jitter: expected full, equal, decorrelated or a share from 0 to 1, got " .. tostring(jitter), 2)
    end
    local min, max, random = math.min, math.max, host.random
    return function(attempt, last)
        if jitter == "decorrelated" then
            local top = max(base, 3 * (last or 0))
            return min(cap, base + random() * (top - base))
        end
        local wait = min(cap, base * factor ^ (max(1, attempt or 1) - 1))
        if jitter == "full" then return random() * wait end
        if jitter == "equal" then return wait / 2 + random() * wait / 2 end
        if share then return wait * (1 + jitter * (2 * random() - 1)) end
        return wait
    end
end

--- A function that asks each in turn: the first answer that is not nil.
---@param ... function each of the questions, such as wayside.default.mark
---@return function
function wayside.compose(...)
    local list = { ... }
    if #list == 0 then error("wayside.compose: expected functions, got none", 2) end
    for index = 1, select("#", ...) do
        if type(list[index]) ~= "function" then
            error("wayside.compose: expected functions, got " .. type(list[index]) .. " as number " .. index, 2)
        end
    end
    return function(self, node, event)
        for index = 1, #list do
            local answer = list[index](self, node, event)
            if answer ~= nil then return answer end
        end
    end
end

-- What is to be counted, for `counters`: wayside.window { seconds = 10 }. The host checks it where it is declared.
for _, kind in ipairs { "consecutive", "window", "ring", "ewma", "tokens", "samples" } do
    wayside[kind] = function(settings)
        if type(settings) ~= "table" then error("wayside." .. kind .. ": expected a table, got " .. type(settings), 2) end
        local counter = {}
        for name, value in pairs(settings) do counter[name] = value end
        if counter.kind ~= nil then error("wayside." .. kind .. ": no setting 'kind'", 2) end
        counter.kind = kind
        return counter
    end
end

return wayside
