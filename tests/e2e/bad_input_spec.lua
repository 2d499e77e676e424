--- Whatever comes in that should not: from clients, from nodes, from files, from the network.
local socket = require "socket"
local kit = require "tests.support.kit"

local DEFAULT = "policies/default.lua"

describe("malformed requests", function()
  local cluster, way
  setup(function()
    cluster = kit.cluster { masters = 1, replicas = 0 }
    way = kit.wayside { cluster = cluster, policy = DEFAULT }
  end)

  local malformed = {
    ["a bulk length that is no number"] = "*1\r\n$abc\r\n",
    ["a negative bulk length"] = "*1\r\n$-5\r\nPING\r\n",
    ["a bulk length beyond all bounds"] = "*1\r\n$999999999999\r\n",
    ["a count that is no number"] = "*x\r\n",
    ["a count beyond all bounds"] = "*99999999999\r\n",
    ["something else where a bulk begins"] = "*2\r\n$4\r\nECHO\r\n:5\r\n",
    ["a plain word where a bulk begins"] = "*1\r\nfoo\r\n",
    ["unbalanced quotes"] = "GET \"abc\r\n",
    ["an inline request without end"] = ("x"):rep(70000),
    ["a count line without end"] = "*" .. ("1"):rep(70000),
    ["a bulk line without end"] = "*1\r\n$" .. ("1"):rep(70000),
  }

  local early = {
    ["-ERR Protocol error: too big mbulk count string\r\n"] = "-ERR Protocol error: invalid multibulk length\r\n",
    ["-ERR Protocol error: too big bulk count string\r\n"] = "-ERR Protocol error: invalid bulk length\r\n",
  }

  for what, bytes in pairs(malformed) do
    it(what .. ": Redis's error, then that client is closed and nobody else notices", function()
      local others = {}
      for i = 1, 4 do others[i] = way:client() end
      local function ends_of(client)
        client:send_raw(bytes)
        local reply, raw = client:read_reply(2)
        return reply and raw, (client:is_closed(2))
      end
      local wanted = ends_of(cluster:node(1):connect())
      for _, how in ipairs { "tcp", "unix" } do
        for _, other in ipairs(others) do other:send_raw(kit.resp.encode { "SET", "{o}k", "1" }) end
        local got, closed = ends_of(way:client(how))
        -- A length that can't be one is told as soon as it is seen, where Redis waits for its end.
        assert.is_true(got == wanted or got == early[wanted], got)
        assert.is_true(closed, "the client was not closed")
        for _, other in ipairs(others) do
          assert.equal("OK", (other:read_reply()))
          assert.equal("1", other:call("GET", "{o}k"))
        end
      end
    end)
  end

  it("what came before them is answered first", function()
    for _, how in ipairs { "tcp", "unix" } do
      local client, parts = way:client(how), {}
      for i = 1, 500 do parts[i] = kit.resp.encode { "SET", "before" .. i, i } end
      client:send_raw(table.concat(parts) .. "*1\r\n!nonsense\r\n")
      for _ = 1, 500 do assert.equal("OK", (client:read_reply())) end
      assert.is_true(kit.is_error((client:read_reply()), "Protocol error"))
      assert.is_true(client:is_closed())
    end
  end)

  it("an announced bulk that never comes holds nobody up, and is forgotten with its client", function()
    local half = way:client()
    half:send_raw "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500000000\r\nabc"
    assert.equal("PONG", way:client():call "PING")
    assert.equal("OK", way:call("SET", "x", "1"))
    half:close()
    assert.equal("1", way:call("GET", "x"))
  end)

  it("random bytes and random damage to good requests end no daemon", function()
    for i = 1, kit.count(200, 5000) do
      local bytes
      if i % 2 == 0 then
        bytes = kit.random.bytes(kit.random.int(1, 300)) .. "\r\n"
      else
        local parts = {}
        for j = 1, 10 do parts[j] = kit.resp.encode { "SET", "k" .. j, kit.random.bytes(20) } end
        bytes = table.concat(parts)
        local at = kit.random.int(1, #bytes)
        bytes = bytes:sub(1, at - 1) .. kit.random.bytes(1) .. bytes:sub(at + 1)
      end
      local client = way:client()
      client:send_raw(bytes)
      client:close()
    end
    assert.equal("PONG", way:client():call "PING")
    assert.equal("OK", way:call("SET", "alive", "1"))
  end)

  it("a client that never takes its replies is bounded, then closed; others go on", function()
    local bounded = kit.wayside { cluster = cluster, policy = DEFAULT, limits = { client_output_bytes = 8388608 },
      timeouts = { read = 5, total = 20 } }
    local value = ("x"):rep(100000)
    bounded:call("SET", "{v}", value)
    local function resident()
      return tonumber(kit.process.read_file(("/proc/%d/status"):format(bounded.process.pid)):match "VmRSS:%s*(%d+)")
    end
    for i, how in ipairs { "tcp", "unix" } do
      local greedy = bounded:client(how)
      greedy.timeout = 0.3
      greedy:send_raw(kit.resp.encode({ "GET", "{v}" }):rep(3000))
      local other = bounded:client(nil, 10)
      for _ = 1, 50 do
        local reply = other:call("GET", "{v}")
        assert.is_true(reply == value, kit.show(reply):sub(1, 200))
      end
      assert.is_true(resident() < 200000, "resident: " .. resident() .. " kB")
      -- Who looks earlier takes replies, and then it is not too many that wait.
      kit.wait_for(function() return select(2, bounded:log():gsub("limit=client_output_bytes", "")) == i end, 20, "it to be closed")
      assert.is_true(greedy:is_closed(5))
      greedy:close()
    end
    assert.same({}, bounded:events { kind = "connection" })
  end)
end)

describe("a node that sends nonsense", function()
  local cluster, node
  setup(function()
    cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 500, front = "mitm" }
    node = cluster:node(1)
  end)

  for what, nonsense in pairs {
    ["bytes that are no RESP"] = "HTTP/1.1 400 Bad Request\r\n\r\n",
    ["a bulk of a negative length"] = "$-7\r\n",
    ["a length that is no number"] = "$1x\r\n",
    ["a list nested without end"] = ("*1\r\n"):rep(100),
    ["a bulk larger than any"] = "$99999999999999\r\n",
  } do
    it(what .. ": a protocol error, and the connection is closed", function()
      local way = kit.wayside { cluster = cluster, policy = DEFAULT }
      local client, key = way:client(), kit.key_in(5, "nonsense")
      assert.equal("OK", client:call("SET", key, "1"))
      node.mitm:rule { dir = "down", act = "inject", with = nonsense, match = "marked-value", times = 1 }
      local replies = client:pipeline { { "ECHO", "first" }, { "INCR", key } , { "PING" } }
      assert.same({ "first", 2, "PONG" }, replies)
      client:send_raw(kit.resp.encode { "SET", key, "marked-value" } .. kit.resp.encode { "GET", key }
        .. kit.resp.encode { "APPEND", key, "-more" } .. kit.resp.encode { "PING" })
      assert.equal("OK", (client:read_reply()))
      local value = client:read_reply()
      -- A read may be sent again, and then comes after the write behind it.
      local again = value == "marked-value" or value == "marked-value-more"
      assert.is_true(again or kit.is_error(value, "WAYSIDE"), kit.show(value))
      local write = client:read_reply()
      assert.is_true(kit.is_error(write, "WAYSIDE protocol phase=read"), kit.show(write))
      assert.equal("PONG", (client:read_reply()))
      way:wait_event { kind = "connection", phase = "read", error = "protocol", class = "down" }
      assert.is_true(way.process:alive())
      node.mitm:clear()
      kit.wait_for(function()
        local reply = way:call("GET", key)
        return reply == "marked-value-more", kit.show(reply)
      end, 10, "the node to be used again")
    end)
  end

  it("replies nobody asked for end that connection", function()
    local way = kit.wayside { cluster = cluster, policy = DEFAULT }
    local client, key = way:client(), kit.key_in(5, "unasked")
    assert.equal("OK", client:call("SET", key, "right"))
    for _, one in ipairs(node.mitm:connections()) do
      node.mitm:rule { dir = "down", act = "inject", with = "$5\r\nwrong\r\n", at = "+0", on = one.id }
    end
    for _ = 1, 20 do
      local reply = client:call("GET", key)
      assert.is_true(reply == "right" or kit.is_error(reply, "WAYSIDE protocol"), kit.show(reply))
      if reply ~= "right" then break end
    end
    node.mitm:clear()
  end)
end)

describe("a cluster that can't be reached", function()
  it("at start: an error at once for keyed commands, and service as soon as it is there", function()
    local cluster = kit.cluster { masters = 1, replicas = 0, front = "mitm" }
    cluster:node(1).mitm:refuse()
    local way = kit.wayside { cluster = cluster, policy = DEFAULT, ready = false }
    for _ = 1, 4 do
      local client = way:client()
      assert.equal("PONG", client:call "PING")
      local began = socket.gettime()
      local reply = client:call("GET", "a")
      assert.is_true(kit.is_error(reply), kit.show(reply))
      assert.is_true(socket.gettime() - began < 0.3, socket.gettime() - began)
    end
    local said = way:log()
    assert.is_true(said:find("refused", 1, true) ~= nil, said)
    cluster:node(1).mitm:accept()
    kit.wait_for(function()
      local reply = way:call("SET", "a", "1")
      return reply == "OK", kit.show(reply)
    end, 10, "the cluster to be found")
  end)

  it("and says nothing: an error at once all the same", function()
    local silent = kit.node { script = function() return "" end }
    local way = kit.wayside { seeds = { silent.address }, policy = DEFAULT, ready = false }
    local began = socket.gettime()
    local reply = way:call("GET", "a")
    assert.is_true(kit.is_error(reply), kit.show(reply))
    assert.is_true(socket.gettime() - began < 0.3, socket.gettime() - began)
    kit.wait_for(function() return way:log():find("timeout", 1, true) ~= nil, way:log() end, 5, "the log to say so")
  end)

  it("because its seed is no cluster: says so", function()
    local single = kit.node { script = function(words)
      if words[1]:upper() == "CLUSTER" then return "-ERR This instance has cluster support disabled\r\n" end
      return "+OK\r\n"
    end }
    local way = kit.wayside { seeds = { single.address }, policy = DEFAULT, ready = false }
    assert.is_true(kit.is_error(way:call("GET", "a")))
    kit.wait_for(function() return way:log():find("cluster support disabled", 1, true) ~= nil, way:log() end, 5,
      "the log to say so")
  end)
end)

describe("serve refuses to start", function()
  local seeds = { "127.0.0.1:1" }

  local function refused(options, ...)
    local way = kit.prepared(options)
    local status, text = way:refused()
    assert.is_number(status, "it did not end; it said:\n" .. text)
    assert.not_equal(0, status)
    for _, word in ipairs { ... } do
      assert.is_true(text:find(word, 1, true) ~= nil, ("no %q in:\n%s"):format(word, text))
    end
    return text
  end

  it("with a policy file that is missing", function()
    refused({ seeds = seeds, policy = "/nowhere/policy.lua" }, "/nowhere/policy.lua", "No such file")
  end)

  local head = 'local wayside = require "wayside"\n'
  for what, case in pairs {
    ["that has a syntax error"] = { head .. "\nlocal x = = 1\n", ":3:" },
    ["that raises at load"] = { head .. "error 'on purpose'\n", ":2:", "on purpose" },
    ["that returns nothing"] = { head, "policy" },
    ["that returns a number"] = { head .. "return 7\n", "table", "7" },
    ["that returns a plain text"] = { head .. "return 'policy'\n", "table", "policy" },
    ["without a name"] = { head .. "return wayside.policy { version = '1' }\n", "name" },
    ["with a wrong type"] = { head .. "return wayside.policy { name = 'x', mark = 5 }\n", ":2:", "mark", "function" },
    ["with an unknown field"] = {
      head .. "return wayside.policy { name = 'x', bakcoff = function() end }\n", "bakcoff", "backoff",
    },
    ["that never ends"] = { head .. "while true do end\n", "instruction" },
    ["that asks for a forbidden module"] = { "local ffi = require 'ffi'\nreturn {}\n", "ffi" },
  } do
    it("with a policy " .. what, function()
      local path = kit.file("bad_policy.lua", case[1])
      refused({ seeds = seeds, policy = path }, "bad_policy.lua", unpack(case, 2))
    end)
  end

  it("with an unknown option of the policy, or one of the wrong type", function()
    local path = kit.file("options.lua", head .. [[
      return wayside.policy { name = "o", options = { failing_timeout = { default = 15, unit = "s", min = 0, help = "x" } } }
    ]])
    refused({ seeds = seeds, policy = path, options = { failing_timout = 3 } }, "failing_timout", "failing_timeout")
    refused({ seeds = seeds, policy = path, options = { failing_timeout = "long" } }, "failing_timeout", "number")
    refused({ seeds = seeds, policy = path, options = { failing_timeout = -1 } }, "failing_timeout", "0")
  end)

  it("with an unknown key, and suggests the right one", function()
    refused({ seeds = seeds, config = { wrokers = 2 } }, "wrokers", "workers")
    refused({ seeds = seeds, config = { timeouts = { reed = 1 } } }, "reed", "read")
    refused({ seeds = seeds, config = { limits = { atempts = 1 } } }, "atempts", "attempts")
    refused({ seeds = seeds, config = { cluster = { seeds = seeds, sedes = {} } } }, "sedes", "seeds")
  end)

  it("with a wrong type or a value out of bounds", function()
    refused({ seeds = seeds, config = { workers = "two" } }, "workers", "integer", "string")
    refused({ seeds = seeds, config = { workers = 0 } }, "workers")
    refused({ seeds = seeds, config = { workers = 1.5 } }, "workers")
    refused({ seeds = seeds, config = { timeouts = { read = -1 } } }, "read")
    refused({ seeds = seeds, config = { timeouts = 5 } }, "timeouts", "table")
    refused({ seeds = seeds, config = { listen = { "no-port" } } }, "no-port")
    refused({ seeds = { "localhost:notaport" } }, "seeds", "notaport")
  end)

  it("without seeds, with a configuration that is missing, broken or no table", function()
    refused({ seeds = {} }, "seeds")
    refused({ text = "return {\n  workers = = 2\n}\n" }, ":2:")
    refused({ text = "return 5\n" }, "table")
    refused({ text = "error 'on purpose'\n" }, ":1:", "on purpose")
    refused({ text = "while true do end\n" }, "instruction")
    local way = kit.prepared { seeds = seeds }
    os.remove(way.file)
    local status, text = way:refused()
    assert.not_equal(0, status)
    assert.is_true(text:find(way.file, 1, true) ~= nil, text)
  end)

  it("with flags that are unknown or make no sense", function()
    refused({ seeds = seeds, flags = { "--wrokers", "2" } }, "wrokers", "workers")
    refused({ seeds = seeds, flags = { "--workers", "two" } }, "workers")
    refused({ seeds = seeds, flags = { "--workers" } }, "workers")
  end)

  it("where it can't listen, and leaves nothing behind", function()
    local taken = socket.tcp4()
    assert(taken:bind("127.0.0.1", 0))
    assert(taken:listen(1))
    local _, port = taken:getsockname()
    local address = "127.0.0.1:" .. port
    refused({ seeds = seeds, flags = { "--listen", address } }, address, "in use")
    taken:close()
  end)
end)

describe("a policy that goes wrong while it serves", function()
  local cluster
  setup(function() cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 500, front = "mitm" } end)
  after_each(function() cluster:node(2).mitm:accept() end)

  for what, body in pairs {
    ["raises"] = "error 'on purpose'",
    ["never ends"] = "while true do end",
    ["allocates without end"] = "local t = {} for i = 1, 1e9 do t[i] = { i } end",
    ["returns nonsense"] = "return { state = 'sleepy', seconds = 'long' }",
  } do
    it(what .. ": traffic goes on under the fallback", function()
      local path = kit.file("wrong.lua", ([[
        local wayside = require "wayside"
        return wayside.policy {
          name = "wrong", pick = "random",
          mark = function(self, node, event) %s end,
          backoff = function(self, node, event) %s end,
        }
      ]]):format(body, body))
      local way = kit.wayside { cluster = cluster, policy = path }
      assert.equal("OK", way:call("SET", "{0}k", "1"))
      cluster:wait_ok()
      cluster:node(2).mitm:refuse()
      cluster:node(2).mitm:cut "rst"
      for _ = 1, 200 do
        local reply = way:call("GET", "{0}k")
        assert.equal("1", kit.show(reply))
      end
      assert.is_true(way.process:alive())
      way:wait_state(cluster:node(2), "failing")
    end)
  end
end)
