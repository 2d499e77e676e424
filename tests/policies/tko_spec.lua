--- mcrouter's TKO, with the figures that its code has.
require "tests.support.policies"
local test = require "wayside.test"

describe("the tko policy", function()
    local t, master, nodes

    local function begin(options, replicas)
        t = test.start("policies/tko.lua", options)
        master, nodes = t:node {}, {}
        for index = 1, replicas or 1 do nodes[index] = t:node { role = "replica" } end
    end
    before_each(function() begin() end)

    local function soft(node) return t:fail(node, { error = "timeout", phase = "read" }) end
    local function hard(node) return t:fail(node, { error = "refused" }) end

    it("knocks out at the third time-out in a row", function()
        local node = nodes[1]
        soft(node)
        soft(node)
        t:succeed(node)
        soft(node)
        soft(node)
        assert.equal("healthy", node.state)
        soft(node)
        assert.equal("failing", node.state)
        assert.equal("soft", node.reason)
    end)

    it("takes a broken connection for as many time-outs as it had commands in flight", function()
        t:fail(nodes[1], { error = "timeout", phase = "read", n = 3 })
        assert.equal("failing", nodes[1].state)
    end)

    it("lets other errors neither count nor end the row", function()
        soft(nodes[1])
        soft(nodes[1])
        t:fail(nodes[1], { error = "reply", message = "BUSY Redis is busy running a script" })
        t:fail(nodes[1], { error = "reset", phase = "read", step = "reply", reused = true })
        assert.equal("healthy", nodes[1].state)
        soft(nodes[1])
        assert.equal("failing", nodes[1].state)
    end)

    it("knocks out at once what can't be reached, a master too", function()
        hard(master)
        assert.equal("failing", master.state)
        assert.equal("hard", master.reason)
    end)

    it("brings a node back by a probe, and by nothing else", function()
        hard(nodes[1])
        t:succeed(nodes[1])
        nodes[1].up = false
        t:advance(3600)
        assert.equal("failing", nodes[1].state)
        nodes[1].up = true
        t:advance(90)
        assert.equal("healthy", nodes[1].state)
        soft(nodes[1])
        soft(nodes[1])
        assert.equal("healthy", nodes[1].state)
    end)

    it("waits between probes as mcrouter does", function()
        local least = { 10.5, 15.75, 23.625, 35.437, 53.156, 63, 63 }
        local most = { 15, 22.5, 33.75, 50.625, 75.937, 90, 90 }
        local lowest, highest = 1, 0
        for _ = 1, 30 do                                         -- each time with other random numbers
            hard(nodes[1])
            for turn = 1, #least do
                local wait = nodes[1].pending.answer.after
                assert.is_true(wait >= least[turn] and wait <= most[turn], turn .. ": " .. wait)
                local place = (wait - least[turn]) / (most[turn] - least[turn])
                lowest, highest = math.min(lowest, place), math.max(highest, place)
                t:probe(nodes[1], { error = "refused" })
            end
            t:probe(nodes[1])
        end
        assert.is_true(lowest < 0.1 and highest > 0.9, lowest .. " to " .. highest)
    end)

    it("does not mark a third node when it fails open at two, until none but `exit` are out", function()
        begin({ enter = 2, exit = 1 }, 5)
        hard(nodes[1])
        hard(nodes[2])
        hard(nodes[3])
        assert.equal("healthy", nodes[3].state)
        t:probe(nodes[1])                                        -- one is still out: marking begins again with the next
        assert.equal("healthy", nodes[1].state)
        hard(nodes[3])
        assert.equal("healthy", nodes[3].state)
        t:probe(nodes[2])
        hard(nodes[3])
        assert.equal("failing", nodes[3].state)
    end)
end)
