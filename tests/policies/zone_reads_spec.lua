--- zone_reads: near by while that is well and has room, elsewhere before anything waits.
require "tests.support.policies"
local test = require "wayside.test"

--- A master in a, replicas in b, b and c; the gateway stands in b.
local function start(options)
    options = options or {}
    options.zone = options.zone or "b"
    local t = test.start("policies/zone_reads.lua", options)
    local nodes = { t:node { zone = "a" } }
    for i, zone in ipairs { "b", "b", "c" } do nodes[i + 1] = t:node { role = "replica", shard = nodes[1], zone = zone } end
    t:advance(0.1)                                               -- new ones are looked at first
    return t, unpack(nodes)
end

--- How often each node is taken for so many reads.
local function taken(t, request, count)
    local of = {}
    for slot = 1, count or 200 do
        request = request or {}
        request.slot = slot
        local node = t:route(request)
        of[node or "pick"] = (of[node or "pick"] or 0) + 1
    end
    return of
end

describe("zone_reads", function()
    it("reads in its own zone, from all that are near", function()
        local t, _, one, two = start()
        for _, node in ipairs(t.nodes) do t:latency(node, 0.001) end
        local of = taken(t)
        assert.is_true(of[one] > 60 and of[two] > 60, ("%s and %s of 200"):format(of[one], of[two]))
        assert.equal(200, of[one] + of[two])
    end)

    it("leaves out what is farther than the tolerance, and only that", function()
        local t, _, one, two = start { tolerance = 0.002 }
        t:latency(one, 0.001)
        t:latency(two, 0.0029)
        assert.is_truthy(taken(t)[two])
        t, _, one, two = start { tolerance = 0.002 }
        t:latency(one, 0.001)
        t:latency(two, 0.0031)
        assert.same({ [one] = 200 }, taken(t))
        t, _, one, two = start { tolerance = 0.002 }
        t:latency(one, 0.0031)
        t:latency(two, 0.001)
        assert.same({ [two] = 200 }, taken(t))
    end)

    it("spills over when its zone fails, and comes back", function()
        local t, master, one, two, far = start { tolerance = 0 }
        t:latency(master, 0.004)
        t:latency(far, 0.003)
        t:latency(one, 0.001)
        t:latency(two, 0.001)
        t:fail(one, { error = "refused" })
        assert.same({ [two] = 200 }, taken(t))
        t:fail(two, { error = "refused" })
        assert.same({ "failing", "failing" }, { one.state, two.state })
        assert.same({ [far] = 200 }, taken(t))
        t:advance(2)
        assert.equal("healthy", one.state)
        local of = taken(t)
        assert.equal(200, of[one] + (of[two] or 0))
    end)

    it("spills over when its zone is full, to the byte of the limit", function()
        local t, master, one, two, far = start { busy = 10, tolerance = 0 }
        for index, node in ipairs { master, one, two, far } do t:latency(node, index / 1000) end
        t:inflight(one, 10)
        assert.same({ [two] = 200 }, taken(t))
        t:inflight(two, 10)
        assert.same({ [master] = 200 }, taken(t))
        t:inflight(two, 9)
        assert.same({ [two] = 200 }, taken(t))
    end)

    it("leaves to pick what nobody has room for", function()
        local t = start { busy = 1 }
        for _, node in ipairs(t.nodes) do t:inflight(node, 1) end
        assert.same({ pick = 200 }, taken(t))
    end)

    it("passes over the node that has just failed the command", function()
        local t, _, one, two = start()
        assert.same({ [two] = 200 }, taken(t, { tried = 2, attempt = 2 }))
        assert.same({ [one] = 200 }, taken(t, { tried = 3, attempt = 2 }))
    end)

    it("asks others for a shard that has nothing in the zone", function()
        local t = start { zone = "nowhere" }
        assert.is_nil(taken(t).pick)
    end)

    it("does not choose for writes", function()
        local t = start()
        assert.same({ pick = 200 }, taken(t, { write = true, command = "set" }))
    end)
end)
