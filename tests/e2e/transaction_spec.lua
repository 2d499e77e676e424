--- Transactions: executed once or not at all, whole, where their slot is, and unprotected never. INCRs are counted on the
--- servers.
local kit = require "tests.support.kit"

-- The default, but for a write of unknown fate, which goes again where the option says so.
local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "transactions",
  options = { again = { default = false, help = "send what may have been executed once more" } },
  mark = function() end,
  backoff = function(self, node, event)
    if event.commands ~= "transaction" then return wayside.default.backoff(self, node, event) end
    if event.attempt < 4 then return { retry = "same", after = 0.02, unknown_writes = self.options.again } end
  end,
  probe = function() end,
}
]]
local SLOT = 100

local cluster, policy, policies
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 0, node_timeout = 500, front = "mitm", mitm = { rcvbuf = 65536 } }
  policy = kit.file("transactions.lua", POLICY)
  policies = { transactions = policy, default = "policies/default.lua" }
end)
after_each(function()
  for _, node in ipairs(cluster.nodes) do
    node.mitm:clear()
    node.mitm:accept()
  end
end)

kit.matrix(function(workers, sockets)
  setup(function() cluster:flush() end)

  local function serve(more)
    local options = {
      cluster = cluster, policy = policy, workers = workers, how = sockets, timeouts = { dial = 0.4, write = 0.5, read = 0.6, total = 4 },
    }
    for name, value in pairs(more or {}) do options[name] = value end
    return kit.wayside(options)
  end

  local counter = 0
  local function new_key(slot)
    counter = counter + 1
    return kit.key_in(slot or SLOT, "t" .. counter)
  end

  local function master() return cluster:master_of(SLOT) end
  local function value(key, slot) return tonumber(kit.show(cluster:master_of(slot or SLOT):call("GET", key))) or 0 end
  local function calls(client, ...)
    local replies = {}
    for i, command in ipairs { ... } do replies[i] = client:call(unpack(command)) end
    return replies
  end
  local function is_error(reply, words)
    assert.is_true(kit.is_error(reply, words), kit.show(reply))
  end
  local function incr(client, key) return calls(client, { "MULTI" }, { "INCR", key }, { "INCR", key }, { "EXEC" })[4] end

  describe("a transaction", function()
    it("is answered as Redis answers it, in both protocols", function()
      local way = serve()
      for _, version in ipairs { 2, 3 } do
        for _ = 1, 4 do
          local client, key = way:client(), new_key()
          client:call("HELLO", version)
          assert.same({ "OK", "QUEUED", "QUEUED", "OK" },
            calls(client, { "MULTI" }, { "HSET", key, "f", "v" }, { "PING" }, { "DISCARD" }))
          assert.equal(0, master():call("EXISTS", key))
          assert.same({ "OK", "QUEUED", "QUEUED", "QUEUED", { 1, 2, "2" } },
            calls(client, { "MULTI" }, { "INCR", key }, { "INCR", key }, { "GET", key }, { "EXEC" }))
          assert.same({ "OK", "QUEUED", { "PONG" } }, calls(client, { "MULTI" }, { "PING" }, { "EXEC" }))
          assert.same({ "OK", {} }, calls(client, { "MULTI" }, { "EXEC" }))
          calls(client, { "MULTI" }, { "HGETALL", new_key() })
          assert.equal("*1\r\n" .. (version == 3 and "%" or "*") .. "0\r\n", (client:call_raw "EXEC"))
        end
      end
    end)

    it("errors are Redis's: nested, without MULTI, inside MULTI", function()
      local client, key = serve():client(), new_key()
      is_error(client:call "EXEC", "ERR EXEC without MULTI")
      is_error(client:call "DISCARD", "ERR DISCARD without MULTI")
      client:call "MULTI"
      is_error(client:call "MULTI", "ERR MULTI calls can not be nested")
      is_error(client:call("WATCH", key), "ERR WATCH inside MULTI is not allowed")
      client:call("INCR", key)
      assert.same({ 1 }, client:call "EXEC")
      local direct = master():connect()
      for _, command in ipairs { { "EXEC" }, { "DISCARD" }, { "MULTI" }, { "MULTI" }, { "WATCH", key }, { "DISCARD" }, { "UNWATCH" } } do
        assert.same(direct:call(unpack(command)), client:call(unpack(command)))
      end
      direct:close()
    end)

    it("22: with a bad command is refused, and EXEC names the first reason", function()
      local client, key = serve():client(), new_key()
      for _, bad in ipairs {
        { { "GET" }, "ERR wrong number of arguments for 'get' command" }, { { "NONSENSE", key }, "ERR unknown command 'NONSENSE'" },
        { { "GET", new_key(200) }, "CROSSSLOT" }, { { "MGET", key, new_key(300) }, "CROSSSLOT" },
        { { "BLPOP", key, "1" }, "ERR wayside does not serve 'blpop'" }, { { "HELLO", "3" }, "ERR wayside does not serve 'hello'" },
      } do
        client:call "MULTI"
        assert.equal("QUEUED", client:call("INCR", key))
        is_error(client:call(unpack(bad[1])), bad[2])
        is_error(client:call "NONSENSE2", "ERR unknown command 'NONSENSE2'")
        assert.equal("QUEUED", client:call("INCR", key))
        is_error(client:call "EXEC", "EXECABORT Transaction discarded because of: " .. bad[2])
        assert.equal(0, value(key))
      end
      client:call "MULTI"
      client:call("EVAL", "return redis.call('GET')", "1") -- numkeys beyond the arguments
      is_error(client:call "EXEC", "EXECABORT")
      assert.same({ 1, 2 }, incr(client, key))
    end)

    it("is bounded", function()
      local client, key = serve { limits = { transaction_commands = 3, request_bytes = 4096 } }:client(), new_key()
      for _, commands in ipairs { { 3, 1 }, { 1, 3000 } } do
        client:call "MULTI"
        for _ = 1, commands[1] do assert.equal("QUEUED", client:call("APPEND", key, ("x"):rep(commands[2]))) end
        is_error(client:call("APPEND", key, ("x"):rep(commands[2])), "ERR ")
        is_error(client:call "EXEC", "EXECABORT")
        assert.equal(0, master():call("EXISTS", key))
      end
    end)

    it("keeps its client's order, before and behind it", function()
      local way = serve()
      for round = 1, kit.share(40, 400) do
        local client, key, other = way:client(), new_key(), new_key(9000)
        local commands, want = {}, {}
        local n = 0
        local function add(command, reply) commands[#commands + 1], want[#want + 1] = command, reply end
        for _ = 1, 12 do
          if kit.random.int(1, 2) == 1 then
            add({ "MULTI" }, "OK") add({ "INCR", key }, "QUEUED") add({ "INCR", key }, "QUEUED") add({ "EXEC" }, { n + 1, n + 2 })
            n = n + 2
          elseif kit.random.int(1, 2) == 1 then
            add({ "WATCH", key }, "OK") add({ "GET", key }, n > 0 and tostring(n) or kit.null) add({ "MULTI" }, "OK")
            add({ "INCR", key }, "QUEUED") add({ "EXEC" }, { n + 1 })
            n = n + 1
          else
            add({ "INCR", key }, n + 1) add({ "SET", other, "1" }, "OK")
            n = n + 1
          end
        end
        assert.same(want, client:pipeline(commands), "round " .. round)
        client:close()
      end
    end)

    it("goes over few connections, which are used again", function()
      local way = serve { workers = 1 }
      local client, key = way:client(), new_key()
      incr(client, key)
      local before = master():info "total_connections_received"
      for _ = 1, 50 do incr(client, key) end
      assert.equal(102, value(key))
      assert.is_true(master():info "total_connections_received" - before <= 3)
    end)
  end)

  describe("WATCH", function()
    it("makes EXEC nil where the key changed meanwhile, and only there", function()
      local way = serve()
      for version = 2, 3 do
        local client, key, untouched = way:client(), new_key(), new_key()
        client:call("HELLO", version)
        for _, change in ipairs { true, false } do
          assert.equal("OK", client:call("WATCH", key, untouched))
          client:call("GET", key)
          if change then master():call("SET", key, "other") end
          local replies = calls(client, { "MULTI" }, { "SET", key, "mine" }, { "EXEC" })
          if change then assert.equal(kit.null, replies[3]) else assert.same({ "OK" }, replies[3]) end
        end
        for _, forget in ipairs { "UNWATCH", "DISCARD" } do
          client:call("WATCH", key)
          if forget == "DISCARD" then client:call "MULTI" end
          assert.equal("OK", client:call(forget))
          master():call("SET", key, "1")
          assert.same({ 2, 3 }, incr(client, key))
        end
        is_error(calls(client, { "WATCH", key }, { "WATCH", new_key(4000) })[2], "CROSSSLOT")
      end
    end)

    it("of one client never reaches the next that gets the connection", function()
      local way = serve { workers = 1 }
      for _ = 1, 20 do
        local key = new_key()
        local first, second = way:client(), way:client()
        first:call("WATCH", key)
        first:call("GET", key)
        if kit.random.int(1, 2) == 1 then first:call "MULTI" first:call("SET", key, "never") end
        first:close()
        master():call("SET", key, "5")
        assert.same({ 6, 7 }, incr(second, key))
        second:call("WATCH", new_key())
        assert.same({ 8, 9 }, incr(second, key))
        second:close()
      end
      kit.wait_for(function() return not master():call("CLIENT", "LIST"):find "multi=[0-9]" end, 2, "no client in MULTI")
    end)

    it("is lost with its connection: EXEC is an error and nothing is executed", function()
      local way = serve()
      for _ = 1, 4 do
        local client, key = way:client(), new_key()
        assert.equal("OK", client:call("WATCH", key))
        master().mitm:cut "rst"
        kit.wait_for(function() return client:call("SET", new_key(), "1") == "OK" end, 3, "service")
        local reply = incr(client, key)
        is_error(reply, "WAYSIDE")
        assert.is_truthy(reply.err:find("certainty=unsent", 1, true) and reply.err:find("watch was lost", 1, true), reply.err)
        assert.equal(0, value(key))
        assert.same({ 1, 2 }, incr(client, key))
        client:close()
      end
    end)

    it("is lost with its slot", function()
      local way, slot = serve(), 77
      local from = cluster:master_of(slot)
      local to = cluster:node(from == cluster:node(1) and 2 or 1)
      local client, key = way:client(), new_key(slot)
      assert.equal("OK", client:call("SET", key, "1"))
      assert.equal("OK", client:call("WATCH", key))
      cluster:move_slot(slot, to)
      local reply = incr(client, key)
      assert.is_true(kit.is_error(reply, "WAYSIDE") and reply.err:find("watch was lost", 1, true) ~= nil or reply == kit.null, kit.show(reply))
      assert.equal(1, value(key, slot))
      assert.same({ 2, 3 }, incr(client, key))
      cluster:move_slot(slot, from)
    end)
  end)

  describe("a transaction that fails", function()
    for _, name in ipairs { "transactions", "default" } do
      it(("18: goes again as a whole while EXEC was not written, under %s"):format(name), function()
        local way, key = serve { timeouts = { dial = 0.4, write = 0.5, read = 3, total = 8 }, policy = policies[name] }, new_key()
        local client = way:client(nil, 10)
        master().mitm:rule { dir = "up", act = "stall", match = key, times = 1, on = "new" }
        local commands = { { "MULTI" }, { "INCR", key } }
        for i = 1, 8 do commands[#commands + 1] = { "SET", kit.key_in(SLOT, "big" .. i), ("x"):rep(1000000) } end
        commands[#commands + 1] = { "INCR", key }
        commands[#commands + 1] = { "EXEC" }
        local replies = client:pipeline(commands, 10)
        local last = replies[#replies]
        assert.same({ 1, 2 }, { last[1], last[10] }, kit.show(last))
        assert.equal(2, value(key))
        local asked = way:wait_event { ["function"] = "backoff", commands = "transaction" }
        assert.same({ "write", "send", "timeout", "unsent" }, { asked.phase, asked.step, asked.error, asked.certainty })
      end)
    end

    it("18: goes again when the connection can't be made", function()
      local way, key = serve(), new_key()
      local client = way:client()
      assert.equal("OK", client:call("SET", key, "0"))
      master().mitm:refuse()
      client:send_raw(kit.resp.encode { "MULTI" } .. kit.resp.encode { "INCR", key } .. kit.resp.encode { "EXEC" })
      local asked = way:wait_event { ["function"] = "backoff", commands = "transaction" }
      master().mitm:accept()
      assert.same({ "connect", "unsent" }, { asked.phase, asked.certainty })
      local last
      for _ = 1, 3 do last = client:read_reply() end
      if kit.is_error(last) then
        assert.is_truthy(last.err:find("certainty=unsent", 1, true), last.err)
        assert.equal(0, value(key))
      else
        assert.same({ 1 }, last)
        assert.equal(1, value(key))
      end
    end)

    for _, case in ipairs { { "transactions", false }, { "transactions", true }, { "default", false } } do
      local name, again = unpack(case)
      it(("19: after EXEC was sent %s, under %s"):format(again and "goes again if the policy says so" or "is an error, executed once",
        name), function()
        local way, key = serve { options = name == "transactions" and { again = again } or nil, policy = policies[name] }, new_key()
        for _, how in ipairs { "rst", "fin" } do
          local client = way:client()
          master():call("SET", key, "0")
          master().mitm:cut "rst" -- so that the next one is new
          kit.wait_for(function() return client:call("GET", key) == "0" end, 3, "service")
          master().mitm:rule { dir = "up", act = "cut", how = how, match = "EXEC\r\n", times = 1, on = "new" }
          local reply = incr(client, key)
          master().mitm:clear()
          if again then
            assert.same({ { 3, 4 }, 4 }, { reply, value(key) }, kit.show(reply))
          else
            is_error(reply, "WAYSIDE")
            assert.is_truthy(reply.err:find("phase=read", 1, true) and reply.err:find("certainty=unknown", 1, true), reply.err)
            kit.wait_for(function() return value(key) == 2 end, 2, "what was sent to be executed")
          end
          client:close()
        end
        local asked = way:events { ["function"] = "backoff", commands = "transaction" }
        assert.equal("unknown", asked[1].certainty)
        assert.equal(2, #asked)
      end)
    end
  end)

  describe("while slots move", function()
    for _, name in ipairs { "transactions", "default" } do
      it("21: a transaction follows MOVED as a whole, under " .. name, function()
        local way, slot = serve { policy = policies[name] }, 7
        local from = cluster:master_of(slot)
        local to = cluster:node(from == cluster:node(1) and 2 or 1)
        local clients, key = {}, new_key(slot)
        for i = 1, 4 do
          clients[i] = way:client()
          incr(clients[i], key)
        end
        cluster:move_slot(slot, to)
        for i = 1, 4 do assert.same({ 7 + 2 * i, 8 + 2 * i }, incr(clients[i], key)) end
        assert.equal(16, value(key, slot))
        assert.same({}, way:events { ["function"] = "mark", to = "failing" })
        cluster:move_slot(slot, from)
      end)
    end

    it("20: a transaction follows ASK with ASKING, and keeps it when that node breaks the connection", function()
      local way, slot = serve { options = { again = true } }, 8
      local from = cluster:master_of(slot)
      local to = cluster:node(from == cluster:node(1) and 2 or 1)
      local client, key, old = way:client(), new_key(slot), new_key(slot)
      assert.equal("OK", client:call("SET", old, "0"))
      cluster:begin_move(slot, to)
      assert.same({ 1, 2 }, incr(client, old)) -- still there
      assert.same({ 1, 2 }, incr(client, key)) -- created at the new node
      to.mitm:rule { dir = "up", act = "cut", how = "rst", match = "ASKING", times = 2, on = "all" }
      assert.same({ 3, 4 }, incr(client, key))
      to.mitm:clear()
      assert.equal("2", from:call("GET", old))
      local replies = calls(client, { "WATCH", key }, { "GET", key }, { "MULTI" }, { "INCR", key }, { "EXEC" })
      assert.same({ "OK", "4", "OK", "QUEUED", { 5 } }, replies)
      from:call("MIGRATE", "127.0.0.1", to.real_port, old, 0, 5000)
      cluster:end_move(slot, from, to)
      assert.same({ 6, 7 }, incr(client, key))
      cluster:move_slot(slot, from)
    end)

    it("20: ASKING goes with it too where the default policy sends it again: the node it asks was not reached", function()
      local way, slot = serve { policy = policies.default, options = { wait = 0.1 } }, 8
      local from = cluster:master_of(slot)
      local to = cluster:node(from == cluster:node(1) and 2 or 1)
      local client, key = way:client(nil, 10), new_key(slot)
      assert.equal("OK", client:call("SET", new_key(7000), "1"))
      cluster:begin_move(slot, to)
      -- Connections that stand are left: a transaction makes one of its own.
      to.mitm:refuse()
      client:send_raw(kit.resp.encode { "MULTI" } .. kit.resp.encode { "INCR", key } .. kit.resp.encode { "EXEC" })
      local asked = way:wait_event { ["function"] = "backoff", commands = "transaction", node = to.address }
      assert.same({ "connect", "dial", "refused", "unsent" }, { asked.phase, asked.step, asked.error, asked.certainty })
      to.mitm:accept()
      local last
      for _ = 1, 3 do last = client:read_reply() end
      assert.same({ 1 }, last, kit.show(last))
      assert.is_true(kit.is_error(from:call("GET", key), "ASK " .. slot))
      local direct = to:connect()
      assert.same({ "OK", "1", "OK", 1 }, direct:pipeline { { "ASKING" }, { "GET", key }, { "ASKING" }, { "DEL", key } })
      direct:close()
      for _, node in ipairs { to, from } do assert.equal("OK", node:call("CLUSTER", "SETSLOT", slot, "STABLE")) end
    end)

    it("a slot that moves under load loses and doubles nothing", function()
      local way, slot = serve(), 9
      local from = cluster:master_of(slot)
      local to = cluster:node(from == cluster:node(1) and 2 or 1)
      local a, b = kit.key_in(slot, "load:a"), kit.key_in(slot, "load:b")
      local clients, done = {}, 0
      for i = 1, 8 do clients[i] = way:client(nil, 10) end
      local unit = {}
      for _, one in ipairs { { "MULTI" }, { "INCR", a }, { "INCR", b }, { "EXEC" } } do unit[#unit + 1] = kit.resp.encode(one) end
      unit = table.concat(unit)
      for round = 1, 20 do
        for _, client in ipairs(clients) do client:send_raw(unit:rep(5)) end
        if round % 4 == 0 then
          cluster:move_slot(slot, round % 8 == 0 and from or to)
        end
        for _, client in ipairs(clients) do
          for i = 1, 20 do
            local reply = client:read_reply()
            if i % 4 == 0 then
              assert.is_true(type(reply) == "table" and reply[1] == reply[2] and reply[1] ~= nil, kit.show(reply))
              done = done + 1
            end
          end
        end
      end
      assert.equal(800, done)
      assert.same({ done, done }, { value(a, slot), value(b, slot) })
      if cluster:master_of(slot) ~= from then cluster:move_slot(slot, from) end
    end)
  end)

  describe("words of a node", function()
    for _, words in ipairs { "TRYAGAIN Multiple keys request during rehashing of slot", "LOADING Redis is loading the dataset in memory",
      "CLUSTERDOWN The cluster is down" } do
      it(words .. ": the transaction goes again as a whole", function()
        local way, key = serve { policy = "policies/default.lua" }, new_key()
        local node = master():script(function(got, conn)
          local name = got[1]:upper()
          if name == "MULTI" then conn.bad = false end
          if name == "INCR" and got[2] == key and conn.state.left > 0 then
            conn.state.left = conn.state.left - 1
            conn.bad = true
            return "-" .. words .. "\r\n"
          elseif name == "MULTI" and conn.state.left > 0 then
            return "+OK\r\n"
          elseif name == "EXEC" and conn.bad then
            conn.bad = false
            return "-EXECABORT Transaction discarded because of previous errors.\r\n"
          end
        end, { left = 2 })
        kit.owned { stop = function() master():unscript() end }
        assert.same({ 1, 2 }, incr(way:client(), key))
        assert.is_true(#node:received "EXEC" >= 2)
        assert.equal(2, value(key))
      end)
    end

    it("that refuse MULTI itself: what ran outside of it is told as unknown, and not run again", function()
      local way, key = serve(), new_key()
      master():script(function(got)
        local name = got[1]:upper()
        if name == "MULTI" then return "-NOPERM this user has no permissions to run the 'multi' command\r\n" end
        if name == "EXEC" then return "-ERR EXEC without MULTI\r\n" end
      end)
      kit.owned { stop = function() master():unscript() end }
      local reply = incr(way:client(), key)
      is_error(reply, "WAYSIDE protocol")
      assert.is_truthy(reply.err:find("certainty=unknown", 1, true), reply.err)
      assert.equal(2, value(key))
    end)
  end)

  describe("10,000 transactions of 8 clients while connections break", function()
    it("are whole: what was acknowledged was executed once, what was unsent never", function()
      local way = serve()
      local total, clients, sums = kit.share(10000, 100000), {}, {}
      for i = 1, 8 do
        clients[i] = way:client(nil, 10)
        sums[i] = { a = kit.key_in(i * 2000, "sum:a" .. i), b = kit.key_in(i * 2000, "sum:b" .. i), ok = 0, unknown = 0, unsent = 0 }
        local unit = { kit.resp.encode { "MULTI" }, kit.resp.encode { "INCR", sums[i].a }, kit.resp.encode { "INCR", sums[i].b },
          kit.resp.encode { "EXEC" } }
        sums[i].unit = table.concat(unit)
      end
      local each = 25
      for _ = 1, total / 8 / each do
        for i, client in ipairs(clients) do client:send_raw(sums[i].unit:rep(each)) end
        if kit.random.int(1, 3) == 1 then
          cluster:node(kit.random.int(1, 3)).mitm:cut(kit.random.one { "rst", "fin" })
        end
        for i, client in ipairs(clients) do
          local s = sums[i]
          for k = 1, each * 4 do
            local reply = client:read_reply()
            if k % 4 == 0 and kit.is_error(reply) then
              local certainty = reply.err:match "certainty=(%a+)"
              assert.is_truthy(s[certainty], kit.show(reply))
              s[certainty] = s[certainty] + 1
            elseif k % 4 == 0 then
              assert.equal(reply[1], reply[2])
              s.ok = s.ok + 1
            end
          end
        end
      end
      local ok, unknown = 0, 0
      for i, s in ipairs(sums) do
        local a, b = value(s.a, i * 2000), value(s.b, i * 2000)
        assert.equal(a, b)
        assert.is_true(a >= s.ok and a <= s.ok + s.unknown, ("%d executed, %d acknowledged, %d unknown"):format(a, s.ok, s.unknown))
        ok, unknown = ok + s.ok, unknown + s.unknown
      end
      print(("%d transactions acknowledged, %d of unknown fate"):format(ok, unknown))
      assert.is_true(unknown > 0 and ok > total / 2)
    end)
  end)
end)
