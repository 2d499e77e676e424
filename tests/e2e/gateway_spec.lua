--- resty.wayside in a real nginx with two workers, before a real cluster with nodes that die, freeze and come back.
local socket = require "socket"
local kit = require "tests.support.kit"
local gateway = require "tests.support.gateway"
local process = require "tests.support.process"

local FAST = { dial = 0.2, read = 0.3, total = 2 }
local PATIENT = { dial = 1, read = 3, total = 6 } -- where no node is at fault, and the machine may be busy

local function fine(body, status) return status == 200 and not body:find "[!?]" end

--- Requests without end in three children, each on a connection of its own; :stop() tells how many there were and what
--- went wrong with any: "bad" with the HTTP status and body, or with what became of the connection.
---@param good function|nil whether (body, status) is as it must be; nil: no command failed
local function load_on(way, commands, good)
  local path, files, children = gateway.path(commands), {}, {}
  for i = 1, 3 do
    local file = ("%s/load-%d"):format(kit.folder(), kit.random.int(1, 1e9))
    files[i] = file
    children[i] = process.fork(function()
      local out = assert(io.open(file, "w"))
      out:setvbuf "line"
      while not process.exists(file .. ".end") do
        local body, status = way:get(path, 5)
        if body and (good or fine)(body, status) then out:write "good\n"
        else out:write("bad ", tostring(status), " ", (tostring(body):gsub("\n", ";")), "\n") end
      end
      out:close()
    end, { name = "load" })
    kit.owned(children[i])
  end
  return {
    children = #children,
    count = function()
      local n = 0
      for _, file in ipairs(files) do n = n + select(2, (process.read_file(file) or ""):gsub("good\n", "")) end
      return n
    end,
    stop = function(self)
      for _, file in ipairs(files) do process.write_file(file .. ".end", "") end
      local bad = {}
      for i, child in ipairs(children) do
        assert.is_true(child:wait(10), "the load does not end")
        for line in (process.read_file(files[i]) or ""):gmatch "bad [^\n]+" do bad[#bad + 1] = line end
      end
      return self.count(), bad
    end,
  }
end

--- Kills one worker; once nginx has another in its place this returns.
local function replace_worker(way, which)
  local workers = way:workers()
  way:kill_worker(workers[which])
  kit.wait_for(function()
    local now = way:workers()
    return #now == 2 and (now[1] ~= workers[1] or now[2] ~= workers[2])
  end, 5, "a new worker")
end

--- Of `kills` killed workers' requests each may have lost its connection, and nothing else may have gone wrong with any.
local function assert_only_cut_off(bad, load, kills)
  for _, line in ipairs(bad) do
    assert.is_nil(line:match "^bad %d" or line:match "timeout", "a request that was answered, and not as it must be: " .. line)
  end
  assert.is_true(#bad <= kills * load.children, table.concat(bad, "\n"))
end

describe("resty.wayside", function()
  local cluster
  setup(function() cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 } end)

  describe("on a cluster that is well", function()
    local way
    setup(function()
      way = kit.gateway { cluster = cluster, timeouts = FAST, limits = { reply_bytes = 1048576 }, locations = [[
        location = /header { return 200; header_filter_by_lua_block {
          local _, err = wayside:pipeline { { "GET", "k" } }
          ngx.header["X-Told"] = err } }
        location = /log { content_by_lua_block { ngx.say "ok" } log_by_lua_block {
          ngx.log(ngx.NOTICE, "log told: ", select(2, wayside:pipeline { { "GET", "k" } })) } }
        location = /body { content_by_lua_block { ngx.say "x" } body_filter_by_lua_block {
          local _, err = wayside:pipeline { { "GET", "k" } }
          if ngx.arg[1] ~= "" then ngx.arg[1] = err .. "\n" end } }
        location = /set { set_by_lua_block $told { return (select(2, wayside:pipeline { { "GET", "k" } })) } return 200 $told; }
        location = /early { rewrite_by_lua_block { wayside:call("SET", "early", "rewritten") }
          access_by_lua_block { wayside:call("APPEND", "early", ", let in") }
          content_by_lua_block { ngx.say((wayside:call("GET", "early"))) } }
        location = /late { content_by_lua_block {
          ngx.timer.at(0, function() late = wayside:call("SET", "late", "x") end)
          for _ = 1, 100 do
            if late then break end
            ngx.sleep(0.01)
          end
          ngx.say(late) } }
        location = /busy { content_by_lua_block {
          local clock = os.clock
          local key, slow, bad = ngx.unescape_uri(ngx.var.arg_key), 0.4, 0
          local takes_a_while = "for i = 1, 5000000 do end return 1" -- for the node
          for _ = 1, 5 do
            local began = clock()
            while clock() - began < slow do end -- nginx's idea of the time is that old now
            local _, err = wayside:call("EVAL", takes_a_while, 1, key)
            bad = bad + (err and 1 or 0)
            if bad == 1 then ngx.say(tostring(err)) end
          end
          ngx.say(bad, " failed") } }
        location = /phase { content_by_lua_block { ngx.say(init_told, "; ", in_init) } }
        location = /raise { content_by_lua_block {
          for _, bad in ipairs { "x", {}, { {} }, { "GET", true }, { { "GET", {} } } } do
            ngx.say(select(2, pcall(wayside.pipeline, wayside, { bad })))
          end } }
        location = /both { content_by_lua_block {
          local threads = {}
          for i = 1, 20 do
            threads[i] = ngx.thread.spawn(function() return wayside:call("GET", "{" .. i .. "}both") end)
          end
          for i = 1, 20 do
            local _, value = ngx.thread.wait(threads[i])
            ngx.print(value == ngx.null and "." or tostring(value))
          end } }
        location = /cut { lua_check_client_abort on; content_by_lua_block {
          ngx.on_abort(function() ngx.exit(499) end)
          wayside:pipeline { { "GET", ngx.unescape_uri(ngx.var.arg_key) } } } }
      ]], init = 'in_init = select(2, wayside:pipeline { { "GET", "k" } })',
        init_worker = 'wayside:start() init_told = select(2, wayside:pipeline { { "GET", "k" } })' }
    end)

    it("answers with values of every kind, in the order of the commands", function()
      local pairs_of = { { "SET", "k", "v\r\n\0\255" }, { "GET", "k" }, { "DEL", "n" }, { "INCR", "n" }, { "GET", "none" }, { "DEL", "l" },
        { "RPUSH", "l", "a", 2 }, { "LRANGE", "l", 0, -1 }, { "MGET", "k", "n", "none" }, { "LRANGE", "none", 0, -1 },
        { "SETEX", "e", 100, "" }, { "GET", "e" }, { "EVAL", "return {1,{'a',false}}", 0 } }
      pairs_of[1][3] = "v w"
      local replies = assert(way:run(pairs_of))
      replies[3], replies[6] = nil, nil
      assert.same({ [1] = "OK", [2] = "v w", [4] = 1, [5] = gateway.null, [7] = 2, [8] = { "a", "2" },
        [9] = { "v w", "1", gateway.null }, [10] = {}, [11] = "OK", [12] = "", [13] = { 1, { "a", gateway.null } } }, replies)
    end)

    it("tells an error reply as an error with its words, and what it does not serve", function()
      local replies = assert(way:run { { "SET", "k", "v" }, { "INCR", "k" }, { "NOSUCH", "x" }, { "WATCH", "k" }, { "GET" },
        { "RENAME", "a", "b" }, { "BLPOP", "k", 0 }, { "GET", "k" },
        { "CLIENT", "REPLY", "SKIP" }, { "SUBSCRIBE", "k" } })
      assert.equal("v", replies[8])
      for i, words in pairs { [2] = "^ERR value is not an integer", [3] = "^ERR unknown command 'NOSUCH'", [4] = "does not serve 'watch' here",
        [5] = "^ERR wrong number of arguments", [6] = "^CROSSSLOT", [7] = "does not serve 'blpop'",
        [9] = "does not serve 'client", [10] = "does not serve 'subscribe'" } do
        assert.is_truthy(tostring(replies[i].message):find(words), kit.show(replies[i]))
        assert.same({ "read", "reply", "reply", "answered", "answer" },
          { replies[i].phase, replies[i].step, replies[i].error, replies[i].certainty, replies[i].class })
      end
    end)

    it("runs MULTI to EXEC as one, in its place among the others of its slot, and answers PING and ECHO itself", function()
      local replies = assert(way:run { { "PING" }, { "SET", "{t}n", 1 }, { "MULTI" }, { "INCR", "{t}n" }, { "LPUSH", "{t}n", "x" },
        { "GET", "{t}n" }, { "PING", "in" }, { "EXEC" }, { "INCR", "{t}n" }, { "ECHO", "said" }, { "MULTI" }, { "SET", "{t}n", 9 },
        { "DISCARD" }, { "GET", "{t}n" } })
      local inner = table.remove(replies[8], 2)
      assert.same({ "PONG", "OK", "OK", "QUEUED", "QUEUED", "QUEUED", "QUEUED", { 2, "2", "in" }, 3, "said", "OK", "QUEUED", "OK", "3" },
        replies)
      assert.matches("^WRONGTYPE", inner.message)
      for _, text in pairs(way:on_each "/status") do assert.is_nil(text:match "inflight=[1-9]", text) end
    end)

    it("refuses a transaction over two slots, or without an end, and executes nothing of it", function()
      local master = cluster:master_of(kit.slot_of "{t}left")
      master:call("DEL", "{t}left")
      local replies = assert(way:run { { "MULTI" }, { "SET", "{t}left", 1 }, { "SET", "{u}left", 1 }, { "EXEC" } })
      assert.matches("^CROSSSLOT", replies[3].message)
      assert.matches("^EXECABORT", replies[4].message)
      replies = assert(way:run { { "MULTI" }, { "SET", "{t}left", 1 } })
      assert.matches("MULTI without EXEC: nothing was executed", replies[1].message)
      assert.equal(0, master:call("EXISTS", "{t}left"))
    end)

    it("never mixes transactions of many requests: each sees its own writes and no others", function()
      local unit = {}
      for i = 1, 8 do unit[i] = { { "MULTI" }, { "SET", "{t}own", i }, { "GET", "{t}own" }, { "INCR", "{t}own" }, { "EXEC" } } end
      local children = {}
      for i = 1, 8 do
        children[i] = process.fork(function()
          local c = way:connect(5)
          for _ = 1, 25 do
            local replies = assert(way:run(unit[i], c))
            assert(kit.show(replies[5]) == kit.show { "OK", tostring(i), i + 1 }, kit.show(replies))
          end
        end, { name = "units" })
        kit.owned(children[i])
      end
      for _, child in ipairs(children) do
        assert.is_true(child:wait(20))
        assert.equal(0, child.status)
      end
    end)

    it("takes large values and long pipelines whole", function()
      cluster:master_of(kit.slot_of "big"):call("SET", "big", ("x"):rep(700000))
      local value = way:call("GET", "big")
      assert.equal(700000, #value)
      local commands = {}
      for i = 1, 300 do commands[i] = { "SET", "many:" .. i, i } end
      local c = way:connect()
      for i, reply in ipairs(assert(way:run(commands, c))) do assert.equal("OK", reply, i) end
      for i = 1, 300 do commands[i] = { "GET", "many:" .. i } end
      for i, reply in ipairs(assert(way:run(commands, c))) do assert.equal(tostring(i), reply) end
      c:close()
    end)

    it("serves the light threads of one request at once", function()
      assert.equal(("."):rep(20), (way:get "/both"))
    end)

    it("keeps its connections: a thousand requests dial a few times", function()
      local c = way:connect()
      for i = 1, kit.count(300, 1000) do assert.equal("OK", (assert(way:run({ { "SET", "k" .. i % 10, i } }, c)))[1]) end
      c:close()
      for _, text in pairs(way:on_each "/status") do
        local dials = tonumber(text:match "dials_total=(%d+)" or 0)
        assert.is_true(dials < 40, text)
        assert.is_nil(text:match "inflight=[1-9]", text)
      end
    end)

    it("says so where nginx has no sockets, and what is no command", function()
      assert.is_truthy((way:get "/phase"):match "no sockets in the phase init_worker; nginx has no sockets in the phase init\n")
      assert.matches("no sockets in the phase set", (way:get "/set"))
      assert.matches("no sockets in the phase body_filter", (way:get "/body"))
      assert.equal("ok\n", (way:get "/log"))
      kit.wait_for(function()
        return way:log():find("log told: nginx has no sockets in the phase log", 1, true), way:log()
      end, 5, "the log phase's words")
      local c = way:connect()
      c.sock:send "GET /header HTTP/1.0\r\n\r\n"
      local text = c.sock:receive "*a"
      assert.is_truthy(text:match "X%-Told: nginx has no sockets in the phase header_filter", text)
      local raised = way:get "/raise"
      for _, words in ipairs { "command 1: expected a list of words, got string", "command 1: expected at least one word",
        "expected text or number as word 1, got table", "expected text or number as word 2, got boolean" } do
        assert.is_truthy(raised:find(words, 1, true), raised)
      end
    end)

    it("serves where nginx has sockets: rewrite, access, content, timers", function()
      assert.equal("rewritten, let in\n", (way:get "/early"))
      assert.equal("OK\n", (way:get "/late"))
    end)

    it("does not take a handler's own slowness for a node's: nginx's clock is as old as its last event", function()
      local key = kit.key_in(0, "busy")
      assert.equal("OK", (way:call("SET", key, 0)))
      assert.equal("0 failed\n", (way:get("/busy?key=" .. key:gsub("{", "%%7B"):gsub("}", "%%7D"))))
      assert.same({}, way:events { error = "timeout" })
    end)

    it("is not hurt by a client that leaves in the middle", function()
      local key = kit.key_in(0, "frozen")
      local master = cluster:master_of(0)
      finally(function() master:thaw() end)
      master:freeze()
      for _ = 1, 20 do
        local c = way:connect()
        c.sock:send("GET /cut?key=" .. key:gsub("{", "%%7B"):gsub("}", "%%7D") .. " HTTP/1.1\r\nHost: t\r\n\r\n")
        socket.sleep(0.002)
        c:close()
      end
      master:thaw()
      kit.wait_for(function()
        for _, text in pairs(way:on_each "/status") do
          if text:match "inflight=[1-9]" then return false, text end
        end
        local reply = way:call("GET", key)
        return reply == gateway.null, kit.show(reply)
      end, 10, "all that was cut off to be given back")
      cluster:wait_ok()
    end)
  end)

  describe("when a node fails", function()
    it("rides through a killed master; each worker obeys the one mark, and says why", function()
      cluster:wait_ok()
      local way = kit.gateway { cluster = cluster, timeouts = { dial = 0.2, read = 0.3, total = 8 }, policy = "policies/ride_through.lua",
        segment = kit.folder() .. "/ride.seg" }
      local key = kit.key_in(0, "ride")
      local victim = cluster:master_of(0)
      finally(function() victim:restart() end)
      assert.equal("OK", (way:call("SET", key, 0)))
      victim:kill()
      local c = way:connect(20)
      for i = 1, 50 do
        local replies = assert(way:run({ { "SET", key, i }, { "GET", key } }, c))
        assert.same({ "OK", tostring(i) }, replies)
      end
      way:wait_states(victim, "failing")
      local why = way:get("/why?node=" .. victim.address)
      assert.is_truthy(why and why:find("failing", 1, true), why)
    end)

    it("an open circuit answers in microseconds, with the whole story", function()
      cluster:wait_ok()
      local way = kit.gateway { cluster = cluster, timeouts = FAST, policy = "policies/fail_fast.lua", options = { wait = 30 },
        locations = [[
        location = /fast { content_by_lua_block {
          ngx.update_time() local began, n, failed = ngx.now(), 2000, 0
          for _ = 1, n do
            local _, err = wayside:call("GET", ngx.unescape_uri(ngx.var.arg_key))
            failed = failed + (err and 1 or 0)
          end
          ngx.update_time() ngx.say((ngx.now() - began) / n * 1e6, " ", failed) } }
        ]] }
      local victim = cluster:master_of(0)
      finally(function() victim:thaw() end)
      local key = kit.key_in(0, "fast")
      victim:freeze()
      local err = way:call("SET", key, "x")
      -- Its own time-out, or that of a probe: then the mark dropped the connection.
      assert.is_true(err.error == "timeout" and err.class == "slow" or err.error == "reset" and err.class == "down", kit.show(err))
      assert.same({ "read", "wait", "unknown", victim.address, "none", "failing" },
        { err.phase, err.step, err.certainty, err.node, err.verdict, err.state })
      err = way:call("SET", key, "x")
      assert.same({ "connect", "route", "no_node", "unsent", "local", victim.address },
        { err.phase, err.step, err.error, err.certainty, err.class, err.node })
      local us, failed = (way:get("/fast?key=" .. key:gsub("{", "%%7B"):gsub("}", "%%7D"))):match "([%d.]+) (%d+)"
      assert.equal("2000", failed)
      print(("an open circuit: %.1f us"):format(us))
      assert.is_true(tonumber(us) < 200, us)
      victim:thaw()
      cluster:wait_ok()
    end)

    it("asks the nodes at once: two that are silent cost one time-out", function()
      cluster:wait_ok()
      local way = kit.gateway { cluster = cluster, timeouts = { dial = 0.2, read = 0.5, total = 4 }, policy = "policies/fail_fast.lua",
        options = { wait = 30 } }
      local a, b = cluster:master_of(0), cluster:master_of(16383)
      local commands = { { "SET", kit.key_in(0, "at once"), 1 }, { "SET", kit.key_in(16383, "at once"), 1 }, { "PING" } }
      assert.same({ "OK", "OK", "PONG" }, assert(way:run(commands)))
      finally(function() a:thaw() b:thaw() end)
      a:freeze()
      b:freeze()
      local began = socket.gettime()
      local replies = assert(way:run(commands))
      local took = socket.gettime() - began
      assert.same({ a.address, "unknown" }, { replies[1].node, replies[1].certainty })
      assert.same({ b.address, "unknown" }, { replies[2].node, replies[2].certainty })
      assert.equal("PONG", replies[3])
      assert.is_true(took < 0.9, took)
      a:thaw()
      b:thaw()
      cluster:wait_ok()
    end)

    it("reads leave a frozen replica for those that answer", function()
      cluster:wait_ok()
      local policy = kit.file("replicas.lua", [[
        local wayside = require "wayside"
        return wayside.policy { name = "replicas", pick = "random",
          mark = function(_, _, e) if e.error then return { state = "failing", seconds = 60, reason = e.error } end end,
          backoff = function(_, _, e) if e.attempt < 3 then return { retry = "other" } end end,
          probe = function() end }
      ]])
      local way = kit.gateway { cluster = cluster, timeouts = FAST, policy = policy }
      local key = kit.key_in(0, "read")
      assert.equal("OK", (way:call("SET", key, "v")))
      local replica = cluster:replicas_of(0)[1]
      finally(function() replica:thaw() end)
      kit.wait_for(function() return replica:call("EXISTS", key) == 1 or replica:info "master_repl_offset" end, 5, "replication")
      replica:freeze()
      for _ = 1, 40 do assert.equal("v", (way:call("GET", key))) end
      way:wait_states(replica, "failing")
      local began = socket.gettime()
      for _ = 1, 40 do assert.equal("v", (way:call("GET", key))) end
      assert.is_true(socket.gettime() - began < 1, "the frozen replica is still asked")
      replica:thaw()
      cluster:wait_ok()
    end)

    it("follows MOVED and ASK while a slot moves", function()
      cluster:wait_ok()
      local way = kit.gateway { cluster = cluster, timeouts = { total = 5 } }
      local slot = 5
      local key = kit.key_in(slot, "moving")
      assert.equal("OK", (way:call("SET", key, "v")))
      local from, to = cluster:master_of(slot), cluster:master_of(16383)
      cluster:begin_move(slot, to)
      kit.move_keys(slot, from, to)
      assert.equal("v", (way:call("GET", key)))
      assert.same({ "v" }, assert(way:run { { "MULTI" }, { "GET", key }, { "EXEC" } })[3])
      assert.equal("OK", (way:call("SET", key, "w")))
      cluster:end_move(slot, from, to)
      for _ = 1, 10 do assert.equal("w", (way:call("GET", key))) end
      local redirects = ""
      for _, text in pairs(way:on_each "/status") do redirects = redirects .. text end
      assert.is_truthy(redirects:match 'kind="ask"', redirects)
      assert.is_truthy(redirects:match 'kind="moved"', redirects)
      cluster:move_slot(slot, from)
      cluster:wait_ok()
    end)
  end)

  describe("with a user and a password", function()
    local function on_all(...)
      for _, node in ipairs(cluster.nodes) do assert.equal("OK", node:call(...)) end
    end
    local function lock()
      for _, node in ipairs(cluster.nodes) do
        assert.equal("OK", node:call("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all"))
        assert.equal("OK", node:call("CONFIG", "SET", "masterauth", "right"))
        assert.equal("OK", node:call("CONFIG", "SET", "requirepass", "right"))
        assert.equal("OK", node:call("AUTH", "right"))
      end
      kit.owned { stop = function()
        on_all("CONFIG", "SET", "requirepass", "")
        on_all("CONFIG", "SET", "masterauth", "")
        for _, node in ipairs(cluster.nodes) do assert.equal(1, node:call("ACL", "DELUSER", "app")) end
      end }
    end
    local function serve(user, password, workers)
      return kit.gateway { cluster = cluster, timeouts = PATIENT, policy = "policies/default.lua", workers = workers,
        config = { cluster = { seeds = cluster:seeds(), user = user, password = password } } }
    end
    local function said(way, node)
      local lines = {}
      for i, event in ipairs(way:events { node = node.address }) do lines[i] = event.line end
      return table.concat(lines, "\n")
    end
    local function healthy(way, node)
      for _, state in pairs(way:states(node)) do assert.equal("healthy", state, said(way, node)) end
    end

    it("authenticates each connection, as the default user or by its name", function()
      cluster:wait_ok()
      lock()
      local key = kit.key_in(0, "auth")
      local master = cluster:master_of(0)
      for _, who in ipairs { { nil, "right", "default" }, { "app", "secret", "app" } } do
        local way = serve(who[1], who[2])
        assert.equal("OK", (way:call("SET", key, "v")))
        assert.same({ "v" }, assert(way:run { { "MULTI" }, { "GET", key }, { "EXEC" } })[3])
        local clients = master:call("CLIENT", "LIST")
        assert.is_truthy(clients:find("cmd=exec user=" .. who[3], 1, true), clients)
        way:stop()
      end
    end)

    it("a password that is wrong is the configuration's fault: told at once, no mark", function()
      cluster:wait_ok()
      lock()
      local key, elsewhere = kit.key_in(0, "auth"), kit.key_in(16383, "auth")
      local master = cluster:master_of(0)
      local way = serve("app", "secret", 2)
      assert.equal("OK", (way:call("SET", key, "v")))
      kit.rested(way, 0.6) -- each probe is over: one that is cut off would take the node out
      assert.equal("OK", master:call("ACL", "SETUSER", "app", "resetpass", ">other"))
      master:call("CLIENT", "KILL", "USER", "app")
      kit.wait_for(function()
        local err = way:call("GET", key)
        return type(err) == "table" and err.error == "auth", kit.show(err)
      end, 3, "the connections to be made anew")
      local began = socket.gettime()
      local err = way:call("SET", key, "w")
      -- Its own connection's, or that of the one before: dials are spaced.
      assert.is_true(err.step == "hello" or err.step == "queue", kit.show(err))
      assert.same({ "auth", "connect", err.step, "unsent", "config", "none", "healthy", master.address },
        { err.error, err.phase, err.step, err.certainty, err.class, err.verdict, err.state, err.node })
      assert.is_true(socket.gettime() - began < 0.25)
      kit.wait_for(function()
        return #way:events { error = "auth", step = "hello", class = "config" } > 0, said(way, master)
      end, 2, "the worker's journal to tell of it")
      healthy(way, master)
      assert.equal("OK", (way:call("SET", elsewhere, "v"))) -- the others are as they were
      assert.equal("OK", master:call("ACL", "SETUSER", "app", "resetpass", ">secret"))
      kit.wait_for(function()
        local reply = way:call("SET", key, "w")
        return reply == "OK", kit.show(reply)
      end, 3, "the password to be right again")
      healthy(way, master)
    end)
  end)

  describe("on one segment", function()
    it("a mark by a daemon is obeyed by both workers, and a worker's by the daemon", function()
      cluster:wait_ok()
      local policy = kit.file("one.lua", [[
        local wayside = require "wayside"
        return wayside.policy { name = "one",
          mark = function(_, _, e) if e.error then return { state = "failing", seconds = 60, reason = e.error } end end,
          backoff = function() end, probe = function() end }
      ]])
      local segment = kit.folder() .. "/both.seg"
      local way = kit.gateway { cluster = cluster, timeouts = FAST, policy = policy, segment = segment }
      local daemon = kit.wayside { cluster = cluster, timeouts = FAST, policy = policy, segment = segment }
      local a, b = cluster:master_of(0), cluster:master_of(16383)
      finally(function() a:thaw() b:thaw() end)
      a:freeze()
      assert.is_truthy(kit.show(daemon:call("GET", kit.key_in(0, "x"))):find "timeout")
      way:wait_states(a, "failing", 0.5)
      local err = way:call("GET", kit.key_in(0, "x"))
      assert.equal("no_node", err.error, kit.show(err))
      b:freeze()
      err = way:call("GET", kit.key_in(16383, "x"))
      assert.is_truthy(err.error == "timeout" or err.error == "no_node", kit.show(err))
      assert.equal("failing", daemon:node(b).state)
      assert.is_truthy(kit.show(daemon:call("GET", kit.key_in(16383, "x"))):find "no_node")
      a:thaw()
      b:thaw()
      cluster:wait_ok()
    end)

    it("kill -9 of a worker loses its own requests and nothing else", function()
      cluster:wait_ok()
      local way = kit.gateway { cluster = cluster, timeouts = PATIENT, segment = kit.folder() .. "/kill.seg" }
      local load = load_on(way, { { "SET", "k1", "v" }, { "GET", "k2" }, { "INCR", "k3" } })
      local kills = kit.count(4, 50)
      for round = 1, kills do
        local before = load.count()
        kit.wait_for(function() return load.count() > before + 20 end, 10, "requests between kills")
        replace_worker(way, round % 2 + 1)
      end
      local good, bad = load:stop()
      assert_only_cut_off(bad, load, kills)
      assert.is_true(good > 20 * kills, good)
      way:wait_ready()
      for _, text in pairs(way:on_each "/status") do assert.is_nil(text:match "inflight=[1-9]", text) end
    end)

    it("HUP twice under load fails no request", function()
      cluster:wait_ok()
      local way = kit.gateway { cluster = cluster, timeouts = PATIENT, segment = kit.folder() .. "/hup.seg" }
      local load = load_on(way, { { "SET", "k1", "v" }, { "GET", "k2" }, { "INCR", "k3" } })
      for _ = 1, 2 do
        local before = load.count()
        kit.wait_for(function() return load.count() > before + 50 end, 10, "requests")
        way:hup()
      end
      local good, bad = load:stop()
      assert.same({}, bad)
      assert.is_true(good > 100, good)
      way:wait_ready()
    end)

    it("reloads by epoch under load: good, broken, good again, with no failed request, for both workers and a daemon", function()
      cluster:wait_ok()
      local function version(n, body)
        return ("return require('wayside').policy { name = 'reloaded', version = '%d' %s }\n"):format(n, body or "")
      end
      local policy, segment = kit.file("reloaded.lua", version(1)), kit.folder() .. "/reload.seg"
      local way = kit.gateway { cluster = cluster, timeouts = PATIENT, policy = policy, segment = segment, user = "root", locations = [[
        location = /reload { content_by_lua_block {
          local text, why = wayside:reload()
          ngx.say(text or "refused: " .. why) } } ]] }
      local daemon = kit.wayside { cluster = cluster, timeouts = PATIENT, policy = policy, segment = segment }
      local load = load_on(way, { { "SET", "k1", "v" }, { "GET", "k2" }, { "INCR", "k3" } })
      kit.file("reloaded.lua", version(2))
      local told = way:get "/reload"
      assert.is_truthy(told:find("policy=reloaded version=2", 1, true), told)
      way:wait_version("reloaded", 2)
      kit.file("reloaded.lua", version(3, ", mrak = 1"))
      told = way:get "/reload"
      assert.is_truthy(told:find "refused: .*mrak", told)
      way:wait_version("reloaded", 2)
      kit.file("reloaded.lua", version(4))
      assert.is_truthy((way:get "/reload"):find("version=4", 1, true))
      way:wait_version("reloaded", 4)
      kit.wait_for(function()
        local shown = kit.show(daemon:ask("WAYSIDE", "POLICY"))
        return shown:find("4", 1, true), shown
      end, 5, "the daemon to follow")
      kit.wait_for(function() return load.count() > 50, load.count() end, 10, "the load to be one")
      local _, bad = load:stop()
      assert.same({}, bad)
      -- A worker that is born now has it too.
      replace_worker(way, 1)
      way:wait_version("reloaded", 4)
    end)

    it("kill -9 of a worker in the midst of its reload leaves one policy or the other in charge, and the next reload works", function()
      cluster:wait_ok()
      local function write(n)
        kit.file("halfway.lua", ("return require('wayside').policy { name = 'halfway', version = '%d' }\n"):format(n))
      end
      write(0)
      local way = kit.gateway { cluster = cluster, timeouts = PATIENT, policy = kit.folder() .. "/halfway.lua", user = "root",
        segment = kit.folder() .. "/halfway.seg", locations = [[
        location = /reload { content_by_lua_block {
          ngx.say(ngx.worker.pid()) ngx.flush(true)
          local text, why = wayside:reload()
          ngx.say(text or "refused: " .. why) } } ]] }
      --- The version that each worker has, once it is the same for all.
      local function version()
        return kit.wait_for(function()
          local seen, other
          for _, text in pairs(way:on_each "/status") do
            local each = tonumber(text:match "policy=halfway version=(%d+)")
            seen, other = seen or each, seen and seen ~= each
          end
          return not other and seen, "two policies are in charge"
        end, 5, "one version in each worker")
      end
      local halfway, there, rounds = 0, 0, kit.count(6, 60)
      for n = 1, rounds do
        write(n)
        local c = way:connect(5)
        assert(c.sock:send "GET /reload HTTP/1.1\r\nHost: t\r\n\r\n")
        local pid
        repeat pid = tonumber((assert(c.sock:receive "*l"):match "^%d%d+$")) until pid and process.exists("/proc/" .. pid)
        socket.sleep(kit.random.int(0, 1500) / 1e5)
        way:kill_worker(pid)
        local rest = select(3, c.sock:receive "*a") or ""
        c:close()
        halfway = halfway + (rest:find("version=", 1, true) and 0 or 1)
        kit.wait_for(function()
          local now = way:workers()
          return #now == 2 and now[1] ~= pid and now[2] ~= pid
        end, 5, "a new worker")
        way:wait_ready()
        local found = version()
        there = there + (found == n and 1 or 0)
        assert.is_true(found == n or found == n - 1, ("reload %d: version %s"):format(n, found))
        kit.wait_for(function()
          local told = way:get "/reload"
          return told and told:find("policy=halfway version=" .. n, 1, true), told
        end, 5, "the next reload")
        assert.equal(n, version())
        assert.equal("OK", (way:call("SET", "k", n)))
      end
      print(("%d of %d workers were killed before their reload was told; of all, %d were in charge"):format(halfway, rounds, there))
      assert.is_true(halfway > 0, "each kill came too late")
    end)

    it("what a daemon has put on probation is watched by the workers after its kill, and put back for all of them", function()
      cluster:wait_ok()
      local function version(n, body)
        return ([[
          return require("wayside").policy { name = "watched", version = "%d",
            classes = { { error = "reply", message = "MARKME", class = "busy" } },
            backoff = function() end, probe = function() end,
            mark = function(_, node, event)
              if not event.error then return end
              %s
              return { state = "suspect", seconds = 60, reason = "version%d" }
            end }]]):format(n, body or "", n)
      end
      local policy, segment = kit.file("watched.lua", version(1)), kit.folder() .. "/watched.seg"
      local way = kit.gateway { cluster = cluster, timeouts = FAST, policy = policy, segment = segment }
      local daemon = kit.wayside { cluster = cluster, timeouts = FAST, policy = policy, segment = segment,
        limits = { probation = 60, probation_errors = 4 } }
      kit.file("watched.lua", version(2, "if event.message == 'MARKME worse' then event() end"))
      local reply = daemon:ask("WAYSIDE", "RELOAD")
      assert.is_nil(reply.err, kit.show(reply))
      way:wait_version("watched", 2)
      daemon:kill()
      daemon.stopped = true
      local before = way:workers()
      for i = 1, 4 do
        local told = way:call("EVAL", "return redis.error_reply('MARKME worse')", "1", kit.key_in(i * 3000))
        assert.equal("MARKME worse", told.message, kit.show(told))
      end
      way:wait_version("watched", 1)
      assert.is_truthy(way:log():find("limits.probation_errors is 4", 1, true), way:log())
      way:call("EVAL", "return redis.error_reply('MARKME now')", "1", kit.key_in(0))
      way:wait_states(cluster:master_of(0), "suspect")
      assert.same(before, way:workers())
    end)

    it("a node is probed once for the machine, not by each worker and the daemon", function()
      cluster:wait_ok()
      local EVERY, TIMEOUT, WINDOW = 0.3, 0.1, 3
      local policy = kit.file("probed.lua", ([[
        local wayside = require "wayside"
        return wayside.policy { name = "probed",
          mark = function(_, _, e) if e.error then return { state = "failing", seconds = 60, reason = e.error } end end,
          backoff = function() end,
          probe = function(_, node) if node.state == "failing" then return { after = %g, timeout = %g } end end }
      ]]):format(EVERY, TIMEOUT))
      local segment = kit.folder() .. "/probed.seg"
      local way = kit.gateway { cluster = cluster, timeouts = FAST, policy = policy, segment = segment }
      local daemon = kit.wayside { cluster = cluster, timeouts = FAST, policy = policy, segment = segment }
      local victim = cluster:master_of(0)
      finally(function() victim:thaw() end)
      victim:freeze()
      way:call("GET", kit.key_in(0, "probed"))
      way:wait_states(victim, "failing")
      local function probes()
        local n = 0
        for _, list in ipairs { way:events { kind = "probe", node = victim.address },
          daemon:events { kind = "probe", node = victim.address } } do
          for _, event in ipairs(list) do n = n + ((event["function"] or "mark") == "mark" and 1 or 0) end
        end
        return n
      end
      local before, began = probes(), socket.gettime()
      socket.sleep(WINDOW) -- what is measured is a rate
      local n, took = probes() - before, socket.gettime() - began
      assert.is_true(n >= 3, n .. " probes")
      assert.is_true(n <= took / EVERY + 1, ("%d probes in %.1f s: more than one series"):format(n, took))
      -- Whoever holds the lease dies with it: the series goes on with another.
      daemon:kill()
      for worker = 1, 2 do
        replace_worker(way, worker)
        way:wait_ready()
      end
      local own = #way:events { kind = "probe", node = victim.address }
      kit.wait_for(function()
        local now = #way:events { kind = "probe", node = victim.address }
        return now >= own + 3, now .. " probes"
      end, 5, "probes by a worker that was born since")
      victim:thaw()
      cluster:wait_ok()
    end)

    it("a full restart finds the table as it was: a mark outlives all processes", function()
      cluster:wait_ok()
      local policy = kit.file("outlives.lua", [[
        local wayside = require "wayside"
        return wayside.policy { name = "outlives",
          mark = function(_, _, e) if e.error then return { state = "failing", seconds = 60, reason = e.error } end end,
          backoff = function() end, probe = function() end }
      ]])
      local way = kit.gateway { cluster = cluster, timeouts = FAST, policy = policy, segment = kit.folder() .. "/restart.seg" }
      local victim = cluster:master_of(0)
      finally(function() victim:thaw() end)
      victim:freeze()
      way:call("GET", kit.key_in(0, "outlives"))
      way:wait_states(victim, "failing")
      way:stop()
      way:serve()
      way:wait_ready()
      way:wait_states(victim, "failing")
      local began = socket.gettime()
      assert.equal("no_node", way:call("GET", kit.key_in(0, "outlives")).error)
      assert.is_true(socket.gettime() - began < 0.2)
      assert.equal("OK", (way:call("SET", kit.key_in(16383, "outlives"), "v")))
      victim:thaw()
      cluster:wait_ok()
    end)

    it("policy.watch: a changed file is in charge in each worker, and a broken one is not", function()
      cluster:wait_ok()
      local function version(n, body)
        return ("return require('wayside').policy { name = 'watched', version = '%d' %s }\n"):format(n, body or "")
      end
      local folder = kit.folder() .. "/watched"
      process.make_folder(folder)
      local policy = folder .. "/watched.lua"
      process.write_file(policy, version(1))
      local way = kit.gateway { cluster = cluster, timeouts = PATIENT, segment = kit.folder() .. "/watch.seg", user = "root",
        config = { policy = { file = policy, watch = true } } }
      way:wait_version("watched", 1)
      local load = load_on(way, { { "SET", "k1", "v" }, { "GET", "k2" } })
      process.write_file(policy, version(2))
      way:wait_version("watched", 2)
      process.write_file(policy, version(3, ", mrak = 1"))
      kit.wait_for(function() return way:log():find "reload=refused[^\n]*mrak" end, 5, "the broken one to be refused")
      way:wait_version("watched", 2)
      process.write_file(policy, version(4))
      way:wait_version("watched", 4)
      local good, bad = load:stop()
      assert.same({}, bad)
      assert.is_true(good > 20, good)
    end)

    it("a stale segment of a former boot is replaced at start", function()
      cluster:wait_ok()
      local segment = kit.folder() .. "/stale.seg"
      local way = kit.gateway { cluster = cluster, timeouts = FAST, segment = segment }
      way:stop()
      local text = process.read_file(segment)
      local boot = process.read_file("/proc/sys/kernel/random/boot_id"):match "%S+"
      local at = text:find(boot, 1, true)
      assert.is_number(at, "the segment names no boot")
      process.write_file(segment, text:sub(1, at - 1) .. ("0"):rep(#boot) .. text:sub(at + #boot))
      way:serve()
      way:wait_ready()
      assert.equal("OK", (way:call("SET", "k", "v")))
      assert.is_number(process.read_file(segment):find(boot, 1, true))
    end)
  end)

  describe("behind a man in the middle", function()
    local fronted
    setup(function() fronted = kit.cluster { masters = 2, replicas = 0, front = "mitm", node_timeout = 60000 } end)

    it("a reply that drips does not outlive the total time: each receive has only what is left of it", function()
      -- The node's own time is the longer one here, so that nothing but the total ends it.
      local way = kit.gateway { cluster = fronted, timeouts = { dial = 0.2, read = 3, total = 0.8 }, policy = "policies/fail_fast.lua" }
      local key = kit.key_in(0, "drip")
      local node = fronted:master_of(0)
      finally(function() node.mitm:clear() end)
      assert.equal("OK", (way:call("SET", key, ("v"):rep(1000))))
      node.mitm:rule { dir = "down", act = "trickle", match = "$1000\r\n", bytes = 10, ms = 50 }
      local began = socket.gettime()
      local err = way:call("GET", key)
      local took = socket.gettime() - began
      -- Something came every 50 ms, so no receive ever was silent for long.
      assert.same({ "unknown", "deadline" }, { err.certainty, err.error }, kit.show(err))
      assert.is_true(took > 0.75 and took < 1.1, took)
    end)

    it("a connection that the node has closed meanwhile is nobody's fault: read again, no mark, told as reused", function()
      local way = kit.gateway { cluster = fronted, timeouts = FAST, policy = "policies/default.lua" }
      local node = fronted:master_of(0)
      local get, set = { "GET", kit.key_in(0, "closed") }, { "SET", kit.key_in(0, "closed"), "v" }
      finally(function() node.mitm:clear() end)
      for _ = 1, 20 do assert.equal("OK", (way:call(unpack(set)))) end -- each worker has one that served
      -- In the moment in which a command is on its way: nginx can't have seen it before.
      node.mitm:rule { dir = "up", act = "cut", how = "fin", match = "GET", times = 1 }
      assert.equal("v", (way:call(unpack(get))))
      node.mitm:rule { dir = "up", act = "cut", how = "fin", match = "SET", times = 1 }
      local err = way:call(unpack(set))
      assert.same({ "eof", "read", "unknown", "none", "healthy" }, { err.error, err.phase, err.certainty, err.verdict, err.state },
        kit.show(err))
      local seen = {}
      kit.wait_for(function()
        seen = way:events { kind = "connection", error = "eof" }
        return #seen == 2, #seen
      end, 2, "both ends in the journals")
      for _, event in ipairs(seen) do assert.same({ "true", "0" }, { event.reused, event.replies_read }, event.line) end
      for _, state in pairs(way:states(node)) do assert.equal("healthy", state) end
    end)

    it("kill -9 of a worker in the midst of commits leaves a table that the other goes on with", function()
      local policy = kit.file("struck.lua", [[
        local wayside = require "wayside"
        return wayside.policy { name = "struck",
          classes = { { error = "reply", message = "MARKME", class = "busy" }, wayside.default.classes },
          memory = { node = { strikes = 0 } },
          mark = function(_, node, e)
            if not e.error then return end
            node.memory.strikes = node.memory.strikes + 1
            if e.error == "reply" then return { state = "suspect", seconds = 0.05, reason = "strike" } end
            return { state = "failing", seconds = 60, reason = e.error }
          end,
          backoff = function() end, probe = function() end }
      ]])
      local way = kit.gateway { cluster = fronted, timeouts = PATIENT, policy = policy, segment = kit.folder() .. "/struck.seg" }
      local key = kit.key_in(0, "strike")
      local node, other = fronted:master_of(0), kit.key_in(16383, "well")
      node:script(function(words)
        if words[2] and words[2]:find "strike" then return "-MARKME now\r\n" end
      end)
      finally(function()
        if node.scripted then node:unscript() end
        node.mitm:accept()
      end)
      -- Each of these replies is a commit of the node's memory, or of its state.
      local commands = { { "SET", other, "v" } }
      for i = 2, 9 do commands[i] = { "INCR", key } end
      local function struck(body, status)
        return status == 200 and body:find("= OK", 1, true) and select(2, body:gsub("message=MARKME", "")) == 8
      end
      local load = load_on(way, commands, struck)
      local kills = kit.count(12, 200)
      for _ = 1, kills do
        local before = load.count()
        kit.wait_for(function() return load.count() > before + 5 end, 10, "requests between kills")
        socket.sleep(kit.random.int(0, 2000) / 1e5)
        replace_worker(way, kit.random.int(1, 2))
      end
      local good, bad = load:stop()
      assert_only_cut_off(bad, load, kills)
      print(("%d workers killed in the midst of commits: %d requests served, %d cut off"):format(kills, good, #bad))
      way:wait_ready()
      for _, text in pairs(way:on_each "/status") do assert.is_nil(text:match "inflight=[1-9]", text) end
      -- Marks still pass between them.
      node:unscript()
      way:wait_states(node, "healthy")
      node.mitm:refuse()
      node.mitm:cut "rst"
      kit.wait_for(function()
        local err = way:call("GET", key)
        return type(err) == "table" and err.state == "failing", kit.show(err)
      end, 5, "a mark")
      way:wait_states(node, "failing", 0.5)
      assert.equal("OK", (way:call("SET", other, "v")))
    end)
  end)

  it("asks the name servers of its configuration", function()
    cluster:wait_ok()
    local names = kit.dns { ["redis.test"] = "127.0.0.1" }
    local way = kit.gateway { timeouts = FAST, config = { cluster = { name_servers = { names.address },
      seeds = { "redis.test:" .. cluster:node(1).port } } }, seeds = {} }
    assert.equal("OK", (way:call("SET", "k", "named")))
    assert.equal("named", (way:call("GET", "k")))
    assert.is_true(names:asked() > 0)
  end)

  describe("refuses", function()
    local function refused(options)
      options.cluster = cluster
      local status, text = kit.prepared_gateway(options):refused()
      assert.is_number(status, text)
      assert.not_equal(0, status)
      return text
    end

    it("what is wrong in its configuration, with the key", function()
      assert.is_truthy(refused({ timeouts = { reed = 1 } }):find "timeouts.reed.*did you mean")
      assert.is_truthy(refused({ config = { pool_size = -1 } }):find "pool_size: expected")
      assert.is_truthy(refused({ config = { cluster = { seeds = {} } } }):find "cluster.seeds")
      assert.is_truthy(refused({ tls = { ca = "/none.crt" } }):find "cluster.tls.ca: /none.crt")
      assert.is_truthy(refused({ policy = "/nowhere/policy.lua" }):find "/nowhere/policy.lua")
      assert.is_truthy(refused({ config = { library = "/nowhere.so" } }):find "libwayside can't be loaded")
    end)

    it("a policy that can't be loaded, with its line", function()
      local policy = kit.file("broken.lua", "return require('wayside').policy { name = 'x', mrak = 1 }\n")
      assert.is_truthy(refused({ policy = policy }):find "mrak")
    end)

    it("start() in init_by_lua", function()
      local text = refused { init = "wayside:start()" }
      assert.is_truthy(text:find "belongs into init_worker_by_lua", text)
    end)

    it("nginx itself: the Lua module without ndk", function()
      local text = refused { modules = { "ngx_http_lua_module" } }
      assert.is_truthy(text:find "ndk", text)
    end)

    it("lua_code_cache off, at the first request", function()
      local way = kit.gateway { cluster = cluster, http = "lua_code_cache off;", ready = false }
      local _, status = way:get "/status"
      assert.not_equal(200, status)
      assert.is_truthy(way:log():find("lua_code_cache must be on", 1, true), way:log())
    end)
  end)
end)
