--- A policy that routes: reads near by or fresh on a real cluster with zones; and a route that misbehaves loses nothing.
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local misdeeds = require "tests.support.misdeeds"
local ports = require "tests.support.ports"

local cluster, way, http, master, near, far
local KEY = kit.key_in(0, "value")
local READ = { "GETRANGE", KEY, 0, -1 } -- what nobody else asks: probes read too

--- Replicas of the first master: one in zone b, one in c; all masters in a.
local function zones()
  local of = {}
  for i = 1, #cluster.nodes do of[cluster:node(i).address] = "a" end
  of[near.address], of[far.address] = "b", "c"
  return of
end

local function start(options)
  http = "127.0.0.1:" .. ports.free()
  options.cluster, options.http = cluster, http
  options.config = { cluster = { seeds = cluster:seeds(), zones = zones() } }
  way = kit.wayside(options)
  return way
end

local function counters() return metrics.read(http) end

setup(function()
  cluster = kit.cluster { masters = 2, replicas = 4, node_timeout = 500 }
  master = cluster:master_of(0)
  near, far = unpack(cluster:replicas_of(0))
  master:call("SET", KEY, "v")
  assert.equal(2, master:call("WAIT", 2, 2000))
end)

--- How many of the reads in `what` each node of the shard has answered.
local function served(what)
  local before = { master:calls "getrange", near:calls "getrange", far:calls "getrange" }
  what()
  return { master = master:calls "getrange" - before[1], near = near:calls "getrange" - before[2], far = far:calls "getrange" - before[3] }
end

local function read(clients, rounds, wanted)
  for _ = 1, rounds do
    for _, client in ipairs(clients) do
      local replies = client:pipeline { READ, READ }
      assert.same({ wanted or "v", wanted or "v" }, replies, kit.show(replies[1]))
    end
  end
end

local function connect(count)
  local clients = {}
  for i = 1, count do clients[i] = way:client(nil, 5) end
  return clients
end

describe("zone_reads", function()
  setup(function() start { policy = "policies/zone_reads.lua", options = { zone = "b" } } end)

  it("reads in the own zone, elsewhere while that refuses, and there again", function()
    local clients = connect(4)
    assert.same({ master = 0, near = 40, far = 0 }, served(function() read(clients, 5) end))
    near:refuse()
    near:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    kit.wait_for(function()
      read(clients, 1)
      return way:node(near).state == "failing", way:node(near).state
    end, 5, "the near replica to be marked")
    local now = served(function() read(clients, 5) end)
    assert.equal(0, now.near)
    assert.equal(40, now.master + now.far)
    near:accept()
    way:wait_state(near, "healthy", 5)
    kit.wait_for(function() return served(function() read(clients, 1) end).near > 0, "none" end, 8, "reads near by")
  end)

  it("sends writes to the master, and reads of its own in their order", function()
    local client = way:client()
    for i = 1, 20 do
      local key = kit.key_in(0, "w" .. i)
      assert.same({ "OK", 1 }, client:pipeline { { "SET", key, i }, { "EXPIRE", key, 100 } })
    end
    local changed = counters()
    assert.equal(0, changed.routes_refused_total)
    assert.is_true(changed.policy_calls_total >= 40)
  end)
end)

describe("bounded_staleness", function()
  local clients
  setup(function()
    start { policy = "policies/bounded_staleness.lua", options = { every = 0.1 } }
    clients = connect(2)
  end)

  local function until_served(by)
    return kit.wait_for(function()
      local now = served(function() read(clients, 10) end)
      for name, wanted in pairs(by) do
        if wanted ~= (now[name] > 0) then return false, ("%d, %d, %d"):format(now.master, now.near, now.far) end
      end
      return now
    end, 8, "reads by those who are fresh")
  end

  it("reads from replicas, not from one that has lost its master, and never what is too old", function()
    until_served { master = false, near = true, far = true }
    for _, pair in ipairs { { "masteruser", "nobody" }, { "masterauth", "wrong" } } do
      assert.equal("OK", near:call("CONFIG", "SET", pair[1], pair[2]))
    end
    master:call("CLIENT", "KILL", "TYPE", "replica")
    kit.wait_for(function() return near:info "master_link_status" == "down" end, 5, "the link to break")
    until_served { master = false, near = false, far = true }
    assert.equal("healthy", way:node(near).state)
    master:call("SET", KEY, "new")
    kit.wait_for(function() return far:info "master_link_status" == "up" end, 5, "the other link")
    assert.equal(1, master:call("WAIT", 1, 2000))
    assert.same("v", near:call("CONFIG", "GET", "masteruser") and (function()
      local stale = near:connect()
      stale:call "READONLY"
      return stale:call("GET", KEY)
    end)())
    read(clients, 20, "new")
    for _, pair in ipairs { { "masteruser", "" }, { "masterauth", "" } } do near:call("CONFIG", "SET", pair[1], pair[2]) end
    master:call("SET", KEY, "v")
    until_served { near = true }
  end)
end)

describe("drain", function()
  it("is announced at the node: no command comes, connections close, and all is taken back", function()
    start { policy = "policies/drain.lua", options = { every = 0.1 } }
    near:call("CONFIG", "SET", "replica-priority", "0")
    way:wait_state(near, "draining", 5)
    assert.equal("announced", way:node(near).reason)
    read(connect(4), 5)
    near:call("CONFIG", "SET", "replica-priority", "100")
    way:wait_state(near, "healthy", 5)
  end)
end)

-- ---- containment ----

-- STRLEN of a key in slot i has the route do misdeed i; of slot 100 + i, give answer i.
local ANSWERS = { "0", "4", "1.5", "0/0", "-1/0", "'1'", "true", "{}", "nodes[1]", "nodes", "function() end", "2^53" }

local function misdeeds_text()
  local out = { 'local wayside = require "wayside"\nlocal bad = {\n' }
  for _, misdeed in ipairs(misdeeds) do out[#out + 1] = ("function(node, event) %s end,\n"):format(misdeed[2]) end
  out[#out + 1] = "}\nlocal void = {\n"
  for _, answer in ipairs(ANSWERS) do out[#out + 1] = ("function(nodes) return %s end,\n"):format(answer) end
  out[#out + 1] = [[
}
return wayside.policy {
  name = "misdeeds", pick = "master",
  memory = { node = { n = 0 }, shard = { n = 0 }, cluster = { n = 0 } },
  route = function(self, request, nodes)
    if request.write then return #nodes end
    if request.command ~= "strlen" then return 1 + request.slot % #nodes end
    if request.slot == 200 then nodes[1].memory.n = 1 end
    if request.slot == 201 then self.cluster.memory.n = 1 end
    if request.slot > 100 then return void[request.slot - 100](nodes) end
    return bad[request.slot](nodes[1], request)
  end,
}
]]
  return table.concat(out)
end

describe("a route that fails", function()
  local clients
  setup(function()
    start { policy = kit.file("misdeeds.lua", misdeeds_text()), limits = { policy_errors = 1e9 } }
    clients = connect(2)
  end)

  --- The errors of route by cause, and what else there was.
  local function failures(before)
    local out = {}
    for name, by in pairs(metrics.between(before, counters())) do
      local fn, cause = name:match 'policy_errors_total{function="(%w+)",cause="(%w+)"}'
      if fn then out[cause] = by assert.equal("route", fn) end
    end
    return out
  end

  --- In the midst of a pipeline: nothing is lost, the command itself neither.
  local function misbehave(slot)
    local replies = clients[1]:pipeline { { "GET", KEY }, { "STRLEN", kit.key_in(slot, "none") }, { "GET", KEY } }
    assert.same({ "v", 0, "v" }, replies, kit.show(replies))
    assert.same({ "v" }, clients[2]:pipeline { { "GET", KEY } })
  end

  local function recover()
    kit.wait_for(function()
      local before = counters()
      read(clients, 10)
      return not next(failures(before))
    end, 5, "an innocent call to pass")
  end

  it("leaves each command to pick, whatever it does", function()
    for i, misdeed in ipairs(misdeeds) do
      local before = counters()
      misbehave(i)
      local seen = failures(before)
      assert.is_truthy(next(seen), misdeed[1])
      for cause in pairs(seen) do assert.is_true(misdeed[3][cause], misdeed[1] .. " ended by " .. cause) end
      assert.is_true(metrics.between(before, counters()).policy_fallback_total > 0)
      recover()
    end
  end)

  it("by its answer is not believed", function()
    for i, answer in ipairs(ANSWERS) do
      local before = counters()
      misbehave(100 + i)
      assert.same({ answer = 1 }, failures(before), answer)
    end
  end)

  it("by writing to memory is refused", function()
    for _, slot in ipairs { 200, 201 } do
      local before = counters()
      misbehave(slot)
      assert.same({ error = 1 }, failures(before))
    end
  end)

  it("can't send a write to a replica: that is refused and counted", function()
    local before, key = counters(), kit.key_in(0, "w")
    for i = 1, 10 do assert.equal("OK", clients[1]:call("SET", key, i)) end
    assert.equal(10, metrics.between(before, counters()).routes_refused_total)
    assert.equal("10", master:call("GET", key))
  end)

  it("too often is set aside, and everything goes by pick", function()
    start { policy = kit.file("misdeeds.lua", misdeeds_text()), limits = { policy_errors = 5 } }
    clients = connect(2)
    for _ = 1, 5 do misbehave(1) end
    kit.wait_for(function() return counters().policy_set_aside == 1 end, 3, "the policy to be set aside")
    local before = counters()
    misbehave(1)
    assert.is_nil(metrics.between(before, counters()).policy_calls_total)
  end)
end)
