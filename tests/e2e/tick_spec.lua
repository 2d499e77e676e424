--- Sweeps over all nodes: one process makes them, the next follows if it dies, and none can do what a mark can't.
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local misdeeds = require "tests.support.misdeeds"
local ports = require "tests.support.ports"
local socket = require "socket"

local cluster, master, replica
local KEY = kit.key_in(0, "value")

setup(function()
  cluster = kit.cluster { masters = 2, replicas = 2, node_timeout = 500 }
  master, replica = cluster:master_of(0), cluster:replicas_of(0)[1]
  master:call("SET", KEY, "v")
end)

local function start(options)
  local http = "127.0.0.1:" .. ports.free()
  options.cluster, options.http = cluster, http
  return kit.wayside(options), function() return metrics.read(http) end
end

-- Counts its sweeps in each node's memory, and tells the count by a reason.
local COUNTS = [[
local wayside = require "wayside"
return wayside.policy {
  name = "counts", every = 1, mark = function() end,
  memory = { node = { sweeps = 0 } },
  tick = function(self, nodes, event)
    local answers = {}
    for index, node in ipairs(nodes) do
      node.memory.sweeps = node.memory.sweeps + 1
      answers[index] = { node = node, reason = "sweep" .. node.memory.sweeps }
    end
    return answers
  end,
}
]]

describe("a sweep", function()
  it("is made by one of the processes on a segment, and by the next within two intervals of a death", function()
    local segment, policy = kit.folder() .. "/sweeps.seg", kit.file("counts.lua", COUNTS)
    local ways, counters = {}, {}
    for i = 1, 3 do ways[i], counters[i] = start { policy = policy, segment = segment, workers = 1 } end
    local function sweeps()
      local of, sum = {}, 0
      for i = 1, 3 do
        of[i] = ways[i].dead and 0 or counters[i]().ticks_total
        sum = sum + of[i]
      end
      return of, sum
    end
    local before, sum = sweeps()
    local began = socket.gettime()
    kit.wait_for(function() return select(2, sweeps()) >= sum + 3 end, 8, "three sweeps")
    local took = socket.gettime() - began
    -- If each swept for itself it were less than one; a late sweep makes the next wait less.
    assert.is_true(took > 1.5, ("three sweeps of all took %.2f s"):format(took))
    local after, who = sweeps(), 1
    for i = 1, 3 do
      if after[i] - before[i] > after[who] - before[who] then who = i end
    end
    -- One of them did it all (a busy machine may have handed the lease on once).
    assert.is_true(after[who] - before[who] >= 2, kit.show(after))
    ways[who]:kill()
    ways[who].dead, ways[who].stopped = true, true
    local died = socket.gettime()
    local _, then_ = sweeps()
    kit.wait_for(function() return select(2, sweeps()) > then_ end, 3, "another's sweep")
    local later = socket.gettime() - died
    assert.is_true(later < 2 * 1 + 0.5, ("the next sweep came after %.2f s"):format(later))
    -- Each sweep has counted once in each node's memory, whoever made it.
    local other = ways[who % 3 + 1]
    local reason = tonumber(other:node(master).reason:match "^sweep(%d+)$")
    assert.is_true(reason >= sum + 3, tostring(reason))
  end)

  it("is told by EVENTS and WHY, node by node", function()
    local way = start { policy = kit.file("marks.lua", [[
      local wayside = require "wayside"
      return wayside.policy {
        name = "marks", every = 0.1, mark = function() end, probe = function() end,
        tick = function(_, nodes)
          for _, node in ipairs(nodes) do
            if node.role == "replica" and node.state == "healthy" then
              return { { node = node, state = "failing", seconds = 60, reason = "swept" } }
            end
          end
        end,
      }]]) }
    way:wait_state(replica, "failing")
    local event = way:wait_event { kind = "tick", node = replica.address }
    assert.same({ "tick", "healthy", "failing" }, { event["function"], event.from, event.to }, way:show_events())
    assert.is_true(event.late >= 0 and event.late < 1)
    assert.matches("marks%.lua:%d+", event.where)
    local why = table.concat(way:ask("WAYSIDE", "WHY", replica.address), "\n")
    assert.matches("control thread: a sweep over all nodes; tick %(.-marks%.lua:%d+, marks%) said failing 60 s swept", why)
    assert.matches("node=" .. replica.address .. " from=healthy to=failing reason=swept", way:log())
  end)
end)

describe("outlier", function()
  it("takes a node out after five failures in a row, and back by a sweep once it has served its time", function()
    local way = start { policy = "policies/outlier.lua", options = { interval = 0.1, base = 0.5 } }
    local client, other = way:client(), way:client()
    local failing = kit.resp.encode { "EVAL", "return redis.error_reply('BUSY said it')", "1", KEY }
    client:send_raw(failing:rep(5))
    -- The only one that takes writes: the guard leaves it in use.
    local out = way:wait_event { node = master.address, to = "suspect", from = "healthy" }
    assert.matches("consecutive", out.verdict)
    assert.equal("v", other:call("GET", KEY))
    local back = way:wait_event { node = master.address, kind = "tick", to = "healthy" }
    assert.matches("served", back.verdict)
    local took = back.time - out.time
    assert.is_true(took >= 0.5 and took < 2, ("back after %.2f s"):format(took))
  end)
end)

-- ---- containment ----

-- Which misdeed is next is told by an error reply's text, "BUSY arm 12", that a client has a node give: 1 and up are
-- misdeeds, 101 and up answers.
local ANSWERS = {
  "true", "'all'", "nodes", "{ nodes[1] }", "{ 1 }", "{ { state = 'failing' } }", "{ { node = 1, state = 'failing' } }",
  "{ { node = self, state = 'failing' } }", "{ node = nodes[1], state = 'failing' }",
  "{ { node = nodes[1], state = 'failing', seconds = 0/0 } }", "{ { node = nodes[1], state = 'failing', seconds = 1/0 } }",
  "{ { node = nodes[1], state = 'dead' } }", "{ { node = nodes[1], weight = 2 } }", "{ { node = nodes[1], trials = 1 } }",
  "{ { node = nodes[1], state = 'failing' }, { node = nodes[1], state = 'failing' } }", "{ [3] = { node = nodes[1] } }",
  "{ { node = nodes[1], reason = {} } }", "{ { node = nodes[1], stat = 'failing' } }",
}

local function misdeeds_text()
  local out = { 'local wayside = require "wayside"\nlocal bad = {\n' }
  for _, misdeed in ipairs(misdeeds) do out[#out + 1] = ("function(node, event) %s end,\n"):format(misdeed[2]) end
  out[#out + 1] = "}\nlocal void = {\n"
  for _, answer in ipairs(ANSWERS) do out[#out + 1] = ("function(self, nodes) return %s end,\n"):format(answer) end
  out[#out + 1] = [[
}
return wayside.policy {
  name = "misdeeds", every = 0.05,
  memory = { node = { n = 0 }, cluster = { armed = 0 } },
  probe = function() end,
  backoff = function() end,
  mark = function(self, node, event)
    local index = (event.message or ""):match("^BUSY arm (%d+)")
    if index then self.cluster.memory.armed = tonumber(index) return {} end
  end,
  tick = function(self, nodes, event)
    local armed = self.cluster.memory.armed
    if armed == 0 then return nil end
    for _, node in ipairs(nodes) do node.memory.n = node.memory.n + 1 end
    if armed == 1000 then
      local answers = {}
      for index, node in ipairs(nodes) do answers[index] = { node = node, state = "failing", reason = "spite" } end
      return answers
    end
    if armed > 100 then return void[armed - 100](self, nodes) end
    return bad[armed](nodes[1], event)
  end,
}
]]
  return table.concat(out)
end

describe("a tick that fails", function()
  local way, counters, client
  setup(function()
    way, counters = start { policy = kit.file("misdeeds.lua", misdeeds_text()), limits = { policy_errors = 1e9 } }
    client = way:client(nil, 5)
  end)

  local function arm(index)
    local words = "BUSY arm " .. index
    assert.same({ err = words }, client:call("EVAL", ("return redis.error_reply('%s')"):format(words), "1", KEY))
  end

  --- Arms it, and gives the causes that were counted then, of tick alone.
  local function failures(index)
    arm(0) -- what was armed before must not be counted for this one, nor a sweep that still goes on
    local ticks = counters().ticks_total
    kit.wait_for(function() return counters().ticks_total > ticks end, 5, "the next sweep")
    local before, seen = counters(), {}
    arm(index)
    kit.wait_for(function()
      for name, by in pairs(metrics.between(before, counters())) do
        local fn, cause = name:match 'policy_errors_total{function="(%w+)",cause="(%w+)"}'
        if fn then seen[cause] = by assert.equal("tick", fn) end
      end
      return next(seen)
    end, 5, "an error of tick")
    assert.equal("v", client:call("GET", KEY))
    return seen
  end

  it("changes nothing, whatever it does, and the next sweep comes", function()
    for i, misdeed in ipairs(misdeeds) do
      for cause in pairs(failures(i)) do assert.is_true(misdeed[3][cause], misdeed[1] .. " ended by " .. cause) end
    end
    arm(0)
    local before = counters().ticks_total
    kit.wait_for(function() return counters().ticks_total > before + 2 end, 3, "sweeps to go on")
    for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state) end
  end)

  it("by its answer is not believed, and no part of it is used", function()
    for i, answer in ipairs(ANSWERS) do
      for cause in pairs(failures(100 + i)) do assert.equal("answer", cause, answer) end
    end
    arm(0)
    for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state) end
  end)

  it("by marking every node is held by the guard, which counts it", function()
    local before = counters()
    arm(1000)
    kit.wait_for(function()
      local changed = metrics.between(before, counters())
      return (changed['marks_refused_total{limit="guard"}'] or 0) >= 2
    end, 5, "the guard to refuse")
    for _ = 1, 5 do assert.equal("v", client:call("GET", KEY)) end
    assert.equal("OK", client:call("SET", KEY, "v"))
    local states = {}
    for _, node in ipairs(way:nodes()) do states[#states + 1] = node.state end
    table.sort(states)
    assert.same({ "failing", "failing", "suspect", "suspect" }, states)
    arm(0)
  end)

  it("too often is set aside, and sweeps no more", function()
    way, counters = start { policy = kit.file("misdeeds.lua", misdeeds_text()), limits = { policy_errors = 4 } }
    client = way:client(nil, 5)
    arm(1)
    kit.wait_for(function() return counters().policy_set_aside == 1 end, 3, "the policy to be set aside")
    local calls = counters().ticks_total
    socket.sleep(0.3)
    assert.equal(calls, counters().ticks_total)
    assert.equal("v", client:call("GET", KEY))
  end)
end)

describe("a reload", function()
  it("begins to route and to sweep, at its own intervals, and ends it", function()
    local plain = 'return { name = "plain" }'
    local asks = [[
      return { name = "asks", every = %s, mark = function() end, probe = function() end,
        route = function() return 1 end, tick = function() end }]]
    local file = kit.file("changes.lua", plain)
    local way, counters = start { policy = file }
    local client = way:client(nil, 5)
    local function become(text)
      kit.process.write_file(file .. ".new", text)
      assert(os.rename(file .. ".new", file))
      local reply = way:ask("WAYSIDE", "RELOAD")
      assert.is_nil(reply.err, kit.show(reply))
    end
    local function calls_for(count)
      local before = counters().policy_calls_total
      for _ = 1, count do assert.equal("v", client:call("GET", KEY)) end
      return counters().policy_calls_total - before
    end
    assert.is_true(calls_for(50) < 50)
    become(asks:format "3600")
    kit.wait_for(function() return calls_for(50) >= 50 end, 5, "commands to be routed")
    assert.equal(0, counters().ticks_total)
    become(asks:format "0.05")
    kit.wait_for(function() return counters().ticks_total >= 3 end, 5, "sweeps, though the next one was an hour off")
    become(plain)
    kit.wait_for(function() return calls_for(50) < 50 end, 5, "commands to go their way without Lua")
    local ticks = counters().ticks_total
    socket.sleep(0.3)
    assert.equal(ticks, counters().ticks_total)
  end)
end)
