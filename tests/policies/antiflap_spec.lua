--- The memcached proxy's bad backends and flapping, with the figures of its tests.
require "tests.support.policies"
local test = require "wayside.test"

describe("the antiflap policy", function()
    local t, node

    local function begin(options)
        t = test.start("policies/antiflap.lua", options)
        t:node {}
        node = t:node { role = "replica" }
    end

    local function breaks(n)
        return t:fail(node, { error = "reset", phase = "read", step = "reply", connection_age = 1e4, n = n or 1 })
    end

    --- Breaks once more; the seconds until a probe, nil if the node is still in.
    local function wait_after_break()
        breaks()
        local wait = node.state == "failing" and node.pending.answer.after or nil
        if wait then
            t:advance(wait)
            assert.equal("healthy", node.state)
        end
        return wait
    end

    it("takes a node out at the fourth error, however much each broke", function()
        begin()
        for _ = 1, 3 do
            breaks(64)
            assert.equal("healthy", node.state)
        end
        breaks()
        assert.equal("failing", node.state)
        assert.equal(3, node.pending.answer.after)
        node.up = false
        t:advance(30)
        assert.equal("failing", node.state)
        node.up = true
        t:advance(3)
        assert.equal("healthy", node.state)
    end)

    it("begins a new row with an answer", function()
        begin()
        for _ = 1, 20 do
            breaks()
            breaks()
            t:succeed(node)
        end
        assert.equal("healthy", node.state)
    end)

    it("does not mind what a node says while it loads", function()
        begin()
        for _ = 1, 20 do t:fail(node, { error = "reply", message = "LOADING Redis is loading the dataset in memory" }) end
        assert.equal("healthy", node.state)
    end)

    it("keeps a flapping node out for longer each time: 1 s at three flaps, 2 s at four", function()
        begin { limit = 2, ramp = 1.2, retry = 1, flap_time = 2 }
        local seen = {}
        breaks()                                                 -- of a connection that was old: no flap yet
        for flaps = 1, 4 do
            t:succeed(node)
            seen[flaps] = wait_after_break() or 0
        end
        assert.same({ 0, 0, 1, 2 }, seen)
        t:advance(4)                                             -- calm for longer than flap_time
        t:succeed(node)
        assert.is_nil(wait_after_break())
    end)

    it("waits 15, 22, 34 and 51 s at four to seven flaps with the defaults", function()
        begin { flap_time = 100 }
        local seen = {}
        for flaps = 0, 7 do
            t:succeed(node)
            seen[flaps + 1] = wait_after_break() or 0
        end
        assert.same({ 0, 0, 0, 0, 15, 22, 34, 51 }, { unpack(seen) })
    end)

    it("takes a connection's beginning for the last error where there was none", function()
        begin { limit = 1, retry = 1, flap_time = 2 }
        for _ = 1, 2 do
            t:succeed(node)
            t:fail(node, { error = "eof", phase = "read", step = "reply", connection_age = 0.5 })
        end
        assert.equal("failing", node.state)
        assert.equal("flapping", node.reason)
    end)

    it("waits at most `max`", function()
        begin { limit = 1, ramp = 10, retry = 3, flap_time = 1000, max = 50 }
        for _ = 1, 5 do
            t:succeed(node)
            local wait = wait_after_break()
            assert.is_true(not wait or wait <= 50, tostring(wait))
        end
    end)
end)
