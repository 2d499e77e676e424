--- The guard: what no policy can do to a cluster that could still answer, through the running daemon.
local socket = require "socket"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local ports = require "tests.support.ports"

-- Whatever blames a node takes it out; for good, if `seconds` is 0.
local STERN = [[
local wayside = require "wayside"
return wayside.policy {
  name = "stern",
  options = { pick = { default = "master" }, seconds = { default = 60 } },
  pick = function(options) return options.pick end,
  mark = function(self, node, event)
    local seconds = self.options.seconds
    if event.error then return { state = "failing", seconds = seconds > 0 and seconds or nil, reason = event.error } end
    if event.kind == "probe" then return { state = "healthy" } end
  end,
  backoff = function() end,
  probe = function() end,
}
]]

local EVERYBODY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "everybody",
  watch = { success = true },
  mark = function() return { state = "failing", reason = "spite" } end,
  probe = function() return { after = 0.1 } end,
}
]]

local cluster, way, http

local function start(options)
  http = "127.0.0.1:" .. ports.free()
  options.cluster, options.http, options.workers = cluster, http, 2
  return kit.wayside(options)
end

local function refused(limit) return metrics.read(http)[("marks_refused_total{limit=%q}"):format(limit)] end

local function why(node) return table.concat(way:ask("WAYSIDE", "WHY", node.address), "\n") end

local function key_of(node)
  for slot = 0, 16383, 1000 do
    if cluster:master_of(slot) == node then return kit.key_in(slot, "k") end
  end
  for slot = 0, 16383, 1000 do
    for _, replica in ipairs(cluster:replicas_of(slot)) do
      if replica == node then return kit.key_in(slot, "k") end
    end
  end
end

--- The node says BUSY, which blames it: evidence, but soft.
local function complain(node, command)
  assert.same({ err = "BUSY said it" },
    way:call(command or "EVAL", "return redis.error_reply('BUSY said it')", "1", key_of(node)))
end

local masters, replicas = {}, {}
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 3 }
  for i = 1, 6 do
    local node = cluster:node(i)
    table.insert(node:is_master() and masters or replicas, node)
  end
end)

describe("the last node that can serve", function()
  local master
  setup(function()
    way = start { policy = kit.file("stern.lua", STERN) }
    master = masters[1]
  end)

  it("is only suspect on soft evidence, goes on serving, and WHY tells the limit", function()
    complain(master)
    way:wait_state(master, "suspect")
    assert.equal("OK", way:call("SET", key_of(master), "served"))
    assert.equal("served", way:call("GET", key_of(master)))
    assert.matches("said failing 60 s", why(master))
    assert.matches("healthy %-> suspect %(guard: the last node that serves%)", why(master))
    assert.equal(1, refused "guard")
    assert.equal(0, refused "failing_share")
  end)

  it("is so each time, and each is counted", function()
    complain(master)
    kit.wait_for(function() return refused "guard" == 2 end, 3, "the second refusal to be counted")
    assert.equal("suspect", way:node(master).state)
  end)

  it("is failing on hard evidence, and nothing is routed to it", function()
    local other = masters[2]
    other:refuse()
    kit.wait_for(function()
      local reply = way:call("GET", key_of(other))
      return kit.is_error(reply, "WAYSIDE no_node"), kit.show(reply)
    end, 5, "nothing to be routed to it")
    local record = way:node(other)
    assert.equal("failing", record.state)
    assert.is_true(record.ends > 50 and record.ends <= 60, tostring(record.ends))
    assert.matches("healthy %-> failing", why(other))
    assert.is_nil(why(other):find("guard:", 1, true))
    assert.equal(2, refused "guard")
    other:accept()
  end)

  it("51: is tried now and then by the host itself where its policy asks for no probe, whatever its mark", function()
    local open = start { policy = kit.file("stern.lua", STERN), options = { seconds = 0 } }
    -- A mark with an end, and a policy that never takes one back.
    local timed = start { policy = "policies/go_redis.lua", options = { failing_timeout = 60, max_redirects = 0, read_only = false } }
    local node, key = masters[2], key_of(masters[2])
    node:refuse()
    for _, one in ipairs { open, timed } do
      kit.wait_for(function() return kit.is_error(one:call("SET", key, "v"), "WAYSIDE no_node") end, 5, "it to be out")
    end
    node:accept()
    local began = socket.gettime()
    open:wait_state(node, "healthy", 8)
    local record = timed:wait_state(node, "suspect", 8)
    print(("the host's own look: served again %.1f s after the return, of a mark of 60 s"):format(socket.gettime() - began))
    assert.is_true(record.ends > 30, tostring(record.ends))
    for _, one in ipairs { open, timed } do assert.equal("OK", one:call("SET", key, "back")) end
    way = timed
    assert.matches("the host tried the last node that serves, and it answered", why(node))
  end)
end)

describe("limits.failing_share", function()
  setup(function()
    way = start {
      policy = kit.file("stern.lua", STERN), options = { pick = "replica" }, limits = { failing_share = 0.34 },
    }
  end)

  it("bounds how many nodes soft evidence takes out", function()
    for i = 1, 2 do
      complain(replicas[i], "EVAL_RO")
      way:wait_state(replicas[i], "failing")
    end
    complain(replicas[3], "EVAL_RO")
    way:wait_state(replicas[3], "suspect")
    assert.matches("healthy %-> suspect %(guard: limits%.failing_share%)", why(replicas[3]))
    assert.equal(1, refused "failing_share")
    assert.equal(0, refused "guard")
    for _, master in ipairs(masters) do
      assert.equal("OK", way:call("SET", key_of(master), "x"))
      assert.is_false(kit.is_error(way:call("GET", key_of(master))))
    end
  end)

  it("does not bound what is known for sure", function()
    replicas[3]:refuse()
    kit.wait_for(function()
      way:call("GET", key_of(replicas[3]))
      return way:node(replicas[3]).state == "failing"
    end, 5, "the replica to be failing")
    assert.is_nil(why(replicas[3]):find("-> failing (guard", 1, true))
    replicas[3]:accept()
    assert.is_false(kit.is_error(way:call("GET", key_of(replicas[3]))))
  end)
end)

describe("limits.guard = false", function()
  it("leaves all to the policy: no answer rather than a doubtful one", function()
    way = start { policy = kit.file("stern.lua", STERN), limits = { guard = false, failing_share = 0 } }
    for _, master in ipairs(masters) do
      complain(master)
      way:wait_state(master, "failing")
      assert.is_true(kit.is_error(way:call("GET", key_of(master)), "WAYSIDE no_node"))
      assert.matches("healthy %-> failing", why(master))
    end
    assert.equal(0, refused "guard")
    assert.equal(0, refused "failing_share")
  end)
end)

describe("a policy that marks every node", function()
  it("47: can't: masters are suspect at most, half of the nodes stay, and every command is answered", function()
    way = start { policy = kit.file("everybody.lua", EVERYBODY) }
    local client = way:client()
    for round = 1, 20 do
      for _, master in ipairs(masters) do
        assert.equal("OK", client:call("SET", key_of(master), round))
        assert.equal(tostring(round), client:call("GET", key_of(master)))
      end
    end
    local out = 0
    for _, node in ipairs(way:nodes()) do
      out = out + (node.state == "failing" and 1 or 0)
      if node.role == "master" then assert.equal("suspect", node.state, node.address) end
    end
    assert.is_true(out <= 3, out .. " nodes are out")
    kit.wait_for(function() return refused "guard" > 3 end, 3, "refusals to be counted")
    for _, master in ipairs(masters) do assert.matches("guard: the last node that serves", why(master)) end
    assert.matches("bounded_by=guard", way:log())
  end)
end)
