--- What a script can see is what the list says, and none of it can be changed.
local list = dofile("core/runtime/allow.lua").globals

describe("the sandbox", function()
    local strings, kept = getmetatable(""), {}
    local guarded = function() return "guarded" end
    local sandbox

    -- The state that builds a sandbox gives its string metatable to it: here it is given back.
    setup(function()
        kept.index, kept.metatable = strings.__index, rawget(strings, "__metatable")
        sandbox = assert(loadfile("core/runtime/sandbox.lua"))({ allow = { globals = list }, natives = { string = { rep = guarded } } })
        strings.__index, strings.__metatable = kept.index, kept.metatable
    end)

    local function run(text)
        return setfenv(assert(loadstring(text)), sandbox.environment)()
    end

    it("has the whole list but require, which the policy's loader adds", function()
        for key, value in pairs(list) do
            if value ~= "require" then
                local name = type(key) == "number" and value or key
                assert.is_not_nil(run("return " .. name), name)
                for _, field in ipairs(type(value) == "table" and value.fields or {}) do
                    assert.is_not_nil(run("return " .. name .. "." .. field), name .. "." .. field)
                end
            end
        end
    end)

    it("has nothing else", function()
        for name in pairs(_G) do
            local listed = list[name] ~= nil
            for _, plain in ipairs(list) do listed = listed or plain == name end
            if not listed then assert.error_matches(function() run("return " .. name) end, "there is no '" .. name .. "'") end
        end
        for _, library in ipairs { "string", "math", "table", "bit" } do
            local fields = {}
            for _, field in ipairs(list[library].fields) do fields[field] = true end
            for field in pairs(require(library)) do
                assert.equal(fields[field] or false, run("return " .. library .. "." .. field .. " ~= nil"), library .. "." .. field)
            end
        end
    end)

    it("prefers the guarded function to the real one", function()
        assert.equal("guarded", run("return string.rep('x', 3)"))
        assert.equal("c", run("return string.char(99)"))
    end)

    it("can't be written to", function()
        assert.error_matches(function() run("x = 1") end, "globals can't be set: make 'x' local")
        assert.error_matches(function() run("string.rep = nil") end, "string is read%-only")
        assert.error_matches(function() run("math.pi = 3") end, "math is read%-only")
    end)

    it("shows no metatables", function()
        assert.is_false(getmetatable(sandbox.environment))
        assert.is_false(getmetatable(run("return string")))
    end)
end)

-- ---- through the host's own loader ----

require "tests.support.policies"
local test = require "wayside.test"
local stdlib = require "posix.stdlib"
local stat = require "posix.sys.stat"
local unistd = require "posix.unistd"

local function write(path, text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
end

--- A folder of its own for one test, with these files in it.
local function folder_of(files)
    local folder = assert(stdlib.mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/wayside-sandbox-XXXXXX"))
    finally(function() os.execute("rm -rf '" .. folder .. "'") end)
    for name, text in pairs(files) do write(folder .. "/" .. name, text) end
    return folder
end

local HEAD = "local wayside = require 'wayside'\n"

--- What becomes of the text run while the policy is loaded, and what of it within mark.
local function try(text)
    local folder = folder_of {
        ["load.lua"] = HEAD .. "do " .. text .. " end return wayside.policy { name = 'x' }",
        ["ask.lua"] = HEAD .. "return wayside.policy { name = 'x', mark = function(self, node, event) " .. text .. " end }",
    }
    local refused = test.refused(folder .. "/load.lua")
    local loads, t = pcall(test.start, folder .. "/ask.lua")
    if not loads then return refused, t end
    local asked, why = pcall(function() t:fail(t:node { silent = true }, { error = "refused" }) end)
    return refused, not asked and why or nil
end

describe("out of the sandbox there is no way:", function()
    local ways = {
        -- { the way, the text, what is said of it }
        { "ffi", "return ffi.C", "there is no 'ffi'" },
        { "ffi by require", "return require 'ffi'", "require: " },
        { "jit", "jit.on()", "there is no 'jit'" },
        { "jit by require", "require('jit.util')", "require: " },
        { "io", "io.open('/etc/passwd')", "there is no 'io'" },
        { "os", "os.execute('true')", "there is no 'os'" },
        { "debug", "debug.getregistry()", "there is no 'debug'" },
        { "debug by require", "require('debug')", "require: " },
        { "package", "package.loadlib('x', 'y')", "there is no 'package'" },
        { "package.loaded", "return package.loaded.ffi", "there is no 'package'" },
        { "load", "load('return 1')()", "there is no 'load'" },
        { "loadstring", "loadstring('return 1')()", "there is no 'loadstring'" },
        { "loadfile", "loadfile('/etc/passwd')", "there is no 'loadfile'" },
        { "dofile", "dofile('/etc/passwd')", "there is no 'dofile'" },
        { "bytecode of a function", "string.dump(function() end)", "nil value" },
        { "bytecode by a string's method", "('').dump(function() end)", "nil value" },
        { "pcall", "pcall(error)", "there is no 'pcall'" },
        { "xpcall", "xpcall(error, error)", "there is no 'xpcall'" },
        { "coroutines", "coroutine.wrap(function() end)()", "there is no 'coroutine'" },
        { "getfenv", "getfenv(0)", "there is no 'getfenv'" },
        { "setfenv", "setfenv(1, {})", "there is no 'setfenv'" },
        { "getmetatable", "getmetatable('').__index = nil", "there is no 'getmetatable'" },
        { "setmetatable", "setmetatable({}, {})", "there is no 'setmetatable'" },
        { "a metatable by a field", "return ('x').__index.dump", "nil value" },
        { "a proxy with a finalizer", "newproxy(true)", "there is no 'newproxy'" },
        { "rawset", "rawset(string, 'rep', 1)", "there is no 'rawset'" },
        { "rawget", "rawget(string, 'dump')", "there is no 'rawget'" },
        { "rawequal", "rawequal(1, 2)", "there is no 'rawequal'" },
        { "collectgarbage", "collectgarbage('stop')", "there is no 'collectgarbage'" },
        { "_G", "_G.x = 1", "there is no '_G'" },
        { "module", "module('x')", "there is no 'module'" },
        { "print", "print('x')", "there is no 'print'" },
        { "math.random", "math.random()", "nil value" },
        { "the clock", "return os.time()", "there is no 'os'" },
        { "a global", "leak = 1", "globals can't be set" },
        { "a global for all", "function tostring() end", "globals can't be set" },
        { "a library's function", "string.rep = nil", "string is read%-only" },
        { "a library's new function", "table.new = 1", "table is read%-only" },
        { "a library emptied by next", "string[next(string) or 'rep'] = 1", "string is read%-only" },
        { "table.insert on a library", "table.insert(string, 1)", "insert: the table is read%-only" },
        { "table.sort on the module", "table.sort(wayside)", "sort: the table is read%-only" },
        { "table.remove on the module", "table.remove(wayside, 1)", "remove: the table is read%-only" },
        { "the module", "wayside.random = function() return 4 end", "read%-only" },
        { "the module's default", "wayside.default.mark = function() end", "read%-only" },
        { "an address", "return ('%p'):format(wayside)", "not supported" },
        { "a long string", "return ('x'):rep(1e8)", "more than 4096 bytes" },
        { "a long string of a long string", "local s = ('x'):rep(4096) return (s .. s):rep(2)", "4096" },
        { "a format that grows", "return ('%99.99f'):rep(100):format(('1e308'):rep(1))", "number expected" },
        { "a call of a 64-bit number", "return (1LL)()", "not callable" },
        { "a field of a 64-bit number", "return (1LL).x", "has no member" },
        { "a comparison of a 64-bit number and a table", "return 1LL < {}", "attempt to compare" },
        { "deep nesting in the text", "return " .. ("("):rep(300) .. "1" .. (")"):rep(300), "too many" },
        { "an error object", "error({ code = 1 })", "raised a table" },
        { "an error without a value", "error()", "raised a nil" },
    }
    for _, way in ipairs(ways) do
        it(way[1], function()
            local at_load, when_asked = try(way[2])
            assert.matches(way[3], at_load or "nothing was said")
            assert.matches(way[3], when_asked or "nothing was said")
        end)
    end

    it("what is asked about", function()
        for text, said in pairs {
            ["node.state = 'failing'"] = "state",
            ["event.error = nil"] = "error",
            ["self.options.x = 1"] = "read%-only",
            ["self.name = 'other'"] = "read%-only",
            ["self.cluster.nodes = 0"] = "nodes",
            ["node.shard.failing = 9"] = "failing",
            ["node.memory.unknown = 1"] = "unknown",
            ["return self.options.nothing"] = "nothing",
            ["return node.__index"] = "__index",
            ["return event.__metatable"] = "__metatable",
            ["table.insert(node, 1)"] = "table expected",
            ["for _ in pairs(node) do end"] = "table expected",
            ["return require 'wayside.test'"] = "only while the policy is loaded",
        } do
            local _, when_asked = try(text)
            assert.matches(said, when_asked or "nothing was said", text)
        end
    end)

    it("what one question kept for the next", function()
        local folder = folder_of { ["kept.lua"] = HEAD .. [[
            local kept
            return wayside.policy { name = "x", mark = function(_, node)
                if kept then return { reason = kept.state } end
                kept = node
            end }]] }
        local t = test.start(folder .. "/kept.lua")
        local node = t:node { silent = true }
        t:fail(node, { error = "refused" })
        assert.error_matches(function() t:fail(node, { error = "refused" }) end, "node is of an earlier call")
    end)
end)

describe("require", function()
    local function refused(name, files, where)
        local folder = folder_of(files or {})
        if where then where(folder) end
        write(folder .. "/p.lua", HEAD .. ("local x = require %q\n"):format(name)
            .. "return wayside.policy { name = 'x', version = tostring(x.version) }")
        return test.refused(folder .. "/p.lua"), folder
    end

    it("gives what stands beside the policy, once", function()
        assert.is_nil((refused("helper", { ["helper.lua"] = "return { version = '1' }" })))
    end)

    it("takes no path", function()
        for _, name in ipairs {
            "../helper", "..", ".", "/etc/passwd", "./helper", "sub/helper", "helper.lua", "sub.helper", "", "a\\b", "helper\0", "~/x",
            ("x"):rep(100), "runtime/allow", "runtime.allow", "string", "bit", "posix", "_G", "wayside.test",
        } do
            assert.matches("require: ", refused(name, { ["helper.lua"] = "return {}" }) or "nothing was said", name)
        end
    end)

    it("follows no link out of the folder", function()
        local elsewhere = folder_of { ["secret.lua"] = "return { version = '1' }" }
        local why = refused("helper", {}, function(folder) assert(unistd.link(elsewhere .. "/secret.lua", folder .. "/helper.lua", true)) end)
        assert.matches("a link out of the policy's folder", why)
        why = refused("helper", {}, function(folder) assert(unistd.link("/dev/zero", folder .. "/helper.lua", true)) end)
        assert.matches("a link out of the policy's folder", why)
    end)

    it("follows a link within it, and a folder that is a link", function()
        assert.is_nil((refused("helper", { ["real.lua"] = "return { version = '1' }" },
            function(folder) assert(unistd.link("real.lua", folder .. "/helper.lua", true)) end)))
        local folder = folder_of {}
        assert(stat.mkdir(folder .. "/v1"))
        write(folder .. "/v1/helper.lua", "return { version = '1' }")
        write(folder .. "/v1/p.lua", HEAD .. "return wayside.policy { name = 'x', version = require('helper').version }")
        assert(unistd.link("v1", folder .. "/current", true))
        for _, name in ipairs { "p.lua", "helper.lua" } do assert(unistd.link("current/" .. name, folder .. "/" .. name, true)) end
        assert.is_nil(test.refused(folder .. "/p.lua"))
        assert.is_nil(test.refused(folder .. "/current/p.lua"))
    end)

    it("reads no fifo and no folder", function()
        local why = refused("helper", {}, function(folder) assert(stat.mkfifo(folder .. "/helper.lua")) end)
        assert.matches("not a regular file", why)
        why = refused("helper", {}, function(folder) assert(stat.mkdir(folder .. "/helper.lua")) end)
        assert.matches("not a regular file", why)
    end)

    it("gives the same sandbox to what it loads", function()
        assert.matches("there is no 'io'", refused("helper", { ["helper.lua"] = "return io.open('/etc/passwd')" }))
        assert.matches("helper%.lua:1: globals can't be set", refused("helper", { ["helper.lua"] = "leak = 1" }))
        assert.matches("bytecode", refused("helper", { ["helper.lua"] = string.dump(function() return {} end) }))
        assert.matches("requires itself", refused("helper", { ["helper.lua"] = "return require 'helper'" }))
    end)
end)

describe("luacheck", function()
    it("reads the sandbox's own list", function()
        local env = setmetatable({ stds = {}, files = {} }, { __index = { dofile = dofile } })
        setfenv(assert(loadfile ".luacheckrc"), env)()
        assert.same(list, env.stds.sandbox.read_globals)
        assert.equal("sandbox", env.files.policies.std)
    end)
end)
