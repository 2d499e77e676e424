--- An operator's marks: they outrank policy and guard until their seconds end or they are taken back, for every worker
-- and every process on the segment.
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local ports = require "tests.support.ports"

local POLICY = [[
local wayside = require "wayside"
return wayside.policy {
  name = "eager", version = "3", pick = "random",
  memory = { node = { heard = 0 } },
  classes = { { error = "reply", message = "HURT", class = "busy" }, wayside.default.classes },
  mark = function(self, node, event)
    node.memory.heard = node.memory.heard + 1
    if event.kind == "expiry" then return { state = "suspect", reason = "heard" .. node.memory.heard } end
    if event.error then return { state = "failing", seconds = 60, reason = event.reply or event.error } end
    if event.kind == "probe" then return { state = "healthy", reason = "probed" } end
  end,
  backoff = function(self, node, event) if event.attempt < 3 then return { retry = "other" } end end,
  probe = function(self, node) if node.state ~= "healthy" then return { after = 0.05, command = { "PING" } } end end,
}
]]

describe("an operator's mark", function()
  local cluster, way, replica, http
  setup(function()
    -- 60 s: a replica is frozen; what the cluster says of it would be told beside what the operator said.
    cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 60000, front = "mitm" }
    replica = cluster:node(2)
    http = "127.0.0.1:" .. ports.free()
    way = kit.wayside { cluster = cluster, policy = kit.file("eager.lua", POLICY), workers = 2, http = http,
      segment = kit.folder() .. "/operator.seg", timeouts = { dial = 0.3, hello = 3, read = 5 } }
    cluster:node(1):call("SET", kit.key_in(1, "v"), "v")
    cluster:node(1):call("WAIT", 1, 2000)
  end)

  local function ask(...)
    local reply = way:ask("WAYSIDE", ...)
    local map = {}
    assert.is_nil(reply.err, reply.err)
    for i = 1, #reply, 2 do map[reply[i]] = reply[i + 1] end
    return map
  end

  local function why(node) return table.concat(way:ask("WAYSIDE", "WHY", node.address), "\n") end

  local function gets_of(node, n)
    local before, client = node:calls "get", way:client()
    for _ = 1, n or 40 do assert.equal("v", client:call("GET", kit.key_in(1, "v"))) end
    client:close()
    return node:calls "get" - before
  end

  after_each(function()
    replica:thaw()
    replica:accept()
    for i = 1, 2 do way:ask("WAYSIDE", "UNMARK", cluster:node(i).address) end
    way:wait_state(replica, "healthy")
  end)

  it("takes a healthy node out, and probes that would bring it back change nothing but memory", function()
    local refused = metrics.read(http)['marks_refused_total{limit="operator"}']
    local told = ask("MARK", replica.address, "failing")
    assert.equal("healthy", told.from)
    assert.equal("failing", told.to)
    assert.equal(replica.address, told.node)
    assert.equal(0, gets_of(replica))
    kit.wait_for(function()
      local now = metrics.read(http)['marks_refused_total{limit="operator"}']
      return now >= refused + 3, now
    end, 5, "probes that are outranked")
    assert.equal("failing", way:node(replica).state)
    assert.equal("operator", way:node(replica).by)
    local event = way:wait_event { kind = "probe", refused = "operator" }
    assert.is_truthy(event.did:find "outranked by the operator's mark", event.did)
    local text = why(replica)
    assert.is_truthy(text:find "is failing since [%d.]+ s, by an operator, until taken back", text)
    assert.is_truthy(text:find "an operator said failing operator; healthy %-> failing", text)
    assert.is_truthy(text:find "mark %([^)]*eager.lua:%d+, eager 3%) said healthy probed; stays failing %(outranked", text)
  end)

  it("ends when its seconds are over: the policy is asked, with the memory it kept meanwhile", function()
    local told = ask("MARK", replica.address, "failing", "0.5")
    assert.equal("0.5", tostring(told.seconds))
    way:wait_event { kind = "probe", refused = "operator" }
    local state = way:wait_state(replica, "suspect")
    assert.is_truthy(state.reason:match "^heard%d+$", state.reason)
    assert.is_true(tonumber(state.reason:match "%d+") > 1, state.reason)
    assert.is_nil(state.by)
  end)

  it("is taken back: the node is healthy and the policy's again", function()
    ask("MARK", replica.address, "failing")
    local told = ask("UNMARK", replica.address)
    assert.equal("failing", told.from)
    assert.equal("healthy", told.to)
    assert.is_true(gets_of(replica) > 0)
    local again = way:ask("WAYSIDE", "UNMARK", replica.address)
    assert.is_truthy(again.err and again.err:find "no operator's mark stands", kit.show(again))
    replica:refuse()
    replica.mitm:drop()
    gets_of(replica)
    way:wait_state(replica, "failing")
    replica:accept()
    assert.is_nil(way:node(replica).by)
    way:wait_state(replica, "healthy")
  end)

  it("keeps a node in that the policy would take out", function()
    ask("MARK", replica.address, "healthy")
    replica:refuse()
    replica.mitm:drop()
    -- They are tried again elsewhere; now and then one of them dials.
    kit.wait_for(function()
      assert.equal(0, gets_of(replica))
      return #way:events { error = "refused", refused = "operator", ["function"] = "mark" } > 0, way:show_events()
    end, 5, "a mark that is outranked")
    assert.equal("healthy", way:node(replica).state)
    replica:accept()
  end)

  it("outranks the guard: the only master may be taken out", function()
    local master = cluster:node(1)
    ask("MARK", master.address, "failing", 30)
    assert.equal("failing", way:node(master).state)
    local client = way:client()
    assert.is_truthy((client:call("SET", kit.key_in(1, "w"), "1").err or ""):find "WAYSIDE", way:show_events())
    ask("UNMARK", master.address)
    assert.equal("OK", client:call("SET", kit.key_in(1, "w"), "1"))
  end)

  it("DRAIN: a node finishes what it has, and gets nothing new", function()
    kit.wait_for(function() return gets_of(replica, 10) > 0, way:show_events() end, 5, "reads from the replica")
    local clients = {}
    for i = 1, 8 do
      clients[i] = way:client()
      for _ = 1, 10 do clients[i]:call("GET", kit.key_in(1, "v")) end -- both workers are connected to both nodes
    end
    replica:freeze()
    for i = 1, 8 do
      clients[i]:send_raw("*2\r\n$3\r\nGET\r\n$" .. #kit.key_in(1, "v") .. "\r\n" .. kit.key_in(1, "v") .. "\r\n")
    end
    kit.wait_for(function()
      local record = way:node(replica)
      return record.inflight > 0, record.inflight
    end, 5, "commands in flight to the replica")
    assert.equal("draining", ask("DRAIN", replica.address).to)
    replica:thaw()
    for i = 1, 8 do
      assert.equal("v", clients[i]:read_reply())
      clients[i]:close()
    end
    assert.equal(0, gets_of(replica))
    for _, event in ipairs(way:events { node = replica.address, kind = "connection" }) do
      assert.is_nil(event.error ~= "refused" and event.n and event.n > 0 and event.certainty == "unknown" and event or nil)
    end
  end)

  it("holds in other processes on the segment, and after a restart", function()
    ask("MARK", replica.address, "failing")
    local other = kit.wayside { cluster = cluster, policy = kit.folder() .. "/eager.lua", workers = 1,
      segment = kit.folder() .. "/operator.seg" }
    assert.equal("failing", other:node(replica).state)
    assert.equal("operator", other:node(replica).by)
    way:wait_event { kind = "probe", refused = "operator" }
    assert.equal("failing", other:node(replica).state)
    local told = other:ask("WAYSIDE", "UNMARK", replica.address)
    assert.is_nil(told.err)
    way:wait_state(replica, "healthy")
  end)

  it("is refused where it makes no sense, with the reason", function()
    for words, reason in pairs {
      ["MARK nobody failing"] = "no node 'nobody'",
      ["MARK NODE dead"] = "no state 'dead': expected healthy, suspect, failing, probing or draining",
      ["MARK NODE failing soon"] = "expected seconds %(number, above 0%), got 'soon'",
      ["MARK NODE failing -1"] = "expected seconds",
      ["MARK NODE failing nan"] = "expected seconds",
      ["MARK NODE failing inf"] = "expected seconds",
      ["MARK NODE"] = "wrong number of arguments: WAYSIDE MARK node state",
      ["DRAIN NODE 0"] = "expected seconds",
      ["UNMARK nobody"] = "no node 'nobody'",
    } do
      local list = { "WAYSIDE" }
      for word in words:gmatch "%S+" do list[#list + 1] = word == "NODE" and replica.address or word end
      local reply = way:ask(unpack(list))
      assert.is_truthy(type(reply) == "table" and reply.err and reply.err:find(reason), words .. ": " .. kit.show(reply))
    end
    assert.equal("healthy", way:node(replica).state)
  end)
end)
