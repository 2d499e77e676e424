--- The success path makes no Lua call, takes no lock and allocates nothing: counted exactly,
--- over a million commands, in the workers' threads.
local counts = require "tests.support.counts"
local kit = require "tests.support.kit"
local process = require "tests.support.process"

-- All but TLS have one cluster; whoever killed a node of it has it restarted.
local cluster
setup(function() cluster = kit.cluster { masters = 3, replicas = 0, node_timeout = 500 } end)
after_each(function()
  for _, node in ipairs(cluster.nodes) do
    if not node.process:alive() then node:restart() end
  end
  cluster:wait_ok()
end)

local function benchmark(way, commands, target)
  local status, text = kit.run {
    "redis-benchmark", target[1], target[2], "-t", "get,set", "-P", "16", "-c", "16", "-d", "64", "-r", "100000",
    "-n", tostring(commands / 2), "-q", timeout = 300,
  }
  assert.equal(0, status, text)
  assert.is_nil(text:lower():find("error", 1, true), text)
  assert.is_true(way.process:alive())
end

local function targets(way)
  return { { "-p", tostring(way.port) }, { "-s", (way.unix:gsub("^unix:", "")) } }
end

-- One of each kind that counts results, in each scope, with edges that never come true.
local COUNTING = [[
local wayside = require "wayside"
return wayside.policy {
  name = "counting",
  counters = {
    row = wayside.consecutive { edge = { at_least = 1000000 } },
    window = wayside.window { seconds = 10, buckets = 10, slower = 30, edge = { above = 0.5 } },
    ring = wayside.ring { size = 1000, scope = "shard", edge = { above = 0.5 } },
    latency = wayside.ewma { tau = 10, of = "latency", peak = true },
    tokens = wayside.tokens { scope = "cluster", capacity = 100, success = 0.1, failure = -1, edge = { below = 10 } },
    requests = wayside.window { scope = "cluster", seconds = 10, buckets = 10, of = "requests" },
  },
}
]]

for _, policy in ipairs { "policies/default.lua", "policies/go_redis.lua", "counters of every kind" } do
  describe("a million commands under " .. policy, function()
    it("cost no Lua call, no lock and no allocation each", function()
      if not policy:find "%.lua$" then policy = kit.file("counting.lua", COUNTING) end
      local counting = counts.prepare(kit.folder())
      local way = kit.wayside { cluster = cluster, policy = policy, workers = 2, env = counting.env }
      for _, target in ipairs(targets(way)) do benchmark(way, 100000, target) end
      local before = counting:read(way.process.pid)
      for _, target in ipairs(targets(way)) do benchmark(way, kit.count(500000, 2000000), target) end
      local after = counting:read(way.process.pid)
      local workers = 0
      for name, now in pairs(after) do
        if name:match "^worker" then
          workers = workers + 1
          for _, what in ipairs { "lua_calls", "locks", "allocations" } do
            local made = now[what] - (before[name] and before[name][what] or 0)
            print(("%s: %d %s"):format(name, made, what))
            -- Clients that come and go may cost a few; a thousandth of what one per command would.
            local allowed = what == "allocations" and 400 or what == "locks" and 100 or 0
            assert.is_true(made <= allowed, ("%s made %d %s"):format(name, made, what))
          end
        end
      end
      assert.equal(2, workers)
      assert.same({}, way:events { kind = "connection" })

      -- The counting counts: a failure does call Lua.
      cluster:node(1):kill()
      assert.is_true(kit.is_error(way:call("SET", kit.key_in(0), "x")))
      local calls = 0
      for name, row in pairs(counting:read(way.process.pid)) do
        if name:match "^worker" then calls = calls + row.lua_calls - after[name].lua_calls end
      end
      assert.is_true(calls > 0, "no Lua call was counted for a failure")
    end)
  end)
end

--- What each worker made while `what` happened, against what clients that come and go may cost.
local function check_workers(counting, way, what, allocations)
  local before = counting:read(way.process.pid)
  what()
  local workers = 0
  for name, now in pairs(counting:read(way.process.pid)) do
    if name:match "^worker" then
      workers = workers + 1
      for counted, allowed in pairs { lua_calls = 0, locks = 100, allocations = allocations or 400 } do
        local made = now[counted] - (before[name] and before[name][counted] or 0)
        assert.is_true(made <= allowed, ("%s made %d %s"):format(name, made, counted))
      end
    end
  end
  assert.equal(2, workers)
end

it("TLS to the nodes costs no Lua call and no lock, and OpenSSL's own few allocations a record, which has many commands", function()
  local counting = counts.prepare(kit.folder())
  local encrypted = kit.cluster { masters = 3, replicas = 0, node_timeout = 500, tls = true }
  local way = kit.wayside { cluster = encrypted, policy = "policies/default.lua", workers = 2, env = counting.env }
  for _, target in ipairs(targets(way)) do benchmark(way, 50000, target) end
  local commands = kit.count(100000, 2000000)
  check_workers(counting, way, function()
    for _, target in ipairs(targets(way)) do benchmark(way, commands, target) end
  end, commands / 2)
end)

it("a candidate in the shadow costs no Lua call, no lock and no allocation, its counters included", function()
  local counting = counts.prepare(kit.folder())
  local way = kit.wayside { cluster = cluster, policy = "policies/default.lua", workers = 2, env = counting.env }
  local counted = kit.file("counted.lua", [[
local wayside = require "wayside"
return wayside.policy { name = "counted", mark = function() end, counters = {
  row = wayside.consecutive { edge = { at_least = 5 } }, bad = wayside.window { seconds = 10, buckets = 10 } } }
]])
  local reply = way:ask("WAYSIDE", "SHADOW", counted)
  assert.is_nil(reply.err, reply.err)
  for _, target in ipairs(targets(way)) do benchmark(way, 100000, target) end
  check_workers(counting, way, function()
    for _, target in ipairs(targets(way)) do benchmark(way, kit.count(200000, 2000000), target) end
  end)
end)

it("with a journal on disk, a policy that counts and its like in the shadow, the success path still costs none", function()
  local counting, journal = counts.prepare(kit.folder()), kit.folder() .. "/journal"
  local way = kit.wayside { cluster = cluster, policy = kit.file("in_charge.lua", COUNTING), workers = 2, env = counting.env,
    config = { journal = { file = journal } } }
  local reply = way:ask("WAYSIDE", "SHADOW", kit.file("candidate.lua", COUNTING))
  assert.is_nil(reply.err, reply.err)
  for _, target in ipairs(targets(way)) do benchmark(way, 100000, target) end
  check_workers(counting, way, function()
    for _, target in ipairs(targets(way)) do benchmark(way, kit.count(200000, 2000000), target) end
  end)

  -- All of it was on: a failure calls Lua, is written to the file, and is put to the candidate.
  local before, port = counting:read(way.process.pid), cluster:node(1).port
  cluster:node(1):kill()
  assert.is_true(kit.is_error(way:call("SET", kit.key_in(0), "x")))
  local calls = 0
  for name, row in pairs(counting:read(way.process.pid)) do
    if name:match "^worker" then calls = calls + row.lua_calls - before[name].lua_calls end
  end
  assert.is_true(calls > 0, "no Lua call was counted for a failure")
  kit.wait_for(function()
    return (process.read_file(journal) or ""):find('"127.0.0.1:' .. port .. '"', 1, true) ~= nil
  end, 5, "the failure in the journal's file")
  local shadow = way:ask("WAYSIDE", "SHADOW")
  local heard
  for i = 1, #shadow, 2 do if shadow[i] == "events" then heard = shadow[i + 1] end end
  assert.is_true(heard and heard > 0, "the candidate was asked nothing")
end)
