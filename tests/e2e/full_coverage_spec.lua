--- A cluster that must cover all slots to answer at all: while a master is dead and not yet replaced, every node says CLUSTERDOWN
--- to every command. Nobody is to blame for that, and whoever waits is served.
local kit = require "tests.support.kit"
local openloop = require "tests.support.openloop"
local socket = require "socket"

local HOLD = 6

local cluster
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500, full_coverage = true }
end)

local turn = 0

--- A writer and a reader of each shard.
local function load_of(way)
  local list = {}
  turn = turn + 1
  for i, slot in ipairs { 100, 8000, 16000 } do
    local keys = {}
    for j = 1, 4 do keys[j] = kit.key_in(slot + j, ("covered%d:%d:%d"):format(turn, i, j)) end
    for _, key in ipairs(keys) do assert.equal("OK", way:call("SET", key .. "r", key)) end
    list[#list + 1] = { name = "writes", keys = keys, target = way:target(), every = 0.02, make = function()
      local commands = {}
      for j, key in ipairs(keys) do commands[j] = { "INCR", key } end
      return commands
    end, good = function(reply) return type(reply) == "number" end }
    list[#list + 1] = { name = "reads", target = way:target(), every = 0.02, make = function()
      local commands = {}
      for j, key in ipairs(keys) do commands[j] = { "GET", key .. "r" } end
      return commands
    end, good = function(reply, words) return reply == words[2]:sub(1, -2) end }
  end
  return list
end

local function executed(way, list)
  local n = 0
  for _, one in ipairs(list) do
    for _, key in ipairs(one.keys or {}) do n = n + tonumber(kit.show(way:call("GET", key))) end
  end
  return n
end

kit.matrix(function(workers, how)
  describe("a master that is killed where all slots must be covered", function()
    it("39: costs waiting and no error: reads and unsent writes are held while all nodes answer CLUSTERDOWN", function()
      local way = kit.wayside { cluster = cluster, policy = "policies/default.lua", options = { hold = HOLD }, workers = workers,
        how = how, timeouts = { total = 10 } }
      local list, victim = load_of(way), cluster:master_of(8000)
      for _, node in ipairs(cluster.nodes) do if node:is_master() then node:call("WAIT", 1, 1000) end end
      local load = openloop.start { folder = kit.folder(), clients = list }
      socket.sleep(0.3)
      local struck = socket.gettime()
      victim:kill()
      way:wait_event { class = "again", ["function"] = "backoff" }
      kit.wait_for(function()
        local now = cluster:master_of(8000)
        return now and now ~= victim
      end, 15, "a new master")
      cluster:wait_ok()
      local healed = socket.gettime()
      socket.sleep(0.3)
      local commands = load:finish()
      local function of(name) return openloop.sum(commands, function(c) return c.client == name and c.done >= struck end) end
      local reads, writes = of "reads", of "writes"
      print(("all nodes well again after %.2f s; %d reads, %d failed, longest wait %.0f ms; %d writes, %d failed (%d unknown), "
        .. "longest wait %.0f ms; %s"):format(healed - struck, reads.n, reads.failed, reads.longest * 1000, writes.n, writes.failed,
        writes.unknown, writes.longest * 1000, openloop.show(writes)))
      assert.equal(0, reads.failed, openloop.show(reads))
      assert.equal(writes.unknown, writes.failed, openloop.show(writes))
      assert.is_true(reads.longest < HOLD and writes.longest < HOLD)
      -- CLUSTERDOWN blames nobody: marked is who died.
      for _, event in ipairs(way:marks()) do assert.equal(victim.address, event.node, way:show_events()) end
      local all = openloop.sum(commands, function(c) return c.client == "writes" end)
      local done = executed(way, list)
      assert.is_true(done >= all.n - all.failed and done <= all.n - all.failed + all.unknown, done)
      victim:restart()
      cluster:wait_ok()
    end)
  end)
end)
