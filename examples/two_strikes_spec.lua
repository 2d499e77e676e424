--- What two_strikes.lua promises. Run it by
--
--     wayside test two_strikes_spec.lua
--
-- or, where busted is installed, `busted two_strikes_spec.lua` in this folder: .busted says with which Lua.
local test = require "wayside.test"

local folder = debug.getinfo(1, "S").source:match "^@(.*/)" or "./"

describe("two strikes", function()
    local t, replica

    before_each(function()
        t = test.start(folder .. "two_strikes.lua", { out = 10, cap = 30 })
        local master = t:node {}
        replica = t:node { role = "replica", shard = master }
        t:node { role = "replica", shard = master }
        t:advance(1) -- a new replica is used once its first probe was answered
    end)

    local function pause() return t:fail(replica, { error = "timeout", phase = "read" }) end

    it("lets one slow answer pass", function()
        pause()
        assert.equal("healthy", replica.state)
    end)

    it("takes a node out at the second, for so long", function()
        pause()
        t:advance(1)
        t:random { 0.5 } -- the middle: no more and no less
        pause()
        assert.equal("failing", replica.state)
        assert.equal("strikes", replica.reason)
        assert.near(10, replica.ends - t.now, 0.001)
    end)

    it("forgets a strike", function()
        pause()
        t:advance(31)
        pause()
        assert.equal("healthy", replica.state)
    end)

    it("leaves it out longer each time, up to the cap", function()
        local seconds = {}
        replica.up = false
        for i = 1, 3 do
            pause()
            t:advance(0.01)
            t:random { 0.5 }
            pause()
            seconds[i] = math.floor(replica.ends - t.now + 0.5)
            replica.up = true
            t:probe(replica)
            assert.equal("healthy", replica.state)
            replica.up = false
            t:advance(1)
        end
        assert.same({ 10, 20, 30 }, seconds)
    end)

    it("asks no second time where nobody listens", function()
        t:fail(replica, { error = "refused" })
        assert.equal("failing", replica.state)
    end)
end)
