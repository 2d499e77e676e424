--- Retry budgets, with the figures of Finagle's and gRPC's tests.
require "tests.support.policies"
local test = require "wayside.test"

describe("the retry budget", function()
    local t, master, node

    local function begin(options)
        t = test.start("policies/retry_budget.lua", options)
        master = t:node {}
        node = t:node { role = "replica" }
    end

    local function may_retry(n)
        return t:backoff(node, { error = "reply", message = "BUSY Redis is busy", n = n }) ~= nil
    end

    local function retries_allowed()
        local n = 0
        while may_retry() do n = n + 1 end
        return n
    end

    it("has a reserve of ten a second without any traffic", function()
        begin { ttl = 1, per_second = 10, share = 0.1 }
        assert.equal(10, retries_allowed())
    end)

    it("allows a tenth of 10,000 requests, and the reserve: 1,010", function()
        begin { ttl = 1, per_second = 10, share = 0.1 }
        for _ = 1, 100 do t:succeed(node, { n = 100 }) end
        assert.equal(1010, retries_allowed())
    end)

    it("forgets both after ttl", function()
        begin { ttl = 10, per_second = 1, share = 1 }
        t:succeed(master, { n = 5 })                             -- of any node
        assert.equal(15, retries_allowed())
        t:advance(5)
        assert.equal(0, retries_allowed())
        t:advance(5)
        assert.equal(10, retries_allowed())
    end)

    it("asks for a whole group at once", function()
        begin { ttl = 1, per_second = 10, share = 0 }
        assert.is_true(may_retry(8))
        assert.is_false(may_retry(3))
        assert.is_true(may_retry(2))
    end)

    it("leaves what is held alone", function()
        begin { ttl = 1, per_second = 0, share = 0 }
        assert.is_false(may_retry())
        assert.equal("hold", t:backoff(node, { error = "no_node", phase = "connect", step = "route" }).retry)
    end)

    -- gRPC: most 10, so five failures, each answered by none, use up what is above a half.
    it("retries while more than half of the tokens are left", function()
        begin { budget = "tokens", most = 10, ratio = 0.5 }
        local seen = {}
        local function fail()
            t:fail(node, { error = "reply", message = "BUSY Redis is busy" })
            seen[#seen + 1] = may_retry()
        end
        for _ = 1, 5 do fail() end                               -- 9 8 7 6 5
        t:succeed(node)                                          -- 5.5
        fail()                                                   -- 4.5
        for _ = 1, 4 do t:succeed(node) end                      -- 6.5
        fail()                                                   -- 5.5
        assert.same({ true, true, true, true, false, false, true }, seen)
    end)

    it("has no fewer than no tokens and no more than most", function()
        begin { budget = "tokens", most = 10, ratio = 0.5 }
        t:fail(node, { error = "reset", phase = "read", n = 1000 })
        t:succeed(node, { n = 11 })
        assert.equal(5.5, node.cluster_counters.tokens.value)
        t:succeed(node, { n = 1000 })
        assert.equal(10, node.cluster_counters.tokens.value)
    end)
end)
