--- sandbox: from the allow-list, the globals that scripts see.
--
-- A script's environment is an empty table that reads through to `globals` and refuses assignment; so is each
-- library. What is not on the list does not exist, and says so when it is used.

local host = ... -- { allow = the list, natives = the guarded functions }

--- An empty table that reads from `from` and can't be written to.
---@param from table
---@param what string for the message
---@param strict boolean|nil true: reading what is not there raises
---@return table
local function read_only(from, what, strict)
    if strict then
        setmetatable(from, {
            __index = function(_, key) error(what .. " has no '" .. tostring(key) .. "'", 2) end,
        })
    end
    return setmetatable({}, {
        __index = from,
        __newindex = function(_, key)
            error(what .. " is read-only: can't set '" .. tostring(key) .. "'", 2)
        end,
        __metatable = false,
    })
end

local globals = {}

local function take(library, name)
    local guarded = host.natives[library] and host.natives[library][name]
    local plain = library == "_G" and _G or _G[library]
    return guarded or plain[name]
end

for key, value in pairs(host.allow.globals) do
    if type(key) == "number" then
        globals[value] = take("_G", value)
    else
        local library = {}
        for _, name in ipairs(value.fields) do library[name] = assert(take(key, name), name) end
        globals[key] = read_only(library, key)
        if key == "string" then
            -- ("x"):rep(n) must end at the guarded function too.
            local strings = getmetatable("")
            strings.__index, strings.__metatable = library, false
        end
    end
end

setmetatable(globals, {
    __index = function(_, key)
        error("there is no '" .. tostring(key) .. "' here: scripts see the globals listed in the policies' README only", 2)
    end,
})

local environment = setmetatable({}, {
    __index = globals,
    __newindex = function(_, key)
        error("globals can't be set: make '" .. tostring(key) .. "' local", 2)
    end,
    __metatable = false,
})

return { globals = globals, environment = environment, read_only = read_only }
