--- The kit that policies are tested with: what passes here can't be refused by the daemon.
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

describe("wayside.test", function()
    it("does what the contract's example says", function()
        local t = test.start(policy [[
            options = { fail_for = { default = 15, unit = "s", min = 0 } },
            mark = function(self, node, event)
              if event.error then
                return { state = "failing", seconds = self.options.fail_for, reason = event.error }
              elseif event.kind == "probe" then
                return { state = "healthy" }
              end
            end,
            probe = function() end]], { fail_for = 5 })
        local node = t:node {}
        t:fail(node, { error = "refused" })
        assert.equal("failing", node.state)
        assert.equal("refused", node.reason)
        t:advance(4.9)
        assert.equal("failing", node.state)
        t:advance(0.1)
        assert.equal("healthy", node.state)
    end)

    it("runs the first policy of the manual, as the manual tests it", function()
        local lines = {}
        for line in io.lines("policies/README.md") do
            local code = line:match("^    (.*)") or line == "" and #lines > 0 and "" or nil
            if not code and #lines > 0 then break end
            lines[#lines + 1] = code
        end
        local t = test.start(file_of(table.concat(lines, "\n")), { fail_for = 5 })
        assert.equal("fixed-time", t.plan.name)
        local node = t:node {}
        node.up = false
        t:fail(node, { error = "refused" })
        assert.equal("failing", node.state)
        t:advance(6)
        assert.equal("failing", node.state)
        node.up = true
        t:advance(1)
        assert.equal("healthy", node.state)
        assert.equal("other", t:backoff(node, { error = "refused", attempt = 2 }).retry)
        assert.is_nil(t:backoff(node, { error = "refused", attempt = 3 }))
    end)

    it("refuses what the daemon would refuse, in its words", function()
        assert.is_truthy(test.refused(policy "mark = 5"):find(":3: mark: expected a function, got 5", 1, true))
        assert.is_truthy(test.refused(policy "every = 1"):find("every: expected a function tick beside it", 1, true))
        assert.is_nil(test.refused("default"))
        assert.has_error(function() test.start("no/such/file.lua") end)
    end)

    it("fails where two states answer differently", function()
        -- Only one of them is asked to classify, so what that leaves in an upvalue is its own.
        local t = test.start(file_of [[
            local seen = 0
            return { name = "t", classes = {}, probe = function() end,
              classify = function() seen = seen + 1 end,
              mark = function() return { state = "failing", reason = "r" .. seen } end }]])
        local node = t:node { silent = true }
        assert.error_matches(function() t:fail(node, { error = "refused" }) end, "two states answer differently")
    end)

    it("raises what a policy raises, with file and line", function()
        local t = test.start(policy "mark = function(self, node, event) return event.eror end, probe = function() end")
        local node = t:node { silent = true }
        assert.error_matches(function() t:fail(node, { error = "refused" }) end, ":3: event has no 'eror'")
    end)

    it("keeps declared memory, and gives the same numbers for the same seed", function()
        local t = test.start(policy [[
            memory = { node = { count = 1 }, cluster = { all = 0 } },
            mark = function(self, node)
              node.memory.count = node.memory.count + 1
              self.cluster.memory.all = self.cluster.memory.all + 10
              return nil
            end,
            probe = function() end]])
        local a, b = t:node { silent = true }, t:node { silent = true }
        t:fail(a, { error = "refused" })
        t:fail(a, { error = "refused" })
        t:fail(b, { error = "refused" })
        assert.equal(3, a.memory[1])
        assert.equal(2, b.memory[1])
        assert.equal(30, b.cluster_memory[1])
    end)

    it("shows the guard at work", function()
        local t = test.start(policy [[
            mark = function(self, node, event) if event.error then return { state = "failing" } end end,
            probe = function() end]])
        local node = t:node { silent = true }
        assert.is_true(t:fail(node, { error = "eof", phase = "read", step = "reply" }).refused)
        assert.equal("suspect", node.state)
        assert.is_false(t:fail(node, { error = "refused" }).refused)
        assert.equal("failing", node.state)
    end)

    it("runs probes when they are due", function()
        local t = test.start(policy [[
            mark = function(self, node, event)
              if event.kind == "probe" then
                local role = require "wayside".info(event.answer).role
                return { state = role == "master" and "healthy" or "draining" }
              end
              if event.error then return { state = "failing" } end
            end,
            probe = function(self, node) if node.state == "failing" then return { after = 2, command = { "INFO", "replication" } } end end]])
        local node, asked = t:node { silent = true }, nil
        node.reply = function(command)
            asked = table.concat(command, " ")
            return "$13\r\nrole:master\r\n\r\n"
        end
        t:fail(node, { error = "refused" })
        t:advance(1.9)
        assert.is_nil(asked)
        t:advance(0.1)
        assert.equal("INFO replication", asked)
        assert.equal("healthy", node.state)
        assert.is_falsy(node.pending)
    end)

    it("asks for reconnects", function()
        local t = test.start(policy [[
            reconnect = function(self, node, event) return { after = 2 ^ event.attempt, timeout = 3 } end]])
        local answer = t:reconnect(t:node { silent = true }, { error = "refused", attempt = 3 })
        assert.equal(8, answer.after)
        assert.equal(3, answer.timeout)
    end)

    it("counts as the daemon does, and asks about edges", function()
        local t = test.start(policy [[
            counters = {
              row = wayside.consecutive { edge = { at_least = 3 } },
              all = wayside.window { scope = "cluster", seconds = 10, buckets = 10 },
              seen = wayside.samples { size = 4 },
            },
            mark = function(_, node, event)
              if event.kind ~= "edge" then return end
              node.counters.seen:add(node.counters.row.value)
              node.counters.row:reset()
              return { weight = 0.5, reason = event.counter }
            end,
            probe = function() end]])
        local master = t:node {}
        local node = t:node { role = "replica" }
        t:fail(node, { error = "timeout", phase = "read", n = 2 })
        assert.equal(2, node.counters.row.value)
        assert.same({}, t:succeed(master, { n = 8 }).edges)
        local what = t:fail(node, { error = "timeout", phase = "read", n = 2 })
        assert.equal("row", what.edges[1].counter)
        assert.equal(0.5, what.edges[1].mark.weight)
        assert.equal(0.5, node.weight)
        assert.equal(0, node.counters.row.value)
        assert.equal(4, node.counters.seen.last)
        assert.equal(1 / 3, node.cluster_counters.all.value)
        t:advance(11)
        assert.equal(0, master.cluster_counters.all.volume)
        t:probe(node, { error = "timeout" })                     -- probes don't count
        t:fail(node, { error = "timeout", began = t.now - 100, phase = "read" })         -- a straggler
        assert.equal(0, node.counters.row.value)
    end)

    it("fails where two states touch counters differently", function()
        local t = test.start(file_of [[
            local wayside = require "wayside"
            local seen = 0
            return { name = "t", classes = {}, probe = function() end,
              counters = { gaps = wayside.samples { size = 4 } },
              classify = function() seen = seen + 1 end,
              mark = function(_, node) node.counters.gaps:add(seen) end }]])
        local node = t:node { silent = true }
        assert.error_matches(function() t:fail(node, { error = "refused" }) end, "two states answer differently")
    end)
end)
