--- Every phase reports through one path: each fault is made on real sockets, and the policy
--- is told the right phase, step, error, certainty and bytes; then it is obeyed.
local socket = require "socket"
local kit = require "tests.support.kit"

-- Marks for a minute whatever blames a node, retries reads elsewhere, never probes: so that
-- nothing but what is under test changes a state.
local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "phases",
  options = {
    pick = { default = "master", one_of = { "master", "random", "replica" }, help = "where reads go" },
    seconds = { default = 60, unit = "s", help = "how long a mark lasts" },
  },
  pick = function(options) return options.pick end,
  classes = { wayside.default.classes },
  mark = function(self, node, event)
    if event.error then return { state = "failing", seconds = self.options.seconds, reason = event.error } end
  end,
  backoff = function(self, node, event)
    if event.commands == "reads" and event.attempt < 4 then return { retry = "other" } end
  end,
  probe = function() end,
}
]]

local TIMEOUTS = { dial = 0.4, write = 0.5, read = 0.4, total = 6 }
local SLOT = 100

local cluster, master, replica, policy
setup(function()
  cluster = kit.cluster {
    -- 15 s: masters are frozen, for the length of deadlines, and stay masters.
    masters = 3, replicas = 3, node_timeout = 15000, front = "mitm", mitm = { rcvbuf = 65536 },
    config = { "repl-timeout 3600" },
  }
  master, replica = cluster:node(1), cluster:node(4)
  policy = kit.file("phases.lua", POLICY)
end)

kit.matrix(function(workers, sockets)
  setup(function() cluster:flush() end)

  local function serve(pick, more)
    local options = {
      cluster = cluster, policy = policy, options = { pick = pick or "master" }, workers = workers, how = sockets, timeouts = TIMEOUTS,
      limits = { node_bytes = 134217728, client_inflight = 100000 },
    }
    for key, value in pairs(more or {}) do options[key] = value end
    return kit.wayside(options)
  end

  local function heal()
    for _, node in ipairs(cluster.nodes) do
      if node.frozen then node:thaw() end
      node.mitm:clear()
      node.mitm:accept()
    end
    cluster:wait_ok()
  end
  after_each(heal)

  local function key(name) return kit.key_in(SLOT, name) end

  --- The error reply's fields: error, phase, step, certainty, class, node.
  local function fields_of(reply)
    assert.is_true(kit.is_error(reply, "WAYSIDE "), kit.show(reply))
    local fields = { error = reply.err:match "^WAYSIDE (%S+)" }
    for name, value in reply.err:gmatch " (%w+)=(%S+)" do fields[name] = value end
    return fields
  end

  local function check_error(reply, want)
    local fields = fields_of(reply)
    for name, value in pairs(want) do
      assert.equal(value, fields[name], ("%s of %s"):format(name, reply.err))
    end
    return fields
  end

  --- Clients enough that every worker has some.
  local function clients_of(way, count)
    local list = {}
    for i = 1, count or 8 do list[i] = way:client(nil, 10) end
    return list
  end

  --- Reads by every client of every worker must go past the node, now: one that went there
  --- would fail or wait, and be an event.
  local function assert_avoided(way, clients)
    local began = socket.gettime()
    for i = 1, 200 do
      local reply = clients[i % #clients + 1]:call("GET", key "value")
      assert.equal("v", kit.show(reply))
    end
    socket.sleep(0.1) -- journals are collected every 50 ms
    for _, event in ipairs(way:events { ["function"] = "backoff" }) do
      assert.is_true(event.time < began, way:show_events())
    end
  end

  local function prepare_value()
    assert.equal("OK", master:call("SET", key "value", "v"))
    assert.equal(1, master:call("WAIT", 1, 2000))
  end

  -- ---- the faults, each as seen from a read that a replica would have served ----

  local faults = {
    {
      name = "connect refused", hidden = "1: ",
      make = function(node) node.mitm:refuse() node.mitm:cut "rst" end,
      event = { phase = "connect", step = "dial", error = "refused", certainty = "unsent", class = "down" },
    },
    {
      name = "connect timed out (a listener with a full backlog)", hidden = "2: ",
      make = function(node) node.mitm:backlog() node.mitm:cut "rst" end,
      event = { phase = "connect", step = "dial", error = "timeout", certainty = "unsent", class = "slow" },
    },
    {
      name = "read timed out (a frozen process)", write = "14: ",
      make = function(node) node:freeze() end,
      event = { phase = "read", step = "wait", error = "timeout", certainty = "unknown", class = "slow" },
    },
    {
      name = "read timed out within a reply", write = "14: ",
      make = function(node) node.mitm:rule { dir = "down", act = "swallow", match = "$1\r\n" } end,
      event = { phase = "read", step = "reply", error = "timeout", certainty = "unknown", class = "slow" },
    },
  }

  for _, fault in ipairs(faults) do
    describe(fault.name, function()
      it((fault.hidden or "") .. "is told to the policy, marked on every worker at once, and hidden from readers", function()
        prepare_value()
        local way = serve "random"
        local clients = clients_of(way)
        if fault.event.phase == "read" then
          for i = 1, 64 do assert.equal("v", clients[i % 8 + 1]:call("GET", key "value")) end
        end
        fault.make(replica)
        local seen
        for i = 1, 400 do
          local reply = clients[i % 8 + 1]:call("GET", key "value")
          assert.equal("v", kit.show(reply))
          seen = way:node(replica).state == "failing"
          if seen then break end
        end
        assert.is_true(seen, "never marked; " .. way:show_events())
        assert_avoided(way, clients)
        local want = { kind = "connection" }
        for name, value in pairs(fault.event) do
          if name ~= "certainty" then want[name] = value end
        end
        want["function"] = "mark"
        local event = way:wait_event(want)
        assert.equal(replica.address, event.node)
        assert.equal("node", event.blame)
        if fault.event.phase == "connect" then
          assert.equal(0, event.bytes_written or 0)
          assert.equal(0, event.replies_read or 0)
        else
          assert.is_true(event.bytes_written > 0, way:show_events())
          assert.is_true(event.n >= 1)
        end
        local retried = way:wait_event { ["function"] = "backoff", commands = "reads", error = fault.event.error }
        assert.equal(fault.event.certainty, retried.certainty)
      end)

      it((fault.write or "") .. "of the only master: a write gets an error that names node, phase and certainty, sent at most once", function()
        local way = serve "master"
        local client, counter = way:client(nil, 10), key("once" .. fault.name)
        assert.equal(1, client:call("INCR", counter))
        fault.make(master)
        if fault.event.step == "reply" then
          -- The bytes that are held back belong to this reply.
          master.mitm:clear()
          master.mitm:rule { dir = "down", act = "swallow", match = ":2" }
        end
        local began = socket.gettime()
        local reply = client:call("INCR", counter)
        if fault.event.phase == "connect" and kit.show(reply):find("certainty=unsent class=stale_connection", 1, true) then
          -- The old connection's end was seen in the very pass that brought the command: the next one dials.
          reply = client:call("INCR", counter)
        end
        local took = socket.gettime() - began
        local fields = check_error(reply, {
          phase = fault.event.phase, certainty = fault.event.certainty, node = master.address,
        })
        -- An idle connection's end may already have led to a dial, and that to a mark.
        if not (fault.event.phase == "connect" and fields.error == "no_node" and fields.step == "route") then
          check_error(reply, { error = fault.event.error, step = fault.event.step, class = fault.event.class })
        end
        way:wait_event { phase = fault.event.phase, step = fault.event.step, error = fault.event.error, class = fault.event.class }
        assert.is_true(took < 3, took)
        way:wait_state(master, fault.event.step == "reply" and "suspect" or "failing")
        heal()
        socket.sleep(0.2)
        local want = fault.event.certainty == "unsent" and "1" or "2"
        assert.equal(want, master:call("GET", counter))
      end)
    end)
  end

  -- ---- read EOF and reset ----

  for how, error_name in pairs { fin = "eof", rst = "reset" } do
    describe("read " .. error_name, function()
      it("33: on a connection that served before is a stale connection: nobody is marked, reads go again unnoticed", function()
        prepare_value()
        local way = serve "master"
        local client = way:client()
        assert.equal("v", client:call("GET", key "value"))
        master.mitm:rule { dir = "up", act = "cut", how = how, match = "GET", times = 1 }
        assert.equal("v", kit.show(client:call("GET", key "value")))
        local event = way:wait_event { kind = "connection", phase = "read", step = "wait", error = error_name }
        assert.equal("stale_connection", event.class)
        assert.equal("connection", event.blame)
        assert.equal(0, event.replies_read or 0)
        assert.equal("healthy", way:node(master).state)
      end)

      it("33: the same with a write: its fate is unknown, and it is never sent again", function()
        local way = serve "master"
        local client, counter = way:client(), key("stale" .. how)
        assert.equal(1, client:call("INCR", counter))
        master.mitm:rule { dir = "down", act = "cut", how = how, match = ":2", times = 1 }
        local replies = client:pipeline { { "INCR", counter }, { "GET", key "value" } }
        check_error(replies[1], { error = error_name, phase = "read", certainty = "unknown", node = master.address })
        assert.is_false(kit.is_error(replies[2]), kit.show(replies[2]))
        assert.equal("2", master:call("GET", counter))
      end)

      it("15: after a reply to what is in flight blames the node: what was answered stays answered", function()
        local way = serve "master"
        local client, counter = way:client(), key("after" .. how)
        assert.equal("OK", client:call("SET", counter, "100"))
        master.mitm:rule { dir = "down", act = "cut", how = how, match = ":102\r\n", times = 1 }
        local incr = { "INCR", counter }
        local replies = client:pipeline { incr, incr, incr, incr }
        assert.equal(101, replies[1])
        assert.equal(102, replies[2])
        for i = 3, 4 do
          check_error(replies[i], {
            error = error_name, phase = "read", step = "wait", certainty = "unknown", class = "down", node = master.address,
          })
        end
        local event = way:wait_event { kind = "connection", phase = "read", error = error_name, ["function"] = "mark" }
        assert.equal("down", event.class)
        assert.equal(2, event.replies_read)
        assert.equal(2, event.n)
        assert.is_true(event.bytes_written > 0)
        -- Soft evidence does not take the only master out: it is used when nothing better is.
        assert.equal("suspect", way:node(master).state)
        assert.equal("104", master:call("GET", counter))
        assert.equal(105, client:call("INCR", counter))
      end)

      it("within a reply is told as such", function()
        local way = serve "master"
        local client, name = way:client(), key("within" .. how)
        assert.equal("OK", client:call("SET", name, "0123456789"))
        master.mitm:rule { dir = "down", act = "cut", how = how, match = "$10\r\n01234", times = 1 }
        local reply = client:call("GETSET", name, "new")
        check_error(reply, { error = error_name, phase = "read", step = "reply", certainty = "unknown" })
        way:wait_event { phase = "read", step = "reply", error = error_name }
        assert.equal("new", master:call("GET", name))
      end)
    end)
  end

  describe("under the default policy", function()
    local function serve_default() return serve("master", { policy = "policies/default.lua", options = { wait = 0.1 } }) end

    it("14: a write whose master is frozen is executed once, and told as unknown", function()
      local way = serve_default()
      local client, counter = way:client(nil, 10), key "default-frozen"
      assert.equal(1, client:call("INCR", counter))
      master:freeze()
      check_error(client:call("INCR", counter), { error = "timeout", phase = "read", step = "wait", certainty = "unknown", class = "slow" })
      heal()
      way:wait_state(master, "healthy", 8)
      assert.equal(3, client:call("INCR", counter))
      assert.equal("3", master:call("GET", counter))
    end)

    it("15: of three writes, two answered before the end keep their answers, and one is unknown", function()
      local way = serve_default()
      local client, counter = way:client(nil, 10), key "default-two"
      assert.equal("OK", client:call("SET", counter, "200"))
      master.mitm:rule { dir = "down", act = "cut", how = "fin", match = ":202\r\n", times = 1 }
      local incr = { "INCR", counter }
      local replies = client:pipeline { incr, incr, incr }
      assert.same({ 201, 202 }, { replies[1], replies[2] })
      check_error(replies[3], { error = "eof", phase = "read", step = "wait", certainty = "unknown", class = "down" })
      assert.equal("203", master:call("GET", counter))
      way:wait_state(master, "healthy", 8)
    end)
  end)

  -- ---- writes that stop half way ----

  describe("a pipeline of 16 MB", function()
    local COUNT, SIZE = 160, 100000

    --- Sends it while the master's side has stopped reading after 1 MB, does `meanwhile`, and
    --- returns the replies.
    local function stalled(way, name, meanwhile)
      local client = way:client(nil, 20)
      client:call("SET", key "warm", "1")
      master:call("DEL", key(name))
      local value, commands = ("x"):rep(SIZE), {}
      for i = 1, COUNT do commands[i] = kit.resp.encode { "APPEND", key(name), value } end
      local bytes = table.concat(commands)
      master.mitm:rule { dir = "up", act = "stall", match = name, nth = 10, times = 1 }
      client.timeout = 0.2
      local _, _, rest = client:send_raw(bytes)
      client.timeout = 20
      meanwhile()
      return client:exchange(rest and bytes:sub(rest) or "", COUNT, 20), #bytes
    end

    local function check(way, replies, total, error_name, name)
      assert.equal(COUNT, #replies)
      local unknown, answered = 0, 0
      for i, reply in ipairs(replies) do
        if kit.is_error(reply) then
          local fields = check_error(reply, { node = master.address })
          -- What was still with the client when the connection broke meets the next dial.
          if fields.phase ~= "connect" then check_error(reply, { error = error_name, phase = "write", step = "send" })
          else check_error(reply, { certainty = "unsent" }) end
          if fields.certainty == "unknown" then unknown = unknown + 1 end
        else
          answered = answered + 1
          assert.equal(i * SIZE, reply)
        end
      end
      -- Put to mark or, where the connection had served before and nothing was answered on it since, to nobody.
      local event = way:wait_event { kind = "connection", phase = "write", step = "send", error = error_name }
      assert.is_true(event.bytes_written > 0, way:show_events())
      assert.is_true(event.bytes_written < total, way:show_events())
      assert.is_true(unknown > 0, "nothing was unknown; " .. way:show_events())
      local backoffs = way:events { ["function"] = "backoff", error = error_name, phase = "write" }
      local certainties = {}
      for _, one in ipairs(backoffs) do certainties[one.certainty] = (certainties[one.certainty] or 0) + one.n end
      assert.is_true((certainties.unsent or 0) > 0, way:show_events())
      assert.equal(unknown, certainties.unknown, way:show_events())
      heal()
      -- Every answered append was done, no other was done twice.
      local done = master:call("STRLEN", key(name)) / SIZE
      assert.is_true(done >= answered and done <= answered + unknown + (COUNT - answered - unknown), done)
      return unknown, answered
    end

    it("12: to a peer that resets: some written, some not, each told apart", function()
      local way = serve "master"
      local replies, total = stalled(way, "reset-me", function()
        socket.sleep(0.1)
        master.mitm:refuse()
        master.mitm:cut "rst"
      end)
      check(way, replies, total, "reset", "reset-me")
    end)

    it("13: to a peer that does not read: the write times out, and every command has an answer", function()
      local way = serve("master", { timeouts = { dial = 0.4, write = 0.5, read = 5, total = 8 } })
      local replies, total = stalled(way, "stall-me", function() end)
      local _, answered = check(way, replies, total, "timeout", "stall-me")
      assert.is_true(answered <= 10)
    end)

    it("is whole in the end where the peer only pauses", function()
      local way = serve("master", { timeouts = { dial = 0.4, write = 3, read = 5, total = 8 } })
      local replies = stalled(way, "pause-me", function()
        socket.sleep(0.3)
        master.mitm:clear()
      end)
      for i, reply in ipairs(replies) do assert.equal(i * SIZE, reply, kit.show(reply)) end
      assert.same({}, way:events { kind = "connection", phase = "write" })
    end)
  end)

  -- ---- one event per cause ----

  describe("a connection with 5,000 commands in flight that dies", function()
    it("41: is one event for mark, one for each kind of command and certainty, and all callers are answered", function()
      local way = serve "master"
      local clients, parts = clients_of(way, 1), {}
      for i = 1, 5000 do parts[i] = kit.resp.encode(i % 2 == 0 and { "GET", key "value" } or { "INCR", key "many" }) end
      master:call("DEL", key "many")
      assert.is_false(kit.is_error(clients[1]:call("GET", key "value")))
      master:freeze()
      assert(clients[1]:send_raw(table.concat(parts)))
      socket.sleep(0.2)
      master.mitm:refuse()
      master.mitm:cut "rst"
      local replies = clients[1]:exchange("", 5000, 20)
      assert.equal(5000, #replies)
      local breaks = way:events { kind = "connection", phase = "read", ["function"] = "mark" }
      local stale = way:events { kind = "connection", class = "stale_connection", n = 5000 }
      assert.is_true(#breaks + #stale >= 1 and #breaks <= 1, way:show_events())
      for _, certainty in ipairs { "unknown" } do
        for _, kind in ipairs { "reads", "writes" } do
          local asked = way:events { ["function"] = "backoff", certainty = certainty, commands = kind, phase = "read" }
          assert.equal(1, #asked, way:show_events())
          assert.equal(2500, asked[1].n)
        end
      end
      for i = 1, 5000, 2 do check_error(replies[i], { certainty = "unknown", phase = "read" }) end
      master:thaw()
    end)
  end)
end)
