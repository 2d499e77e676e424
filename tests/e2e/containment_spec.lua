--- Whatever a policy does, no request is lost to it: the call ends, the fallback decides, the operator is told.
--
-- One policy holds every misdeed. Which one is next is told to it by an error reply's text ("BUSY mark 12"), that a
-- client has a node give, or by a number that it keeps in the cluster's memory.
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local ports = require "tests.support.ports"
local socket = require "socket"

-- ---- misdeeds ----

local misdeeds = require "tests.support.misdeeds"
local MEMORY, ERROR, ANSWER = misdeeds.MEMORY, misdeeds.ERROR, misdeeds.ANSWER
local answers = {
  mark = {
    "'failing'", "true", "42", "function() end", "{ state = 'dead' }", "{ state = 1 }", "{ stat = 'failing' }",
    "{ state = 'failing', seconds = '5' }", "{ state = 'failing', seconds = 0/0 }", "{ state = 'failing', seconds = 1/0 }",
    "{ state = 'failing', seconds = -1 }", "{ seconds = 5 }", "{ trials = 1 }", "{ state = 'probing', trials = 0.5 }",
    "{ weight = 2 }", "{ weight = 0/0 }", "{ weight = 0.5, ramp = -1/0 }", "{ shed = 'all' }", "{ shed = 1.01 }",
    "{ connections = 'cut' }", "{ refresh = 1 }", "{ reason = {} }", "{ reason = ('x'):rep(32) }", "{ [1] = 'failing' }",
  },
  backoff = {
    "'other'", "{}", "{ retry = 'again' }", "{ retry = true }", "{ after = 1 }", "{ retry = 'other', after = 0/0 }",
    "{ retry = 'same', after = 1/0 }", "{ retry = 'same', after = -1 }", "{ retry = 'other', within = 1 }",
    "{ retry = 'hold', within = 'long' }", "{ retry = 'hold', within = 0/0 }", "{ retry = 'other', stale_reads = 1 }",
    "{ retry = 'other', unknown_writes = 'yes' }", "{ retry = 'other', unknown = true }",
  },
  probe = {
    "1", "{ after = 'soon' }", "{ after = 0/0 }", "{ after = -1 }", "{ after = 1/0 }", "{ timeout = 0 }", "{ timeout = 0/0 }",
    "{ command = 'PING' }", "{ command = {} }", "{ command = { 1 } }", "{ command = { ('x'):rep(300) } }", "{ connection = 'old' }",
    "{ every = 1 }",
  },
  classify = { "1", "{}", "'no_such_class'", "true" },
  reconnect = { "1", "{ after = 0/0 }", "{ timeout = -1 }", "{ retry = 'other' }" },
}

local FUNCTIONS = { "classify", "mark", "backoff", "probe", "reconnect" }

local function policy_text()
  local out = { [[
local wayside = require "wayside"
local bad = {
]] }
  for _, misdeed in ipairs(misdeeds) do out[#out + 1] = ("function(node, event) %s end,\n"):format(misdeed[2]) end
  out[#out + 1] = "}\nlocal void = {\n"
  for _, name in ipairs(FUNCTIONS) do
    out[#out + 1] = name .. " = {\n"
    for _, answer in ipairs(answers[name]) do out[#out + 1] = ("function() return %s end,\n"):format(answer) end
    out[#out + 1] = "},\n"
  end
  out[#out + 1] = [[
}
local numbers = { mark = 1, probe = 2, reconnect = 3, storm = 4, big = 5 }

-- 1,000 * function + index of a misdeed
local function armed(name, self, node, event)
  local armed_as = self.cluster.memory.armed
  if (armed_as - armed_as % 1000) / 1000 == numbers[name] then return bad[armed_as % 1000](node, event) end
end

local function told(name, self, node, event)
  local what, which, index = (event.message or ""):match("^BUSY (%w+) (%w+) (%d+)")
  if what == name and which == "bad" then return bad[tonumber(index)](node, event) end
  if what == name and which == "void" then return void[name][tonumber(index)]() end
end

return wayside.policy {
  name = "misdeeds",
  pick = "random",
  memory = { cluster = { armed = 0 } },
  classify = function(self, event) return told("classify", self, nil, event) end,
  mark = function(self, node, event)
    local answer = told("mark", self, node, event)
    if answer then return answer end
    local name, index = (event.message or ""):match("^BUSY arm (%w+) (%d+)")
    if name then self.cluster.memory.armed = (numbers[name] or 0) * 1000 + tonumber(index) return {} end
    if event.message and event.message:find("^BUSY probe") then return {} end
    if event.error and event.kind ~= "result" then armed("mark", self, node, event) end
    if event.answer and self.cluster.memory.armed >= 5000 then return { reason = event.answer } end
    if event.error and event.error ~= "reply" then return { state = "failing", seconds = 60, reason = event.error } end
    if event.kind == "probe" and not event.error and node.state ~= "healthy" then return { state = "healthy" } end
  end,
  backoff = function(self, node, event)
    local answer = told("backoff", self, node, event)
    if answer then return answer end
    if (event.message or ""):find("^BUSY forever") then return { retry = "same", after = 0, unknown_writes = true } end
    if event.error ~= "reply" and event.attempt < 4 then return { retry = "other" } end
  end,
  probe = function(self, node, event)
    local answer = told("probe", self, node, event)
    if answer then return answer end
    local number = self.cluster.memory.armed
    if number >= 5000 then return { after = 0, command = { "EVAL", "return ('x'):rep(100000)", "0" } } end
    if number >= 4000 then return { after = 1e-6 } end
    if number >= 2000 and number < 3000 then armed("probe", self, node, event) end
    if node.state ~= "healthy" then return { after = 0.05 } end
  end,
  reconnect = function(self, node, event) return armed("reconnect", self, node, event) or nil end,
}
]]
  return table.concat(out)
end

-- ---- the daemon and its load ----

local cluster, way, http, value_of
local KEYS = 60
local longest = { seconds = 0 }

local function counters() return metrics.read(http) end

local function start(options)
  http = "127.0.0.1:" .. ports.free()
  options.cluster, options.http, options.workers = cluster, http, 2
  return kit.wayside(options)
end

--- Reads on four clients, two of each worker, while `what` happens. Every reply must be right.
local function under_load(what, clients)
  local gets, expected = {}, {}
  for i = 1, KEYS do gets[i], expected[i] = kit.resp.encode { "GET", "load" .. i }, value_of(i) end
  local bytes = table.concat(gets)
  for _, client in ipairs(clients) do assert(client:send_raw(bytes)) end
  local result = what()
  for _, client in ipairs(clients) do assert(client:send_raw(bytes)) end
  for number, client in ipairs(clients) do
    for i = 1, 2 * KEYS do
      local reply, why = client:read_reply(5)
      if reply ~= expected[(i - 1) % KEYS + 1] then
        error(("client %d, reply %d: %s; the log ends:\n%s"):format(number, i, kit.show(reply or { err = why }), way:log():sub(-2000)), 2)
      end
    end
  end
  return result
end

local clients
local function connect_all(count)
  clients = {}
  for i = 1, count or 4 do clients[i] = way:client(i % 2 == 0 and "tcp" or "unix", 5) end
  return clients
end

--- Has the master of slot 0 answer with this error, in the midst of a pipeline of reads.
local function provoke(words)
  local client = clients[1]
  local replies = client:pipeline {
    { "GET", "load1" }, { "EVAL", ("return redis.error_reply('BUSY %s')"):format(words), "1", "{load0}x" }, { "GET", "load2" },
  }
  assert.same({ value_of(1), { err = "BUSY " .. words }, value_of(2) }, replies, words)
end

--- How long others of this worker wait while it happens: the best of some, for the machine has other work too.
local function stall(words)
  local best = math.huge
  for _ = 1, 3 do
    local took = 0
    for _, client in ipairs(clients) do client:send_raw(kit.resp.encode { "PING" }) client:read_reply(5) end
    clients[1]:send_raw(kit.resp.encode { "EVAL", ("return redis.error_reply('BUSY %s')"):format(words), "1", "{load0}x" })
    local until_ = socket.gettime() + 0.004
    repeat
      for i = 2, #clients do
        local began = socket.gettime()
        clients[i]:send_raw(kit.resp.encode { "PING" })
        assert.equal("PONG", (clients[i]:read_reply(5)))
        took = math.max(took, socket.gettime() - began)
      end
    until socket.gettime() > until_
    assert.same({ err = "BUSY " .. words }, (clients[1]:read_reply(5)))
    best = math.min(best, took)
  end
  return best
end

--- Causes of failure by how often they rose; of that function alone, unless it is "any".
local function failures(changed, name)
  local out = {}
  for metric, by in pairs(changed) do
    local fn, cause = metric:match 'policy_errors_total{function="(%w+)",cause="(%w+)"}'
    if fn then
      if name ~= "any" then assert.equal(name, fn, "blamed for " .. cause) end
      out[cause] = by
    end
  end
  return out
end

--- It failed in this function by one of these causes, and the fallback answered instead.
local function assert_contained(before, name, causes, why)
  local changed = kit.wait_for(function()
    local seen = metrics.between(before, counters())
    return next(failures(seen, name)) and seen, "no error counted"
  end, 3, why .. " to be counted")
  for cause in pairs(failures(changed, name)) do assert.is_true(causes[cause], why .. " ended by " .. cause) end
  if name ~= "classify" and name ~= "reconnect" then
    assert.is_true((changed.policy_fallback_total or 0) > 0, why .. ": the fallback was not asked")
  end
end

--- Rubbish that a call left is collected behind the next ones: until these pass, they may fail for want of memory.
local function recover()
  kit.wait_for(function()
    local before = counters()
    provoke "nothing 0"
    return not next(failures(metrics.between(before, counters()), "any"))
  end, 5, "an innocent call to pass")
end

local function each_misdeed(name, check)
  for i, misdeed in ipairs(misdeeds) do
    if not (misdeed[2]:find "node%." and name == "classify") then check(i, ("%s in %s"):format(misdeed[1], name), misdeed[3]) end
  end
end

setup(function()
  cluster = kit.cluster { masters = 3, replicas = 3 }
  value_of = function(i) return "value" .. i end
  for i = 1, KEYS do
    local key = "load" .. i
    assert.equal("OK", cluster:master_of(kit.slot_of(key)):call("SET", key, value_of(i)))
  end
  cluster:wait_ok()
  for i = 1, KEYS do -- replicas answer reads too
    local key = "load" .. i
    for _, replica in ipairs(cluster:replicas_of(kit.slot_of(key))) do
      local reader = replica:connect()
      reader:call "READONLY"
      kit.wait_for(function() return reader:call("GET", key) == value_of(i) end, 5, "the replica to have " .. key)
      reader:close()
    end
  end
end)

describe("a policy that fails when it is asked", function()
  setup(function()
    way = start { policy = kit.file("misdeeds.lua", policy_text()), limits = { policy_errors = 1e9, retry_share = 10 } }
    connect_all(4)
  end)

  for _, name in ipairs { "classify", "mark", "backoff", "probe" } do
    it("in " .. name .. ", whatever it does, harms no request", function()
      each_misdeed(name, function(i, what, causes)
        local before = counters()
        under_load(function() provoke(("%s bad %d"):format(name, i)) end, { clients[2], clients[3], clients[4] })
        assert_contained(before, name, causes, what)
        recover()
      end)
    end)

    it("in " .. name .. " by its answer, in each field, is not believed", function()
      for i, answer in ipairs(answers[name]) do
        local before = counters()
        under_load(function() provoke(("%s void %d"):format(name, i)) end, { clients[2] })
        assert_contained(before, name, ANSWER, name .. " returning " .. answer)
      end
      for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state) end
    end)
  end

  it("stalls nobody for long", function()
    for _, name in ipairs { "mark", "backoff" } do
      each_misdeed(name, function(i, what)
        local took = stall(("%s bad %d"):format(name, i))
        if took > longest.seconds then longest = { seconds = took, what = what } end
      end)
    end
    print(("longest stall of a loop, by PING: %.2f ms, %s"):format(longest.seconds * 1000, longest.what))
    assert.is_true(longest.seconds < 0.02, longest.what)
  end)

  it("tells file, line and traceback, but not a thousand times", function()
    local lines, errors = {}, 0
    for line in way:log():gmatch "[^\n]*policy=misdeeds function=[^\n]*" do lines[#lines + 1] = line end
    for metric, count in pairs(counters()) do
      if metric:find "^policy_errors_total" then errors = errors + count end
    end
    assert.is_true(#lines >= 4 and #lines < errors / 2, ("%d lines, %d errors"):format(#lines, errors))
    local traced = 0
    for _, line in ipairs(lines) do
      assert.matches("level=error policy=misdeeds function=%a+ cause=%a+ error=\".*misdeeds%.lua:%d+", line)
      traced = traced + (line:find "stack traceback:; [^;]*misdeeds%.lua:%d+: in function" and 1 or 0)
    end
    assert.is_true(traced > 0, lines[1])
    assert.matches("similar lines left out", way:log())
  end)
end)

describe("where the policy fails on hard evidence", function()
  local replica
  setup(function()
    way = start { policy = kit.file("misdeeds.lua", policy_text()), limits = { policy_errors = 1e9, retry_share = 10 } }
    connect_all(4)
    replica = cluster:replicas_of(kit.slot_of "load1")[1]
  end)

  --- The replica refuses; what the table then says of it.
  local function verdict()
    replica:refuse()
    local record = kit.wait_for(function()
      under_load(function() end, clients)
      local seen = way:node(replica)
      return seen.state == "failing" and seen, seen.state
    end, 5, "the replica to be failing")
    replica:accept()
    provoke "arm nothing 0"
    way:wait_state(replica, "healthy", 8)
    return record
  end

  it("the good version's verdict is sixty seconds", function()
    local record = verdict()
    assert.equal("refused", record.reason)
    assert.is_true(record.ends > 50 and record.ends <= 60, tostring(record.ends))
  end)

  for i, misdeed in ipairs(misdeeds) do
    if i == 1 or i == 3 or i == 7 then
      it(("the fallback's is five, after %s"):format(misdeed[1]), function()
        provoke("arm mark " .. i)
        local before = counters()
        local record = verdict()
        assert_contained(before, "mark", misdeed[3], misdeed[1])
        assert.is_true(record.ends > 2 and record.ends <= 5, tostring(record.ends))
      end)
    end
  end

  it("the fallback's probes find out that it is back", function()
    replica:refuse()
    kit.wait_for(function()
      under_load(function() end, clients)
      return way:node(replica).state == "failing"
    end, 5, "the replica to be failing")
    local before = counters()
    provoke "arm probe 1"
    replica:accept()
    way:wait_state(replica, "healthy", 8)
    assert_contained(before, "probe", ERROR, "an error in probe")
    provoke "arm nothing 0"
  end)

  it("dials go on by the host's rules if reconnect fails", function()
    for i, misdeed in ipairs(misdeeds) do
      if i <= 4 or i == 7 then
        local before = counters()
        provoke("arm reconnect " .. i)
        local served = replica:calls "get"
        kit.wait_for(function() -- dials have a least interval, and one has just failed
          under_load(function() end, clients)
          return replica:calls "get" > served
        end, 5, "the replica to be connected")
        replica:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        under_load(function() end, clients)
        assert_contained(before, "reconnect", misdeed[3], misdeed[1] .. " in reconnect")
      end
    end
    provoke "arm nothing 0"
    way:wait_state(replica, "healthy", 8)
  end)
end)

describe("a policy that asks for too much", function()
  setup(function()
    way = start {
      policy = kit.file("misdeeds.lua", policy_text()),
      limits = { policy_errors = 1e9, retry_share = 10, probes_per_second = 40, node_probes_per_second = 8, attempts = 7 },
    }
    connect_all(4)
  end)

  it("for a probe every microsecond gets no more than limits.probes_per_second", function()
    provoke "arm storm 1"
    local before = counters()
    under_load(function() socket.sleep(1) end, clients)
    local changed = metrics.between(before, counters())
    provoke "arm nothing 0"
    local probes = changed.probes_total or 0
    assert.is_true(probes > 4 and probes <= 60, tostring(probes))
    assert.is_true((changed.probes_delayed_total or 0) > 0)
  end)

  it("for the same command for ever gets limits.attempts", function()
    local before = counters()
    local client = clients[1]
    under_load(function()
      assert.same({ err = "BUSY forever" },
        client:call("EVAL", "redis.call('INCR', KEYS[1]) return redis.error_reply('BUSY forever')", "1", "{load0}count"))
    end, { clients[2], clients[3], clients[4] })
    assert.equal("7", client:call("GET", "{load0}count"))
    assert.equal(1, metrics.between(before, counters())['retries_refused_total{limit="attempts"}'])
  end)

  it("for an answer larger than its memory fails alone", function()
    local before = counters()
    under_load(function()
      provoke "arm big 1"
      assert_contained(before, "mark", MEMORY, "an answer of 100,000 bytes")
    end, { clients[2], clients[3], clients[4] })
    provoke "arm nothing 0"
    for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state) end
  end)
end)

describe("a policy that failed limits.policy_errors times", function()
  setup(function()
    way = start { policy = kit.file("misdeeds.lua", policy_text()), limits = { policy_errors = 6, retry_share = 10 } }
    connect_all(4)
  end)

  local function status()
    local map, flat = {}, way:ask("WAYSIDE", "POLICY")
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
  end

  it("is set aside, for all threads at once, and says so", function()
    for i = 1, 5 do
      clients[1], clients[2] = clients[2], clients[1]
      under_load(function() provoke(("%s bad 1"):format(i % 2 == 0 and "mark" or "backoff")) end, { clients[3], clients[4] })
    end
    assert.equal(0, status().set_aside)
    assert.equal(5, status().errors)
    under_load(function() provoke "mark bad 3" end, { clients[2], clients[3], clients[4] })
    kit.wait_for(function() return status().set_aside == 1 end, 3, "the policy to be set aside")
    assert.equal(1, counters().policy_set_aside)
    local _, told = way:log():gsub("set_aside=true", "")
    assert.equal(1, told)
  end)

  it("is not asked again, and the fallback decides", function()
    local before = status()
    for _ = 1, 4 do
      clients[1], clients[2] = clients[2], clients[1]
      under_load(function() provoke "mark bad 3" end, { clients[3], clients[4] })
    end
    local after = status()
    assert.equal(before.calls, after.calls)
    assert.equal(before.errors, after.errors)
    assert.is_true(after.fallback > before.fallback)
    local replica = cluster:replicas_of(kit.slot_of "load1")[1]
    replica:refuse()
    local record = kit.wait_for(function()
      under_load(function() end, clients)
      local seen = way:node(replica)
      return seen.state == "failing" and seen
    end, 5, "the replica to be failing")
    replica:accept()
    assert.is_true(record.ends > 2 and record.ends <= 5, tostring(record.ends))
    way:wait_state(replica, "healthy", 8)
  end)
end)

describe("a policy that can't be loaded", function()
  local function refused(text, wanted)
    local file = kit.file("unloadable.lua", text)
    local status, said = kit.prepared({ cluster = cluster, policy = file }):refused()
    assert.equal(1, status, said)
    assert.matches(wanted, said)
  end
  local FINE = "local w = require 'wayside'\n"

  for what, case in pairs {
    ["a syntax error"] = { FINE .. "\nreturn w.policy {{ name = 'x' }", "unloadable%.lua:3: " },
    ["an error at load"] = { FINE .. "error 'no'", "unloadable%.lua:2: no" },
    ["an endless loop at load"] = { FINE .. "while true do end", "unloadable%.lua:2: more than" },
    ["an endless allocation at load"] = { FINE .. "local t = {} while true do t[#t + 1] = {} end", "unloadable%.lua: .*memory" },
    ["nothing returned"] = { FINE, "unloadable%.lua: .*expected" },
    ["a field of a wrong type"] = { FINE .. "return w.policy {\n name = 'x',\n mark = 5 }", "unloadable%.lua:4: mark: expected" },
    ["a misspelt field"] = { FINE .. "return w.policy {\n name = 'x',\n marks = function() end }", "did you mean 'mark'" },
    ["bytecode"] = { "\27LJ\2\0", "bytecode" },
  } do
    it("is refused at start, told with its place: " .. what, function() refused(case[1], case[2]) end)
  end
end)
