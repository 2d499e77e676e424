--- Another policy, other limits, while serving: proved before it is in charge, on all workers at once, or nothing changes.
--
-- Policies tell who they are by the reason and the end of the marks they make: each has its own number of seconds.
local unistd = require "posix.unistd"
local signal = require "posix.signal"
local socket = require "socket"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local openloop = require "tests.support.openloop"
local ports = require "tests.support.ports"

local program = os.getenv "WAYSIDE" or "bin/wayside"

local BODY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "%s", version = "%s",
  options = { seconds = { default = %d, min = 1 } },
  classes = { { error = "reply", message = "MARKME", class = "busy" }, wayside.default.classes },
  memory = { node = { strikes = 0 }, cluster = { seen = 0 } },
  mark = function(self, node, event)
    if not event.error then return end
    node.memory.strikes = node.memory.strikes + 1
    self.cluster.memory.seen = self.cluster.memory.seen + 1
    return { state = "suspect", seconds = self.options.seconds, reason = "strike" .. node.memory.strikes }
  end,
  backoff = function(self, node, event)
    if event.error ~= "reply" and event.attempt < 4 then return { retry = "other" } end
  end,
  probe = function() end,
  %s
}
]]

local function policy(version, seconds, more) return BODY:format("reloaded", version, seconds, more or "") end

--- A file that is there whole or not at all, in a folder of its own.
local function write(path, text)
  kit.process.write_file(path .. ".new", text)
  assert(os.rename(path .. ".new", path))
end

local function map(reply)
  assert(type(reply) == "table" and not reply.err, kit.show(reply))
  if reply[1] == nil then return reply end
  local out = {}
  for i = 1, #reply, 2 do out[reply[i]] = reply[i + 1] end
  return out
end

local cluster, way, file, http
local function status(of) return map((of or way):ask("WAYSIDE", "POLICY")) end
local function reload(...) return way:ask("WAYSIDE", "RELOAD", ...) end

--- The reload is in charge; what it told.
local function reloaded(...)
  local reply = map(reload(...))
  assert.equal("committed", reply.reload)
  return reply
end

--- Who decides now: how long the mark lasts that a node's error brings, and its reason.
local function mark_of(of)
  local client = (of or way):client()
  local key = kit.key_in(0)
  assert.same({ err = "MARKME now" }, client:call("EVAL", "return redis.error_reply('MARKME now')", "1", key))
  client:close()
  local node = (of or way):wait_state(cluster:master_of(0), "suspect")
  return math.floor(node.ends + 0.5), node.reason
end

local KEYS = 30
local function value_of(i) return "value" .. i end

setup(function()
  -- 60 s: a node is frozen while policies are exchanged, and its role is not to change meanwhile.
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 60000, front = "mitm" }
  for i = 1, KEYS do
    assert.equal("OK", cluster:master_of(kit.slot_of("load" .. i)):call("SET", "load" .. i, value_of(i)))
  end
  cluster:wait_ok()
end)

local function start(options)
  options = options or {}
  file = kit.file("reload.lua", policy("1", 100))
  http = "127.0.0.1:" .. ports.free()
  options.limits = options.limits or { probation = 0 }
  options.cluster, options.policy, options.workers, options.http = cluster, file, options.workers or 2, http
  options.timeouts = { dial = 0.3, read = 0.5, total = 2 }
  way = kit.wayside(options)
  return way
end

--- Reads and writes from a process of their own until `finish`: none may fail, no connection may close.
local function load_on(of)
  local clients = {}
  for i = 1, 4 do
    clients[i] = { name = i % 2 == 0 and "reads" or "writes", target = i % 2 == 0 and of.tcp or of.unix, every = 0.004,
      make = function(n)
        local k = n % KEYS + 1
        if i % 2 == 0 then return { { "GET", "load" .. k }, { "GET", "load" .. n * 7 % KEYS + 1 } } end
        return { { "SET", "written" .. k, tostring(n) } }
      end,
      good = function(reply, words)
        return reply == (words[1] == "SET" and "OK" or value_of(tonumber(words[2]:match "%d+$")))
      end }
  end
  local load = openloop.start { folder = kit.folder(), clients = clients }
  load.least = socket.gettime() + 0.5
  return load
end

--- Of a load that went on for half a second at least, however quick the reload was.
local function assert_nothing_lost(load)
  socket.sleep(math.max(0, load.least - socket.gettime()))
  local sum = openloop.sum(load:finish())
  assert.is_true(sum.n > 50, "too little load: " .. sum.n)
  assert.equal(0, sum.failed, openloop.show(sum))
  return sum
end

describe("a script that is broken", function()
  setup(start)
  local before

  local broken = {
    { "a syntax error", "return {", "reload.lua:1:" },
    { "an error at load", "error('no such luck')", "no such luck" },
    { "an endless loop at load", "while true do end", "reload.lua" },
    { "a wrong field", policy("2", 5, "marc = 1,"), "did you mean 'mark'?" },
    { "a wrong type", policy("2", 5, "reconnect = 7,"), "reconnect: expected a function, got 7" },
    { "a selftest that raises", policy("2", 5, "selftest = function(test) error('not today') end,"), "selftest: " },
    { "a selftest that finds a wrong mark",
      policy("2", 5, [[selftest = function(test)
        local node = test:node {}
        test:fail(node, { error = "refused" })
        assert(node.state == "failing", "it is " .. node.state)
      end,]]), "it is suspect" },
    { "a failure on what the journal tells", (policy("2", 5):gsub("node.memory.strikes = node.memory.strikes %+ 1",
      "node.memory.strikes = event.message.length")), "an event of the journal: mark" },
    { "a file that it requires and is not there", "local other = require 'nowhere'\n" .. policy("2", 5), "nowhere.lua" },
    { "a migrate that gives nonsense", policy("2", 5, "migrate = function() return { nothing = 1 } end,"),
      "memory.node declares no 'nothing'" },
    { "too many numbers to remember", policy("2", 5):gsub("strikes = 0", function()
      local names = {}
      for i = 1, 40 do names[i] = "n" .. i .. " = 0" end
      return "strikes = 0, " .. table.concat(names, ", ")
    end), "memory.node: expected at most" },
    { "bytecode", "\27LJ", "bytecode" },
  }

  it("never comes in charge, and the one before is asked as before", function()
    local load = load_on(way)
    local last = mark_of()
    assert.equal(100, last)
    before = status()
    for i, each in ipairs(broken) do
      write(file, each[2])
      local reply = reload()
      assert.is_true(kit.resp.is_error(reply) and reply.err:find("nothing changed", 1, true) ~= nil, each[1] .. ": " .. kit.show(reply))
      assert.is_true(reply.err:find(each[3], 1, true) ~= nil, each[1] .. " was refused with " .. reply.err)
      local now = status()
      for _, name in ipairs { "name", "version", "hash", "epoch", "file" } do assert.equal(before[name], now[name], each[1]) end
      local seconds, reason = mark_of()
      assert.equal(100, seconds, each[1])
      assert.equal("strike" .. i + 1, reason, each[1]) -- its memory too
    end
    assert_nothing_lost(load)
    assert.equal(#broken, metrics.read(http)['policy_reloads_total{result="refused"}'])
  end)

  it("is told by wayside reload, which ends with 1", function()
    write(file, "return {")
    local code, text = kit.run { program, "reload", "-c", way.file }
    assert.equal(1, code, text)
    assert.is_true(text:find("nothing changed", 1, true) ~= nil, text)
    write(file, policy("1", 100))
    code, text = kit.run { program, "reload", "--console", way.console }
    assert.equal(0, code, text)
    assert.is_true(text:find("committed: policy reloaded 1", 1, true) ~= nil, text)
    assert.is_true(text:find("worker 1: version 1 hash ", 1, true) ~= nil, text)
    code, text = kit.run { program, "reload", "--console", "unix:" .. kit.folder() .. "/nobody" }
    assert.equal(1, code, text)
    code, text = kit.run { program, "reload" }
    assert.equal(2, code, text)
  end)
end)

describe("a good script", function()
  before_each(function() start() end)

  it("is in charge on every worker, with the memory, states and connections that were there", function()
    local load = load_on(way)
    local marked = cluster:master_of(0)
    mark_of()
    local _, reason = mark_of()
    assert.equal("strike2", reason)
    local client = way:client("tcp")
    assert.equal(value_of(1), client:call("GET", "load1"))
    write(file, policy("2", 50))
    local reply = reloaded()
    assert.equal("2", reply.version)
    assert.equal(3, #reply.threads)
    for _, thread in ipairs(reply.threads) do assert.equal(status().hash, map(thread).hash) end
    local node = way:node(marked)
    assert.equal("suspect", node.state) -- the verdict of the one before stands
    assert.equal("strike2", node.reason)
    local seconds
    seconds, reason = mark_of()
    assert.equal(50, seconds)
    assert.equal("strike3", reason)
    assert.equal(value_of(1), client:call("GET", "load1"))
    assert_nothing_lost(load)
  end)

  it("may convert what the one before remembers", function()
    mark_of()
    write(file, policy("2", 50, [[migrate = function(memory, version, scope)
      if scope == "node" then return { strikes = memory.strikes + 100 * version } end
    end,]]))
    reloaded()
    local seconds, reason = mark_of()
    assert.equal(50, seconds)
    assert.equal("strike102", reason)
  end)

  it("takes options and another file by the console", function()
    reloaded "seconds=7"
    assert.equal(7, (mark_of()))
    local other = kit.file("another.lua", BODY:format("another", "9", 30, ""))
    assert.equal("another", reloaded(other).name)
    assert.equal(30, (mark_of()))
    assert.equal(33, (reloaded("seconds=33") and mark_of()))
    assert.is_true(kit.resp.is_error(reload "secnds=33"))
    assert.equal("reloaded", reloaded().name) -- as the configuration says
    assert.equal(100, (mark_of()))
  end)

  it("comes by SIGHUP", function()
    write(file, policy("3", 70))
    signal.kill(way.process.pid, signal.SIGHUP)
    kit.wait_for(function() return status().version == "3", way:log() end, 5, "version 3 to be in charge")
    assert.equal(70, (mark_of()))
  end)

  it("is refused while another one is loaded", function()
    write(file, "local n = 0 for i = 1, 5e5 do n = n + i % 7 end\n" .. policy("4", 40))
    local first, second = kit.connect(way.console), kit.connect(way.console)
    first:send_raw(kit.resp.encode { "WAYSIDE", "RELOAD" })
    kit.wait_for(function() return status().reload == "loading", status().reload end, 2, "a load to have begun")
    local reply = second:call("WAYSIDE", "RELOAD")
    assert.is_true(kit.resp.is_error(reply) and reply.err:find("another reload is on its way", 1, true) ~= nil, kit.show(reply))
    assert.equal("4", map((first:read_reply(5))).version)
    first:close()
    second:close()
  end)

  it("serves what it requires as it was when it was proved", function()
    local folder = kit.folder() .. "/beside"
    assert(unistd.access(folder) or require("posix.sys.stat").mkdir(folder) == 0)
    kit.process.write_file(folder .. "/times.lua", "return { seconds = 20 }")
    kit.process.write_file(folder .. "/p.lua", "local times = require 'times'\n"
      .. (policy("5", 1):gsub("self.options.seconds", "times.seconds")))
    reloaded(folder .. "/p.lua")
    kit.process.write_file(folder .. "/times.lua", "return {")
    assert.equal(20, (mark_of()))
  end)
end)

describe("limits and time-outs", function()
  local function configure(change)
    kit.process.write_file(way.file, (kit.process.read_file(way.file):gsub("return ", change .. "\nreturn ", 1)))
  end
  local function rewrite(from, to)
    local text = kit.process.read_file(way.file)
    local changed, n = text:gsub(from, to)
    assert.equal(1, n, text)
    kit.process.write_file(way.file, changed)
    return text
  end
  local function limit(name)
    for _, each in ipairs(way:ask("WAYSIDE", "LIMITS")) do
      local one = map(each)
      if one.name == name then return tonumber(one.value) end
    end
  end

  before_each(function() start() end)

  it("reload with the policy, and hold at once", function()
    local client = way:client("tcp", 5)
    rewrite('%["read"%] = 0.5', '["read"] = 0.2, ["total"] = 1')
    rewrite('%["probation"%] = 0', '["probation"] = 0, ["attempts"] = 2')
    reloaded()
    assert.equal(0.2, limit "timeouts.read")
    assert.equal(2, limit "limits.attempts")
    local node = cluster:node(1)
    node.mitm:rule { dir = "down", act = "stall", at = "+0" }
    local began = socket.gettime()
    local key
    for slot = 0, 16383 do
      if cluster:master_of(slot) == node then key = kit.key_in(slot) break end
    end
    local reply = client:call("SET", key, "x")
    local took = socket.gettime() - began
    node.mitm:clear()
    assert.is_true(kit.resp.is_error(reply, "timeout"), kit.show(reply))
    assert.is_true(took < 0.45, "the old time-out held: " .. took)
  end)

  it("are refused as a whole where one key can't change while serving", function()
    local before = status()
    for _, each in ipairs { { '%["workers"%] = 2', '["workers"] = 3', "workers" },
      { '%["console"%] = "[^"]*"', '["console"] = "127.0.0.1:1"', "admin.console" } } do
      local text = rewrite(each[1], each[2])
      rewrite('%["probation"%] = 0', '["probation"] = 0, ["attempts"] = 2')
      local reply = reload()
      assert.is_true(kit.resp.is_error(reply), kit.show(reply))
      assert.is_true(reply.err:find(each[3] .. ": differs, and can't change without a restart", 1, true) ~= nil, reply.err)
      assert.equal(5, limit "limits.attempts")
      kit.process.write_file(way.file, text)
    end
    configure "error('broken')"
    local reply = reload()
    assert.is_true(kit.resp.is_error(reply) and reply.err:find("broken", 1, true) ~= nil, kit.show(reply))
    assert.equal(before.epoch, status().epoch)
  end)
end)

describe("a folder that is watched", function()
  local function in_charge(version)
    kit.wait_for(function() return status().version == version, way:log():sub(-500) end, 5, "version " .. version)
  end

  it("reloads what was closed or renamed, and never half a file", function()
    start { config = {} }
    local folder = kit.folder() .. "/watched"
    require("posix.sys.stat").mkdir(folder)
    file = folder .. "/p.lua"
    kit.process.write_file(file, policy("1", 100))
    way = kit.wayside { cluster = cluster, limits = { probation = 0 }, timeouts = { dial = 0.3 },
      config = { policy = { file = file, watch = true } } }
    write(file, policy("2", 50))
    in_charge "2"
    local text = policy("3", 40)
    local half = assert(io.open(file, "w"))
    half:write(text:sub(1, #text / 2))
    half:flush()
    kit.process.write_file(folder .. "/other.lua", "-- another file, written meanwhile")
    local log = way:log()
    socket.sleep(0.5) -- longer than the quiet that it waits for: that nothing happens can't be awaited
    assert.equal("2", status().version)
    assert.is_nil(way:log():sub(#log + 1):find("reload=refused", 1, true), way:log())
    half:write(text:sub(#text / 2 + 1))
    half:close()
    in_charge "3"
    local epoch = status().epoch
    kit.process.write_file(folder .. "/other.lua", "-- and again")
    kit.process.write_file(file, "return {")
    kit.wait_for(function() return way:log():find("reload=refused by=watch", 1, true), way:log():sub(-500) end, 5, "a refusal")
    assert.equal(epoch, status().epoch)
    assert.equal("3", status().version)
  end)
end)

describe("probation", function()
  before_each(function() start { limits = { probation = 20, probation_errors = 3, probation_marks = 4 } } end)

  local function rolled_back(because)
    kit.wait_for(function()
      local now = status()
      return now.rolled_back ~= nil and now.version == "1" and now.reload == "idle", kit.show(now)
    end, 5, "the policy before to return")
    local now = status()
    assert.equal("reloaded 2", now.rolled_back)
    assert.is_true(now.rolled_back_because:find(because, 1, true) ~= nil, now.rolled_back_because)
    assert.is_true(way:log():find("reload=rolling_back policy=reloaded version=2", 1, true) ~= nil, way:log())
    assert.equal(1, metrics.read(http).policy_rollbacks_total)
  end

  it("ends with errors: the one before returns, with its own memory", function()
    local load = load_on(way)
    mark_of()
    write(file, (policy("2", 50):gsub("if not event.error then return end",
      "if not event.error then return end\nif event.message == 'MARKME worse' then local x = nil + 1 end")))
    assert.is_true(tonumber(reloaded().probation) > 15)
    local seconds, reason = mark_of()
    assert.equal(50, seconds)
    assert.equal("strike2", reason)
    local client = way:client()
    for _ = 1, 3 do client:call("EVAL", "return redis.error_reply('MARKME worse')", "1", kit.key_in(0)) end
    rolled_back "errors, limits.probation_errors is 3"
    seconds, reason = mark_of()
    assert.equal(100, seconds)
    assert.equal("strike2", reason) -- of its own memory: what the other one counted is not its own
    assert_nothing_lost(load)
  end)

  --- Errors on one node after the other, until the policy before has returned.
  local function storm()
    local client, slot = way:client(), 0
    kit.wait_for(function()
      client:call("EVAL", "return redis.error_reply('MARKME more')", "1", kit.key_in(slot))
      slot = (slot + 5461) % 16384
      return status().rolled_back ~= nil, kit.show(status())
    end, 8, "the storm to end it")
  end
  local function takes_out(state)
    return (policy("2", 50):gsub('state = "suspect", seconds = self.options.seconds', ('state = "%s", seconds = 0.01'):format(state)))
  end

  it("ends with a storm of marks", function()
    write(file, takes_out "draining")
    reloaded()
    storm()
    rolled_back "nodes taken out, limits.probation_marks is 4"
  end)

  it("ends with more marks than the policy before would have made", function()
    start { limits = { probation = 20, probation_marks = 10000, probation_ratio = 2, guard = false, failing_share = 1 } }
    write(file, takes_out "failing")
    reloaded()
    storm()
    rolled_back "nodes taken out where the one before had 0, limits.probation_ratio is 2"
  end)

  it("is passed where the policy before would have marked as often", function()
    start { limits = { probation = 3, probation_marks = 10000, probation_ratio = 1.5, guard = false, failing_share = 1 } }
    write(file, takes_out "failing")
    reloaded() -- against one that never takes a node out
    write(file, "-- the same, in other words\n" .. takes_out "failing")
    reloaded()
    local client, slot = way:client(), 0
    kit.wait_for(function()
      client:call("EVAL", "return redis.error_reply('MARKME more')", "1", kit.key_in(slot))
      slot = (slot + 5461) % 16384
      return status().reload == "idle", kit.show(status())
    end, 8, "the probation to end")
    assert.is_nil(status().rolled_back)
    assert.is_true(way:log():find('reload=confirmed policy=reloaded version=2 reason="its probation is over"', 1, true) ~= nil, way:log())
  end)

  it("is over when another reload begins, or its time has come", function()
    write(file, policy("2", 50))
    reloaded()
    assert.equal("probation", status().reload)
    write(file, policy("3", 40))
    reloaded()
    assert.is_true(way:log():find('reload=confirmed policy=reloaded version=2 reason="another reload begins"', 1, true) ~= nil, way:log())
    write(file, "return {")
    assert.is_true(kit.resp.is_error(reload()))
    assert.is_true(way:log():find("reload=confirmed policy=reloaded version=3", 1, true) ~= nil, way:log())
    assert.equal(40, (mark_of()))
  end)
end)

describe("two processes on one segment", function()
  it("a reload by one is obeyed by the other, from the bytes that were proved", function()
    local segment = kit.folder() .. "/reload.seg"
    start { segment = segment }
    local a = way
    local b = kit.wayside { cluster = cluster, policy = file, segment = segment, workers = 2, limits = { probation = 0 },
      timeouts = { dial = 0.3, read = 0.5 } }
    local load = load_on(b)
    assert.equal(100, (mark_of(b)))
    write(file, policy("2", 50))
    reloaded()
    write(file, "return {") -- b can't read what a has loaded: it has it from a
    kit.wait_for(function() return status(b).version == "2" and status(b).reload == "idle", b:log():sub(-600) end, 5, "b to follow")
    local seconds, reason = mark_of(b)
    assert.equal(50, seconds)
    assert.equal("strike2", reason)
    assert.equal("2", status(a).version)
    assert.is_true(b:log():find("reload=followed by=another_process", 1, true) ~= nil, b:log())
    -- And a third, with what the file said before, is refused.
    local old = kit.file("old.lua", policy("1", 100))
    local code, text = kit.prepared({ cluster = cluster, policy = old, segment = segment }):refused(3)
    assert.equal(1, code, text)
    assert.is_true(text:find("reload the policy there instead", 1, true) ~= nil, text)
    assert_nothing_lost(load)
  end)
end)

-- What one process has put on probation all watch: whoever is killed.
describe("probation in several processes", function()
  local ways, segment
  local segments = 0

  --- The first of them reloads. Only its limits are those of a probation.
  local function begin(count, limits)
    segments = segments + 1
    segment = ("%s/probation%d.seg"):format(kit.folder(), segments)
    limits.probation = 30
    start { segment = segment, limits = limits }
    ways = { way }
    local http_of = { [way] = http }
    for i = 2, count do
      http_of[i] = "127.0.0.1:" .. ports.free()
      ways[i] = kit.wayside { cluster = cluster, policy = file, segment = segment, workers = 2, http = http_of[i],
        limits = { probation = 0, guard = limits.guard, failing_share = limits.failing_share },
        timeouts = { dial = 0.3, read = 0.5, total = 2 } }
    end
    ways.http = http_of
    mark_of(ways[count]) -- the first strike, of the policy that will return
  end

  local function put_on_probation(text)
    write(file, text)
    reloaded()
    for i = 1, #ways do
      kit.wait_for(function()
        local now = status(ways[i])
        return now.version == "2" and now.reload == "probation" and tonumber(now.probation_left or 0) > 20
      end, 5, "the probation to be watched by " .. i .. ": " .. ways[i]:log():sub(-600))
    end
  end

  local function fail_at(of, times, message)
    local client = of:client()
    for i = 1, times do
      client:call("EVAL", ("return redis.error_reply('MARKME %s')"):format(message), "1", kit.key_in(i % 3 * 5461))
    end
    client:close()
  end

  local function returned(of, because)
    kit.wait_for(function()
      local now = status(of)
      return now.rolled_back ~= nil and now.version == "1" and now.reload == "idle", kit.show(now) .. of:log():sub(-600)
    end, 5, "the policy before to return")
    local now = status(of)
    assert.equal("reloaded 2", now.rolled_back)
    assert.is_truthy(now.rolled_back_because:find(because, 1, true), now.rolled_back_because)
    assert.is_truthy(of:log():find(because, 1, true), of:log())
  end

  local function die(index)
    ways[index]:kill()
    ways[index].stopped = true
  end

  local WORSE = (policy("2", 50):gsub("if not event.error then return end",
    "if not event.error then return end\nif event.message == 'MARKME worse' then local x = nil + 1 end"))

  it("is watched on after a kill of the one that reloaded, with what that one had counted", function()
    begin(3, { probation_errors = 5 })
    local load = load_on(ways[2])
    put_on_probation(WORSE)
    fail_at(ways[1], 3, "worse")
    kit.wait_for(function() return tonumber(status(ways[3]).probation_errors) == 3, kit.show(status(ways[3])) end, 5,
      "the others to hear of three errors")
    die(1)
    fail_at(ways[2], 1, "worse")
    socket.sleep(0.3)
    assert.equal("probation", status(ways[2]).reload)
    assert.equal("2", status(ways[3]).version)
    fail_at(ways[3], 1, "worse")
    for i = 2, 3 do
      returned(ways[i], "5 errors, limits.probation_errors is 5")
      assert.equal(1, metrics.read(ways.http[i]).policy_rollbacks_total)
      assert.equal(status(ways[2]).epoch, status(ways[i]).epoch)
    end
    -- One of the two has put it back, and both decide by it, with the memory that it had.
    local rolling = 0
    for i = 2, 3 do
      if ways[i]:log():find("reload=rolling_back policy=reloaded version=2 to=reloaded", 1, true) then rolling = rolling + 1 end
    end
    assert.equal(1, rolling)
    for i = 2, 3 do
      local seconds, reason = mark_of(ways[i])
      assert.equal(100, seconds)
      assert.equal("strike" .. i, reason)
    end
    assert_nothing_lost(load)
  end)

  it("is watched by its marks too, beside what the policy before would have marked", function()
    begin(2, { probation_marks = 10000, probation_ratio = 2, guard = false, failing_share = 1 })
    put_on_probation((policy("2", 50):gsub('state = "suspect", seconds = self.options.seconds', 'state = "failing", seconds = 0.01')))
    die(1)
    local client, slot = ways[2]:client(), 0
    kit.wait_for(function()
      client:call("EVAL", "return redis.error_reply('MARKME more')", "1", kit.key_in(slot))
      slot = (slot + 5461) % 16384
      return status(ways[2]).rolled_back ~= nil, kit.show(status(ways[2]))
    end, 8, "the storm to end it")
    returned(ways[2], "nodes taken out where the one before had 0, limits.probation_ratio is 2")
  end)

  it("is joined by a process that comes when it was so already, and put back by it alone", function()
    begin(1, { probation_errors = 3 })
    put_on_probation(WORSE)
    ways[2] = kit.wayside { cluster = cluster, policy = file, segment = segment, workers = 2, limits = { probation = 0 },
      timeouts = { dial = 0.3, read = 0.5, total = 2 } }
    die(1)
    kit.wait_for(function() return status(ways[2]).reload == "probation" end, 5, "the watch to be joined")
    fail_at(ways[2], 3, "worse")
    returned(ways[2], "3 errors, limits.probation_errors is 3")
    local seconds, reason = mark_of(ways[2])
    assert.equal(100, seconds)
    assert.equal("strike2", reason)
  end)

  it("is confirmed for all by a reload in any of them, and by its time", function()
    begin(2, { probation_errors = 3 })
    put_on_probation(policy("2", 50))
    write(file, "return {")
    assert.is_true(kit.resp.is_error(ways[2]:ask("WAYSIDE", "RELOAD")))
    kit.wait_for(function() return status(ways[1]).reload == "idle" end, 5, "the other one to hear of it")
    assert.is_truthy(ways[1]:log():find('reload=confirmed policy=reloaded version=2 reason="by another process"', 1, true))
    fail_at(ways[1], 3, "more")
    assert.equal("2", status(ways[1]).version)
  end)
end)

describe("a reload in the midst of a fault", function()
  it("49: of a frozen node, and of dropped packets: good or bad, nothing is lost and no connection closed", function()
    start()
    local sick = cluster:node(1)
    local load = load_on(way)
    for _, fault in ipairs { "freeze", "drop" } do
      local at = fault == "freeze" and function() sick:freeze() end
        or function() sick.mitm:drop() end
      at()
      local client = way:client()
      for i = 1, 3 do client:call("GET", "load" .. i) end
      write(file, "error('in the midst')")
      assert.is_true(kit.resp.is_error(reload()))
      write(file, policy(fault, 60))
      assert.equal(fault, reloaded().version)
      for i = 1, 3 do client:call("GET", "load" .. i) end
      if fault == "freeze" then sick:thaw() else sick.mitm:clear() end
      kit.wait_for(function()
        for i = 1, KEYS do if client:call("GET", "load" .. i) ~= value_of(i) then return false, "load" .. i end end
        return true
      end, 10, "all keys to be read again")
      client:close()
    end
    -- What a node that answers nothing costs is the fault's, not the reload's: none is lost without a word.
    local sum = openloop.sum(load:finish())
    for words in pairs(sum.words) do assert.is_true(words:find "^WAYSIDE timeout" ~= nil or words:find "^WAYSIDE deadline" ~= nil, words) end
    assert.equal(0, #way:events { error = "protocol" })
    -- Nor is a connection closed: those of clients would be missing replies, those to nodes events of others than the sick one.
    for _, event in ipairs(way:events { kind = "connection" }) do assert.equal(sick.address, event.node, way:show_events()) end
  end)
end)

describe("again and again", function()
  local function resident()
    return tonumber(kit.process.read_file("/proc/" .. way.process.pid .. "/status"):match "VmRSS:%s+(%d+)")
  end

  it("under load: no request fails, no connection closes, no memory is lost", function()
    start { limits = { probation = 0.01 } }
    local load = load_on(way)
    local times, early = kit.count(30, 1000), kit.count(10, 100)
    local first
    for i = 1, times do
      write(file, policy(tostring(i), 10 + i % 50))
      assert.equal(tostring(i), reloaded().version)
      if i == early then first = resident() end
    end
    local sum = assert_nothing_lost(load)
    local last = resident()
    local sanitized = program:find "%-[at]san$" ~= nil -- they keep what is freed
    assert.is_true(sanitized or last < first * 1.1 + 8192, ("%d KiB after %d reloads, %d KiB after %d"):format(first, early, last, times))
    local now = metrics.read(http)
    assert.equal(times, now['policy_reloads_total{result="committed"}'])
    assert.is_true(sum.longest < 1, "longest wait " .. sum.longest)
  end)
end)
