--- outlier: Envoy's outlier detection and gRPC's, by the figures that their tests and specifications give.
require "tests.support.policies"
local test = require "wayside.test"

--- A master and so many replicas, which the guard lets go.
local function start(replicas, options)
    local t = test.start("policies/outlier.lua", options or {})
    local master, list = t:node { silent = true }, {}
    for i = 1, replicas do list[i] = t:node { role = "replica", shard = master, silent = true } end
    return t, list, master
end

--- Commands of which some fail; failures come first, so no row is left at the end unless all fail.
local function results(t, node, good, bad)
    if bad > 0 then t:fail(node, { error = "reply", message = "BUSY", n = bad }) end
    if good > 0 then t:succeed(node, { n = good }) end
end

local function out(list)
    local names = {}
    for i, node in ipairs(list) do
        if node.state == "failing" then names[#names + 1] = i end
    end
    return names
end

describe("outlier, as Envoy has it", function()
    it("takes out after five in a row, and not after four and a success", function()
        local t, list = start(5)
        for _ = 1, 4 do t:fail(list[1], { error = "timeout" }) end
        t:succeed(list[1])
        for _ = 1, 4 do t:fail(list[1], { error = "timeout" }) end
        assert.same({}, out(list))
        t:fail(list[1], { error = "timeout" })
        assert.same({ 1 }, out(list))
        assert.equal("consecutive", list[1].reason)
    end)

    it("leaves a node that fails each second time", function()
        local t, list = start(5)
        for _ = 1, 100 do
            t:fail(list[1], { error = "refused" })
            t:succeed(list[1])
        end
        assert.same({}, out(list))
    end)

    it("finds the one below the mean less 1.9 deviations: 52 of 50 and four times 100", function()
        for _, case in ipairs { { success = 50, gone = true }, { success = 100, gone = false } } do
            local t, list = start(5, { consecutive = 0 })
            results(t, list[1], case.success, 100 - case.success)
            for i = 2, 5 do results(t, list[i], 100, 0) end
            t:advance(10)
            assert.same(case.gone and { 1 } or {}, out(list))
        end
    end)

    it("allows what is above that floor: two of five at 50 make a mean of 80, and a floor of 33", function()
        local t, list = start(5, { consecutive = 0 })
        for i = 1, 5 do results(t, list[i], i <= 2 and 50 or 100, i <= 2 and 50 or 0) end
        t:advance(10)
        assert.same({}, out(list))
    end)

    it("judges nobody by less than five nodes with a hundred commands each", function()
        local t, list = start(5, { consecutive = 0 })
        results(t, list[1], 50, 50)
        for i = 2, 4 do results(t, list[i], 100, 0) end
        results(t, list[5], 99, 0)
        t:advance(10)
        assert.same({}, out(list))
    end)

    it("judges by what came since the last sweep alone", function()
        local t, list = start(5, { consecutive = 0 })
        for i = 1, 5 do results(t, list[i], 100, 0) end
        t:advance(10)
        results(t, list[1], 0, 100)
        t:advance(10)
        assert.same({}, out(list))
        for i = 2, 5 do results(t, list[i], 100, 0) end
        results(t, list[1], 0, 100)
        t:advance(10)
        assert.same({ 1 }, out(list))
    end)

    it("by failure percentage leaves 250 of 300, takes 300 of 350, and exactly 85 percent", function()
        for bad, good in pairs { [250] = 50, [300] = 50, [85] = 15, [84] = 16 } do
            local t, list = start(5, { consecutive = 0, success_rate = false, failure_percentage = true })
            results(t, list[1], good, bad)
            for i = 2, 5 do results(t, list[i], 100, 0) end
            t:advance(10)
            assert.same(bad / (good + bad) >= 0.85 and { 1 } or {}, out(list), bad .. " of " .. good + bad)
        end
    end)

    --- How long it is out from now on; swept every second.
    local function time_out(t, node)
        for _ = 1, 5 do t:fail(node, { error = "timeout" }) end
        assert.equal("failing", node.state)
        local began = t.now
        repeat t:advance(1) until node.state == "healthy" or t.now > began + 400
        return t.now - began
    end

    it("keeps it out for 10, 20, 30 s; after two quiet sweeps for 20; after many for 10", function()
        local t, list = start(5, { base = 10, interval = 1 })
        local node = list[1]
        assert.equal(10, time_out(t, node))
        assert.equal(20, time_out(t, node))
        assert.equal(30, time_out(t, node))
        t:advance(2)
        assert.equal(20, time_out(t, node))
        t:advance(20)
        assert.equal(10, time_out(t, node))
    end)

    it("keeps it out for `max` at most, and jitter longer", function()
        local t, list = start(5, { base = 10, max = 25, interval = 1, jitter = 5 })
        local longest = {}
        for i, base in ipairs { 10, 20, 25, 25, 25 } do
            longest[i] = time_out(t, list[1])
            assert.is_true(longest[i] >= base and longest[i] <= base + 6, ("%d. time: %d s"):format(i, longest[i]))
        end
    end)

    it("lets one go though one is more than the share, and no second", function()
        local t, list = start(5, { share = 10 })
        for _ = 1, 5 do t:fail(list[1], { error = "timeout" }) end
        for _ = 1, 5 do t:fail(list[2], { error = "timeout" }) end
        assert.same({ 1 }, out(list))
        t, list = start(5, { share = 10, one = false })
        for _ = 1, 5 do t:fail(list[1], { error = "timeout" }) end
        assert.same({}, out(list))
        t, list = start(9, { share = 20 })                       -- of ten: 20 percent are two
        for i = 1, 3 do
            for _ = 1, 5 do t:fail(list[i], { error = "timeout" }) end
        end
        assert.same({ 1, 2 }, out(list))
    end)

    it("counts anew after its return", function()
        local t, list = start(5, { base = 10, interval = 1 })
        time_out(t, list[1])
        for _ = 1, 4 do t:fail(list[1], { error = "timeout" }) end
        assert.same({}, out(list))
    end)

    it("makes a master suspect, for the guard keeps it, and takes that back too", function()
        local t, _, master = start(5, { base = 10, interval = 1 })
        for _ = 1, 5 do t:fail(master, { error = "reply", message = "BUSY" }) end
        assert.equal("suspect", master.state)
        t:advance(10)
        assert.equal("healthy", master.state)
    end)
end)

describe("outlier, as gRPC has it", function()
    local function grpc(replicas, options)
        options.like, options.consecutive = "grpc", 0
        return start(replicas, options)
    end

    it("finds the third of 5/5, 5/5, 0/5 by half a deviation, and none by two", function()
        for stdev, gone in pairs { [0.5] = { 3 }, [2] = {} } do
            local t, list = grpc(3, { stdev = stdev, min_hosts = 3, volume = 5, share = 100 })
            results(t, list[1], 5, 0)
            results(t, list[2], 5, 0)
            results(t, list[3], 0, 5)
            t:advance(10)
            assert.same(gone, out(list))
        end
    end)

    it("by failure percentage takes what exceeds the threshold: at it, it stays", function()
        for threshold, gone in pairs { [50] = { 3 }, [60] = {}, [59] = { 3 } } do
            local t, list = grpc(3, { success_rate = false, failure_percentage = true, threshold = threshold, failure_volume = 5,
                min_hosts = 3, share = 100 })
            results(t, list[1], 5, 0)
            results(t, list[2], 5, 0)
            results(t, list[3], 2, 3)
            t:advance(10)
            assert.same(gone, out(list), tostring(threshold))
        end
    end)

    it("takes none where no share may go, and one where a little may", function()
        for share, gone in pairs { [0] = {}, [1] = { 2 } } do
            local t, list = grpc(3, { success_rate = false, failure_percentage = true, threshold = 50, failure_volume = 5,
                min_hosts = 3, share = share })
            results(t, list[1], 5, 0)
            results(t, list[2], 0, 5)
            results(t, list[3], 0, 5)
            t:advance(10)
            assert.same(gone, out(list), tostring(share))
        end
    end)

    it("takes back what has been out for longer than its time, not as long", function()
        local t, list = grpc(3, { stdev = 0.5, min_hosts = 3, volume = 5, share = 100, base = 10 })
        results(t, list[1], 5, 0)
        results(t, list[2], 5, 0)
        results(t, list[3], 0, 5)
        t:advance(10)
        assert.same({ 3 }, out(list))
        t:advance(10)                                            -- exactly its time
        assert.same({ 3 }, out(list))
        t:advance(10)
        assert.same({}, out(list))
    end)
end)
