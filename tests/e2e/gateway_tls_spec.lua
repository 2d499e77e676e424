--- TLS to the nodes from inside nginx: the same that is believed, told and certain as in the daemon, by nginx's own sockets, and
--- one handshake per socket, however many requests have it after each other.
local gateway = require "tests.support.gateway"
local kit = require "tests.support.kit"

local SLOT = 100
local PATIENT = { dial = 1, tls = 2, read = 3, total = 8 }
local TIMEOUTS = { dial = 0.4, tls = 0.4, hello = 0.4, write = 1, read = 1, total = 4 }

local function key(name) return kit.key_in(SLOT, name) end

describe("resty.wayside, where the cluster speaks TLS alone and asks for a certificate", function()
  local cluster, way
  setup(function()
    cluster = kit.cluster { masters = 3, replicas = 3, tls = true }
    way = kit.gateway { cluster = cluster, timeouts = PATIENT }
  end)

  it("serves values of every kind, long pipelines over all nodes, and transactions", function()
    local list = {}
    for i = 1, 200 do
      list[#list + 1] = { "SET", "k" .. i, "v" .. i }
      list[#list + 1] = { "GET", "k" .. i }
      list[#list + 1] = { "MGET", "k" .. i, "absent" }
    end
    local replies = assert(way:run(list))
    for i = 1, 200 do
      assert.equal("OK", replies[3 * i - 2])
      assert.equal("v" .. i, replies[3 * i - 1])
      assert.same({ "v" .. i, gateway.null }, replies[3 * i])
    end
    replies = assert(way:run { { "MULTI" }, { "SET", "{t}a", 1 }, { "INCR", "{t}a" }, { "EXEC" }, { "GET", "{t}a" }, { "LPUSH", "{t}a", 1 } })
    assert.same({ "OK", 2 }, replies[4])
    assert.equal("2", replies[5])
    assert.matches("^WRONGTYPE", replies[6].message)
  end)

  it("moves values of megabytes either way, in records of any number", function()
    for _, bytes in ipairs { 1, 16383, 16384, 16385, 65536, 65537, 3000000 } do
      local text = ("0123456789abcdef"):rep(math.ceil(bytes / 16)):sub(1, bytes)
      cluster:master_of(SLOT):call("SET", key "big", text)
      assert.is_true(way:call("GET", key "big") == text, bytes)
      local replies = assert(way:run { { "SET", key "big", { rep = bytes } }, { "STRLEN", key "big" }, { "GET", key "big" } })
      assert.same({ "OK", bytes }, { replies[1], replies[2] })
      assert.is_true(replies[3] == ("x"):rep(bytes), bytes)
    end
  end)

  it("shakes hands once for a socket: hundreds of requests make a few connections", function()
    local function connections()
      local n = 0
      for _, node in ipairs(cluster.nodes) do n = n + tonumber(node:info "total_connections_received") end
      return n
    end
    local own = kit.gateway { cluster = cluster, timeouts = PATIENT, workers = 1, policy = "policies/default.lua" }
    local c = own:connect()
    for i = 1, 20 do assert.equal("OK", (assert(own:run({ { "SET", "k" .. i, i } }, c)))[1]) end
    local before = connections()
    for i = 1, kit.count(300, 2000) do
      local replies = assert(own:run({ { "SET", "k" .. i % 20, i }, { "GET", "k" .. i % 20 } }, c))
      assert.same({ "OK", tostring(i) }, replies)
    end
    c:close()
    local made = connections() - before
    assert.is_true(made < 6 + #cluster.nodes * 4, ("%d connections were made, probes and this count among them"):format(made))
    for _, text in pairs(own:on_each "/status") do
      assert.is_true(tonumber(text:match "dials_total=(%d+)" or 0) < 20, text)
      assert.is_nil(text:match "inflight=[1-9]", text)
    end
  end)

  it("dials anew where a kept socket was closed meanwhile: by the node, or for it was idle for long", function()
    for _, how in ipairs { "closed", "idle" } do
      local own = kit.gateway { cluster = cluster, timeouts = PATIENT, workers = 1, config = { pool_idle = how == "idle" and 0.05 or 60 } }
      local master = cluster:master_of(SLOT)
      for i = 1, 5 do
        assert.equal("OK", (own:call("SET", key "kept", i)))
        if how == "closed" then assert.is_true(master:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0) end
        local text = master:call("CLIENT", "LIST")
        kit.wait_for(function()
          text = master:call("CLIENT", "LIST")
          return not text:find("cmd=set", 1, true), text
        end, 3, "the socket to be closed")
        assert.equal(tostring(i), (own:call("GET", key "kept")))
      end
      own:stop()
    end
  end)

  it("keeps no more idle sockets than it may", function()
    local own = kit.gateway { cluster = cluster, timeouts = PATIENT, workers = 1, config = { pool_size = 2 }, locations = [[
      location = /many { content_by_lua_block {
        local threads = {}
        for i = 1, 20 do threads[i] = ngx.thread.spawn(function() return wayside:call("GET", "{t}" .. i) end) end
        for i = 1, 20 do
          local _, value = ngx.thread.wait(threads[i])
          ngx.print(value == ngx.null and "." or tostring(value))
        end } }
    ]] }
    local master = cluster:master_of(kit.slot_of "{t}1")
    for _ = 1, 3 do
      assert.equal(("."):rep(20), (own:get "/many"))
      kit.wait_for(function()
        local _, n = master:call("CLIENT", "LIST"):gsub("cmd=get", "")
        return n == 2, n
      end, 3, "two of the sockets to be left")
    end
  end)

  it("logs in behind the handshake", function()
    local function on_all(...)
      for _, node in ipairs(cluster.nodes) do assert.equal("OK", node:call(...)) end
    end
    on_all("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all")
    finally(function()
      for _, node in ipairs(cluster.nodes) do node:call("ACL", "DELUSER", "app") end
    end)
    local function serve(password)
      return kit.gateway { cluster = cluster, timeouts = PATIENT, workers = 1, ready = password == "secret",
        config = { cluster = { seeds = cluster:seeds(), tls = cluster:tls(), user = "app", password = password } } }
    end
    local own = serve "secret"
    assert.equal("OK", (own:call("SET", key "auth", "v")))
    assert.same({ "v" }, assert(own:run { { "MULTI" }, { "GET", key "auth" }, { "EXEC" } })[3])
    assert.matches("cmd=exec user=app", cluster:master_of(SLOT):call("CLIENT", "LIST"))
    local wrong = serve "other"
    kit.wait_for(function() return wrong:log():find "auth" end, 5, "the log to tell of the password")
  end)

  it("follows MOVED and ASK while a slot moves", function()
    local slot = 5
    local moving = kit.key_in(slot, "moving")
    assert.equal("OK", (way:call("SET", moving, "v")))
    local from, to = cluster:master_of(slot), cluster:master_of(16383)
    cluster:begin_move(slot, to)
    kit.move_keys(slot, from, to)
    assert.equal("v", (way:call("GET", moving)))
    assert.same({ "v" }, assert(way:run { { "MULTI" }, { "GET", moving }, { "EXEC" } })[3])
    assert.equal("OK", (way:call("SET", moving, "w")))
    cluster:end_move(slot, from, to)
    for _ = 1, 10 do assert.equal("w", (way:call("GET", moving))) end
    local redirects = ""
    for _, text in pairs(way:on_each "/status") do redirects = redirects .. text end
    assert.is_truthy(redirects:match 'kind="ask"', redirects)
    assert.is_truthy(redirects:match 'kind="moved"', redirects)
    cluster:move_slot(slot, from)
    cluster:wait_ok()
  end)

  it("finds a frozen node by the read's deadline, passes through a failover, and a probe finds the old master", function()
    local own = kit.gateway { cluster = cluster, timeouts = { dial = 0.2, tls = 0.3, read = 0.3, total = 2 }, options = { wait = 0.1 },
      policy = "policies/default.lua", workers = 1 }
    local master = cluster:master_of(SLOT)
    assert.equal("OK", (own:call("SET", key "n", 1)))
    master:freeze()
    finally(function() if master.frozen then master:thaw() end end)
    local err = own:call("INCR", key "n")
    assert.same({ "read", "wait", "timeout", "unknown" }, { err.phase, err.step, err.error, err.certainty }, kit.show(err))
    master:kill()
    kit.wait_for(function()
      local reply = own:call("SET", key "n", 5)
      return reply == "OK", kit.show(reply)
    end, 15, "the replica to take over")
    own:wait_states(master, "failing")
    master:restart()
    own:wait_states(master, "healthy", 15)
    assert.equal("5", (own:call("GET", key "n")))
    cluster:wait_ok()
  end)

  it("refuses to start with files that can't be used, and says which", function()
    local own = cluster.certificates
    for _, one in ipairs { { { ca = "/none.crt" }, "cluster.tls.ca: /none.crt: " },
      { { ca = own.ca, cert = own.client.cert }, "cluster.tls.key: expected a file" },
      { { ca = own.ca, cert = own.client.cert, key = own.locked }, "cluster.tls.key: " },
      { { ca = own.ca, verify = "no" }, "cluster.tls.verify: expected" } } do
      local prepared = kit.prepared_gateway { cluster = cluster, tls = one[1] }
      local status, log = prepared:refused()
      assert.is_true(status ~= nil and status ~= 0, log)
      assert.is_truthy(log:find(one[2], 1, true), log)
    end
  end)
end)

describe("TLS that goes wrong inside nginx", function()
  local cluster, master, policy, own
  setup(function()
    cluster = kit.cluster { masters = 3, replicas = 0, tls = true, auth_clients = "optional", front = "mitm" }
    master, own = cluster:master_of(SLOT), cluster.certificates
    policy = kit.bare_policy()
  end)
  after_each(function() master.mitm:clear() end)

  local function serve(more)
    local options = { cluster = cluster, policy = policy, workers = 1, timeouts = TIMEOUTS }
    for name, value in pairs(more or {}) do options[name] = value end
    return kit.gateway(options)
  end

  local function wait_service(way)
    kit.wait_for(function()
      local reply = way:call("SET", key "ready", "1")
      return reply == "OK", kit.show(reply)
    end, 5, "service")
  end

  --- Spoils the next connections, and waits until a user is told so; then all is well again. The user's error.
  local function told(way, spoil, mend, want)
    local err
    wait_service(way)
    spoil()
    master.mitm:cut "fin"
    kit.wait_for(function()
      err = way:call("INCR", key "n")
      local fits = type(err) == "table"
      for name, value in pairs(want) do fits = fits and err[name] == value end
      return fits, kit.show(err)
    end, 8, "the error")
    assert.same({ "connect", "tls", "unsent", master.address }, { err.phase, err.step, err.certainty, err.node })
    local event, lines
    kit.wait_for(function()
      lines = {}
      for _, each in ipairs(way:events()) do
        if each.phase == "connect" and each.step == "tls" and each.error == want.error then event = each end
        lines[#lines + 1] = each.line
      end
      return event, table.concat(lines, "\n")
    end, 2, "the event")
    mend()
    wait_service(way)
    return event
  end

  it("an expired certificate: certificate, and the default policy takes the node out until it has another", function()
    local function show(pair)
      assert.equal("OK", master:call("CONFIG", "SET", "tls-cert-file", pair.cert, "tls-key-file", pair.key))
    end
    finally(function() show(own.node) end)
    local way = serve { policy = "policies/default.lua", options = { wait = 0.1 } }
    wait_service(way)
    show(own.late)
    master.mitm:cut "fin"
    kit.wait_for(function()
      way:call("INCR", key "n")
      return next(way:events { step = "tls", error = "certificate", class = "down" })
    end, 8, "the event")
    local event = way:events { step = "tls", error = "certificate", class = "down" }[1]
    assert.matches("expired", event.line)
    way:wait_states(master, "failing")
    show(own.node)
    way:wait_states(master, "healthy", 8)
    wait_service(way)
  end)

  it("no certificate of ours where the node wants one", function()
    local function ask(wanted) assert.equal("OK", master:call("CONFIG", "SET", "tls-auth-clients", wanted)) end
    finally(function() ask "optional" end)
    local event = told(serve { tls = { ca = own.ca } }, function() ask "yes" end, function() ask "optional" end, { error = "certificate" })
    assert.matches("certificate required", event.line)
  end)

  it("something else than TLS: tls", function()
    local words = "-ERR max number of clients reached\r\n"
    told(serve(), function() master.mitm:rule { dir = "down", act = "inject", with = words, at = 0, on = "new" } end,
      function() master.mitm:clear() end, { error = "tls" })
  end)

  it("silence: a time-out of the handshake's own, and of one that trickles too", function()
    for _, rule in ipairs { { act = "swallow" }, { act = "trickle", bytes = 1, ms = 20 } } do
      rule.dir, rule.at, rule.on = "down", 0, "new"
      told(serve(), function() master.mitm:rule(rule) end, function() master.mitm:clear() master.mitm:cut "fin" end, { error = "timeout" })
    end
  end)

  it("a handshake cut at many bytes, either way: unsent, and well again", function()
    local way, seen = serve(), {}
    for round = 1, kit.count(24, 300) do
      wait_service(way)
      local dir = round % 2 == 0 and "up" or "down"
      master.mitm:rule { dir = dir, act = "cut", how = round % 4 < 2 and "fin" or "rst", at = kit.random.int(0, 260), on = "new", times = 1 }
      master.mitm:cut "fin"
      kit.wait_for(function()
        local reply = way:call("INCR", key "n")
        if type(reply) == "table" and reply.step == "tls" then
          assert.equal("unsent", reply.certainty)
          seen[reply.error] = true
        end
        return type(reply) == "number", kit.show(reply)
      end, 5, "service again")
      master.mitm:clear()
    end
    assert.is_true(seen.eof or seen.reset)
    seen.eof, seen.reset = nil, nil
    assert.same({}, seen)
  end)

  it("a CA that is a stranger, and a name that is another's: nothing is served, and the log says why", function()
    for _, one in ipairs { { { ca = own.stranger }, "tls certificate" },
      { { ca = own.ca, server_name = "other.test" }, "tls certificate: .*ostname mismatch" } } do
      local way = serve { tls = one[1], ready = false }
      kit.wait_for(function() return way:log():find(one[2]), way:log() end, 5, "the log to say why")
      assert.is_table((way:call("GET", key "ready")))
      way:stop()
    end
    for _, tls in ipairs { { ca = own.stranger, server_name = "other.test", verify = false }, { ca = own.ca, server_name = "node.test" } } do
      local way = serve { tls = tls }
      assert.equal("OK", (way:call("SET", key "named", "1")))
      way:stop()
    end
  end)

  -- ---- certainty ----

  local round = 0
  local function increments(n)
    local list = {}
    round = round + 1
    for i = 1, n do list[i] = { "INCR", key(("c%05d:%04d"):format(round, i)) } end
    return list
  end

  --- What was told of each, held against what was executed.
  local function check(list, replies)
    local words, became = {}, {}
    assert.equal(#list, #replies)
    for i, one in ipairs(list) do words[i] = { "GET", one[2] } end
    local direct = master:connect(5)
    local done = direct:pipeline(words)
    direct:close()
    for i, reply in ipairs(replies) do
      local times = tonumber(done[i] ~= kit.null and done[i] or 0)
      local certainty = reply == 1 and "answered" or type(reply) == "table" and reply.certainty
      local what = ("%d: %s, executed %d times"):format(i, kit.show(reply), times)
      assert.is_truthy(certainty, what)
      assert.is_true(times == (certainty == "answered" and 1 or certainty == "unsent" and 0 or math.min(times, 1)), what)
      became[certainty] = (became[certainty] or 0) + 1
    end
    return became
  end

  it("is certain: cuts in the middle of pipelines, to nodes that take their time", function()
    local way, total = serve(), {}
    local c = way:connect(20)
    for i = 1, kit.count(30, 600) do
      wait_service(way)
      local list = increments(i % 3 == 0 and 1200 or 40)
      local how = { dir = i % 2 == 0 and "down" or "up", act = "cut", how = i % 4 < 2 and "fin" or "rst" }
      for _, one in ipairs((master.mitm:connections())) do
        how.at, how.on = "+" .. kit.random.int(0, #list * 40), one.id
        master.mitm:rule(how)
      end
      local replies = assert(way:run(list, c))
      master.mitm:clear()
      for certainty, n in pairs(check(list, replies)) do total[certainty] = (total[certainty] or 0) + n end
    end
    c:close()
    print(("%d answered, %d unsent, %d unknown"):format(total.answered or 0, total.unsent or 0, total.unknown or 0))
    assert.is_true((total.answered or 0) > 0 and (total.unknown or 0) > 0)
  end)

  it("a send that stops half way: what was made no record of is unsent, the rest unknown, and nothing runs twice", function()
    local way = serve { timeouts = { dial = 0.4, tls = 0.4, write = 0.5, read = 5, total = 6 }, limits = { node_bytes = 64 * 1024 * 1024 } }
    wait_service(way)
    master.mitm:rule { dir = "up", act = "stall", at = "+1000", on = "all" }
    local list = { { "APPEND", key "half", { rep = 16000000 } }, { "INCR", key "behind" } }
    master:call("DEL", key "half", key "behind")
    local replies = assert(way:run(list))
    assert.same({ "write", "send", "timeout" }, { replies[1].phase, replies[1].step, replies[1].error }, kit.show(replies))
    assert.is_true(replies[1].certainty == "unsent" or replies[1].certainty == "unknown")
    assert.equal("unsent", replies[2].certainty)
    master.mitm:clear()
    master.mitm:cut "rst"
    assert.equal(0, master:call("EXISTS", key "behind"))
    wait_service(way)
  end)
end)
