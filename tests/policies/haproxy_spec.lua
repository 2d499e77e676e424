--- HAProxy's checks with rise and fall, and its observation of traffic.
require "tests.support.policies"
local test = require "wayside.test"

describe("the haproxy policy", function()
    local t, node

    local function begin(options)
        t = test.start("policies/haproxy.lua", options)
        t:node {}
        node = t:node { role = "replica" }
    end
    before_each(function() begin() end)

    local function bad() t:probe(node, { error = "timeout" }) end
    local function good() t:probe(node) end
    local function health() return node.memory[2] end            -- by name: fast, health
    --- How many failed commands take the node out; at most 100.
    local function errors_until_out()
        for n = 1, 100 do
            t:fail(node, { error = "reply", message = "BUSY Redis is busy" })
            if node.state ~= "healthy" then return n end
        end
    end

    it("goes from 4 to 3, 2 and out", function()
        local seen = { health() }
        for index = 2, 4 do
            bad()
            seen[index] = health()
        end
        assert.same({ 4, 3, 2, 0 }, seen)
        assert.equal("failing", node.state)
    end)

    it("comes from 0 to 1, and is in at full", function()
        for _ = 1, 3 do bad() end
        good()
        assert.equal(1, health())
        assert.equal("failing", node.state)
        good()
        assert.equal(4, health())
        assert.equal("healthy", node.state)
    end)

    it("is back at full after one good check on the way down, and at 0 after a bad one on the way up", function()
        bad()
        bad()
        good()
        assert.equal(4, health())
        for _ = 1, 3 do bad() end
        good()
        bad()
        assert.equal(0, health())
        assert.equal("failing", node.state)
    end)

    it("takes ten failed commands for a failed check: out at thirty", function()
        assert.equal(30, errors_until_out())
    end)

    it("is out at ten, and one failed check, with sudden-death", function()
        begin { on_error = "sudden-death" }
        for _ = 1, 10 do t:fail(node, { error = "reply", message = "BUSY Redis is busy" }) end
        assert.equal("healthy", node.state)
        bad()
        assert.equal("failing", node.state)
    end)

    it("is out at ten with mark-down", function()
        begin { on_error = "mark-down" }
        assert.equal(10, errors_until_out())
        assert.equal("errors", node.reason)
    end)

    it("is never out with fastinter, but checks soon, once", function()
        begin { on_error = "fastinter", fastinter = 0.5, inter = 20 }
        assert.equal(20, node.pending.answer.after)
        for _ = 1, 10 do t:fail(node, { error = "reply", message = "BUSY Redis is busy" }) end
        assert.equal(0.5, node.pending.answer.after)
        t:advance(0.5)
        assert.equal(20, node.pending.answer.after)
        assert.is_nil(errors_until_out())
    end)

    it("counts anew after an answer, and after a good check", function()
        for _ = 1, 50 do
            for _ = 1, 9 do t:fail(node, { error = "reply", message = "BUSY Redis is busy" }) end
            t:succeed(node)
            for _ = 1, 9 do t:fail(node, { error = "reply", message = "BUSY Redis is busy" }) end
            good()
        end
        assert.equal("healthy", node.state)
        assert.equal(4, health())
    end)

    it("checks every inter, fastinter on the way, downinter when out", function()
        begin { inter = 2, fastinter = 0.5, downinter = 7 }
        local seen = { node.pending.answer.after }
        for _ = 1, 3 do
            bad()
            seen[#seen + 1] = node.pending.answer.after
        end
        good()
        seen[#seen + 1] = node.pending.answer.after
        good()
        seen[#seen + 1] = node.pending.answer.after
        assert.same({ 2, 0.5, 0.5, 7, 0.5, 2 }, seen)
    end)

    it("lets a node's share grow back", function()
        begin { slowstart = 60 }
        for _ = 1, 3 do bad() end
        good()
        good()
        assert.equal(0, node.weight)
        t.now = t.now + 30
        assert.equal(0.5, node.weight)
    end)
end)
