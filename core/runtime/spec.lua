--- spec: runs specs without busted: what `wayside test FILE...` does. Returns a function of a list of files that gives the number
-- that way_spec_run tells of (0 all passed, 1 some failed).
--
-- Of busted there are describe (context, insulate, expose), it (spec, test), pending, setup and teardown (also
-- lazy_...), before_each, after_each, finally, and assert with is_true, is_false, is_nil, truthy, falsy, equal(s),
-- same, near, matches, has_error, error_matches and is_<type>, each with not (is_not_nil, are_not.same, ...). No
-- spies, no stubs, no tags, no async. A spec that keeps to these runs under both.

local passed, failed, waiting = 0, 0, 0
local complaints = {}
local block -- the describe that is being read

-- ---- what went wrong, and where ----

local failure_meta = {}

local function show(value, depth)
    if type(value) == "string" then return ("%q"):format(value) end
    if type(value) ~= "table" or (depth or 0) > 3 then return tostring(value) end
    local keys, parts = {}, {}
    for key in pairs(value) do keys[#keys + 1] = key end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    for _, key in ipairs(keys) do
        parts[#parts + 1] = (type(key) == "string" and key or "[" .. tostring(key) .. "]") .. " = " .. show(value[key], (depth or 0) + 1)
    end
    return "{ " .. table.concat(parts, ", ") .. " }"
end

--- Raises a failed assertion, at the line of the spec that made it.
local function fail(text)
    local level, where = 2, ""
    while true do
        local info = debug.getinfo(level, "Sl")
        if not info then break end
        if info.source:sub(1, 1) == "@" then
            where = info.short_src .. ":" .. info.currentline .. ": "
            break
        end
        level = level + 1
    end
    error(setmetatable({ text = where .. text }, failure_meta), 0)
end

-- ---- assert ----

local function same(a, b)
    if type(a) ~= "table" or type(b) ~= "table" then return a == b end
    for key, value in pairs(a) do
        if not same(value, b[key]) then return false end
    end
    for key in pairs(b) do
        if a[key] == nil then return false end
    end
    return true
end

local function raised(what, expected)
    if type(what) ~= "function" then fail("expected a function to call, got " .. show(what)) end
    local ok, err = pcall(what)
    if ok then return false, "expected an error, got none" end
    if type(err) == "string" and type(expected) == "string" then err = err:gsub("^[^\n:]*:%d+: ", "", err == expected and 0 or 1) end
    return expected == nil or same(err, expected), "expected the error " .. show(expected) .. ", got " .. show(err)
end

local checks = {
    ["true"] = function(v) return v == true, "expected true, got " .. show(v) end,
    ["false"] = function(v) return v == false, "expected false, got " .. show(v) end,
    ["nil"] = function(v) return v == nil, "expected nil, got " .. show(v) end,
    truthy = function(v) return v, "expected something true, got " .. show(v) end,
    falsy = function(v) return not v, "expected false or nil, got " .. show(v) end,
    equal = function(a, b) return a == b, "expected " .. show(a) .. ", got " .. show(b) end,
    same = function(a, b) return same(a, b), "expected the same as " .. show(a) .. ", got " .. show(b) end,
    near = function(a, b, by)
        return type(b) == "number" and b >= a - by and b <= a + by, ("expected %s, by at most %s, got %s"):format(show(a), show(by), show(b))
    end,
    matches = function(pattern, text)
        return type(text) == "string" and text:find(pattern) ~= nil, ("expected a text with %s, got %s"):format(show(pattern), show(text))
    end,
    error = raised,
    error_matches = function(what, pattern)
        local ok, err = pcall(what)
        return not ok and tostring(err):find(pattern) ~= nil,
            ok and "expected an error, got none" or ("expected an error with %s, got %s"):format(show(pattern), show(err))
    end,
}
for _, kind in ipairs { "number", "string", "table", "function", "boolean", "userdata" } do
    checks[kind] = function(v) return type(v) == kind, "expected a " .. kind .. ", got " .. show(v) end
end
checks.equals, checks.match, checks.errors, checks.is_near = checks.equal, checks.matches, checks.error, checks.near

local fillers = { is = true, are = true, was = true, were = true, has = true, have = true, does = true, be = true, to = true }
-- What the last value of a check is: a text to add to the message.
local takes = { equal = 2, equals = 2, same = 2, near = 3, matches = 2, match = 2, error = 2, errors = 2, error_matches = 2 }

local chain_meta = {}

local function chain(name, negated)
    return setmetatable({ name = name, negated = negated }, chain_meta)
end

function chain_meta.__index(self, key)
    local name, negated = rawget(self, "name"), rawget(self, "negated")
    for word in tostring(key):lower():gmatch "[^_]+" do
        if word == "not" or word == "no" then negated = not negated
        elseif not fillers[word] then name = name == "" and word or name .. "_" .. word end
    end
    return chain(name, negated)
end

function chain_meta.__call(self, ...)
    local name, check = rawget(self, "name"), checks[rawget(self, "name")]
    if not check then fail("assert has no '" .. name .. "' here: core/runtime/spec.lua lists what it has") end
    local ok, text = check(...)
    local more = select((takes[name] or 1) + 1, ...)
    local negated = rawget(self, "negated") and true or false
    if negated then text = "not so: " .. text end
    local well = ok and true or false
    if well == negated then fail(text .. (more ~= nil and "\n" .. tostring(more) or "")) end
    return ...
end

local assertion = setmetatable({}, {
    __index = function(_, key) return chain("", false)[key] end,
    __call = function(_, value, text, ...)
        if not value then fail(tostring(text == nil and "assertion failed!" or text)) end
        return value, text, ...
    end,
})

-- ---- reading a spec ----

local function new_block(name, parent)
    return { name = name, parent = parent, items = {}, setup = {}, teardown = {}, before_each = {}, after_each = {} }
end

local function describe(name, body)
    local outer = block
    local own = new_block(name, outer)
    outer.items[#outer.items + 1] = own
    block = own
    body()
    block = outer
end

local function it(name, body)
    block.items[#block.items + 1] = { name = name, body = body, test = true }
end

local function pending(name)
    block.items[#block.items + 1] = { name = name, test = true }
end

local function hook(list)
    return function(body) table.insert(block[list], body) end
end

local finalizers

local globals = {
    describe = describe, context = describe, insulate = describe, expose = describe,
    it = it, spec = it, test = it, pending = pending,
    setup = hook "setup", lazy_setup = hook "setup", strict_setup = hook "setup",
    teardown = hook "teardown", lazy_teardown = hook "teardown", strict_teardown = hook "teardown",
    before_each = hook "before_each", after_each = hook "after_each",
    finally = function(body) table.insert(finalizers, body) end,
    randomize = function() end,
    assert = assertion,
}
for name, value in pairs(globals) do _G[name] = value end

-- ---- running it ----

local function traceback(err)
    if getmetatable(err) == failure_meta then return err.text end
    if type(err) ~= "string" then err = "raised " .. show(err) end
    return debug.traceback(err, 2)
end

local function complain(name, text)
    failed = failed + 1
    complaints[#complaints + 1] = name .. "\n    " .. text:gsub("\n", "\n    ")
end

local function call_all(list)
    for _, body in ipairs(list) do
        local ok, text = xpcall(body, traceback)
        if not ok then return text end
    end
end

--- The blocks around, the outermost first.
local function around(own)
    local list = {}
    while own do
        table.insert(list, 1, own)
        own = own.parent
    end
    return list
end

local function run_test(name, item, own)
    local wrong
    finalizers = {}
    for _, outer in ipairs(around(own)) do wrong = wrong or call_all(outer.before_each) end
    if not wrong then
        local ok, text = xpcall(item.body, traceback)
        if not ok then wrong = text end
    end
    wrong = call_all(finalizers) or wrong
    local blocks = around(own)
    for i = #blocks, 1, -1 do wrong = call_all(blocks[i].after_each) or wrong end
    if wrong then complain(name, wrong) else passed = passed + 1 end
end

local function run_block(own, prefix)
    local name = prefix .. (own.name and (prefix ~= "" and " " or "") .. own.name or "")
    local wrong = call_all(own.setup)
    if wrong then complain(name, wrong) end
    for _, item in ipairs(wrong and {} or own.items) do
        if not item.test then run_block(item, name)
        elseif item.body then run_test(name .. (name ~= "" and " " or "") .. item.name, item, own)
        else waiting = waiting + 1 end
    end
    wrong = call_all(own.teardown)
    if wrong then complain(name, wrong) end
end

return function(files)
    for _, file in ipairs(files) do
        local chunk, why = loadfile(file)
        if not chunk then error(why, 0) end
        block = new_block()
        local before = passed + failed + waiting
        local ok, text = xpcall(chunk, traceback)
        if not ok then error(text, 0) end
        run_block(block, "")
        if passed + failed + waiting == before then error(file .. ": holds no test", 0) end
        collectgarbage()
    end
    for _, text in ipairs(complaints) do print("failed: " .. text) end
    print(("%d passed, %d failed, %d pending"):format(passed, failed, waiting))
    return failed > 0 and 1 or 0
end
