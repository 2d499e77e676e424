--- Who is to blame: what is the connection's fault, the configuration's or our own is no mark against a node; a node that is full
--- is passed by; and a master that nobody can replace is an error that says so at once.
local socket = require "socket"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local ports = require "tests.support.ports"

local cluster, master, replicas, other
setup(function()
  -- 15 s: a master is frozen, and one of two left is no majority: after its time-out nobody would be served.
  cluster = kit.cluster { masters = 2, replicas = 4, node_timeout = 15000, config = { "repl-timeout 3600" } }
  master, other = cluster:master_of(0), cluster:master_of(16000)
  replicas = cluster:replicas_of(0)
end)

local function key(name) return kit.key_in(0, name) end

local function serve(options)
  options.cluster, options.http = cluster, "127.0.0.1:" .. ports.free()
  local way = kit.wayside(options)
  way.http = options.http
  -- New replicas are in doubt until a first look.
  kit.wait_for(function()
    for _, node in ipairs(way:nodes()) do
      if node.state ~= "healthy" then return false, node.state end
    end
    return #way:nodes() == #cluster.nodes
  end, 5, "every node to be healthy")
  return way
end

local function metric(way, name) return metrics.read(way.http)[name] end

local function no_marks(way)
  assert.same({}, way:marks())
  for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state, node.address) end
end

local function read_of(name)
  return ([[
    local wayside = require "wayside"
    return wayside.policy { name = %q, pick = %q }
  ]]):format(name, name)
end

kit.matrix(function(workers, how)
  setup(function() cluster:flush() end)

  describe("an idle connection that the server closes", function()
    it("33: is seen to be closed, the next command goes over a new one, and nobody is marked", function()
      local way = serve { workers = workers, how = how }
      local clients = {}
      for i = 1, 8 do clients[i] = way:client() end
      local function errors()
        local sum = 0
        for name, value in pairs(metrics.read(way.http)) do
          if name:find "^error_replies_total" then sum = sum + value end
        end
        return sum
      end
      local errors_before = errors()
      for round = 1, kit.share(5, 50) do
        for i, client in ipairs(clients) do assert.equal(round, client:call("INCR", key("idle" .. i))) end
        local before = metric(way, "breaks_total")
        assert.is_true(master:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= workers)
        kit.wait_for(function() return metric(way, "breaks_total") - before >= workers end, 3, "all workers to see it")
      end
      assert.equal(errors_before, errors())
      no_marks(way)
    end)
  end)

  describe("our own limits", function()
    it("34: a node that is full of commands gets no more of them: an error at once, of class local, and no mark", function()
      local ROOM = 64
      local way = serve { workers = 1, how = how, limits = { node_inflight = ROOM }, timeouts = { read = 3 }, options = { hold = 0 } }
      local fill, late, elsewhere = way:client(nil, 10), way:client(nil, 10), way:client(nil, 10)
      assert.equal("OK", late:call("SET", key "full", "v"))
      assert.equal("OK", elsewhere:call("SET", kit.key_in(16000, "full"), "v"))
      master:freeze()
      kit.owned { stop = function() master:thaw() end }
      fill:send_raw(kit.resp.encode({ "GET", key "full" }):rep(ROOM))
      kit.wait_for(function() return way:node(master).inflight >= ROOM, way:node(master).inflight end, 2, "the node to be full")
      local waited, others = {}, {}
      for i = 1, 200 do
        local began = socket.gettime()
        local reply = late:call("SET", key "full", "w")
        waited[i] = (socket.gettime() - began) * 1000
        assert.is_true(kit.is_error(reply, "WAYSIDE overflow "), kit.show(reply))
        for _, field in ipairs { "node=" .. master.address:gsub("%p", "%%%0"), "step=queue", "certainty=unsent", "class=local" } do
          assert.matches(field, reply.err)
        end
        began = socket.gettime()
        assert.equal("v", elsewhere:call("GET", kit.key_in(16000, "full")))
        others[i] = (socket.gettime() - began) * 1000
      end
      no_marks(way)
      assert.equal(200, metric(way, "overflow_total"))
      table.sort(waited)
      table.sort(others)
      print(("a full node: error after %.2f ms (median; 99%% below %.2f), another node's answer after %.2f ms (99%% below %.2f)"):format(
        waited[100], waited[198], others[100], others[198]))
      assert.is_true(waited[100] < 5 and others[100] < 5)
      master:thaw()
      for _ = 1, ROOM do assert.equal("v", kit.show((fill:read_reply()))) end
      assert.equal("OK", late:call("SET", key "full", "w"))
      no_marks(way)
    end)

    it("34: bytes for a node are bounded too, and so are the connections for transactions", function()
      local way = serve { workers = 1, how = how, limits = { node_bytes = 65536, transaction_connections = 1 }, timeouts = { read = 3 },
        options = { hold = 0 } }
      local fill, late = way:client(nil, 10), way:client(nil, 10)
      assert.equal("OK", late:call("SET", key "full", "v"))
      master:freeze()
      kit.owned { stop = function() master:thaw() end }
      local value = ("x"):rep(40000)
      fill:send_raw(kit.resp.encode { "SET", key "bytes", value })
      kit.wait_for(function() return way:node(master).inflight == 1, way:node(master).inflight end, 2, "the node to have it")
      local reply = late:call("SET", key "full", value)
      assert.is_true(kit.is_error(reply, "WAYSIDE overflow "), kit.show(reply))
      assert.matches("class=local", reply.err)
      no_marks(way)
      master:thaw()
      assert.equal("OK", (fill:read_reply()))
      local first, second = way:client(), way:client()
      assert.equal("OK", first:call("WATCH", key "full"))
      local replies = second:pipeline { { "MULTI" }, { "INCR", key "n" }, { "EXEC" } }
      assert.is_true(kit.is_error(replies[3], "WAYSIDE overflow "), kit.show(replies[3]))
      assert.equal("OK", first:call("UNWATCH"))
      kit.wait_for(function()
        replies = second:pipeline { { "MULTI" }, { "INCR", key "n" }, { "EXEC" } }
        return not kit.is_error(replies[3]), kit.show(replies[3])
      end, 2, "the connection to be free again")
      no_marks(way)
    end)
  end)

  describe("a replica that has as many clients as it takes", function()
    it("35: is passed by: reads go to the other replica, and no client hears of it", function()
      local full, free = replicas[1], replicas[2]
      local way = serve { workers = workers, how = how, policy = kit.file("replica.lua", read_of "replica") }
      assert.equal("OK", way:call("SET", key "clients", "v"))
      assert.equal(2, master:call("WAIT", 2, 2000))
      local most = full:call("CONFIG", "GET", "maxclients")[2]
      kit.owned { stop = function() full:call("CONFIG", "SET", "maxclients", most) end }
      assert.equal("OK", full:call("CONFIG", "SET", "maxclients", "1"))
      full:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
      local before, client = free:calls "get", way:client()
      for _ = 1, 200 do assert.equal("v", kit.show(client:call("GET", key "clients"))) end
      assert.is_true(free:calls "get" - before >= 200)
      local event = way:wait_event { class = "busy", node = full.address }
      assert.matches("max number of clients", event.message)
      assert.is_true(way:node(full).state ~= "healthy")
      assert.equal("healthy", way:node(free).state)
      assert.equal("OK", full:call("CONFIG", "SET", "maxclients", most))
      way:wait_state(full, "healthy", 8)
    end)
  end)

  describe("a wrong password", function()
    it("36: is the configuration's fault: an error at once that says so, no mark, no second try", function()
      local function set_password(word)
        for _, node in ipairs(cluster.nodes) do
          assert.equal("OK", node:call("CONFIG", "SET", "masterauth", word))
          assert.equal("OK", node:call("CONFIG", "SET", "requirepass", word))
          if word ~= "" then assert.equal("OK", node:call("AUTH", word)) end
        end
      end
      set_password "right"
      kit.owned { stop = function() set_password "" end }
      local way = serve { workers = workers, how = how, config = { cluster = { seeds = cluster:seeds(), password = "right" } } }
      local client = way:client()
      assert.equal("OK", client:call("SET", key "secret", "v"))
      -- One node's password is changed, and its connections are made anew.
      assert.equal("OK", master:call("CONFIG", "SET", "requirepass", "other"))
      local breaks = metric(way, "breaks_total")
      master:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
      kit.wait_for(function() return metric(way, "breaks_total") > breaks end, 3, "the connections to be closed")
      local retried = metric(way, 'retries_total{certainty="unsent"}')
      for _, command in ipairs { { "SET", key "secret", "w" }, { "GET", key "secret" } } do
        local began = socket.gettime()
        local reply = client:call(unpack(command))
        local took = socket.gettime() - began
        assert.is_true(kit.is_error(reply, "WAYSIDE auth "), kit.show(reply))
        for _, field in ipairs { "phase=connect", "certainty=unsent", "class=config" } do
          assert.matches(field, reply.err)
        end
        assert.is_true(took < 0.5, took)
      end
      assert.matches("WRONGPASS", way:wait_event({ error = "auth", step = "hello" }).message)
      assert.equal(retried, metric(way, 'retries_total{certainty="unsent"}'))
      no_marks(way)
      assert.equal("OK", client:call("SET", kit.key_in(16000, "secret"), "v")) -- the others are as they were
      assert.equal("OK", master:call("CONFIG", "SET", "requirepass", "right"))
      kit.wait_for(function() return client:call("SET", key "secret", "w") == "OK" end, 3, "the password to be right again")
      no_marks(way)
    end)
  end)

  describe("a master that is refused and has no usable replica", function()
    for _, policy in ipairs { "default", "ride_through", "fail_fast", "go_redis" } do
      it("51: an error that names node, phase and class, within the command's budget, under " .. policy, function()
        local HOLD, TOTAL = 0.4, 1.5
        local held = policy == "default" or policy == "ride_through"
        local way = serve { workers = workers, how = how, policy = ("policies/%s.lua"):format(policy), timeouts = { total = TOTAL },
          options = held and { hold = HOLD } or policy == "go_redis" and { read_only = false } or nil }
        local client = way:client(nil, 10)
        assert.equal("OK", client:call("SET", key "alone", "v"))
        kit.owned { stop = function()
          for _, node in ipairs(replicas) do node:accept() end
          master:accept()
        end }
        for _, node in ipairs(replicas) do node:refuse() end
        master:refuse()
        local longest, fast, words = 0, {}, nil
        for _ = 1, 6 do
          local began = socket.gettime()
          local reply = client:call("SET", key "alone", "w")
          local took = socket.gettime() - began
          assert.is_true(kit.is_error(reply, "WAYSIDE "), kit.show(reply))
          assert.matches("node=" .. master.address:gsub("%p", "%%%0"), reply.err)
          for _, field in ipairs { "phase=connect", "step=%w+", "certainty=unsent", "class=%w+" } do assert.matches(field, reply.err) end
          longest, words = math.max(longest, took), reply.err
          if way:node(master).state == "failing" then fast[#fast + 1] = took end
        end
        local other_key = kit.key_in(16000, "alone")
        assert.equal("OK", client:call("SET", other_key, "v"))
        print(("%s: longest %.3f s: %s"):format(policy, longest, words))
        assert.is_true(longest < TOTAL + 0.2, longest)
        if held then assert.is_true(longest < HOLD + 0.4, longest) end
        if policy == "fail_fast" then
          table.sort(fast)
          assert.is_true(#fast > 0)
          assert.is_true(fast[1] < 0.05, fast[1])
        end
      end)
    end
  end)

  describe("fail_fast, of a shard that nobody can serve,", function()
    it("answers each kind of command with its error at once: the share under a millisecond is printed", function()
      local way = serve { workers = workers, how = how, policy = "policies/fail_fast.lua" }
      local client, mine, other_key = way:client(nil, 10), key "gone", kit.key_in(16000, "there")
      assert.same({ "OK", "OK" }, client:pipeline { { "SET", mine, "v" }, { "SET", other_key, "v" } })
      kit.owned { stop = function()
        for _, node in ipairs(replicas) do node:accept() end
        master:accept()
      end }
      for _, node in ipairs(replicas) do node:refuse() end
      master:refuse()
      way:wait_state(master, "failing")
      local get, set = { "GET", mine }, { "SET", mine, "w" }
      for _, kind in ipairs {
        { "a read", get }, { "a write", set }, { "a split read", { "MGET", other_key, mine } },
        { "a transaction", { "MULTI" }, { "INCR", mine }, { "EXEC" } }, { "a pipeline of 8", set, get, set, get, set, get, set, get },
      } do
        local commands, waited, quick = { select(2, unpack(kind)) }, {}, 0
        for i = 1, 1000 do
          local began = socket.gettime()
          local replies = client:pipeline(commands)
          waited[i] = (socket.gettime() - began) * 1000
          local last = replies[#commands]
          assert.is_true(kit.is_error(last, "WAYSIDE no_node phase=connect step=route certainty=unsent class=local"), kit.show(last))
          assert.matches("node=" .. master.address:gsub("%p", "%%%0"), last.err)
          quick = quick + (waited[i] < 1 and 1 or 0)
        end
        table.sort(waited)
        print(("%s that can't be served: %.1f%% of 1,000 errors in under 1 ms; median %.3f ms, 99%% below %.2f, longest %.2f"):format(
          kind[1], quick / 10, waited[500], waited[990], waited[1000]))
        -- Ten times the goal: of a client that is not run for a while, the daemon knows nothing.
        assert.is_true(waited[900] < 10, ("%s: 90%% below %.2f ms"):format(kind[1], waited[900]))
      end
      assert.equal("v", client:call("GET", other_key))
    end)
  end)

  describe("a hold that is longer than the command's own time", function()
    it("is cut short, counted and logged", function()
      local TOTAL = 0.5
      local way = serve { workers = workers, how = how, policy = "policies/ride_through.lua", options = { hold = 6 },
        timeouts = { total = TOTAL } }
      local client = way:client(nil, 10)
      assert.equal("OK", client:call("SET", key "cut", "v"))
      local before = metric(way, "held_expired_total")
      master:refuse()
      kit.owned { stop = function() master:accept() end }
      for _ = 1, 2 do
        local began = socket.gettime()
        local reply = client:call("SET", key "cut", "w")
        assert.is_true(kit.is_error(reply, "WAYSIDE "), kit.show(reply))
        assert.matches("certainty=unsent", reply.err)
        local took = socket.gettime() - began
        assert.is_true(took > TOTAL - 0.1 and took < TOTAL + 0.4, took)
      end
      assert.equal(2, metric(way, "held_expired_total") - before)
      assert.matches("hold=cut_short after=0%.5 limit=timeouts%.total node=" .. master.address:gsub("%p", "%%%0"), way:log())
    end)
  end)

  describe("one node that answers nobody", function()
    it("delays no command for the others, of clients that asked it nothing, however many ask it", function()
      local way = serve { workers = workers, how = how, limits = { node_inflight = 2000 }, timeouts = { read = 2, total = 4 },
        options = { hold = 0.2 } }
      local mine = kit.key_in(16000, "quiet")
      local client = way:client(nil, 10)
      assert.equal("OK", client:call("SET", mine, "v"))
      assert.equal("OK", client:call("SET", key "silent", "v"))
      local function measure()
        local list = {}
        for i = 1, 500 do
          local began = socket.gettime()
          assert.equal("v", client:call("GET", mine))
          list[i] = (socket.gettime() - began) * 1000
        end
        table.sort(list)
        return list
      end
      local quiet = measure()
      master:freeze()
      kit.owned { stop = function() master:thaw() end }
      local bytes = kit.resp.encode({ "SET", key "silent", ("x"):rep(200) }):rep(100)
      local askers = {}
      for i = 1, 30 do
        askers[i] = way:client(nil, 10)
        askers[i]:send_raw(bytes)
      end
      kit.wait_for(function() return way:node(master).inflight > 500 end, 2, "the node to have work")
      local busy = measure()
      print(("another node's answers: median %.2f ms, 99%% below %.2f ms; with 3,000 commands at a frozen one %.2f, %.2f"):format(
        quiet[250], quiet[495], busy[250], busy[495]))
      assert.is_true(busy[250] < 5 * quiet[250] + 1, busy[250])
      assert.is_true(busy[495] < 100, busy[495])
      assert.equal("healthy", way:node(other).state)
      master:thaw()
      for i = 1, 30 do
        for _ = 1, 100 do assert.is_true(askers[i]:read_reply() ~= nil) end
      end
    end)
  end)
end)
