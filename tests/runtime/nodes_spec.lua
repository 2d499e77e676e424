--- Questions about several nodes: route, for each command, and tick, a sweep over all.
require "tests.support.policies"
local test = require "wayside.test"

local function file_of(text)
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(text)
    file:close()
    finally(function() os.remove(path) end)
    return path
end

local function policy(fields)
    return file_of('local wayside = require "wayside"\nreturn wayside.policy { name = "t",\n' .. fields .. " }")
end

--- A master and two replicas, in zones a, b and c.
local function shard(t)
    local master = t:node { zone = "a" }
    return master, t:node { role = "replica", shard = master, zone = "b" }, t:node { role = "replica", shard = master, zone = "c" }
end

describe("route", function()
    it("is shown the command and answers with an index of the candidates, or nil", function()
        local t = test.start(policy [[
            route = function(self, request, nodes)
              if request.write then return nil end
              if request.command == "mget" then return 2 end
              if request.tried then return request.tried % #nodes + 1 end
              if request.attempt > 3 then return 1 end
              return 1 + request.slot % #nodes
            end]])
        local master, second, third = shard(t)
        assert.is_true(t.plan.has_route)
        assert.is_nil(t:route { slot = 1, write = true })
        assert.equal(second, t:route { slot = 0, command = "MGET" })
        assert.equal(third, t:route { slot = 2 })
        assert.equal(master, t:route { slot = 1, tried = 3 })
        assert.equal(master, t:route { slot = 2, attempt = 4 })
    end)

    it("sees of a node what the others see", function()
        local t = test.start(policy [[
            memory = { node = { rank = 0 }, shard = { all = 7 }, cluster = { all = 8 } },
            mark = function(self, node, event)
              if event.error then node.memory.rank = 5 return { state = "suspect", seconds = 60, reason = "tired" } end
            end,
            route = function(self, request, nodes)
              local node = nodes[request.slot]
              assert(node.id == ("%040x"):format(request.slot), node.id)
              assert(node.address == "10.0.0." .. request.slot .. ":7000", node.address)
              assert(node.zone == ("abc"):sub(request.slot, request.slot), node.zone)
              assert(node.role == (request.slot == 1 and "master" or "replica"))
              assert(node.weight == 1 and node.failures >= 0 and node.shard.nodes == 3 and node.shard.memory.all == 7)
              assert(self.cluster.nodes == 3 and self.cluster.memory.all == 8 and self.cluster.suspect == node.shard.suspect)
              if node.state == "suspect" then
                assert(node.memory.rank == 5 and node.reason == "tired" and node.ends == node.since + 60)
                return request.slot
              end
              assert(node.memory.rank == 0 and not node.reason and not node.ends)
              if node.inflight == 9 then return request.slot end
              if node.latency and node.latency > 1 then return request.slot end
              if node.replication.link_up == false then return request.slot end
            end]])
        local _, second, third = shard(t)
        for slot = 1, 3 do assert.is_nil(t:route { slot = slot }) end
        t:fail(second, { error = "timeout" })
        assert.equal(second, t:route { slot = 2 })
        assert.is_nil(t:route { slot = 3 })
        t:inflight(third, 9)
        assert.equal(third, t:route { slot = 3 })
        t:inflight(third, 0)
        assert.is_nil(t:route { slot = 3 })
        t:latency(third, 2)
        assert.equal(third, t:route { slot = 3 })
        t:replication(t.nodes[1], { link_up = false })
        assert.equal(t.nodes[1], t:route { slot = 1 })
    end)

    it("reads counters, and can't reset them", function()
        local t = test.start(policy [[
            counters = { row = wayside.consecutive {}, all = wayside.window { scope = "cluster", seconds = 1000 } },
            mark = function() end,
            route = function(self, request, nodes)
              if request.slot == 9 then nodes[1].counters.row:reset() end
              assert(self.cluster.counters.all.failed == 3)
              return 1 + nodes[1].counters.row.value
            end]])
        local master, second, third = shard(t)
        for _ = 1, 2 do t:fail(second, { error = "timeout" }) end
        t:fail(master, { error = "timeout" })
        assert.equal(third, t:route({ slot = 1 }, { second, master, third }))
        assert.equal(second, t:route({ slot = 1 }, { master, second, third }))
        assert.equal(third, t:route({ slot = 1 }, { third, second, master }))
        assert.error_matches(function() t:route { slot = 9 } end, "node.counters are read%-only in route")
    end)

    it("may not write: to memory, to a node, to the list", function()
        local bodies = {
            ["memory is read%-only in route: can't set 'seen'"] = "nodes[1].memory.seen = 1",
            ["shard%.memory is read%-only in route: can't set 'out'"] = "nodes[1].shard.memory.out = 1",
            ["cluster%.memory is read%-only in route: can't set 'open'"] = "self.cluster.memory.open = 1",
            ["node is read%-only: can't set 'state'"] = "nodes[1].state = 'failing'",
            ["request is read%-only: can't set 'slot'"] = "request.slot = 1",
            ["nodes is read%-only: can't set"] = "nodes[99] = nodes[1]",
            ["insert: the table is read%-only"] = "table.insert(nodes, nodes[1])",
            ["sort: the table is read%-only"] = "table.sort(nodes, function(a, b) return a.id > b.id end)",
        }
        for wanted, body in pairs(bodies) do
            local t = test.start(policy("memory = { node = { seen = 0 }, shard = { out = 0 }, cluster = { open = 0 } },\n"
                .. "route = function(self, request, nodes) " .. body .. " end"))
            shard(t)
            assert.error_matches(function() t:route { slot = 1 } end, wanted)
        end
    end)

    it("gets a whole list each time, whatever it did to the last one", function()
        local t = test.start(policy [[
            route = function(self, request, nodes)
              local count = #nodes
              for index = 1, count do assert(nodes[index].state == "healthy") end
              assert(nodes[count + 1] == nil)
              if request.slot == 1 then nodes[1], nodes[2] = nodes[2], nil end
              if request.slot == 2 then nodes[1], nodes[count] = 5, nil end
              if request.slot == 3 then for index = 1, count do nodes[index] = nil end end
              return count
            end]])
        local _, second, third = shard(t)
        t:advance(0.1)
        for slot = 0, 4 do
            assert.equal(third, t:route { slot = slot })
            assert.equal(second, t:route({ slot = 0 }, { t.nodes[1], second }))
        end
    end)

    it("has no use for a node of an earlier call elsewhere", function()
        local t = test.start(policy [[
            mark = function(self, node, event) if event.error then return { reason = self.options and kept.state } end end,
            route = function(self, request, nodes) kept = nodes[1] end]])
        shard(t)
        assert.error_matches(function() t:route { slot = 1 } end, "kept")
        local file = file_of [[
            local wayside, kept = require "wayside", {}
            return wayside.policy { name = "t",
              mark = function(self, node, event) if event.error then return { reason = kept[1].state } end end,
              route = function(self, request, nodes) kept[1] = nodes[1] end }]]
        t = test.start(file)
        local master = shard(t)
        t:route { slot = 1 }
        assert.error_matches(function() t:fail(master, { error = "refused" }) end, "node is of an earlier call")
    end)

    it("is told what is wrong with its answer", function()
        for answer, wanted in pairs {
            ["0"] = "route: the answer: expected an index from 1 to 3, or nil, got 0", ["4"] = "got 4", ["1.5"] = "got 1%.5",
            ["0/0"] = "got %-?nan", ["1/0"] = "got inf", ["'1'"] = "got '1'", ["true"] = "got true", ["nodes[1]"] = "got a userdata",
            ["{}"] = "got a table",
        } do
            local t = test.start(policy("route = function(self, request, nodes) return " .. answer .. " end"))
            shard(t)
            assert.error_matches(function() t:route { slot = 1 } end, wanted)
        end
    end)
end)

describe("tick", function()
    it("sweeps all nodes every so many seconds, and marks", function()
        local t = test.start(policy [[
            options = { period = { default = 10 } },
            every = function(options) return options.period end,
            memory = { node = { sweeps = 0 } },
            tick = function(self, nodes, event)
              assert(event.kind == "tick" and event.late == 0 and not event.error and event.now % 5 == 0)
              local answers = {}
              for index, node in ipairs(nodes) do
                assert(self.cluster.nodes == #nodes and node.shard.nodes >= 1)
                node.memory.sweeps = node.memory.sweeps + 1
                if index == 2 and node.memory.sweeps == 2 then
                  answers[#answers + 1] = { node = node, state = "failing", seconds = 7, reason = "swept" }
                end
              end
              return answers
            end]], { period = 5 })
        local _, second, third = shard(t)
        assert.equal(5, t.plan.every)
        t:advance(5)
        assert.equal("healthy", second.state)
        t:advance(4.9)
        assert.equal("healthy", second.state)
        assert.equal(1, third.memory[1])
        t:advance(0.1)
        assert.equal("failing", second.state)
        assert.equal("swept", second.reason)
        assert.equal(2, third.memory[1])
        t:advance(7)
        assert.equal("healthy", second.state)
        assert.equal(3, second.memory[1])
    end)

    it("counts as soft evidence: the guard keeps the last node, and the share", function()
        local t = test.start(policy [[
            every = 1,
            tick = function(self, nodes)
              local answers = {}
              for index, node in ipairs(nodes) do answers[index] = { node = node, state = "failing", reason = "all" } end
              return answers
            end]])
        local master, second, third = shard(t)
        local answers = t:tick()
        assert.same({ true, false, true }, { answers[1].refused, answers[2].refused, answers[3].refused })
        assert.same({ "suspect", "failing", "suspect" }, { master.state, second.state, third.state })
    end)

    it("may set its nodes' memory, not their shard's, not the cluster's", function()
        for wanted, body in pairs {
            ["shard%.memory is read%-only in tick: can't set 'out'"] = "nodes[1].shard.memory.out = 1",
            ["cluster%.memory is read%-only in tick: can't set 'open'"] = "self.cluster.memory.open = 1",
        } do
            local t = test.start(policy("memory = { shard = { out = 0 }, cluster = { open = 0 } }, every = 1,\n"
                .. "tick = function(self, nodes) " .. body .. " end"))
            shard(t)
            assert.error_matches(function() t:tick() end, wanted)
        end
    end)

    it("is told what is wrong with its answer", function()
        for answer, wanted in pairs {
            ["true"] = "tick: the answer: expected a list or nil, got true",
            ["{ nodes[1] }"] = "the answer: expected a list of tables with node, got a userdata",
            ["{ { state = 'failing' } }"] = "node: expected one of the nodes given, got a nil",
            ["{ { node = 1 } }"] = "node: expected one of the nodes given, got 1",
            ["{ { node = event, state = 'failing' } }"] = "node: expected one of the nodes given",
            ["{ { node = nodes[1] }, { node = nodes[1] } }"] = "node: expected each node once at most",
            ["{ node = nodes[1], state = 'failing' }"] = "the answer: expected a list",
            ["{ { node = nodes[1], state = 'dead' } }"] = "state: expected healthy",
            ["{ { node = nodes[1], state = 'failing', seconds = 0/0 } }"] = "seconds: expected a number",
            ["{ { node = nodes[1], trials = 1 } }"] = "trials: expected nothing but",
            ["{ { node = nodes[1], stat = 'failing' } }"] = "tick: the answer has no 'stat', did you mean 'state'",
        } do
            local t = test.start(policy("every = 1, tick = function(self, nodes, event) return " .. answer .. " end"))
            local master = shard(t)
            assert.error_matches(function() t:tick() end, wanted)
            assert.equal("healthy", master.state)
        end
    end)

    it("asks twice, as all questions", function()
        local t = test.start(file_of [[
            local wayside = require "wayside"
            return wayside.policy { name = "t", every = 1,
              tick = function(self, nodes)
                return { { node = nodes[1], weight = wayside.random() } }
              end }]])
        local master = shard(t)
        assert.is_true(t:tick()[1].mark.weight == master.weight)
        -- Only one of them is asked to classify, so what that leaves in an upvalue is its own.
        t = test.start(file_of [[
            local wayside, seen = require "wayside", 0
            return wayside.policy { name = "t", every = 1, classes = {}, mark = function() end,
              classify = function() seen = seen + 1 end,
              tick = function(self, nodes) return { { node = nodes[1], reason = "r" .. seen } } end,
              route = function() return 1 + seen end }]])
        master = shard(t)
        t:fail(master, { error = "refused" })
        assert.error_matches(function() t:route { slot = 1 } end, "two states answer differently")
        assert.error_matches(function() t:tick() end, "two states answer differently")
    end)

    it("reads and resets each node's counters, with its own answer", function()
        local t = test.start(policy [[
            every = 10,
            counters = { row = wayside.consecutive {}, all = wayside.window { scope = "cluster", seconds = 1000 } },
            mark = function() end,
            tick = function(self, nodes)
              local answers = {}
              for index, node in ipairs(nodes) do
                answers[index] = { node = node, reason = "row" .. node.counters.row.value .. "of" .. self.cluster.counters.all.failed }
                if node.counters.row.value == 2 then node.counters.row:reset() end
                assert(node.counters.row.value == tonumber(answers[index].reason:match("%d")))
              end
              return answers
            end]])
        local master, second = shard(t)
        for _ = 1, 2 do t:fail(second, { error = "timeout" }) end
        t:fail(master, { error = "timeout" })
        t:tick()
        assert.same({ "row1of3", "row2of3" }, { master.reason, second.reason })
        t:tick()
        assert.same({ "row1of3", "row0of3" }, { master.reason, second.reason })
    end)

    it("has a budget that grows with the nodes: more than one call's for more than 64", function()
        local text = [[
            every = 1,
            tick = function(self, nodes)
              local sum = 0
              for _ = 1, 200000 do sum = sum + 1 end
            end]]
        local few, many = test.start(policy(text)), test.start(policy(text))
        for _ = 1, 2 do few:node {} end
        for i = 1, 200 do many:node { role = i % 20 == 1 and "master" or "replica", silent = true } end
        assert.error_matches(function() few:tick() end, "more than 100000 instructions")
        assert.has_no.errors(function() many:tick() end)
    end)
end)

describe("a policy is refused", function()
    for what, case in pairs {
        ["with every but no tick"] = { "every = 5", "every: expected a function tick" },
        ["with tick but no every"] = { "tick = function() end", "tick: expected every = seconds" },
        ["that ticks all the time"] = { "tick = function() end, every = 0", "every: expected a number of seconds from 0%.01 to 86400, got 0" },
        ["that ticks never"] = { "tick = function() end, every = function() return 1/0 end", "every: expected a number" },
        ["whose tick is no function"] = { "tick = 5, every = 5", "tick: expected a function, got 5" },
        ["whose route is no function"] = { "route = 'master'", "route: expected a function" },
    } do
        it(what, function() assert.matches(case[2], test.refused(policy(case[1]))) end)
    end
end)
