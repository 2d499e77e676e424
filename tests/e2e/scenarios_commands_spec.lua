--- What becomes of the commands of a pipeline when a node refuses, is silent, loads, has lost its master, or breaks the
--- connection between two replies; of those that met no fault, and of those whose client did not wait. Numbers are those of the
--- table in README.md here.
local socket = require "socket"
local kit = require "tests.support.kit"

-- The first shard has two replicas, the second has one.
local TWO, ONE = 100, 9000

-- The default, with marks that are soon looked at again.
local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "scenarios",
  options = {
    pick = { default = "master", help = "where reads go" },
    wait = { default = 0.1, unit = "s", help = "until a probe" },
    hold = { default = 2, unit = "s", help = "longest wait" },
    ramp = { default = 0, unit = "s", help = "no slow start" },
  },
  pick = function(options) return options.pick end,
}
]]

local cluster, policy
setup(function()
  cluster = kit.cluster { masters = 2, replicas = 3, node_timeout = 500, front = "mitm" }
  policy = kit.file("scenarios.lua", POLICY)
end)

local counter = 0
local function new_key(slot)
  counter = counter + 1
  return kit.key_in(slot, "scenario" .. counter)
end

--- Heals a node's man in the middle when the test is over.
local function spoiled(node)
  kit.owned { stop = function()
    node.mitm:clear()
    node.mitm:accept()
  end }
  return node.mitm
end

--- Lets a node note what it receives, and answer some of it by itself.
local function script(node, run, state)
  local scripted = node:script(run or function() end, state)
  kit.owned { stop = function() node:unscript() end }
  return scripted
end

local function reads_of(keys)
  local commands = {}
  for i, key in ipairs(keys) do commands[i] = { "GET", key } end
  return commands
end

--- Keys with a value of their own, on the replicas too.
local function filled(slot, count)
  local keys, commands, master = {}, {}, cluster:master_of(slot)
  for i = 1, count do
    keys[i] = new_key(slot)
    commands[i] = { "SET", keys[i], keys[i] }
  end
  local direct = master:connect()
  for _, reply in ipairs(direct:pipeline(commands)) do assert.equal("OK", reply) end
  direct:close()
  local replicas = #cluster:replicas_of(slot)
  assert.equal(replicas, master:call("WAIT", replicas, 2000))
  return keys
end

--- How often a scripted node received this GET.
local function times_of(node, key)
  local n = 0
  for _, words in ipairs(node:received "GET") do n = n + (words[2] == key and 1 or 0) end
  return n
end

--- Data enough for a node to load slowly.
local function fill(slot)
  local commands, direct = {}, cluster:master_of(slot):connect(10)
  for i = 1, 1000 do commands[i] = { "SET", kit.key_in(slot, "much" .. i), ("x"):rep(100) } end
  direct:pipeline(commands)
  direct:close()
  local replicas = #cluster:replicas_of(slot)
  assert.equal(replicas, cluster:master_of(slot):call("WAIT", replicas, 2000))
end

kit.matrix(function(workers, how)
  local function serve(pick, more)
    local options = { cluster = cluster, policy = policy, options = { pick = pick or "master" }, workers = workers, how = how }
    for name, value in pairs(more or {}) do
      if name ~= "options" then options[name] = value end
    end
    for name, value in pairs(more and more.options or {}) do options.options[name] = value end
    if options.policy ~= policy then options.options = nil end
    local way = kit.wayside(options)
    -- Each node is probed when it is new: what is done to it before would be that probe's business.
    kit.wait_for(function()
      local probed = #way:events { kind = "probe" }
      return probed >= #cluster.nodes, probed
    end, 5, "the nodes to be probed")
    return way
  end

  local function check_reads(client, keys)
    for i, reply in ipairs(client:pipeline(reads_of(keys))) do assert.equal(keys[i], kit.show(reply)) end
  end

  --- Nothing failed and nobody was blamed.
  local function check_quiet(way)
    assert.same({}, way:marks())
    assert.same({}, way:events { ["function"] = "backoff" })
  end

  local function clients_of(way)
    local list = {}
    for i = 1, 2 * workers do list[i] = way:client(nil, 10) end
    return list
  end

  it("1: one of two nodes refuses: what met it is answered by the other, and nothing goes there again", function()
    local way, keys = serve("random", { options = { wait = 30 } }), filled(ONE, 10)
    local clients, replica = clients_of(way), cluster:replicas_of(ONE)[1]
    for _, client in ipairs(clients) do for _ = 1, 5 do check_reads(client, keys) end end
    local mitm = spoiled(replica)
    mitm:refuse()
    mitm:cut "rst"
    for round = 1, 50 do check_reads(clients[round % #clients + 1], keys) end
    local record = way:wait_state(replica, "failing")
    assert.equal("refused", record.reason)
    local dials = way:events { kind = "connection", node = replica.address, error = "refused", ["function"] = "mark" }
    -- Each worker may have been dialling when the first of them met it.
    assert.is_true(#dials >= 1 and #dials <= workers, way:show_events())
    local seen = #way:events { error = "refused" }
    for round = 1, 50 do check_reads(clients[round % #clients + 1], keys) end
    assert.equal(seen, #way:events { error = "refused" })
  end)

  it("2: dials that are never answered mark the node, each time anew", function()
    local way, keys = serve("replica", { timeouts = { dial = 0.2 } }), filled(TWO, 4)
    local replica, clients = cluster:replicas_of(TWO)[1], clients_of(way)
    local mitm = spoiled(replica)
    for round = 1, 3 do
      -- Every worker has a connection to it that has served: a reset of one that has not would be a mark of another kind.
      for _ = 1, 4 do for _, client in ipairs(clients) do check_reads(client, keys) end end
      mitm:backlog()
      mitm:cut "rst"
      kit.wait_for(function()
        check_reads(kit.random.one(clients), keys)
        return way:node(replica).state == "failing"
      end, 5, "a mark")
      assert.equal("timeout", way:node(replica).reason)
      local events = way:marks()
      assert.equal(round, #events, way:show_events())
      assert.same({ "connect", "dial", "timeout", "slow" }, { events[round].phase, events[round].step, events[round].error,
        events[round].class })
      mitm:accept()
      way:wait_state(replica, "healthy")
    end
  end)

  it("3: a caller whose time is shorter than the dial's gets its own error, and the dial's time-out is told all the same", function()
    local way = serve(nil, { timeouts = { dial = 0.8, total = 0.25 } })
    local master = cluster:master_of(ONE)
    local mitm = spoiled(master)
    mitm:backlog()
    mitm:cut "rst"
    for _, command in ipairs { { "SET", new_key(ONE), "v" }, { "GET", new_key(ONE) } } do
      local client, began = way:client(), socket.gettime()
      local reply = client:call(unpack(command))
      assert.is_true(kit.is_error(reply, "WAYSIDE deadline phase=connect step=dial"), kit.show(reply))
      assert.is_true(kit.is_error(reply, "class=caller node=" .. master.address), kit.show(reply))
      assert.is_true(socket.gettime() - began < 0.7, socket.gettime() - began)
      client:close()
      if way:node(master).state ~= "healthy" then break end
    end
    local event = way:wait_event { kind = "connection", phase = "connect", step = "dial", error = "timeout", ["function"] = "mark" }
    assert.equal(master.address, event.node)
    assert.equal("slow", event.class)
    way:wait_state(master, "failing")
  end)

  it("4: clients that leave while their commands wait for a dial blame nobody", function()
    local way = serve(nil, { timeouts = { dial = 3 } })
    local master, key = cluster:master_of(ONE), new_key(ONE)
    local mitm = spoiled(master)
    mitm:backlog()
    mitm:cut "rst"
    for i = 1, 10 do
      local client = way:client()
      client:send_raw(kit.resp.encode(i % 2 == 0 and { "GET", key } or { "INCR", key }):rep(5))
      -- What was answered here has been read, and so has what came before it.
      assert.equal("PONG", select(2, unpack { way:call "PING", way:call "PING" }))
      client:close()
    end
    mitm:accept()
    assert.is_false(kit.is_error(way:client(nil, 10):call("GET", key)))
    assert.same({}, way:marks())
    assert.same({ "healthy", 0 }, { way:node(master).state, way:node(master).failures or 0 })
  end)

  it("5: null is an answer", function()
    local way, key = serve("random"), new_key(TWO)
    for _ = 1, 4 do
      local client, commands = way:client(), {}
      for i = 1, 50 do commands[i] = { "GET", key } end
      for _, reply in ipairs(client:pipeline(commands)) do assert.equal(kit.null, reply) end
      client:close()
    end
    check_quiet(way)
  end)

  it("6: WRONGTYPE in the middle of a batch is that command's answer: it is not sent again, its siblings run once", function()
    local way, text, number = serve(), new_key(ONE), new_key(ONE)
    local master, client = cluster:master_of(ONE), way:client()
    assert.equal("OK", client:call("SET", text, "v"))
    local before = master:calls "lpush"
    local replies = client:pipeline { { "INCR", number }, { "LPUSH", text, "x" }, { "INCR", number }, { "GET", text }, { "INCR", number } }
    assert.is_true(kit.is_error(replies[2], "WRONGTYPE "), kit.show(replies[2]))
    assert.same({ 1, 2, "v", 3 }, { replies[1], replies[3], replies[4], replies[5] })
    assert.equal(before + 1, master:calls "lpush")
    assert.equal("3", master:call("GET", number))
    check_quiet(way)
  end)

  it("7: LOADING in a pipeline of reads: another node, and marked with reason LOADING", function()
    fill(TWO)
    local way, keys = serve "replica", filled(TWO, 20)
    local replica, clients = cluster:replicas_of(TWO)[1], clients_of(way)
    for _, client in ipairs(clients) do check_reads(client, keys) end
    replica:load(0.6)
    local began = socket.gettime()
    kit.wait_for(function()
      check_reads(kit.random.one(clients), keys)
      return way:node(replica).state == "failing"
    end, 5, "a mark")
    assert.equal("LOADING", way:node(replica).reason)
    local event = way:wait_event { ["function"] = "mark", to = "failing", node = replica.address }
    assert.same({ "result", "not_ready" }, { event.kind, event.class }, way:show_events())
    while socket.gettime() - began < 0.3 do check_reads(kit.random.one(clients), keys) end
    replica:wait_loaded()
    way:wait_state(replica, "healthy")
  end)

  it("8: LOADING at a later reply: only that read goes again", function()
    local keys = filled(ONE, 5)
    local way = serve "replica"
    local late = keys[3]
    local replica = script(cluster:replicas_of(ONE)[1], function(words, conn)
      if words[2] == late and conn.state.left > 0 then
        conn.state.left = conn.state.left - 1
        return "-LOADING Redis is loading the dataset in memory\r\n"
      end
    end, { left = 1 })
    local master = script(cluster:master_of(ONE))
    check_reads(way:client(), keys)
    for i, key in ipairs(keys) do
      assert.equal(1, times_of(replica, key), key)
      assert.equal(i == 3 and 1 or 0, times_of(master, key), key)
    end
  end)

  it("9: a replica that is new and still loading is left out until it has answered a probe", function()
    fill(TWO)
    local keys, replica = filled(TWO, 20), cluster:replicas_of(TWO)[1]
    replica:load(1.5)
    local began, before = socket.gettime(), replica:calls "get"
    -- Asked as soon as it serves, whatever it knows by then.
    local way = kit.wayside { cluster = cluster, policy = policy, options = { pick = "replica" }, workers = workers, how = how }
    local clients = clients_of(way)
    for _, client in ipairs(clients) do check_reads(client, keys) end
    way:wait_state(replica, "failing")
    assert.equal("LOADING", way:node(replica).reason)
    while socket.gettime() - began < 0.3 do check_reads(kit.random.one(clients), keys) end
    assert.same({}, way:events { ["function"] = "backoff" })
    replica:wait_loaded()
    way:wait_state(replica, "healthy")
    kit.wait_for(function()
      check_reads(kit.random.one(clients), keys)
      return replica:calls "get" > before + 20
    end, 5, "reads to come back to it")
  end)

  it("10: all replicas are loading: the master answers reads, unless the policy says replica_only", function()
    fill(TWO)
    local keys, replicas = filled(TWO, 20), cluster:replicas_of(TWO)
    local master = cluster:master_of(TWO)
    local way, strict = serve "replica", serve("replica_only", { options = { hold = 0.2 } })
    assert.equal(2, #replicas)
    for _, replica in ipairs(replicas) do replica:load(1.5) end
    for _, client in ipairs(clients_of(way)) do for _ = 1, 3 do check_reads(client, keys) end end
    for _, replica in ipairs(replicas) do
      way:wait_state(replica, "failing")
      assert.equal("LOADING", way:node(replica).reason)
    end
    local before = master:calls "get"
    local reply = strict:client():call("GET", keys[1])
    assert.is_true(kit.is_error(reply, "WAYSIDE no_node") or kit.is_error(reply, "LOADING"), kit.show(reply))
    assert.equal(before, master:calls "get")
    for _, replica in ipairs(replicas) do strict:wait_state(replica, "failing") end
    for _, replica in ipairs(replicas) do replica:wait_loaded() end
    for _, replica in ipairs(replicas) do strict:wait_state(replica, "healthy") end
    check_reads(strict:client(), keys)
  end)

  it("11: MASTERDOWN of a replica: another node, and marked with reason MASTERDOWN", function()
    local way, keys = serve "replica", filled(TWO, 20)
    local replica, clients = cluster:replicas_of(TWO)[1], clients_of(way)
    replica:orphan()
    kit.wait_for(function()
      check_reads(kit.random.one(clients), keys)
      return way:node(replica).state == "failing"
    end, 5, "a mark")
    assert.equal("MASTERDOWN", way:node(replica).reason)
    replica:rejoin()
    way:wait_state(replica, "healthy")
    check_reads(clients[1], keys)
  end)

  it("16: MOVED for the first write, and the connection ends at the third: the first runs once, at the new owner", function()
    local way, slot = serve(), 8500
    local from = cluster:master_of(ONE)
    local to = cluster:master_of(TWO)
    local client, moved, keys = way:client(), new_key(slot), {}
    for i = 1, 4 do keys[i] = new_key(ONE) end
    assert.equal("OK", client:call("SET", keys[1], "100"))
    cluster:move_slot(slot, to)
    kit.owned { stop = function() cluster:move_slot(slot, from) end }
    spoiled(from):rule { dir = "down", act = "cut", how = "fin", match = ":101\r\n", times = 1 }
    local replies = client:pipeline { { "INCR", moved }, { "INCR", keys[1] }, { "INCR", keys[2] }, { "INCR", keys[3] } }
    assert.same({ 1, 101 }, { replies[1], replies[2] })
    for i = 3, 4 do
      assert.is_true(kit.is_error(replies[i], "WAYSIDE eof phase=read"), kit.show(replies[i]))
      assert.is_true(kit.is_error(replies[i], "certainty=unknown"), kit.show(replies[i]))
    end
    assert.equal("1", to:call("GET", moved))
    assert.same({ "101", "1", "1" }, from:call("MGET", keys[1], keys[2], keys[3]))
  end)

  it("17: the connection ends after two of three reads: only the third goes again, to another node", function()
    local way, keys = serve "replica", filled(ONE, 3)
    local replica, master = cluster:replicas_of(ONE)[1], cluster:master_of(ONE)
    local seen, others = script(replica), script(master)
    local client = way:client()
    check_reads(client, filled(ONE, 1)) -- a connection that has served
    spoiled(replica):rule { dir = "down", act = "cut", how = "fin", match = keys[2] .. "\r\n", times = 1 }
    check_reads(client, keys)
    for i, key in ipairs(keys) do
      assert.equal(1, times_of(seen, key), key)
      assert.equal(i == 3 and 1 or 0, times_of(others, key), key)
    end
    local event = way:wait_event { ["function"] = "backoff", phase = "read", error = "eof" }
    assert.same({ "unknown", "reads", 1 }, { event.certainty, event.commands, event.n })
  end)

  it("25: a redirect is followed at once, however long the policy waits between attempts", function()
    local patient = kit.file("patient.lua", [[
      local wayside = require "wayside"
      return wayside.policy { name = "patient", backoff = function() return { retry = "master", after = 600 } end }
    ]])
    local way, slot = serve(nil, { policy = patient }), 8600
    local from, to = cluster:master_of(ONE), cluster:master_of(TWO)
    local keys, clients = filled(slot, 2), clients_of(way)
    for _, client in ipairs(clients) do assert.equal(keys[1], client:call("GET", keys[1])) end
    cluster:begin_move(slot, to)
    kit.move_keys(slot, from, to)
    local function ask_all()
      for _, client in ipairs(clients) do
        local began = socket.gettime()
        assert.equal(keys[2], kit.show(client:call("GET", keys[2])))
        assert.equal("OK", kit.show(client:call("SET", keys[1], keys[1])))
        assert.is_true(socket.gettime() - began < 1, socket.gettime() - began)
      end
    end
    ask_all() -- ASK
    cluster:end_move(slot, from, to)
    kit.owned { stop = function() cluster:move_slot(slot, from) end }
    ask_all() -- MOVED
    assert.same({}, way:events { ["function"] = "backoff" })
  end)
end)
