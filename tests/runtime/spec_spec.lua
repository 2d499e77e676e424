--- `wayside test`: what it offers of busted, and that the example's spec runs under both.
local process = require "tests.support.process"
local unistd = require "posix.unistd"

local program = os.getenv "WAYSIDE" or "bin/wayside"

--- The exit status, what it printed, and what it complained of.
local function run(words)
    local errors = os.tmpname()
    words.stderr = errors
    local status, text = process.run(words)
    local wrong = process.read_file(errors) or ""
    os.remove(errors)
    return status, text, wrong
end

local function spec(text)
    local path = os.tmpname()
    process.write_file(path, text)
    finally(function() os.remove(path) end)
    return path, { run { program, "test", path } }
end

describe("the example", function()
    it("passes by wayside test, from any folder", function()
        local status, text, wrong = run { program, "test", "examples/two_strikes_spec.lua" }
        assert.equal(0, status, text .. wrong)
        assert.equal("5 passed, 0 failed, 0 pending\n", text)
    end)

    it("passes by plain busted, in its folder", function()
        local here = unistd.getcwd()
        local status, text, wrong = run { "sh", "-c", "cd examples && exec busted -o plainTerminal two_strikes_spec.lua" }
        assert.equal(0, status, text .. wrong)
        assert.is_truthy(text:find "5 successes / 0 failures / 0 errors / 0 pending", text)
        assert.equal(here, unistd.getcwd())
    end)

    it("fails by both where the policy is another", function()
        local path = os.tmpname()
        finally(function() os.remove(path) end)
        local text = process.read_file("examples/two_strikes_spec.lua"):gsub('folder %.%. "two_strikes.lua"', '"default"')
        process.write_file(path, (text:gsub(", { out = 10, cap = 30 }", "")))
        local status, told = run { program, "test", path }
        assert.equal(1, status, told)
        assert.is_truthy(told:find "failed: two strikes takes a node out", told)
    end)
end)

describe("wayside test", function()
    it("tells what failed, with file and line, and goes on", function()
        local path, got = spec [[
            describe("outer", function()
                it("differs", function() assert.equal(1, 2, "because") end)
                it("raises", function() error("by itself") end)
                it("is fine", function() end)
                pending("later")
            end)]]
        assert.equal(1, got[1])
        assert.is_truthy(got[2]:find("failed: outer differs\n    " .. path .. ":2: expected 1, got 2\n    because\n", 1, true), got[2])
        assert.is_truthy(got[2]:find(path .. ":3: by itself", 1, true), got[2])
        assert.is_truthy(got[2]:find "1 passed, 2 failed, 1 pending\n$", got[2])
    end)

    it("has hooks in their order, and what was to be done finally is", function()
        local _, got = spec [[
            local seen = {}
            local function note(word) return function() seen[#seen + 1] = word end end
            setup(note "setup")
            before_each(note "before")
            after_each(note "after")
            describe("inner", function()
                before_each(note "inner before")
                after_each(note "inner after")
                it("one", function() finally(note "finally") seen[#seen + 1] = "one" end)
            end)
            teardown(function()
                print(table.concat(seen, ", "))
            end)]]
        assert.equal(0, got[1], got[2])
        assert.is_truthy(got[2]:find("setup, before, inner before, one, finally, inner after, after\n", 1, true), got[2])
    end)

    it("asserts as busted does, both ways", function()
        local cases = { -- each holds; with `not` in it, it does not
            'is_%strue(true)', 'is_%sfalse(false)', 'is_%snil(nil)', 'is_%struthy(0)', 'is_%sfalsy(nil)', 'are_%sequal(1, 1)',
            'are_%ssame({ a = { 1 } }, { a = { 1 } })', 'is_%snear(1, 1.05, 0.1)', 'has_%serror(function() error("x", 0) end, "x")',
            'has_%serror(function() error({ 1 }) end, { 1 })', 'is_%sstring("s")', 'is_%stable({})', 'is_%snumber(1)',
        }
        local tests = {}
        for i, case in ipairs(cases) do
            tests[#tests + 1] = ('it("%d", function() assert.%s end)'):format(i, case:format "")
            tests[#tests + 1] = ('it("not %d", function() assert.has_error(function() assert.%s end) end)'):format(i, case:format "not_")
        end
        tests[#tests + 1] = 'it("matches", function() assert.matches("^a", "ab") assert.error_matches(function() error("deep") end, "dee") end)'
        tests[#tests + 1] = 'it("counts", function() assert(1 == 1) assert.are.equal(1, 1) assert.is_not.equal(1, 2) end)'
        local text = 'describe("all", function()\n' .. table.concat(tests, "\n") .. "\nend)\n"
        local path, got = spec(text)
        assert.equal(0, got[1], got[2] .. got[3])
        assert.equal((#cases * 2 + 2) .. " passed, 0 failed, 0 pending\n", got[2])
        -- busted is of the same opinion.
        local status, told = run { "sh", "-c", "cd / && exec luajit $(command -v busted) -o plainTerminal " .. path }
        assert.equal(0, status, told)
    end)

    it("refuses a file that it can't load, or that holds no test", function()
        local path, got = spec "describe('x', function("
        assert.equal(1, got[1])
        assert.is_truthy(got[3]:find(path .. ":1:", 1, true), got[3])
        path, got = spec "return 1"
        assert.equal(1, got[1])
        assert.is_truthy(got[3]:find(path .. ": holds no test", 1, true), got[3])
        path, got = spec "error('at once')"
        assert.equal(1, got[1])
        assert.is_truthy(got[3]:find(path .. ":1: at once", 1, true), got[3])
        local status, _, wrong = run { program, "test" }
        assert.equal(2, status)
        assert.is_truthy(wrong:find "test: expected FILE, got nothing", wrong)
    end)
end)

describe("the kit", function()
    require "tests.support.policies"
    local test = require "wayside.test"

    local function policy(fields)
        local path = os.tmpname()
        process.write_file(path, 'local wayside = require "wayside"\nreturn wayside.policy { name = "t", probe = function() end,\n'
            .. fields .. " }")
        finally(function() os.remove(path) end)
        return test.start(path)
    end

    it("gives scripted random numbers first, to both states", function()
        local t = policy [[ mark = function() return { state = "suspect", weight = wayside.random() } end ]]
        local node = t:node { silent = true }
        assert.equal(2, t:random { 0.25, 0.75 })
        assert.equal(0.25, t:fail(node, { error = "timeout" }).mark.weight)
        assert.equal(0.75, t:fail(node, { error = "timeout" }).mark.weight)
        assert.equal(0, t:random {})
        local last = t:fail(node, { error = "timeout" }).mark.weight
        assert.is_true(last ~= 0.25 and last ~= 0.75)
        assert.error_matches(function() t:random { 1 } end, "from 0 to below 1")
    end)

    it("makes up zones and what the host measured", function()
        local t = policy [[ mark = function(self, node)
            return { state = "suspect", reason = node.zone .. "_" .. node.inflight .. "_" .. math.floor(node.latency * 1000 + 0.5)
              .. "_" .. tostring(node.replication.link_up) } end ]]
        local node = t:node { silent = true, zone = "west" }
        t:latency(node, 0.025)
        t:inflight(node, 7)
        t:replication(node, { link_up = false })
        assert.equal("west_7_25_false", t:fail(node, { error = "timeout" }).mark.reason)
    end)
end)
