--- gRPC's waits between dials, and AWS's jitter between attempts.
require "tests.support.policies"
local test = require "wayside.test"

describe("the backoff policy", function()
    local t, node

    local function begin(options)
        t = test.start("policies/backoff.lua", options)
        t:node {}
        node = t:node { role = "replica" }
    end

    local function dial(attempt, took)
        return t:reconnect(node, { error = "refused", attempt = attempt, began = t.now - (took or 0) })
    end

    it("waits 1, 1.6, 2.56 ... 109.951 and 120 s between dials", function()
        begin { jitter = 0 }
        local wanted = { 1, 1.6, 2.56, 4.096, 6.5536, 10.48576, 16.777216, 26.843546, 42.949673, 68.719477, 109.951163, 120, 120 }
        for attempt, seconds in ipairs(wanted) do
            local after = dial(attempt).after
            assert.is_true(math.abs(after - seconds) < 1e-5, attempt .. ": " .. after)
        end
    end)

    it("spreads them by a fifth to both sides, after the cap, but for the first", function()
        begin {}
        local least, most = 1000, 0
        for _ = 1, 300 do
            assert.equal(1, dial(1).after)
            local after = dial(20).after
            least, most = math.min(least, after), math.max(most, after)
        end
        assert.is_true(least >= 96 and least < 100 and most <= 144 and most > 140, least .. " to " .. most)
    end)

    it("counts from the beginning of the attempt, and gives a dial 20 s at least", function()
        begin { jitter = 0 }
        assert.is_true(math.abs(dial(2, 1).after - 0.6) < 1e-9)
        assert.equal(0, dial(2, 20).after)
        assert.equal(20, dial(1).timeout)
        assert.equal(120, dial(30).timeout)
    end)

    --- The least and the most that the wait before this attempt was, of many.
    local function range(options, attempt, waited)
        options.retry_base, options.retry_cap = 5, 2000
        begin(options)
        local least, most = math.huge, 0
        for _ = 1, 400 do
            local answer = t:backoff(node, { error = "reply", message = "BUSY x", attempt = attempt, waited = waited or 0 })
            least, most = math.min(least, answer.after), math.max(most, answer.after)
        end
        return least, most
    end

    it("draws from 0 to e: 5, 10 s", function()
        for attempt, e in ipairs { 5, 10 } do
            local least, most = range({ retry_jitter = "full" }, attempt)
            assert.is_true(least < 0.03 * e and most <= e and most > 0.97 * e, least .. " to " .. most)
        end
    end)

    it("draws from e / 2 to e", function()
        local least, most = range({ retry_jitter = "equal" }, 2)
        assert.is_true(least >= 5 and least < 5.2 and most <= 10 and most > 9.8, least .. " to " .. most)
    end)

    it("draws up to three times the last wait: 15, 45, 135, 405, 1215, 2000", function()
        local waited = 5
        for _, top in ipairs { 15, 45, 135, 405, 1215, 2000 } do
            local least, most = range({ retry_jitter = "decorrelated" }, 1, waited)
            assert.is_true(least >= 5 and most <= top and most > 0.95 * top, least .. " to " .. most)
            waited = top
        end
    end)

    it("leaves what the default holds, or does not send again, as it is", function()
        begin {}
        assert.is_nil(t:backoff(node, { error = "reset", phase = "read", commands = "writes", certainty = "unknown" }))
        assert.equal("hold", t:backoff(node, { error = "no_node", phase = "connect", step = "route" }).retry)
    end)
end)
