--- The fault kit itself, against real redis-servers and without wayside.
local socket = require "socket"
local kit = require "tests.support.kit"

local function echo_through(mitm)
  local client = assert(kit.connect("127.0.0.1:" .. mitm.port))
  assert.equal("PONG", client:call "PING")
  return client
end

describe("a cluster", function()
  local began = socket.gettime()
  local cluster
  setup(function() cluster = kit.cluster {} end)

  it("is up within five seconds", function()
    local took = socket.gettime() - began
    print(("cluster up after %.2f s"):format(took))
    assert.is_true(took < 5)
  end)

  it("serves all slots from three masters, each with a replica", function()
    for _, slot in ipairs { 0, 5461, 9000, 16383 } do
      local master = cluster:master_of(slot)
      assert.equal("OK", master:call("SET", kit.key_in(slot, "x"), slot))
      assert.equal(1, #cluster:replicas_of(slot))
      assert.equal("1", tostring(master:call("WAIT", 1, 1000)))
    end
  end)

  it("names slots as Redis does", function()
    for _, key in ipairs { "", "foo", "{a}b", "a{}b", "a{b", "x{y}{z}", "a{}{b}", "}{x}" } do
      assert.equal(cluster:node(1):call("CLUSTER", "KEYSLOT", key), kit.slot_of(key), key)
    end
    for _ = 1, 20 do
      local key = kit.random.bytes(kit.random.int(1, 30))
      assert.equal(cluster:node(1):call("CLUSTER", "KEYSLOT", key), kit.slot_of(key))
    end
    assert.equal(12345, kit.slot_of(kit.key_in(12345, "abc")))
  end)

  it("freezes and thaws a node", function()
    local node = cluster:node(4)
    local client = node:connect(0.2)
    node:freeze()
    assert.is_true(client:call("PING").timed_out)
    node:thaw()
    client.timeout = 2
    assert.equal("PONG", (client:read_reply()))
    cluster:wait_ok()
  end)

  it("refuses and accepts without leaving the cluster", function()
    local node = cluster:node(5)
    local client = node:connect()
    node:refuse()
    assert.is_true(client:is_closed())
    assert.same({ nil, "connection refused" }, { kit.connect(node.address) })
    socket.sleep(1)
    assert.is_nil(cluster:master_of(0).client and cluster:view(cluster:node(1))[5].flags.fail)
    node:accept()
    assert.equal("PONG", node:connect():call "PING")
  end)

  it("moves a slot with its keys", function()
    local from, to = cluster:master_of(100), cluster:node(3)
    local key = kit.key_in(100, "moving")
    assert.equal("OK", from:call("SET", key, "here"))
    cluster:move_slot(100, to)
    assert.equal("here", to:call("GET", key))
    assert.is_true(kit.is_error(from:call("GET", key), "MOVED 100 " .. to.address))
  end)

  it("promotes a replica when a master is killed, and takes the old one back", function()
    local master = cluster:node(2)
    master:kill()
    assert.same({ nil, "connection refused" }, { kit.connect(master.address) })
    local promoted = kit.wait_for(function()
      local now = cluster:master_of(8000)
      return now and now ~= master and now
    end, 10, "a new master")
    assert.equal(cluster:node(5), promoted)
    master:restart()
    kit.wait_for(function() return not master:is_master() end, 10, "the old master to be a replica")
    cluster:wait_ok()
  end)
end)

describe("a node of a cluster", function()
  local cluster
  setup(function()
    cluster = kit.cluster { masters = 1, replicas = 1 }
    local direct, commands = cluster:node(1):connect(), {}
    for i = 1, 200 do commands[i] = { "SET", "k" .. i, ("x"):rep(200) } end
    direct:pipeline(commands)
    direct:close()
    assert.equal(1, cluster:node(1):call("WAIT", 1, 2000))
  end)

  it("loads for as long as it is told, and says so", function()
    local node = cluster:node(2)
    local began = socket.gettime()
    node:load(0.5)
    assert.is_true(kit.is_error(node:call "PING", "LOADING"))
    node:wait_loaded()
    local took = socket.gettime() - began
    assert.is_true(took > 0.4 and took < 3, took)
    assert.equal("PONG", node:call "PING")
  end)

  it("misses its master, and finds it again", function()
    local node = cluster:node(2)
    node:orphan()
    assert.is_true(kit.is_error(node:call "PING", "MASTERDOWN"))
    node:rejoin()
    assert.equal("PONG", node:call "PING")
  end)

  it("is replaced by a stranger on its address", function()
    local node, old = cluster:node(2), cluster:node(2).id
    node:replace()
    assert.are_not.equal(old, node.id)
    local direct = assert(kit.connect(node.address))
    assert.is_true(kit.is_error(direct:call("GET", "k1"), "CLUSTERDOWN"))
    assert.equal(0, direct:call "DBSIZE")
    direct:close()
  end)
end)

describe("the RESP client", function()
  local cluster
  setup(function() cluster = kit.cluster { masters = 1, replicas = 0 } end)

  it("shows replies as they came, RESP2 and RESP3", function()
    local client = cluster:node(1):connect()
    assert.equal("OK", client:call("SET", "a", "1"))
    assert.equal(kit.null, client:call("GET", "none"))
    assert.equal(2, client:call("INCR", "a"))
    assert.is_true(kit.is_error(client:call("LPUSH", "a", "x"), "WRONGTYPE"))
    assert.equal("$1\r\n2\r\n", client:call_raw("GET", "a"))
    client:call("HSET", "{h}", "f", "v")
    assert.same({ "f", "v" }, client:call("HGETALL", "{h}"))
    assert.equal(7, #client:call("HELLO", "3").server == 5 and 7 or 0)
    assert.same({ f = "v" }, client:call("HGETALL", "{h}"))
    assert.equal(kit.null, client:call("GET", "none"))
  end)

  it("carries 20,000 commands and megabytes in one pipeline", function()
    local client, commands = cluster:node(1):connect(20), {}
    local value = ("v"):rep(2000)
    for i = 1, 10000 do
      commands[#commands + 1] = { "SET", "k" .. i, value .. i }
      commands[#commands + 1] = { "GET", "k" .. i }
    end
    local began = socket.gettime()
    local replies = client:pipeline(commands, 30)
    print(("pipeline of 20,000: %.2f s"):format(socket.gettime() - began))
    assert.equal(20000, #replies)
    for i = 1, 10000 do assert.equal(value .. i, replies[2 * i]) end
  end)

  it("binary bytes survive", function()
    local client = cluster:node(1):connect()
    local value = kit.random.bytes(100000)
    client:call("SET", "bytes\r\n\0", value)
    assert.equal(value, client:call("GET", "bytes\r\n\0"))
  end)
end)

describe("the man in the middle", function()
  local cluster, node, mitm
  setup(function()
    cluster = kit.cluster { masters = 1, replicas = 0, front = "mitm" }
    node = cluster:node(1)
    mitm = node.mitm
  end)

  local function fresh()
    mitm:clear()
    return echo_through(mitm)
  end

  for _, how in ipairs { "fin", "rst" } do
    it("cuts replies after exactly n bytes by " .. how, function()
      node:call("SET", "a", "0123456789")
      for n = 0, 17 do
        local client = fresh()
        mitm:rule { dir = "down", act = "cut", how = how, at = "+" .. n, times = 1 }
        client:send_raw(kit.resp.encode { "GET", "a" })
        local closed, why = client:is_closed(2)
        assert.is_true(closed)
        assert.equal("closed", why)
        local got = client.buffer
        assert.equal(("$10\r\n0123456789\r\n"):sub(1, n), got == "" and "" or got:sub(1, n))
        client:close()
      end
    end)

    it("cuts requests after exactly n bytes by " .. how .. ": the node has those and no more", function()
      local bytes = kit.resp.encode { "INCR", "n" } .. kit.resp.encode { "INCR", "n" }
      local one = #bytes / 2
      for n = 0, #bytes do
        local client = fresh()
        node:call("SET", "n", "0")
        mitm:rule { dir = "up", act = "cut", how = how, at = "+" .. n, times = 1 }
        client:send_raw(bytes)
        assert.is_true(client:is_closed(2))
        local want = n == #bytes and 2 or n >= one and 1 or 0
        kit.wait_for(function()
          local have = node:call("GET", "n")
          return have == tostring(want), have
        end, 1, want .. " executed after " .. n .. " bytes")
        client:close()
      end
    end)
  end

  it("finds a place by its bytes", function()
    local client = fresh()
    mitm:rule { dir = "down", act = "cut", match = "marker", nth = 2, at = 1 }
    local replies, why = client:pipeline { { "ECHO", "marker" }, { "ECHO", "no mark" }, { "ECHO", "a marker!!" }, { "PING" } }
    assert.same({ "marker", "no mark" }, replies)
    assert.equal("closed", why)
    assert.equal("$10\r\na marker!", client.buffer:sub(client.at))
  end)

  it("stalls: a large write comes to a stop, and goes on when cleared", function()
    local client = fresh()
    mitm:rule { dir = "up", act = "stall", at = "+0" }
    client.timeout = 1
    local ok, err = client:send_raw(kit.resp.encode { "ECHO", ("x"):rep(60e6) })
    assert.is_nil(ok)
    assert.equal("timeout", err)
    client:close()
  end)

  it("swallows, delays, trickles, corrupts, injects and skips", function()
    local client = fresh()
    mitm:rule { dir = "down", act = "swallow", at = "+0" }
    client.timeout = 0.2
    assert.is_true(client:call("PING").timed_out)
    client:close()

    client = fresh()
    mitm:rule { dir = "down", act = "delay", ms = 200, at = "+0" }
    local began = socket.gettime()
    assert.equal("PONG", client:call "PING")
    local took = socket.gettime() - began
    assert.is_true(took >= 0.19 and took < 1, took)
    client:close()

    client = fresh()
    mitm:rule { dir = "down", act = "trickle", bytes = 1, ms = 20, at = "+0" }
    began = socket.gettime()
    assert.equal("PONG", client:call "PING")
    took = socket.gettime() - began
    assert.is_true(took >= 0.1 and took < 1, took)
    client:close()

    client = fresh()
    mitm:rule { dir = "down", act = "corrupt", with = "NI", at = "+2" }
    assert.equal("PNIG", client:call "PING")
    assert.equal("PONG", client:call "PING")
    client:close()

    client = fresh()
    mitm:rule { dir = "down", act = "inject", with = "+extra\r\n", at = "+0" }
    assert.equal("extra", client:call "PING")
    assert.equal("PONG", (client:read_reply()))
    client:close()

    client = fresh()
    mitm:rule { dir = "down", act = "skip", bytes = 2, at = "+1" }
    assert.equal("NG", client:call "PING")
    client:close()
  end)

  it("refuses, accepts, and lets dials time out", function()
    mitm:clear()
    mitm:refuse()
    assert.same({ nil, "connection refused" }, { kit.connect(node.address) })
    mitm:backlog()
    assert.same({ nil, "timeout" }, { kit.connect(node.address, 0.3) })
    mitm:accept()
    assert.equal("PONG", echo_through(mitm):call "PING")
  end)

  it("loses packets: silence on open connections and for dials, until they get through again", function()
    mitm:clear()
    local client = echo_through(mitm)
    mitm:drop()
    client.timeout = 0.3
    assert.is_true(client:call("PING").timed_out)
    assert.same({ nil, "timeout" }, { kit.connect(node.address, 0.3) })
    mitm:clear()
    client.timeout = 5
    assert.equal("PONG", (client:read_reply()))
    assert.equal("PONG", echo_through(mitm):call "PING")
  end)

  it("tells its connections and cuts one of them", function()
    mitm:clear()
    local a, b = echo_through(mitm), echo_through(mitm)
    local list = mitm:connections()
    assert.is_true(#list >= 2)
    local newest = 0
    for _, one in ipairs(list) do newest = math.max(newest, one.id) end
    mitm:cut("rst", newest)
    assert.is_true(b:is_closed())
    assert.equal("PONG", a:call "PING")
  end)

  it("gives way to a scripted node", function()
    local scripted = node:script(function(words, conn)
      if words[1] == "GET" and conn.state.loading ~= 0 then
        return "-LOADING Redis is loading the dataset in memory\r\n"
      end
    end)
    local client = echo_through(mitm)
    assert.is_true(kit.is_error(client:call("GET", "a"), "LOADING"))
    assert.equal("OK", client:call("SET", "a", "5"))
    scripted:set("loading", 0)
    assert.equal("5", client:call("GET", "a"))
    assert.same({ { "GET", "a" }, { "GET", "a" } }, scripted:received "GET")
    node:unscript()
    assert.equal("5", echo_through(mitm):call("GET", "a"))
  end)
end)

describe("a scripted node", function()
  it("sleeps, trickles, closes and says what it likes", function()
    local node = kit.node {
      script = function(words)
        if words[1] == "SLOW" then return { { sleep = 0.2 }, "+late\r\n" } end
        if words[1] == "DRIP" then return { { trickle = "+drip\r\n", every = 0.01 } } end
        if words[1] == "END" then return { "+half", { close = "rst" } } end
        if words[1] == "NOTHING" then return "" end
      end,
    }
    local client = assert(kit.connect(node.address, 1))
    assert.equal("late", client:call "SLOW")
    assert.equal("drip", client:call "DRIP")
    assert.is_true(kit.is_error(client:call "OTHER", "unscripted"))
    client.timeout = 0.1
    assert.is_true(client:call("NOTHING").timed_out)
    client.timeout = 1
    assert.is_true(client:call("END").lost)
    assert.equal(5, #node:received())
  end)
end)
