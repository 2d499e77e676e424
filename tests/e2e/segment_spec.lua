--- Two processes on one segment: what one learns, the other obeys.
local signal = require "posix.signal"
local socket = require "socket"
local kit = require "tests.support.kit"

local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "segment", pick = "random",
  classes = { { error = "reply", message = "MARKME", class = "busy" }, wayside.default.classes },
  memory = { node = { strikes = 0 } },
  mark = function(self, node, event)
    if not event.error then return end
    node.memory.strikes = node.memory.strikes + 1
    if event.error == "reply" then return { state = "suspect", seconds = 0.05, reason = "strike" } end
    return { state = "failing", seconds = 60, reason = event.error }
  end,
  backoff = function(self, node, event)
    if event.commands == "reads" and event.attempt < 4 then return { retry = "other" } end
  end,
  probe = function() end,
}
]]

local cluster, replica
setup(function()
  cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 500, front = "mitm" }
  replica = cluster:node(2)
end)

local function value_key() return kit.key_in(1, "value") end

describe("two processes on one segment", function()
  local policy
  setup(function()
    policy = kit.file("segment.lua", POLICY)
    cluster:node(1):call("SET", value_key(), "v")
    cluster:node(1):call("WAIT", 1, 2000)
  end)

  local function serve(segment, workers)
    return kit.wayside { cluster = cluster, policy = policy, segment = segment, workers = workers or 2,
      timeouts = { dial = 0.3, read = 0.5 } }
  end

  it("42: a mark by one is obeyed by the other's next command", function()
    local segment = kit.folder() .. "/marks.seg"
    local a, b = serve(segment), serve(segment)
    local of_a, of_b = {}, {}
    for i = 1, 6 do of_a[i], of_b[i] = a:client(), b:client() end
    for i = 1, 60 do
      assert.equal("v", of_a[i % 6 + 1]:call("GET", value_key()))
      assert.equal("v", of_b[i % 6 + 1]:call("GET", value_key()))
    end
    -- Reads are never answered by the replica from now on, but its connections stay: what b
    -- knows of it, b has from a.
    replica.mitm:rule { dir = "down", act = "swallow", at = "+0" }
    for i = 1, 100 do
      assert.equal("v", kit.show(of_a[i % 6 + 1]:call("GET", value_key())))
      if a:node(replica).state == "failing" then break end
    end
    assert.equal("failing", a:node(replica).state)
    -- b's very next commands, from all of its workers.
    local before = replica:calls "get"
    for i = 1, 120 do assert.equal("v", of_b[i % 6 + 1]:call("GET", value_key())) end
    assert.equal(before, replica:calls "get", "b sent to a node that a had marked")
    assert.equal("failing", b:node(replica).state)
    assert.equal(0, #b:events { ["function"] = "mark", kind = "connection", phase = "read" })
    replica.mitm:clear()
  end)

  it("a process with another policy is refused, and told why", function()
    local segment = kit.folder() .. "/other.seg"
    serve(segment)
    local other = kit.file("other.lua", (POLICY:gsub('"segment"', '"another"', 1)))
    local way = kit.prepared { cluster = cluster, policy = other, segment = segment }
    local status, text = way:refused(3)
    assert.is_number(status, text)
    assert.not_equal(0, status)
    assert.is_true(text:find("policy", 1, true) ~= nil, text)
  end)

  it("a file that is no segment is refused, and left as it is", function()
    local bytes = kit.random.bytes(4096)
    local path = kit.file("garbage.seg", bytes)
    local status, text = kit.prepared({ cluster = cluster, policy = policy, segment = path }):refused()
    assert.is_number(status, text)
    assert.not_equal(0, status)
    assert.is_true(text:find("garbage.seg", 1, true) ~= nil, text)
    assert.equal(bytes, kit.process.read_file(path))
  end)
end)

describe("kill -9 in the middle of commits", function()
  it("leaves a table that the other process goes on with", function()
    local policy, segment = kit.file("segment.lua", POLICY), kit.folder() .. "/kills.seg"
    cluster:node(1):call("SET", value_key(), "v")
    cluster:node(1):call("WAIT", 1, 2000)
    -- Every read at either node is an error that blames it: each reply is a commit of memory.
    for i = 1, 2 do
      cluster:node(i):script(function(words)
        if words[1]:upper() == "GET" and words[2]:find "strike" then return "-MARKME now\r\n" end
      end)
    end
    local options = { cluster = cluster, policy = policy, segment = segment, workers = 2, timeouts = { dial = 0.3, read = 2 } }
    local strike = {}
    for i = 1, 50 do strike[i] = kit.resp.encode { "GET", kit.key_in(1, "strike") } end
    strike = table.concat(strike)
    local function start()
      local way, clients = kit.wayside(options), {}
      for i = 1, 4 do clients[i] = way:client(nil, 10) end
      return { way = way, clients = clients }
    end
    local pair, kills, slowest, marks = { start(), start() }, kit.count(50, 1000), 0, 0
    for round = 1, kills do
      local which = kit.random.int(1, 2)
      local dies, stays = pair[which], pair[3 - which]
      for i = 1, 4 do
        dies.clients[i]:send_raw(strike)
        stays.clients[i]:send_raw(strike)
      end
      socket.sleep(kit.random.int(0, 2000) / 1e5)
      signal.kill(dies.way.process.pid, signal.SIGKILL)
      dies.way.process:wait(5)
      for i = 1, 4 do dies.clients[i]:close() end
      -- The one that stays answers all it was asked, and its table still takes commits.
      for _, client in ipairs(stays.clients) do
        local began = socket.gettime()
        local replies, why = client:exchange("", 50, 10)
        slowest = math.max(slowest, socket.gettime() - began)
        assert.equal(50, #replies, ("round %d: %s"):format(round, tostring(why)))
      end
      local reply = stays.way:call("GET", value_key())
      assert.equal("v", kit.show(reply), "round " .. round)
      marks = marks + #stays.way:events { ["function"] = "mark", class = "busy" }
      dies.way:stop()
      pair[which] = start()
    end
    print(("%d kills, slowest answer of the one that stayed %.1f ms"):format(kills, slowest * 1000))
    assert.is_true(marks > 0, "no commit was made")
    -- And marks still pass between processes.
    local again, stays = pair[1].way, pair[2].way
    for i = 1, 2 do cluster:node(i):unscript() end
    replica.mitm:refuse()
    replica.mitm:cut "rst"
    for _ = 1, 200 do
      assert.equal("v", kit.show(again:call("GET", value_key())))
      if again:node(replica).state == "failing" then break end
    end
    assert.equal("failing", again:node(replica).state)
    assert.equal("failing", stays:node(replica).state)
    replica.mitm:accept()
  end)
end)
