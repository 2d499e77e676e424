--- go-redis's rules for pipelines, with its constants.
require "tests.support.policies"
local test = require "wayside.test"

local random, master_only = 3, 0                               -- way_pick

describe("the go-redis policy", function()
    local t, master, replica

    local function begin(options)
        t = test.start("policies/go_redis.lua", options)
        master = t:node {}
        replica = t:node { role = "replica" }
    end
    before_each(function() begin() end)

    it("spreads reads at random", function()
        assert.equal(random, t.plan.pick)
        assert.equal("go-redis", t.plan.name)
    end)

    it("sends no probes", function()
        t:fail(replica, { error = "refused" })
        assert.is_falsy(replica.pending)
        assert.is_falsy(master.pending)
    end)

    -- What issue 2960 was about: refused connections and broken writes went unmarked.
    for _, role in ipairs { "master", "replica" } do
        for _, case in ipairs {
            { error = "refused" }, { error = "timeout", phase = "connect", step = "dial" }, { error = "unreachable" },
            { error = "reset", phase = "write", step = "send" }, { error = "timeout", phase = "write", step = "send" },
            { error = "eof", phase = "read" }, { error = "reset", phase = "read" }, { error = "timeout", phase = "read" },
        } do
            it(("marks a %s: %s in the %s phase"):format(role, case.error, case.phase or "connect"), function()
                local node = role == "master" and master or replica
                local event = {}
                for key, value in pairs(case) do event[key] = value end
                event.replies_read = 0
                local what = t:fail(node, event)
                assert.is_true(what.asked)
                assert.equal("failing", what.mark.state)
                -- The last master stays usable on soft evidence: the guard, not the policy.
                if role == "replica" then assert.equal("failing", node.state) end
            end)
        end
    end

    it("marks for 15 seconds from the truncated second", function()
        t:fail(replica, { error = "refused", unix = 1000.75 })
        assert.equal(t.now + 14.25, replica.ends)
        t:advance(14.2)
        assert.equal("failing", replica.state)
        t:advance(0.1)
        assert.equal("healthy", replica.state)
    end)

    it("with a time-out of 5: failing after 2 seconds, clear after 7", function()
        begin { failing_timeout = 5 }
        t:fail(replica, { error = "refused" })
        t:advance(2)
        assert.equal("failing", replica.state)
        t:advance(5)
        assert.equal("healthy", replica.state)
    end)

    it("clears a mark by time only", function()
        t:fail(replica, { error = "refused" })
        t:succeed(replica)
        assert.equal("failing", replica.state)
    end)

    it("counts from the last failure", function()
        t:fail(replica, { error = "refused" })
        t:advance(10)
        t:fail(replica, { error = "refused" })
        t:advance(10)
        assert.equal("failing", replica.state)
    end)

    it("without read_only reads from masters and does not mark for a broken read", function()
        begin { read_only = false }
        assert.equal(master_only, t.plan.pick)
        t:fail(replica, { error = "eof", phase = "read" })
        assert.equal("healthy", replica.state)
        t:fail(replica, { error = "reset", phase = "write", step = "send" })
        assert.equal("failing", replica.state)
    end)

    it("does not blame a node for an error that is the answer", function()
        assert.is_false(t:fail(replica, { error = "reply", message = "WRONGTYPE Operation" }).asked)
    end)

    it("names a loading replica by its reply", function()
        t:fail(replica, { error = "reply", message = "LOADING Redis is loading the dataset in memory" })
        assert.equal("LOADING", replica.reason)
    end)

    it("tries three times more, after a wait that doubles its spread", function()
        for attempt, most in ipairs { 0.03, 0.05, 0.09 } do
            local least_seen, most_seen = 1, 0
            for _ = 1, 200 do
                local answer = t:backoff(replica, { error = "refused", attempt = attempt })
                assert.equal("other", answer.retry)
                assert.is_true(answer.after >= 0.01 and answer.after < most, attempt .. ": " .. answer.after)
                least_seen, most_seen = math.min(least_seen, answer.after), math.max(most_seen, answer.after)
            end
            assert.is_true(least_seen < 0.01 + 0.1 * most and most_seen > 0.9 * most)
        end
        assert.is_nil(t:backoff(replica, { error = "refused", attempt = 4 }))
    end)

    it("never waits longer than max", function()
        begin { max = 0.02, max_redirects = 30 }
        for attempt = 1, 30 do
            assert.is_true(t:backoff(replica, { error = "refused", attempt = attempt }).after <= 0.02)
        end
    end)

    it("never asks for an unknown write to be sent again", function()
        local answer = t:backoff(master, { error = "reset", phase = "read", commands = "writes", certainty = "unknown" })
        assert.is_false(answer.unknown_writes)
    end)
end)
