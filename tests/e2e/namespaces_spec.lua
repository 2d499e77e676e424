--- Packets that get lost between wayside and a node, which a machine's own loopback never does: nodes in network namespaces of
--- their own, of which one is unplugged. Skipped where namespaces can't be made.
local socket = require "socket"
local kit = require "tests.support.kit"

local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "unplugged",
  options = {
    wait = { default = 0.1, unit = "s", help = "until a probe" },
    ramp = { default = 0, unit = "s", help = "no slow start" },
  },
  pick = "replica",
}
]]

local SLOT = 100 -- not of the shard that is asked when the daemon starts

local cluster, why, policy
setup(function()
  -- 15 s: a replica that is unplugged longer than that is reported as failed, and left out for that instead.
  cluster, why = kit.separate_cluster { masters = 2, replicas = 2, node_timeout = 15000 }
  policy = kit.file("unplugged.lua", POLICY)
end)

local function specs(workers)
  local function serve()
    if not cluster then pending(why) end
    local way = kit.wayside { cluster = cluster, policy = policy, workers = workers, timeouts = { dial = 0.2, read = 0.3 } }
    kit.wait_for(function() return #way:events { kind = "probe" } >= #cluster.nodes end, 5, "the nodes to be probed")
    return way
  end

  local function prepare()
    local key = kit.key_in(SLOT, "key")
    assert.equal("OK", cluster:master_of(SLOT):call("SET", key, "v"))
    assert.equal(1, cluster:master_of(SLOT):call("WAIT", 1, 2000))
    return key, cluster:replicas_of(SLOT)[1]
  end

  it("2: packets of dials get lost: the node is marked, each time anew, and reads are answered by another", function()
    local way = serve()
    local key, replica = prepare()
    for round = 1, 3 do
      replica:unplug()
      kit.owned { stop = function() replica:plug() end }
      local began = socket.gettime()
      assert.equal("v", kit.show(way:client():call("GET", key)))
      assert.is_true(socket.gettime() - began < 1, socket.gettime() - began)
      way:wait_state(replica, "failing")
      local events = way:marks()
      assert.equal(round, #events, way:show_events())
      assert.same({ "connect", "dial", "timeout", "slow" }, { events[round].phase, events[round].step, events[round].error,
        events[round].class })
      replica:plug()
      way:wait_state(replica, "healthy")
    end
  end)

  it("packets of a connection that stands get lost: found by the read deadline, and reads are answered by another", function()
    local way = serve()
    local key, replica = prepare()
    local client = way:client()
    kit.wait_for(function() return client:call("GET", key) == "v" and way:node(replica).latency end, 5, "a connection")
    replica:unplug()
    kit.owned { stop = function() replica:plug() end }
    local began = socket.gettime()
    assert.equal("v", kit.show(client:call("GET", key)))
    local took = socket.gettime() - began
    print(("packets lost: answered by another after %.0f ms, read deadline 300"):format(took * 1000))
    assert.is_true(took > 0.29 and took < 1, took)
    way:wait_event { phase = "read", step = "wait", error = "timeout", class = "slow", node = replica.address }
    way:wait_state(replica, "failing")
    replica:plug()
    way:wait_state(replica, "healthy")
  end)
end

for workers = kit.soak and 1 or 2, kit.soak and 4 or 2 do
  describe(workers .. " workers, unix:", function() specs(workers) end)
end
