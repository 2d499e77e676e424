--- A cluster served as if it were one Redis: what is forwarded, split, answered here, refused.
local kit = require "tests.support.kit"

local cluster, way
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 0 }
  -- A reply of megabytes takes a sanitizer's build longer than a second; read again, it comes after the DEL behind it.
  way = kit.wayside { cluster = cluster, policy = "policies/default.lua", workers = 2, timeouts = { read = 10, total = 30 } }
end)

local SLOTS = { 0, 1, 5460, 5461, 8000, 10922, 10923, 16000, 16383 }

local function client_of(how, protocol)
  local client = way:client(how, 20)
  if protocol == 3 then assert.equal(3, client:call("HELLO", "3").proto) end
  return client
end

-- ---- pipelines ----

local function mixed_commands(prefix, count)
  local commands, expected, counters = {}, {}, {}
  local function add(words, reply)
    commands[#commands + 1], expected[#expected + 1] = words, reply
  end
  local makers = {
    function(i, key) add({ "SET", key, "v" .. i }, "OK") add({ "GET", key }, "v" .. i) end,
    function(i) -- one counter per seven slots: its values tell the order
      local name = prefix .. "c" .. i % 7
      counters[name] = (counters[name] or 0) + 1
      add({ "INCR", name }, counters[name])
    end,
    function(_, key) add({ "GET", key .. "none" }, kit.null) end,
    function(i, key)
      add({ "HSET", key .. "h", "f", i }, 1)
      add({ "GET", key .. "h" }, { err = "WRONGTYPE Operation against a key holding the wrong kind of value" })
    end,
    function(i, key)
      add({ "MSET", key .. "a", i, key .. "b", "w" .. i }, "OK")
      add({ "MGET", key .. "a", key .. "none", key .. "b" }, { tostring(i), kit.null, "w" .. i })
      add({ "DEL", key .. "a", key .. "b", key .. "none" }, 2)
    end,
    function(i) add({ "PING", "p" .. i }, "p" .. i) end,
    function(i) add({ "ECHO", "e" .. i }, "e" .. i) end,
    function(i, key) add({ "RPUSH", key .. "l", i, "x" }, 2) add({ "LRANGE", key .. "l", 0, -1 }, { tostring(i), "x" }) end,
    function(i, key)
      add({ "EVAL", "return {KEYS[1], ARGV[1]}", 1, key, i }, { key, tostring(i) })
    end,
    function(_, key) add({ "SUBSCRIBE", key }, "refused") end,
  }
  while #commands < count do
    local i = #commands
    kit.random.one(makers)(i, ("%s:%d:"):format(prefix, i))
  end
  return commands, expected
end

local function check_replies(replies, expected)
  assert.equal(#expected, #replies)
  for i, want in ipairs(expected) do
    if want == "refused" then
      assert.is_true(kit.is_error(replies[i]), kit.show(replies[i]))
    elseif type(want) == "table" and want ~= kit.null then
      assert.same(want, replies[i])
    elseif want ~= replies[i] then
      assert.equal(kit.show(want), kit.show(replies[i]), "reply " .. i)
    end
  end
end

describe("a pipeline of 10,000 mixed commands over all slots", function()
  for _, how in ipairs { "tcp", "unix" } do
    for _, protocol in ipairs { 2, 3 } do
      it(("is answered correctly and in order on %s by RESP%d"):format(how, protocol), function()
        local client = client_of(how, protocol)
        local commands, expected = mixed_commands(how .. protocol, 10000)
        check_replies(client:pipeline(commands, 30), expected)
        assert.same({}, client.pushes)
      end)
    end
  end

  it("is answered in order to eight clients at once, byte by byte requests too", function()
    local parts = {}
    for i = 1, 8 do
      local commands, expected = mixed_commands("many" .. i, 500)
      local bytes = {}
      for j, words in ipairs(commands) do bytes[j] = kit.resp.encode(words) end
      parts[i] = { client = client_of(nil, i % 2 + 2), bytes = table.concat(bytes), at = 1, expected = expected }
    end
    local open = 8
    while open > 0 do
      for _, part in ipairs(parts) do
        if part.at <= #part.bytes then
          local n = kit.random.int(1, 700)
          assert(part.client:send_raw(part.bytes:sub(part.at, part.at + n - 1)))
          part.at = part.at + n
          if part.at > #part.bytes then open = open - 1 end
        end
      end
    end
    for _, part in ipairs(parts) do
      check_replies(part.client:exchange("", #part.expected, 20), part.expected)
    end
  end)
end)

-- ---- the same as Redis ----

describe("a forwarded command", function()
  it("has byte for byte the reply that Redis gives", function()
    for _, protocol in ipairs { 2, 3 } do
      for _, slot in ipairs(SLOTS) do
        local real = cluster:master_of(slot):connect()
        local ours = client_of(nil, protocol)
        if protocol == 3 then real:call("HELLO", "3") end
        local r, w = kit.key_in(slot, "r" .. protocol), kit.key_in(slot, "w" .. protocol)
        local function same(...)
          local direct, through = { ... }, { ... }
          for i = 2, #direct do
            if direct[i] == "$key" then direct[i], through[i] = r, w end
          end
          assert.equal(real:call_raw(unpack(direct)), ours:call_raw(unpack(through)), table.concat(direct, " "))
        end
        same("SET", "$key", "hello world")
        same("GET", "$key")
        same("STRLEN", "$key")
        same("GETRANGE", "$key", 0, 4)
        same("LPUSH", "$key", "x")
        same("DEL", "$key")
        same("GET", "$key")
        same("ZADD", "$key", 1.5, "one", 2, "two")
        same("ZRANGE", "$key", 0, -1, "WITHSCORES")
        same("ZSCORE", "$key", "one")
        same("DEL", "$key")
        same("HSET", "$key", "f", "v", "g", "")
        same("HGETALL", "$key")
        same("HINCRBY", "$key", "f", "1")
        same("DEL", "$key")
        same("SADD", "$key", "m")
        same("SMEMBERS", "$key")
        same("OBJECT", "ENCODING", "$key")
        same("TYPE", "$key")
        same("EXPIRE", "$key", "notanumber")
        same("SET", "$key", "v", "EX", "0")
        same("SET", "$key", "v", "NONSENSE")
        same("XADD", "$key" .. "", "1-1", "a", "b")
        same("EVAL", "return {1, 'two', {3, false}, redis.status_reply('OK')}", "1", "$key")
        same("EVAL", "return redis.error_reply('MY own')", "1", "$key")
        same("EVALSHA", ("0"):rep(40), "1", "$key")
        same("DEL", "$key")
      end
    end
  end)

  it("answers errors of shape as Redis does", function()
    local real, ours = cluster:node(1):connect(), way:client()
    for _, words in ipairs {
      { "GET" }, { "GET", "a", "b" }, { "NOSUCHCOMMAND", "a", "b" }, { "nosuch" }, { "SET", "a" }, { "MSET", "a" },
      { "MSET", kit.key_in(0, "a"), "1", kit.key_in(0, "b") },
      { "EVAL", "return 1" }, { "EVAL", "return 1", "x" }, { "EVAL", "return 1", "-1" },
      { "EVAL", "return 1", "3", "a" }, { "ECHO" }, { "PING", "a", "b" },
    } do
      assert.equal(real:call_raw(unpack(words)), ours:call_raw(unpack(words)), table.concat(words, " "))
    end
  end)

  it("carries binary keys and values", function()
    local client = way:client()
    for _ = 1, 50 do
      local key, value = kit.random.bytes(kit.random.int(1, 40)), kit.random.bytes(kit.random.int(0, 5000))
      assert.equal("OK", client:call("SET", key, value))
      assert.equal(value, client:call("GET", key))
      assert.equal(value, cluster:master_of(kit.slot_of(key)):call("GET", key))
    end
    assert.equal("OK", client:call("SET", "", "the empty key"))
    assert.equal("the empty key", client:call("GET", ""))
    assert.equal("OK", client:call("SET", "a\r\nb\0c", ""))
    assert.equal("", client:call("GET", "a\r\nb\0c"))
  end)

  it("carries values of megabytes, alone and among small ones", function()
    for _, how in ipairs { "tcp", "unix" } do
      local client = way:client(how, 20)
      for _, size in ipairs { 1048576, 5000000, kit.count(12000000, 60000000) } do
        local value = kit.random.bytes(1000):rep(size / 1000)
        local key = kit.key_in(kit.random.int(0, 16383), "big")
        local replies = client:pipeline({
          { "SET", "{x}small", "s" }, { "SET", key, value }, { "GET", "{x}small" }, { "GET", key }, { "STRLEN", key },
          { "GET", "{x}small" }, { "DEL", key },
        }, 30)
        assert.equal("OK", replies[2])
        assert.is_true(replies[4] == value, "the value came back changed: " .. kit.show(replies[4]):sub(1, 200))
        assert.same({ "s", #value, "s", 1 }, { replies[3], replies[5], replies[6], replies[7] })
      end
    end
  end)

  it("counts on one node, once, what was sent once", function()
    local client = way:client()
    local key = kit.key_in(77, "count")
    local commands = {}
    for i = 1, 3000 do commands[i] = { "INCR", key } end
    local replies = client:pipeline(commands)
    for i = 1, 3000 do assert.equal(i, replies[i]) end
    assert.equal("3000", cluster:master_of(77):call("GET", key))
  end)

  it("is sent as EVAL with keys of one slot", function()
    local client = way:client()
    local a, b = kit.key_in(9, "a"), kit.key_in(9, "b")
    assert.equal("OK", client:call("EVAL", "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('SET', KEYS[2], ARGV[2])",
      2, a, b, "1", "2"))
    assert.equal("1", client:call("GET", a))
    assert.equal("2", client:call("GET", b))
  end)

  it("says CROSSSLOT where its keys are of several slots", function()
    local client = way:client()
    local a, b = kit.key_in(9, "a"), kit.key_in(10, "b")
    for _, words in ipairs {
      { "EVAL", "return 1", 2, a, b }, { "RENAME", a, b }, { "SINTER", a, b }, { "MSETNX", a, 1, b, 2 },
      { "LMOVE", a, b, "LEFT", "RIGHT" },
    } do
      local reply = client:call(unpack(words))
      assert.is_true(kit.is_error(reply, "CROSSSLOT Keys in request don't hash to the same slot"), kit.show(reply))
    end
    assert.equal("PONG", client:call "PING")
  end)
end)

-- ---- split ----

describe("a split command", function()
  local keys = {}
  for i, slot in ipairs(SLOTS) do keys[i] = kit.key_in(slot, "split") end

  for _, protocol in ipairs { 2, 3 } do
    it("MSET and MGET go to all nodes and come back in order, RESP" .. protocol, function()
      local client = client_of(nil, protocol)
      local set, get, want = { "MSET" }, { "MGET" }, {}
      for i, key in ipairs(keys) do
        set[#set + 1], set[#set + 2] = key, "v" .. i
        get[#get + 1], get[#get + 2], get[#get + 3] = key, key .. "none", key
        want[#want + 1], want[#want + 2], want[#want + 3] = "v" .. i, kit.null, "v" .. i
      end
      assert.equal("OK", client:call(unpack(set)))
      assert.same(want, client:call(unpack(get)))
      for i, key in ipairs(keys) do assert.equal("v" .. i, cluster:master_of(SLOTS[i]):call("GET", key)) end
    end)
  end

  it("EXISTS, TOUCH, DEL and UNLINK add up, repeated keys too", function()
    local client = way:client()
    local function set() assert.equal("OK", client:call("MSET", keys[1], 1, keys[5], 1, keys[9], 1)) end
    client:call("DEL", unpack(keys))
    set()
    assert.equal(4, client:call("EXISTS", keys[1], keys[2], keys[5], keys[9], keys[9]))
    assert.equal(3, client:call("TOUCH", keys[1], keys[2], keys[5], keys[9]))
    assert.equal(3, client:call("DEL", keys[1], keys[1], keys[2], keys[5], keys[9]))
    assert.equal(0, client:call("EXISTS", unpack(keys)))
    set()
    assert.equal(3, client:call("UNLINK", unpack(keys)))
  end)

  it("MSET with one key twice leaves the last value", function()
    local client = way:client()
    assert.equal("OK", client:call("MSET", keys[1], "first", keys[4], "x", keys[1], "last"))
    assert.equal("last", client:call("GET", keys[1]))
  end)

  it("MGET gives null for another type, as Redis does", function()
    local client = way:client()
    client:call("DEL", unpack(keys))
    client:call("LPUSH", keys[2], "x")
    client:call("SET", keys[8], "y")
    assert.same({ kit.null, "y", kit.null }, client:call("MGET", keys[2], keys[8], keys[3]))
  end)

  it("of a thousand keys is whole", function()
    local client, set, get, want = way:client(nil, 10), { "MSET" }, { "MGET" }, {}
    for i = 1, 1000 do
      set[#set + 1], set[#set + 2] = "thousand" .. i, i
      get[#get + 1], want[i] = "thousand" .. i, tostring(i)
    end
    assert.equal("OK", client:call(unpack(set)))
    assert.same(want, client:call(unpack(get)))
  end)

  it("of one slot has Redis's own reply", function()
    local client = way:client()
    assert.equal("OK", client:call("MSET", kit.key_in(3, "a"), 1, kit.key_in(3, "b"), 2))
    assert.same({ "1", "2" }, client:call("MGET", kit.key_in(3, "a"), kit.key_in(3, "b")))
  end)

  it("gives one error for the whole where a part fails", function()
    local node = cluster:master_of(16383)
    local client = way:client(nil, 5)
    node:call("CONFIG", "SET", "maxmemory", "1")
    local reply = client:call("MSET", keys[1], "a", keys[9], "b")
    node:call("CONFIG", "SET", "maxmemory", "0")
    assert.is_true(kit.is_error(reply, "OOM"), kit.show(reply))
    assert.equal("OK", client:call("MSET", keys[1], "a", keys[9], "b"))
  end)
end)

-- ---- answered here ----

describe("a local command", function()
  it("PING, ECHO and inline forms", function()
    local client = way:client()
    assert.equal("+PONG\r\n", client:call_raw "PING")
    assert.equal("$2\r\nhi\r\n", client:call_raw("PING", "hi"))
    assert.equal("$0\r\n\r\n", client:call_raw("ECHO", ""))
    assert(client:send_raw "PING\r\n")
    assert.equal("PONG", (client:read_reply()))
    assert(client:send_raw "set {in}line \"quoted \\x41 value\"\nGET '{in}line'\r\n\r\n\r\nPING\r\n")
    assert.equal("OK", (client:read_reply()))
    assert.equal("quoted A value", (client:read_reply()))
    assert.equal("PONG", (client:read_reply()))
    assert(client:send_raw "*0\r\n*1\r\n$4\r\nPING\r\n*-1\r\n*1\r\n$4\r\nping\r\n")
    assert.equal("PONG", (client:read_reply()))
    assert.equal("PONG", (client:read_reply()))
  end)

  it("HELLO tells who answers and switches the protocol there and back", function()
    local client = way:client()
    local map = client:call("HELLO", "3")
    assert.equal(3, map.proto)
    assert.equal("cluster" == map.mode and "cluster" or "standalone", map.mode)
    assert.equal("_\r\n", client:call_raw("GET", "{no}such"))
    assert.equal(2, client:call("HELLO", "2")[6])
    assert.equal("$-1\r\n", client:call_raw("GET", "{no}such"))
    assert.is_true(kit.is_error(client:call("HELLO", "4"), "NOPROTO"))
    assert.is_true(kit.is_error(client:call("HELLO", "x")))
    assert.equal(3, client:call("HELLO", "3", "SETNAME", "me").proto)
    assert.equal("PONG", client:call "PING")
  end)

  it("CLIENT SETNAME, GETNAME, SETINFO, ID", function()
    local client, other = way:client(), way:client()
    assert.equal("OK", client:call("CLIENT", "SETNAME", "reader-1"))
    assert.is_true(kit.is_error(client:call("CLIENT", "SETNAME", "with space")))
    assert.equal("OK", client:call("CLIENT", "SETINFO", "LIB-NAME", "kit"))
    assert.equal("number", type(client:call("CLIENT", "ID")))
    assert.not_equal(client:call("CLIENT", "ID"), other:call("CLIENT", "ID"))
    assert.equal("PONG", client:call "PING")
  end)

  it("COMMAND, COMMAND COUNT, CONFIG GET, INFO", function()
    local client = way:client()
    local list = client:call "COMMAND"
    assert.equal("table", type(list))
    assert.equal(client:call("COMMAND", "COUNT"), #list)
    local saves = client:call("CONFIG", "GET", "save")
    assert.equal("save", saves[1])
    assert.equal("string", type(saves[2]))
    assert.equal("appendonly", client:call("CONFIG", "GET", "appendonly")[1])
    assert.matches("wayside", client:call "INFO")
    assert.equal("PONG", client:call "PING")
  end)

  it("QUIT says OK and closes, after what came before it", function()
    for _, how in ipairs { "tcp", "unix" } do
      local client = way:client(how)
      assert(client:send_raw(kit.resp.encode { "SET", "q", "1" } .. kit.resp.encode { "GET", "q" } .. kit.resp.encode { "QUIT" }))
      assert.equal("OK", (client:read_reply()))
      assert.equal("1", (client:read_reply()))
      assert.equal("OK", (client:read_reply()))
      assert.is_true(client:is_closed())
    end
  end)

  it("SELECT 0 is fine, another database is not", function()
    local client = way:client()
    assert.equal("OK", client:call("SELECT", "0"))
    assert.is_true(kit.is_error(client:call("SELECT", "1")))
    assert.equal("PONG", client:call "PING")
  end)
end)

describe("a refused command", function()
  local refused = {
    "BLPOP k 0", "BRPOP k 0", "BLMOVE a b LEFT RIGHT 0", "BRPOPLPUSH a b 0", "BZPOPMIN k 0", "BZPOPMAX k 0",
    "BLMPOP 0 1 k LEFT", "BZMPOP 0 1 k MIN", "XREAD BLOCK 0 STREAMS k $", "XREADGROUP GROUP g c BLOCK 0 STREAMS k >",
    "WAIT 1 0", "SUBSCRIBE c", "PSUBSCRIBE c", "SSUBSCRIBE c", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE",
    "EXEC", "DISCARD", "CLIENT REPLY OFF", "CLIENT REPLY SKIP", "CLIENT TRACKING ON",
    "CLIENT KILL TYPE normal", "CLIENT PAUSE 1000", "CLIENT NO-EVICT ON", "CLIENT UNPAUSE", "MONITOR", "SYNC",
    "PSYNC ? -1", "REPLCONF listening-port 1", "DEBUG SLEEP 0", "ASKING", "READONLY", "READWRITE", "SCRIPT FLUSH",
    "SCRIPT LOAD x", "FUNCTION LIST", "SHUTDOWN NOSAVE", "SAVE", "BGSAVE", "FLUSHALL", "KEYS *", "SCAN 0",
    "RANDOMKEY", "DBSIZE", "SWAPDB 0 1", "MOVE k 1", "CONFIG SET maxmemory 1", "CONFIG REWRITE", "CLUSTER RESET",
    "REPLICAOF NO ONE", "FAILOVER", "ACL LIST", "MODULE LIST", "MIGRATE h 1 k 0 1", "SLAVEOF NO ONE",
  }
  for _, line in ipairs(refused) do
    it(line .. " gets a clear error and changes nothing", function()
      local words = {}
      for word in line:gmatch "%S+" do words[#words + 1] = word end
      local client = way:client()
      local replies = client:pipeline { { "SET", "{ref}used", line }, words, { "GET", "{ref}used" }, { "PING" } }
      assert.equal(4, #replies)
      assert.is_true(kit.is_error(replies[2]), kit.show(replies[2]))
      assert.is_true(#replies[2].err > 20, replies[2].err)
      assert.is_false(kit.is_error(replies[2], "unknown command"), replies[2].err)
      assert.is_false(kit.is_error(replies[2], "wrong number"), replies[2].err)
      assert.equal(line, replies[3])
      assert.equal("PONG", replies[4])
    end)
  end

  it("nobody else's connection is harmed by it", function()
    local a, b = way:client(), way:client()
    for _ = 1, 100 do
      a:send_raw(kit.resp.encode { "CLIENT", "REPLY", "SKIP" } .. kit.resp.encode { "MONITOR" })
      assert.equal("OK", b:call("SET", "{h}armed", "1"))
      assert.equal("1", b:call("GET", "{h}armed"))
      assert.is_true(kit.is_error((a:read_reply())))
      assert.is_true(kit.is_error((a:read_reply())))
    end
  end)
end)

-- ---- real tools ----

describe("a real client", function()
  it("redis-cli sets, gets and pipes", function()
    local port = tostring(way.port)
    local _, text = kit.run { "redis-cli", "-p", port, "set", "cli", "1" }
    assert.equal("OK\n", text)
    _, text = kit.run { "redis-cli", "-p", port, "get", "cli" }
    assert.equal("1\n", text)
    local path = way.unix:gsub("^unix:", "")
    kit.run { "redis-cli", "-s", path, "-3", "hset", "{a}hash", "field", "value" }
    _, text = kit.run { "redis-cli", "-s", path, "-3", "hgetall", "{a}hash" }
    assert.matches("field", text)
    assert.matches("value", text)
    local lines = {}
    for i = 1, 5000 do lines[i] = ("SET pipe%d %d"):format(i, i) end
    _, text = kit.run { "redis-cli", "-p", port, "--pipe", input = table.concat(lines, "\r\n") .. "\r\n" }
    assert.matches("errors: 0, replies: 5000", text)
    assert.equal("5000", way:call("GET", "pipe5000"))
  end)

  it("redis-benchmark runs without an error", function()
    for _, target in ipairs { { "-p", tostring(way.port) }, { "-s", (way.unix:gsub("^unix:", "")) } } do
      local words = { "redis-benchmark", target[1], target[2], "-t", "get,set,incr,mset", "-P", "16", "-c", "20", "-n",
        tostring(kit.count(20000, 1000000)), "-r", "100000", "-q", "--csv", timeout = 120 }
      local status, text = kit.run(words)
      assert.equal(0, status, text)
      for _, name in ipairs { "SET", "GET", "INCR", "MSET" } do assert.matches('"' .. name, text) end
      assert.is_nil(text:lower():find("error", 1, true), text)
    end
  end)
end)

-- ---- slots that move ----

describe("a moved slot", function()
  it("is followed, and no client notices", function()
    local client, slot = way:client(), 4242
    local key = kit.key_in(slot, "moved")
    local from = cluster:master_of(slot)
    local to = from == cluster:node(3) and cluster:node(2) or cluster:node(3)
    assert.equal("OK", client:call("SET", key, "before"))
    cluster:move_slot(slot, to)
    local replies = client:pipeline { { "GET", key }, { "SET", key, "after" }, { "INCR", key .. "n" }, { "GET", key } }
    assert.same({ "before", "OK", 1, "after" }, replies)
    assert.equal("after", to:call("GET", key))
    assert.equal("1", to:call("GET", key .. "n"))
    cluster:move_slot(slot, from)
    assert.equal("after", client:call("GET", key))
  end)

  it("is asked at its new place while it moves", function()
    local client, slot = way:client(), 4300
    local stay, gone = kit.key_in(slot, "stay"), kit.key_in(slot, "gone")
    local from = cluster:master_of(slot)
    local to = from == cluster:node(3) and cluster:node(2) or cluster:node(3)
    client:pipeline { { "SET", gone, "g" }, { "SET", stay, "s" } }
    cluster:begin_move(slot, to)
    assert.equal("OK", from:call("MIGRATE", "127.0.0.1", to.real_port, gone, 0, 5000))
    for _ = 1, 20 do
      assert.same({ "g", "s", kit.null },
        client:pipeline { { "GET", gone }, { "GET", stay }, { "GET", kit.key_in(slot, "new") } })
      assert.equal("OK", client:call("SET", gone, "g"))
    end
    kit.move_keys(slot, from, to)
    cluster:end_move(slot, from, to)
    assert.same({ "g", "s" }, client:pipeline { { "GET", gone }, { "GET", stay } })
    cluster:move_slot(slot, from)
  end)
end)
