--- A topology that is never stale for long: what the daemon learns, when, from whom, and what it leaves alone.
local socket = require "socket"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local ports = require "tests.support.ports"

local function serve(options)
  options.http = "127.0.0.1:" .. ports.free()
  local way = kit.wayside(options)
  way.http = options.http
  -- New replicas are in doubt until a first look; a test that delays answers does not mean that one.
  kit.wait_for(function()
    for _, node in ipairs(way:nodes()) do
      if node.state ~= "healthy" then return false, node.address .. " is " .. node.state end
    end
    return #way:nodes() > 0
  end, 5, "every node to be healthy")
  return way
end

local function refreshes(way) return metrics.read(way.http).topology_refreshes_total end

--- No mark against anybody.
local function no_marks(way) assert.same({}, way:marks()) end

local cluster
setup(function() cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500, front = "mitm" } end)

kit.matrix(function(workers, how)
  setup(function() cluster:flush() end)

  describe("a reload of the topology", function()
    it("29: 1,000 commands that are redirected at once are one reload, or two where one was under way", function()
      local INTERVAL = 0.5
      local way = serve { cluster = cluster, limits = { refresh_interval = INTERVAL }, workers = workers, how = how }
      local slot = 300
      local from = cluster:master_of(slot)
      local to = from == cluster:node(2) and cluster:node(3) or cluster:node(2)
      assert.equal("OK", way:call("SET", kit.key_in(slot, "k"), "v"))
      -- Ten clients with a hundred commands each, all of them at the old master before anybody there is asked.
      local clients = {}
      for i = 1, 10 do clients[i] = way:client() end
      local get = kit.resp.encode { "GET", kit.key_in(slot, "k") }
      local before, moved_before = refreshes(way), metrics.read(way.http)['redirects_total{kind="moved"}']
      from.mitm:rule { dir = "up", act = "delay", ms = 300 }
      for _, client in ipairs(clients) do client:send_raw(get:rep(100)) end
      cluster:move_slot(slot, to)
      for _, client in ipairs(clients) do
        for i = 1, 100 do
          local reply = client:read_reply()
          assert.equal("v", kit.show(reply), i)
        end
      end
      from.mitm:clear()
      local taken = metrics.read(way.http)
      kit.wait_for(function() return refreshes(way) > before end, 3, "a reload")
      -- Whatever else was wished for meanwhile has had its turn by now.
      socket.sleep(2.5 * INTERVAL)
      local asked = refreshes(way) - before
      local moved = taken['redirects_total{kind="moved"}'] - moved_before
      print(("%d commands answered by MOVED at once: %d reloads"):format(moved, asked))
      assert.is_true(moved > 500, moved)
      assert.is_true(asked <= 2, asked .. " reloads")
      no_marks(way)
      cluster:move_slot(slot, from)
    end)

    it("29: an old answer that comes late takes nothing back", function()
      local way = serve { cluster = cluster, workers = workers, how = how, limits = { refresh_period = 0.2 } }
      local slot = 301
      local from = cluster:master_of(slot)
      local to = from == cluster:node(2) and cluster:node(3) or cluster:node(2)
      assert.equal("OK", way:call("SET", kit.key_in(slot, "k"), "v"))
      -- Every node but the new master answers half a second late: what it says was true when it was asked.
      for _, node in ipairs(cluster.nodes) do
        if node ~= to then node.mitm:rule { dir = "down", act = "delay", ms = 400 } end
      end
      kit.wait_for(function() return refreshes(way) > 3 end, 5, "answers to be on their way")
      cluster:move_slot(slot, to)
      local client = way:client()
      assert.equal("v", kit.show(client:call("GET", kit.key_in(slot, "k"))))
      -- From now on the slot's commands go to the new master at once, whatever comes in late.
      local moved, ended = from:calls "get", socket.gettime() + 1.5
      local answered = refreshes(way)
      while socket.gettime() < ended do
        assert.equal("v", kit.show(client:call("GET", kit.key_in(slot, "k"))))
        socket.sleep(0.005)
      end
      assert.is_true(refreshes(way) - answered >= 2, "too few refreshes to tell")
      assert.equal(moved, from:calls "get")
      for _, node in ipairs(cluster.nodes) do node.mitm:clear() end
      no_marks(way)
      cluster:move_slot(slot, from)
    end)

    it("a node that was asked and is silent is not waited for", function()
      local way = serve { cluster = cluster, workers = workers, how = how, limits = { refresh_period = 0.1 } }
      local silent = cluster:node(1)
      silent.mitm:rule { dir = "down", act = "swallow", match = "$" }
      kit.owned { stop = function() silent.mitm:clear() end }
      local before, began = metrics.read(way.http), socket.gettime()
      kit.wait_for(function() return refreshes(way) - before.topology_refreshes_total >= 10 end, 5, "ten refreshes")
      local took = socket.gettime() - began
      assert.equal(0, metrics.read(way.http).topology_refresh_failures_total - before.topology_refresh_failures_total)
      -- Ten that waited for the silent one would take a time-out each.
      assert.is_true(took < 3, took)
    end)
  end)

  -- Reads go to the near zone while it can be used.
  local ZONED = [[
local wayside = require "wayside"
return wayside.policy { name = "zoned", pick = { "random", zone = "near" } }
]]

  local RANDOM = [[
local wayside = require "wayside"
return wayside.policy { name = "random", pick = "random", options = { hold = { default = 0.2 } } }
]]

  describe("a shard", function()
    it("30: whose closest node fails is read at the farther one", function()
      local near, far = cluster:replicas_of(0)[1], cluster:master_of(0)
      local way = kit.wayside { cluster = cluster, policy = kit.file("zoned.lua", ZONED), workers = workers, how = how,
        config = { cluster = { seeds = cluster:seeds(), zones = { [near.address] = "near", [far.address] = "far" } } } }
      local key = kit.key_in(0, "zoned")
      assert.equal("OK", way:call("SET", key, "v"))
      assert.equal(1, far:call("WAIT", 1, 2000))
      way:wait_event { kind = "probe", node = near.address } -- a new node is suspect until one is answered
      way:wait_state(near, "healthy", 5)
      local client = way:client()
      local before = near:calls "get"
      for _ = 1, 50 do assert.equal("v", client:call("GET", key)) end
      assert.equal(50, near:calls "get" - before)
      near:refuse()
      before = far:calls "get"
      for _ = 1, 50 do assert.equal("v", kit.show(client:call("GET", key))) end
      assert.equal(50, far:calls "get" - before)
      assert.equal("failing", way:node(near).state)
      near:accept()
      way:wait_state(near, "healthy", 5)
    end)

    it("31: that fails as a whole is asked of no other shard: an error at once, and no MOVED", function()
      local way = serve { cluster = cluster, policy = kit.file("random.lua", RANDOM), workers = workers, how = how }
      local members = cluster:replicas_of(0)
      members[#members + 1] = cluster:master_of(0)
      local others = cluster:replicas_of(16000)
      others[#others + 1] = cluster:master_of(16000)
      local key = kit.key_in(0, "whole")
      assert.equal("OK", way:call("SET", key, "v"))
      for _, node in ipairs(members) do node:refuse() end
      local client = way:client()
      for _, node in ipairs(members) do
        kit.wait_for(function()
          client:call("GET", key)
          return way:node(node).state == "failing"
        end, 5, node.address .. " to be failing")
      end
      local before, longest = {}, 0
      local moved = metrics.read(way.http)['redirects_total{kind="moved"}']
      for i, node in ipairs(others) do before[i] = node:calls "get" end
      for _ = 1, 20 do
        local began = socket.gettime()
        local reply = client:call("GET", key)
        longest = math.max(longest, socket.gettime() - began)
        assert.is_true(kit.is_error(reply, "WAYSIDE no_node"), kit.show(reply))
        assert.equal("OK", client:call("SET", kit.key_in(16000, "k"), "v"))
      end
      assert.is_true(longest < 0.7, longest) -- the hold, and no more
      for i, node in ipairs(others) do assert.equal(before[i], node:calls "get") end
      assert.equal(moved, metrics.read(way.http)['redirects_total{kind="moved"}'])
      for _, node in ipairs(members) do node:accept() end
      kit.wait_for(function() return client:call("GET", key) == "v" end, 5, "the shard to serve again")
    end)
  end)

  describe("a cluster", function()
    local whole
    setup(function() whole = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 } end)

    it("37: whose addresses all change at once is found again by its seeds' names", function()
      local from = whole.ip
      local to = from == "127.0.0.1" and "127.0.0.2" or "127.0.0.1"
      local names = kit.dns { ["redis.test"] = from }
      local seeds = {}
      for i = 1, 3 do seeds[i] = "redis.test:" .. whole:node(i).port end
      local way = serve { workers = workers, how = how, policy = "policies/default.lua",
        config = { cluster = { seeds = seeds, name_servers = names.address } } }
      local client = way:client(nil, 10)
      local keys = {}
      for i = 1, 3 do
        keys[i] = kit.key_in(i * 5000, "k")
        assert.equal("OK", client:call("SET", keys[i], "old"))
      end
      whole:readdress(to)
      names:set("redis.test", to)
      local began, failed, served = socket.gettime(), 0, nil
      kit.wait_for(function()
        local good = 0
        for _, reply in ipairs(client:pipeline { { "SET", keys[1], "new" }, { "SET", keys[2], "new" }, { "SET", keys[3], "new" } }) do
          if kit.is_error(reply) then failed = failed + 1 else good = good + 1 end
        end
        served = socket.gettime() - began
        return good == 3, good
      end, 10, "all slots to be served at the new addresses")
      print(("all addresses replaced: served again after %.2f s, %d commands failed meanwhile, %d names asked"):format(served, failed,
        names:asked()))
      assert.is_true(served < 4, served)
      kit.wait_for(function()
        for _, node in ipairs(way:nodes()) do
          if node.address:sub(1, #to + 1) ~= to .. ":" then return false, node.address end
        end
        return #way:nodes() == 6
      end, 5, "nobody of the old addresses to be left")
      for _, key in ipairs(keys) do assert.equal("new", client:call("GET", key)) end
    end)
  end)
end)
