--- Finagle's failure accrual, with the figures of its tests.
require "tests.support.policies"
local test = require "wayside.test"

describe("the success rate policy", function()
    local t, node

    local function begin(options)
        t = test.start("policies/success_rate.lua", options)
        t:node {}
        node = t:node { role = "replica" }
    end

    local function fail(more)
        local event = { error = "reply", message = "BUSY Redis is busy" }
        for key, value in pairs(more or {}) do event[key] = value end
        return t:fail(node, event)
    end

    it("finds a rate of a half over 100 results broken at the 70th failure after 100 answers", function()
        begin { over = "results", window = 100, required = 0.5, row = 1000 }
        for _ = 1, 100 do t:succeed(node) end
        for _ = 1, 69 do
            fail()
            assert.equal("healthy", node.state)
        end
        fail()
        assert.equal("failing", node.state)
        assert.equal("success_rate", node.reason)
    end)

    it("wants as many results as the window has", function()
        begin { over = "results", window = 100, required = 0.5, row = 1000 }
        for _ = 1, 99 do fail() end
        assert.equal("healthy", node.state)
        fail()
        assert.equal("failing", node.state)
    end)

    it("is dead at the fifth of F S F F F with three in a row", function()
        begin { row = 3, min_requests = 1000 }
        for each in ("FSFF"):gmatch "." do
            if each == "F" then fail() else t:succeed(node) end
            assert.equal("healthy", node.state)
        end
        fail()
        assert.equal("failing", node.state)
        assert.equal("row", node.reason)
    end)

    it("weighs results by the time they stand for", function()
        begin { window = 30, required = 0.8, row = 1000, min_requests = 5 }
        for _ = 1, 60 do
            t:succeed(node)
            t:advance(1)
        end
        for second = 1, 6 do                                     -- 1 - e^-0.2 is 0.181, 1 - e^-0.233 is 0.208
            fail()
            assert.equal("healthy", node.state, second)
            t:advance(1)
        end
        fail()
        assert.equal("failing", node.state)
    end)

    it("wants some requests in the window", function()
        begin { window = 30, required = 0.8, row = 1000, min_requests = 5 }
        for _ = 1, 4 do
            fail()
            t:advance(0.1)
        end
        assert.equal("healthy", node.state)
        fail()
        assert.equal("failing", node.state)
    end)

    it("is dead for 5 s, 5 to 10, 10 to 20 ... and 300 from then on", function()
        begin { row = 1 }
        local top = 5
        local function seconds_dead() return node.ends - t.now end
        fail()
        assert.equal(5, seconds_dead())
        for _ = 1, 9 do
            t:advance(seconds_dead())
            assert.equal("probing", node.state)
            fail { trial = true }
            local seconds = seconds_dead()
            top = top * 2
            if top > 300 then
                assert.equal(300, seconds)
            else
                assert.is_true(seconds >= top / 2 and seconds <= top, seconds .. " up to " .. top)
            end
        end
    end)

    it("is revived by one answered command, with nothing held against it", function()
        begin { row = 3, min_requests = 1000 }
        for _ = 1, 3 do fail() end
        t:advance(5)
        fail { trial = true }
        t:advance(10)
        assert.equal("probing", node.state)
        t:fail(node, { error = "reply", message = "TRYAGAIN Multiple keys", trial = true })      -- blames nobody
        assert.equal("probing", node.state)
        t:succeed(node, { trial = true })
        assert.equal("healthy", node.state)
        fail()
        fail()
        assert.equal("healthy", node.state)
        fail()
        assert.equal(5, node.ends - t.now)
    end)
end)
