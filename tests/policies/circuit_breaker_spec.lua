--- resilience4j's circuit breaker, and with other knobs Hystrix's and Sentinel's: against the results that their own
--- tests have.
require "tests.support.policies"
local test = require "wayside.test"

describe("the circuit breaker", function()
    local t, node

    local function begin(options)
        t = test.start("policies/circuit_breaker.lua", options)
        t:node {}
        node = t:node { role = "replica" }
    end

    --- "SFs": answered, failed, answered slowly. Stops at the result that opens it and returns its number.
    local function calls(results)
        for index = 1, #results do
            local each = results:sub(index, index)
            if each == "F" then
                t:fail(node, { error = "reply", message = "BUSY Redis is busy running a script" })
            else
                t:succeed(node, { latency = each == "s" and 70 or 0.001 })
            end
            if node.state ~= "healthy" then return index end
        end
    end

    --- The results of trials in half-open.
    local function trials(results)
        for each in results:gmatch "." do
            if each == "F" then
                t:fail(node, { error = "reply", message = "BUSY Redis is busy", trial = true })
            elseif each == "i" then
                t:fail(node, { error = "reply", message = "TRYAGAIN Multiple keys", trial = true })
            else
                t:succeed(node, { trial = true, latency = each == "s" and 70 or 0.001 })
            end
        end
    end

    describe("as resilience4j has it", function()
        it("opens on the success that makes the calls enough: F F F S S of five", function()
            begin { min_calls = 5 }
            assert.equal(5, calls "FFFSS")
            assert.equal("failures", node.reason)
        end)

        it("opens when three of five are slow", function()
            begin { min_calls = 5, slow_rate = 0.5 }
            assert.equal(5, calls "sssSS")
            assert.equal("slow", node.reason)
        end)

        it("does not open below the rate, nor before calls are enough", function()
            begin { min_calls = 10 }
            assert.is_nil(calls "FFFFFFFFF")
            begin { size = 10, min_calls = 10 }
            assert.is_nil(calls "FFFFSSSSSSFFFF")                -- 4 of 10, again and again
        end)

        it("is open until `open` is over, and not before", function()
            begin { min_calls = 5, open = 5 }
            calls "FFFFF"
            t:advance(3)
            assert.equal("failing", node.state)
            t:advance(3)
            assert.equal("probing", node.state)
        end)

        for results, state in pairs { FFSF = "failing", FSSS = "healthy", FFSS = "failing", iFSSS = "healthy", sssS = "healthy" } do
            it("is " .. state .. " after trials " .. results, function()
                begin { min_calls = 5, open = 5, permits = 4 }
                calls "FFFFF"
                t:advance(6)
                trials(results:sub(1, -2))
                assert.equal("probing", node.state)
                trials(results:sub(-1))
                assert.equal(state, node.state)
                if state == "healthy" then assert.is_nil(calls "FFFF") end       -- what was counted before is forgotten
            end)
        end

        it("looks back over seconds where it is told to", function()
            begin { over = "time", size = 10, buckets = 10, min_calls = 4 }
            calls "FFF"
            t:advance(10)
            assert.is_nil(calls "FFF")
            assert.equal(1, calls "F")
        end)
    end)

    describe("as Hystrix has it", function()
        for results, opens in pairs { SSFSFSFF = true, SSFSSFSF = false, SSFSFFSFF = true } do
            it((opens and "opens" or "stays closed") .. " at 40 % after " .. results, function()
                begin { over = "time", size = 10, buckets = 10, rate = 0.4, min_calls = #results, open = 5, permits = 1 }
                assert.equal(opens and #results or 0, calls(results) or 0)
            end)
        end

        it("lets one trial decide", function()
            begin { over = "time", size = 10, min_calls = 3, open = 0.2, permits = 1 }
            calls "FFF"
            t:advance(0.3)
            trials "F"
            assert.equal("failing", node.state)
            t:advance(0.3)
            trials "S"
            assert.equal("healthy", node.state)
        end)
    end)

    describe("as Sentinel has it", function()
        local function sentinel(more)
            local options = { over = "time", size = 1, buckets = 1, compare = "above", permits = 1, min_calls = 10 }
            for key, value in pairs(more) do options[key] = value end
            begin(options)
        end

        it("opens at the sixth slow one more, 13 of 16, for 12 of 15 are not above 0.8", function()
            sentinel { slow_rate = 0.8, slow_after = 0.05 }
            assert.equal(16, calls "sssssssSSSssssss")
        end)

        it("opens at the tenth call when seven have failed", function()
            sentinel { rate = 0.5 }
            assert.equal(10, calls "FFFFFFFSSS")
        end)

        it("begins anew with each second", function()
            sentinel { rate = 0.5 }
            calls "FFFFFFFFF"
            t:advance(1)
            assert.is_nil(calls "FFFFFFFFF")
        end)
    end)

    it("leaves the last node that serves as suspect", function()
        t = test.start("policies/circuit_breaker.lua", { min_calls = 5 })
        node = t:node {}
        assert.equal(5, calls "FFFFF")
        assert.equal("suspect", node.state)
    end)
end)
