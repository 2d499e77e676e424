--- Marks, commits, counts, probes, sweeps, reloads and questions in the shadow, all at once in four workers and the control thread.
--- Nothing is lost by it; the sanitizers' runs of this file are what tells of races.
local socket = require "socket"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local openloop = require "tests.support.openloop"
local ports = require "tests.support.ports"

-- Every failure and every answer of a node in doubt is a commit with memory of node, shard and cluster; probes come each 20 ms.
local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "together", version = %q, pick = "random", every = 1,
  memory = { node = { failed = 0 }, shard = { failed = 0 }, cluster = { failed = 0 } },
  counters = {
    rate = wayside.window { seconds = 2, buckets = 10, edge = { above = 0.2, min_volume = 5 } },
    all = wayside.ring { size = 100, scope = "cluster", edge = { above = 0.1 } },
  },
  mark = function(self, node, event)
    if event.kind == "edge" or event.kind == "change" then return {} end
    if event.error then
      for _, memory in ipairs { node.memory, node.shard.memory, self.cluster.memory } do memory.failed = memory.failed + 1 end
      return { state = "failing", reason = event.error, connections = "drop", refresh = true }
    end
    if event.kind == "probe" then return { state = "healthy", ramp = 0.1 } end
  end,
  backoff = function(_, _, event)
    if event.error == "no_node" then return { retry = "hold", within = 5 - event.age } end
    if event.commands == "reads" and event.attempt < 4 then return { retry = "other" } end
    if event.certainty == "unsent" then return { retry = "hold", within = 5 - event.age } end
  end,
  probe = function(_, node) if node.state ~= "healthy" then return { after = 0.02, timeout = 1 } end end,
  tick = function(_, nodes)
    local answers = {}
    for i, node in ipairs(nodes) do
      node.memory.failed = node.memory.failed * 0.5
      answers[i] = { node = node }
    end
    return answers
  end,
}
]]

local KEYS, SLOTS = 16, { 100, 9000 }

it("marks, probes, sweeps, reloads and a candidate meet while clients are served: no command fails", function()
  local cluster = kit.cluster { masters = 2, replicas = 2, front = "mitm" }
  local file, http = kit.file("together.lua", POLICY:format "0"), "127.0.0.1:" .. ports.free()
  local way = kit.wayside { cluster = cluster, policy = file, workers = 4, http = http, timeouts = { dial = 2, read = 5, total = 10 },
    limits = { probation = 0.05, retry_burst = 10000 } }
  local keys = {}
  for i = 1, KEYS do
    keys[i] = kit.key_in(SLOTS[i % 2 + 1], "together" .. i)
    assert.equal("OK", way:call("SET", keys[i], keys[i]))
  end
  for _, slot in ipairs(SLOTS) do assert.equal(1, cluster:master_of(slot):call("WAIT", 1, 5000)) end

  local clients = {}
  for i = 1, 8 do
    clients[i] = { name = "client" .. i, target = way:target(), every = 0.02, make = function(number)
      local list = {}
      for j = 1, 6 do list[j] = { "GET", keys[(number + j) % KEYS + 1] } end
      list[7] = { "SET", kit.key_in(SLOTS[i % 2 + 1], "own" .. i), number }
      return list
    end, good = function(reply, words) return reply == (words[1] == "GET" and words[2] or "OK") end }
  end
  local load = openloop.start { folder = kit.folder(), clients = clients }

  local replicas = { cluster:replicas_of(SLOTS[1])[1], cluster:replicas_of(SLOTS[2])[1] }
  local rounds, asked = kit.count(12, 200), kit.connect(way.console, 10)
  for round = 1, rounds do
    -- Both die under all workers; in the same moment another policy comes, and a candidate for it.
    for _, replica in ipairs(replicas) do
      replica.mitm:refuse()
      replica.mitm:cut(round % 2 == 0 and "fin" or "rst")
    end
    kit.process.write_file(file, POLICY:format(tostring(round)))
    local reply = asked:call("WAYSIDE", "RELOAD")
    assert.is_false(kit.is_error(reply), kit.show(reply))
    if round % 3 == 0 then
      reply = asked:call("WAYSIDE", "SHADOW", kit.file("candidate.lua", POLICY:format "candidate"))
      assert.is_false(kit.is_error(reply), kit.show(reply))
    end
    for _, replica in ipairs(replicas) do way:wait_state(replica, "failing", 10) end
    -- A new policy's first sweep is `every` seconds from its start, the least of which is one.
    if round % 4 == 0 then
      local before = metrics.read(http).ticks_total
      kit.wait_for(function() return metrics.read(http).ticks_total > before end, 10, "a sweep")
    end
    for _, replica in ipairs(replicas) do replica.mitm:accept() end
    for _, replica in ipairs(replicas) do way:wait_state(replica, "healthy", 10) end
  end
  socket.sleep(0.3)
  local sum, now = openloop.sum(load:finish()), metrics.read(http)
  print(("%d rounds: %d commands, %d failed, longest wait %.0f ms; %d sweeps"):format(rounds, sum.n, sum.failed, sum.longest * 1000,
    now.ticks_total))
  assert.is_true(sum.n > 100 * rounds, sum.n)
  assert.equal(0, sum.failed, openloop.show(sum))
  assert.equal(rounds, now['policy_reloads_total{result="committed"}'])
  assert.is_true(now.ticks_total >= math.floor(rounds / 4))
  local policy_errors = 0
  for name, value in pairs(now) do policy_errors = policy_errors + (name:find "^policy_errors_total" and value or 0) end
  assert.equal(0, policy_errors)
  assert.is_true(way.process:alive())
  asked:close()
end)
