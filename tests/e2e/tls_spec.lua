--- TLS to the nodes: everything is served over it, what goes wrong in it is an event of the step tls, and what a cut leaves
--- unsent was never executed. The nodes are real ones that speak nothing else and ask for the host's certificate.
local ffi = require "ffi"
local caps = require "tests.support.caps"
local daemon = require "tests.support.daemon"
local gateway = require "tests.support.gateway"
local kit = require "tests.support.kit"

local SLOT = 100
local TIMEOUTS = { dial = 0.4, tls = 0.4, hello = 0.4, write = 1, read = 1, total = 4 }

describe("a cluster that speaks TLS alone", function()
  local cluster, way
  setup(function()
    cluster = kit.cluster { masters = 3, replicas = 3, tls = true }
    way = kit.wayside { cluster = cluster, options = { wait = 0.1 } }
  end)

  it("is served: 10,000 commands in one pipeline, each with its own answer", function()
    local client, list = way:client(nil, 20), {}
    for i = 1, 2000 do
      local key = ("k%d"):format(i)
      list[#list + 1] = { "SET", key, "v" .. i }
      list[#list + 1] = { "GET", key }
      list[#list + 1] = { "INCRBY", key .. "n", i }
      list[#list + 1] = { "MGET", key, "absent", key }
      list[#list + 1] = { "LPUSH", key .. "n", "x" }
    end
    local replies = client:pipeline(list)
    assert.equal(10000, #replies)
    for i = 1, 2000 do
      local at = (i - 1) * 5
      assert.equal("OK", replies[at + 1])
      assert.equal("v" .. i, replies[at + 2])
      assert.equal(i, replies[at + 3])
      assert.same({ "v" .. i, kit.null, "v" .. i }, replies[at + 4])
      assert.is_true(kit.is_error(replies[at + 5], "WRONGTYPE"), kit.show(replies[at + 5]))
    end
  end)

  it("is served: values of 1 MiB in both directions, many at once, and transactions", function()
    local client, list, values = way:client(nil, 20), {}, {}
    for i = 1, 12 do
      values[i] = (("%07d\n"):format(i * 7919)):rep(131072)
      list[i] = { "SET", "big" .. i, values[i] }
      list[12 + i] = { "GET", "big" .. i }
    end
    local replies = client:pipeline(list)
    for i = 1, 12 do
      assert.equal("OK", replies[i])
      assert.is_true(replies[12 + i] == values[i], "value " .. i)
    end
    assert.same({ "OK", "QUEUED", { 1 } }, client:pipeline { { "MULTI" }, { "INCR", "once" }, { "EXEC" } })
  end)

  it("holds what a client that speaks TLS itself reads", function()
    assert.equal("OK", way:call("SET", kit.key_in(SLOT, "seen"), "here"))
    local own, master = cluster.certificates, cluster:master_of(SLOT)
    local status, text = kit.run { "redis-cli", "-h", "127.0.0.1", "-p", master.port, "--tls", "--cacert", own.ca, "--cert", own.client.cert,
      "--key", own.client.key, "GET", kit.key_in(SLOT, "seen") }
    assert.equal(0, status, text)
    assert.equal("here\n", text)
    -- And in plain nobody gets a word.
    local plain = kit.connect(master.address, 1)
    assert.not_equal("PONG", plain:call "PING")
    plain:close()
  end)

  it("is served by libwayside inside a program", function()
    ffi.cdef [[
      struct way_host;
      struct way_host_error { char text[1024]; };
      struct way_host_setup { const char *file, *text, *policy; void *verdict, *event, *arg; };
      struct way_host_command { int argc; const char *const *argv; const size_t *lengths; };
      struct way_host_result { const struct redisReply *reply; const char *error; const char *more[7]; };
      typedef void way_host_done_fn(void *arg, const struct way_host_result *results, unsigned count);
      int way_host_new(struct way_host **, void *, const struct way_host_setup *, struct way_host_error *);
      void way_host_free(struct way_host *);
      long long way_host_submit(struct way_host *, const struct way_host_command *, unsigned, double, way_host_done_fn *, void *,
        struct way_host_error *);
      int way_host_ready(struct way_host *);
      void way_host_run(struct way_host *);
    ]]
    local lib = ffi.load(gateway.library)
    local place, failure = ffi.new "struct way_host *[1]", ffi.new "struct way_host_error"
    local setup_ = ffi.new "struct way_host_setup"
    local text = "return " .. daemon.source { cluster = { seeds = cluster:seeds(), tls = cluster:tls() }, log = { level = "error" } }
    setup_.text = text
    assert.equal(0, lib.way_host_new(place, nil, setup_, failure), ffi.string(failure.text))
    local host = place[0]
    local run = function() lib.way_host_run(host) end
    jit.off(run) -- it calls back
    kit.wait_for(function() run() return lib.way_host_ready(host) == 1 end, 5, "the topology")
    local argv = ffi.new("const char *[3]", { "SET", kit.key_in(SLOT, "inside"), "a program" })
    local result
    local done = ffi.cast("way_host_done_fn *", function(_, results, count)
      result = { count, results[0].error ~= nil and ffi.string(results[0].error) or "none" }
    end)
    local command = ffi.new("struct way_host_command", { 3, argv, nil })
    assert.is_true(lib.way_host_submit(host, command, 1, 0, done, nil, failure) > 0)
    kit.wait_for(function() run() return result end, 5, "the reply")
    lib.way_host_free(host)
    done:free()
    assert.same({ 1, "none" }, result)
    assert.equal("a program", way:call("GET", kit.key_in(SLOT, "inside")))
  end)

  it("passes through a failover: the replica serves, and the old master is found by a probe", function()
    local master = cluster:master_of(SLOT)
    assert.equal("OK", way:call("SET", kit.key_in(SLOT, "kept"), "1"))
    master:kill()
    kit.wait_for(function()
      local reply = way:call("SET", kit.key_in(SLOT, "kept"), "2")
      return reply == "OK", kit.show(reply)
    end, 10, "the replica to take over")
    way:wait_state(master, "failing")
    assert.equal("2", way:call("GET", kit.key_in(SLOT, "kept")))
    master:restart()
    way:wait_state(master, "healthy", 10)
    local probe = way:wait_event { kind = "probe", node = master.address }
    assert.is_truthy(probe, way:show_events())
  end)

  it("that is frozen is found by the read's deadline", function()
    local victim = cluster:master_of(300)
    local own = kit.wayside { cluster = cluster, timeouts = TIMEOUTS }
    local client = own:client(nil, 5)
    assert.equal("OK", client:call("SET", kit.key_in(300, "f"), "1"))
    victim:freeze()
    finally(function() victim:thaw() cluster:wait_ok() end)
    assert.is_true(kit.is_error(client:call("INCR", kit.key_in(300, "f")), "WAYSIDE timeout"))
    own:wait_event { phase = "read", step = "wait", error = "timeout" }
  end)
end)

describe("TLS that goes wrong", function()
  local cluster, master, policy, own
  setup(function()
    cluster = kit.cluster { masters = 3, replicas = 0, tls = true, auth_clients = "optional", front = "mitm" }
    master, own = cluster:master_of(SLOT), cluster.certificates
    policy = kit.bare_policy()
  end)
  after_each(function() master.mitm:clear() end)

  local function serve(more)
    local options = { cluster = cluster, policy = policy, workers = 1, timeouts = TIMEOUTS, how = "tcp",
      limits = { node_bytes = 64 * 1024 * 1024, client_inflight = 100000 } }
    for name, value in pairs(more or {}) do options[name] = value end
    return kit.wayside(options)
  end

  local function wait_service(client)
    kit.wait_for(function()
      local reply = client:call("SET", kit.key_in(SLOT, "ready"), "1")
      return reply == "OK", kit.show(reply)
    end, 5, "service")
  end

  --- Spoils the next connections, and waits until the policy is told so; then all is well again.
  local function told(way, spoil, mend, want)
    local client = way:client(nil, 10)
    wait_service(client)
    spoil()
    master.mitm:cut "fin"
    local error_words
    kit.wait_for(function()
      local reply = client:call("INCR", kit.key_in(SLOT, "n"))
      error_words = kit.show(reply)
      return #way:events(want) > 0, error_words .. "\n" .. way:show_events()
    end, 8, "the event")
    mend()
    wait_service(client)
    return way:events(want)[1]
  end

  it("an expired certificate: certificate, and the default policy takes the node out until it has another", function()
    local function show(pair)
      assert.equal("OK", master:call("CONFIG", "SET", "tls-cert-file", pair.cert, "tls-key-file", pair.key))
    end
    finally(function() show(own.node) end)
    local way = serve { policy = "policies/default.lua", options = { wait = 0.1 } }
    local event = told(way, function() show(own.late) end, function()
      way:wait_state(master, "failing")
      assert.equal("certificate", way:node(master).reason)
      show(own.node)
      way:wait_state(master, "healthy", 8)
    end, { phase = "connect", step = "tls", error = "certificate", class = "down" })
    assert.matches("expired", event.message)
  end)

  it("an expired certificate of a replica costs no read: it is out until it has another, and the log says why", function()
    local own_cluster = kit.cluster { masters = 1, replicas = 1, tls = true }
    local first, replica, late = own_cluster:node(1), own_cluster:node(2), own_cluster.certificates
    local spread = kit.file("spread.lua", [[
      local wayside = require "wayside"
      return wayside.policy { name = "spread", pick = "random", options = { wait = { default = 0.1 } } }
    ]])
    local reader = kit.wayside { cluster = own_cluster, policy = spread, workers = 2, timeouts = TIMEOUTS }
    local client = reader:client(nil, 10)
    assert.equal("OK", client:call("SET", "k", "v"))
    assert.equal(1, first:call("WAIT", 1, 2000))
    reader:wait_state(replica, "healthy", 5)
    local function show(pair)
      assert.equal("OK", replica:call("CONFIG", "SET", "tls-cert-file", pair.cert, "tls-key-file", pair.key))
    end
    show(late.late)
    replica:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    kit.wait_for(function()
      for _ = 1, 20 do assert.equal("v", kit.show(client:call("GET", "k"))) end
      return reader:node(replica).state == "failing"
    end, 5, "the replica to be out")
    assert.equal("certificate", reader:node(replica).reason)
    assert.matches("to=failing reason=certificate", reader:log())
    show(late.node)
    reader:wait_state(replica, "healthy", 8)
  end)

  it("no certificate of ours where the node wants one", function()
    local function ask(wanted) assert.equal("OK", master:call("CONFIG", "SET", "tls-auth-clients", wanted)) end
    finally(function() ask "optional" end)
    local way = serve { tls = { ca = own.ca } }
    local event = told(way, function() ask "yes" end, function() ask "optional" end,
      { phase = "connect", step = "tls", error = "certificate" })
    assert.matches("certificate required", event.message)
  end)

  it("something else than TLS: tls", function()
    local words = "-ERR max number of clients reached\r\n"
    told(serve(), function() master.mitm:rule { dir = "down", act = "inject", with = words, at = 0, on = "new" } end,
      function() master.mitm:clear() end,
      { phase = "connect", step = "tls", error = "tls" })
  end)

  it("silence: a time-out of the handshake's own, and of one that trickles too", function()
    for _, rule in ipairs { { act = "swallow" }, { act = "trickle", bytes = 1, ms = 20 } } do
      rule.dir, rule.at, rule.on = "down", 0, "new"
      told(serve(), function() master.mitm:rule(rule) end, function() master.mitm:clear() master.mitm:cut "fin" end,
        { phase = "connect", step = "tls", error = "timeout" })
    end
  end)

  it("a handshake cut at many bytes, either way", function()
    local way = serve()
    local client, seen = way:client(nil, 10), {}
    for round = 1, kit.count(16, 300) do
      wait_service(client)
      local dir = round % 2 == 0 and "up" or "down"
      master.mitm:rule { dir = dir, act = "cut", how = round % 4 < 2 and "fin" or "rst",
        at = kit.random.int(0, 260), on = "new", times = 1 }
      master.mitm:cut "fin"
      kit.wait_for(function()
        local reply = client:call("INCR", kit.key_in(SLOT, "n"))
        return type(reply) == "number", kit.show(reply)
      end, 5, "service again")
      master.mitm:clear()
    end
    for _, event in ipairs(way:events { phase = "connect", step = "tls" }) do seen[event.error] = true end
    assert.is_true(seen.eof or seen.reset, way:show_events())
    seen.eof, seen.reset = nil, nil
    assert.same({}, seen)
  end)

  it("a CA that is a stranger, and a name that is another's: no topology, and the log says why", function()
    for _, one in ipairs { { { ca = own.stranger }, "tls certificate" },
      { { ca = own.ca, server_name = "other.test" }, "tls certificate: .*ostname mismatch" } } do
      local way = serve { tls = one[1], ready = false }
      kit.wait_for(function() return way:log():find(one[2]), way:log() end, 5, "the log to say why")
    end
    local believed = serve { tls = { ca = own.stranger, server_name = "other.test", verify = false } }
    assert.equal("PONG", believed:call "PING")
    assert.equal("OK", serve { tls = { ca = own.ca, server_name = "node.test" } }:call("SET", kit.key_in(SLOT, "named"), "1"))
  end)

  -- ---- certainty ----

  local round = 0
  local function increments(n)
    local list = {}
    round = round + 1
    for i = 1, n do list[i] = { "INCR", kit.key_in(SLOT, ("c%05d:%04d"):format(round, i)) } end
    return list
  end

  local function encode(list)
    local parts = {}
    for i, words in ipairs(list) do parts[i] = kit.resp.encode(words) end
    return table.concat(parts)
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
      local certainty = reply == 1 and "answered" or kit.is_error(reply, "WAYSIDE ") and reply.err:match "certainty=(%a+)"
      local what = ("%d: %s, executed %d times"):format(i, kit.show(reply), times)
      assert.is_truthy(certainty, what)
      assert.is_true(times == (certainty == "answered" and 1 or certainty == "unsent" and 0 or math.min(times, 1)), what)
      became[certainty] = (became[certainty] or 0) + 1
    end
    return became
  end

  it("is certain: cuts in the middle of pipelines, with writes in pieces of records", function()
    local capping = caps.prepare(kit.folder())
    local way, total = serve { env = capping.env }, {}
    local client = way:client(nil, 10)
    for i = 1, kit.count(36, 1500) do
      wait_service(client)
      local list = increments(i % 3 == 0 and 1200 or 40)
      local length = #encode(list)
      local capped = i % 2 == 1
      if capped then
        -- No more is taken than that, then the connection is lost: in a record, which needs more bytes than its commands.
        capping:set { port = master.port, left = kit.random.int(0, length), failure = "reset", times = 1,
          per_call = kit.random.one { 0, 0, 7, 1000 } }
      else
        for _, one in ipairs((master.mitm:connections())) do
          master.mitm:rule { dir = i % 4 == 0 and "down" or "up", act = "cut", how = i % 8 < 4 and "fin" or "rst",
            at = "+" .. kit.random.int(0, length), on = one.id }
        end
      end
      local replies = client:exchange(encode(list), #list, 10)
      capping:clear()
      master.mitm:clear()
      local became = check(list, replies)
      -- Forty are one record.
      if capped and #list == 40 then assert.same({ unsent = 40 }, became) end
      for certainty, n in pairs(became) do total[certainty] = (total[certainty] or 0) + n end
    end
    print(("%d answered, %d unsent, %d unknown"):format(total.answered or 0, total.unsent or 0, total.unknown or 0))
    assert.is_true(total.answered > 0 and total.unsent > 0 and total.unknown > 0)
  end)

  it("writes in pieces of any size are whole in the end", function()
    local capping = caps.prepare(kit.folder())
    local way = serve { env = capping.env }
    local client = way:client(nil, 10)
    for _, per_call in ipairs { 1, 3, 17, 1000 } do
      wait_service(client)
      capping:set { port = master.port, per_call = per_call }
      local list = increments(per_call == 1 and 40 or 800)
      assert.same({ answered = #list }, check(list, client:exchange(encode(list), #list, 10)))
      capping:clear()
    end
  end)
end)

describe("a configuration of TLS", function()
  it("that can't be used is refused, with its field", function()
    local own = require "tests.support.certificates".make(kit.folder())
    for _, one in ipairs {
      { { ca = own.folder .. "/none" }, "cluster%.tls%.ca: .*none: " },
      { { ca = own.client.key }, "cluster%.tls%.ca: " },
      { { ca = own.ca, cert = own.client.cert }, "cluster%.tls%.key: expected a file" },
      { { ca = own.ca, cert = own.client.cert, key = own.node.key }, "cluster%.tls%.key: .*mismatch" },
      { { ca = own.ca, cert = own.client.cert, key = own.locked }, "cluster%.tls%.key: .*locked.key: " },
      { { certs = "x" }, "cluster%.tls%.certs: unknown key, did you mean cluster%.tls%.cert%?" },
      { { verify = "no" }, "cluster%.tls%.verify: expected true or false" },
      { 1, "cluster%.tls: expected true, false or a table, got 1" },
    } do
      local way = kit.prepared { seeds = { "127.0.0.1:1" }, tls = one[1] }
      local status, text = way:refused()
      assert.equal(1, status, text)
      assert.matches(way.file:gsub("%p", "%%%0") .. ".*" .. one[2], text)
    end
    local way = kit.prepared { seeds = { "127.0.0.1:1" }, flags = { "--tls-ca", own.ca, "--tls-verify", "maybe" } }
    local status, text = way:refused()
    assert.equal(2, status, text)
    assert.matches("%-%-tls%-verify: expected true or false", text)
  end)
end)
