--- What an operator may rely on with policies/default.lua.
require "tests.support.policies"
local test = require "wayside.test"

describe("the default policy", function()
    local t, master, replica

    local function begin(options)
        t = test.start("policies/default.lua", options)
        master = t:node {}
        replica = t:node { role = "replica" }
        t:advance(0.01)                                    -- the probes of new nodes
    end
    before_each(function() begin() end)

    it("is the one that is built in", function()
        local file = assert(io.open("policies/default.lua"))
        assert.equal("default", test.start("default").plan.name)
        assert.is_truthy(file:read("*a"):find("Situation", 1, true))
        file:close()
    end)

    it("probes a node as soon as it is new, then leaves it alone", function()
        local new = t:node { role = "replica", shard = master }
        assert.equal(t.now, new.pending.at)
        assert.equal("data", new.pending.answer.command)
        t:advance(0.1)
        assert.equal("healthy", new.state)
        assert.is_falsy(new.pending)
    end)

    it("prefers others to a replica that is new, until it has answered a probe", function()
        local new = t:node { role = "replica", shard = master }
        assert.same({ "suspect", "new" }, { new.state, new.reason })
        t:advance(0.1)
        assert.equal("healthy", new.state)
        assert.equal("healthy", t:node { shard = master }.state)
    end)

    it("takes any words for the answer of a new replica, but those that blame it", function()
        for words, state in pairs { ["NOPERM this user has no permissions"] = "healthy", ["BUSY running a script"] = "failing" } do
            local new = t:node { role = "replica", shard = master }
            new.reply = function() return "-" .. words .. "\r\n" end
            t:advance(0.1)
            assert.equal(state, new.state, words)
        end
    end)

    it("keeps a new replica that is still loading out until it has loaded", function()
        local new = t:node { role = "replica", shard = master }
        new.reply = function() return "-LOADING Redis is loading the dataset in memory\r\n" end
        t:advance(3)
        assert.equal("failing", new.state)
        assert.equal("LOADING", new.reason)
        new.reply = nil
        t:advance(1.3)
        assert.equal("healthy", new.state)
    end)

    for _, error in ipairs { "refused", "unreachable", "dns", "tls", "certificate" } do
        it("takes a node out at once when it is " .. error, function()
            assert.equal("down", t:fail(replica, { error = error }).class)
            assert.equal("failing", replica.state)
            assert.equal(error, replica.reason)
        end)
    end

    it("takes a node out at once when a dial times out", function()
        t:fail(replica, { error = "timeout", phase = "connect", step = "dial" })
        assert.equal("failing", replica.state)
    end)

    it("takes a node out at once when a fresh connection breaks, in any phase", function()
        for _, phase in ipairs { "connect", "write", "read" } do
            for _, error in ipairs { "reset", "eof", "protocol" } do
                begin()
                t:fail(replica, { error = error, phase = phase })
                assert.equal("failing", replica.state, phase .. " " .. error)
            end
        end
    end)

    it("does not blame the node for a connection that served before and is closed", function()
        local what = t:fail(replica, { error = "eof", phase = "read", step = "wait", reused = true })
        assert.equal("stale_connection", what.class)
        assert.is_false(what.asked)
        assert.equal("healthy", replica.state)
    end)

    it("does not blame the node for what the cluster, the configuration or the client did", function()
        for message, class in pairs {
            ["TRYAGAIN Multiple keys request during rehashing of slot"] = "again", ["CLUSTERDOWN The cluster is down"] = "again",
            ["READONLY You can't write against a read only replica."] = "stale_route", ["ERR READONLY wrapped"] = "stale_route",
            ["WRONGPASS invalid username-password pair"] = "config", ["WRONGTYPE Operation against a key"] = "answer",
        } do
            local what = t:fail(replica, { error = "reply", message = message })
            assert.equal(class, what.class)
            assert.is_false(what.asked, message)
        end
        assert.equal("healthy", replica.state)
    end)

    it("prefers others after one time-out, and takes the node out after two in a row", function()
        t:fail(replica, { error = "timeout" })
        assert.equal("suspect", replica.state)
        t:fail(replica, { error = "timeout" })
        assert.equal("failing", replica.state)
    end)

    it("trusts a suspect again as soon as it answers a probe or a command", function()
        t:fail(replica, { error = "timeout" })
        t:advance(0.1)
        assert.equal("healthy", replica.state)
        t:fail(replica, { error = "timeout" })
        t:succeed(replica)
        assert.equal("healthy", replica.state)
    end)

    it("takes a frozen node out: its probe gets no answer", function()
        replica.reply = function() return nil, "timeout" end
        t:fail(replica, { error = "timeout" })
        t:advance(0.1)
        assert.equal("failing", replica.state)
        t:advance(60)
        assert.equal("failing", replica.state)
        replica.reply = nil
        t:advance(1.3)
        assert.equal("healthy", replica.state)
    end)

    it("brings a node back by a probe only, and lets its share grow", function()
        t:fail(replica, { error = "refused" })
        replica.up = false
        t:advance(600)
        assert.equal("failing", replica.state)
        replica.up = true
        t:advance(1.3)
        assert.equal("healthy", replica.state)
        assert.is_true(replica.weight < 0.5)
        t:advance(6)
        assert.equal(1, replica.weight)
    end)

    it("lets a flapping node wait longer each time, up to a cap, and forgives after a calm", function()
        local waits = {}
        for round = 1, 8 do
            t:fail(replica, { error = "refused" })
            assert.equal("failing", replica.state, "round " .. round)
            waits[round] = replica.pending.at - t.now
            t:advance(waits[round] + 0.01)
            assert.equal("healthy", replica.state)
        end
        for round, wait in ipairs(waits) do
            local middle = math.min(30, 2 ^ (round - 1))
            assert.is_true(wait >= 0.8 * middle and wait <= 1.2 * middle, round .. ": " .. wait)
        end
        t:advance(61)
        t:fail(replica, { error = "refused" })
        assert.is_true(replica.pending.at - t.now <= 1.2)
    end)

    it("counts no loading as a relapse", function()
        for _ = 1, 5 do
            t:fail(replica, { error = "reply", message = "LOADING Redis is loading the dataset in memory" })
            assert.equal("failing", replica.state)
            assert.is_true(replica.pending.at - t.now <= 1.2)
            t:advance(1.3)
            assert.equal("healthy", replica.state)
        end
    end)

    it("with recover = 'time' lets the time end a mark too", function()
        begin { recover = "time", wait = 2 }
        replica.up = false
        t:fail(replica, { error = "refused" })
        assert.equal(t.now + 2, replica.ends)
        t:advance(2)
        assert.equal("healthy", replica.state)
    end)

    it("counts what began before the mark to the fault that is known", function()
        t:fail(replica, { error = "refused" })
        local strikes = replica.memory[1]
        local what = t:fail(replica, { error = "eof", phase = "read", began = t.now - 1 })
        assert.is_true(what.straggler)
        assert.equal(strikes, replica.memory[1])
    end)

    it("asks for a fresh topology when a master fails", function()
        assert.is_true(t:fail(master, { error = "refused" }).mark.refresh)
        assert.is_falsy(t:fail(replica, { error = "refused" }).mark.refresh)
    end)

    it("never takes the last master out on soft evidence", function()
        t:fail(master, { error = "reply", message = "LOADING Redis is loading the dataset in memory" })
        assert.equal("suspect", master.state)
        master.up = false
        t:advance(2)                                        -- a failed probe is hard evidence
        assert.equal("failing", master.state)
    end)

    it("prefers others to a node that is busy", function()
        t:fail(replica, { error = "reply", message = "BUSY Redis is busy running a script" })
        assert.equal("suspect", replica.state)
        assert.equal("busy", replica.reason)
    end)

    describe("when commands fail", function()
        it("sends reads to another node at once, then waits for one", function()
            local answer = t:backoff(master, { error = "refused" })
            assert.equal("other", answer.retry)
            assert.equal(0, answer.after)
            assert.is_false(answer.stale_reads)
            answer = t:backoff(master, { error = "refused", attempt = 2 })
            assert.equal("other", answer.retry)
            assert.is_true(answer.after <= 0.02)
            answer = t:backoff(master, { error = "refused", attempt = 3, age = 0.5 })
            assert.equal("hold", answer.retry)
            assert.equal(1.5, answer.within)
        end)

        it("gives up when the wait is over", function()
            assert.is_nil(t:backoff(master, { error = "refused", attempt = 3, age = 2 }))
            assert.is_nil(t:backoff(master, { error = "no_node", age = 2.5 }))
        end)

        it("lets writes that were never sent wait for the master", function()
            assert.equal("master", t:backoff(master, { error = "refused", commands = "writes" }).retry)
            local answer = t:backoff(master, { error = "no_node", commands = "writes", age = 0.25 })
            assert.equal("hold", answer.retry)
            assert.equal(1.75, answer.within)
            assert.is_false(answer.unknown_writes)
        end)

        it("never sends again what may have been executed", function()
            for _, commands in ipairs { "writes", "transaction" } do
                for _, error in ipairs { "reset", "eof", "timeout" } do
                    for _, reused in ipairs { true, false } do
                        assert.is_nil(t:backoff(master, { error = error, phase = "read", reused = reused, commands = commands,
                            certainty = "unknown" }))
                    end
                end
            end
        end)

        it("tries again on the same node when the connection was old", function()
            local old = { error = "eof", phase = "read", step = "wait", reused = true }
            assert.equal("same", t:backoff(master, old).retry)
            old.attempt = 2
            assert.equal("other", t:backoff(master, old).retry)
            assert.equal("same", t:backoff(master, { error = "reset", phase = "write", step = "send", reused = true,
                commands = "writes", certainty = "unsent" }).retry)
        end)

        it("goes to the new master on READONLY, and waits while a slot moves", function()
            local wrong = { error = "reply", message = "READONLY You can't write", commands = "writes", certainty = "answered" }
            assert.equal("master", t:backoff(master, wrong).retry)
            local moving = { error = "reply", message = "TRYAGAIN Multiple keys", commands = "writes", certainty = "answered", age = 1 }
            assert.equal("hold", t:backoff(master, moving).retry)
            assert.equal(1, t:backoff(master, moving).within)
        end)

        it("does not retry against its own limits", function()
            assert.is_nil(t:backoff(master, { error = "overflow" }))
            assert.is_nil(t:backoff(master, { error = "shed" }))
        end)

        it("hands what is permanent to the client", function()
            assert.is_nil(t:backoff(master, { error = "reply", message = "WRONGTYPE Operation", certainty = "answered" }))
            assert.is_nil(t:backoff(master, { error = "cancelled" }))
            assert.is_nil(t:backoff(master, { error = "auth", phase = "connect", step = "hello" }))
        end)

        it("lets reads be old where the operator says so", function()
            begin { stale_reads = true, hold = 5 }
            assert.is_true(t:backoff(master, { error = "refused" }).stale_reads)
            local answer = t:backoff(master, { error = "no_node", age = 1 })
            assert.is_true(answer.stale_reads)
            assert.equal(4, answer.within)
        end)
    end)
end)
