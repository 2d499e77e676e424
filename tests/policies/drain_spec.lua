--- drain: a replica says that it is to be taken down, and is left in peace.
require "tests.support.policies"
local test = require "wayside.test"

local function start()
    local t = test.start("policies/drain.lua", { every = 1 })
    local priority = {}
    local function node(wanted)
        local made = t:node(wanted)
        priority[made] = 100
        made.reply = function(command)
            if command == "data" then return "$-1\r\n" end
            local text = "role:slave\r\nslave_priority:" .. priority[made] .. "\r\n"
            if made.role == "master" then text = "role:master\r\n" end
            return ("$%d\r\n%s\r\n"):format(#text, text)
        end
        return made
    end
    local master = node {}
    return t, priority, master, node { role = "replica", shard = master }, node { role = "replica", shard = master }
end

describe("drain", function()
    it("drains a replica of priority 0 within `every`, and takes it back", function()
        local t, priority, master, one, two = start()
        t:advance(3)
        assert.same({ "healthy", "healthy", "healthy" }, { master.state, one.state, two.state })
        priority[one] = 0
        t:advance(1.1)
        assert.same({ "draining", "healthy" }, { one.state, two.state })
        assert.equal("announced", one.reason)
        t:advance(30)
        assert.equal("draining", one.state)
        priority[one] = 100
        t:advance(1.1)
        assert.equal("healthy", one.state)
    end)

    it("takes no offence when it goes down then, and waits until it says otherwise", function()
        local t, priority, _, one = start()
        t:advance(3)
        priority[one] = 0
        t:advance(1.1)
        one.up = false
        t:fail(one, { error = "eof", reused = true })
        t:fail(one, { error = "refused" })
        t:advance(60)
        assert.equal("draining", one.state)
        one.up = true
        t:advance(3)
        assert.equal("draining", one.state)
        priority[one] = 100
        t:advance(1.1)
        assert.equal("healthy", one.state)
    end)

    it("does not drain the last one that is healthy", function()
        local t, priority, master, one, two = start()
        t:advance(3)
        t:fail(master, { error = "refused" })
        master.up = false
        priority[one], priority[two] = 0, 0
        t:advance(5)
        local states = { one.state, two.state }
        table.sort(states)
        assert.same({ "draining", "healthy" }, states)
    end)

    it("is over when it has become a master", function()
        local t, priority, _, one = start()
        t:advance(3)
        priority[one] = 0
        t:advance(1.1)
        assert.equal("draining", one.state)
        t.masters[0].master, one.master, t.masters[0] = false, true, one
        t:publish()
        t:change(one, "role")
        assert.equal("healthy", one.state)
    end)

    it("is the default otherwise", function()
        local t, _, _, one = start()
        t:advance(3)
        one.up = false
        t:fail(one, { error = "refused" })
        assert.equal("failing", one.state)
        one.up = true
        t:advance(2)
        assert.equal("healthy", one.state)
        t:advance(3)
        assert.equal("INFO", one.pending.answer.command[1])
    end)
end)
