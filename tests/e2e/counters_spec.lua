--- Counters in the running daemon: what is counted of real commands takes a node out, workers count together, and a
--- policy that looks at probes alone does not see what clients see.
local kit = require "tests.support.kit"

-- Marks only when the counter says so, for a minute; probes say PING and change nothing but an unanswered one does.
local COUNTING = [[
local wayside = require "wayside"
return wayside.policy {
  name = "counting",
  pick = "random",
  counters = { real = %s },
  mark = function(_, node, event)
    if event.kind == "edge" then return { state = "failing", seconds = 60, reason = event.counter } end
    if event.kind == "probe" and event.error then return { state = "failing", reason = "ping" } end
  end,
  backoff = function(_, _, event)
    if event.commands == "reads" and event.attempt < 3 then return { retry = "other" } end
  end,
  probe = function() return { after = 0.1, timeout = 0.3, command = { "PING" } } end,
}
]]
local PING_ONLY = (COUNTING:gsub("counters = { real = %%s },", ""):gsub('if event.kind == "edge".-end\n', ""))

local SLOT = 100
local cluster, replica
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500, front = "mitm" }
  replica = cluster:replicas_of(SLOT)[1]
end)

local function serve(policy, more)
  local options = {
    cluster = cluster, policy = kit.file("policy.lua", policy), workers = 2, timeouts = { read = 0.2, total = 5 },
    limits = { retry_burst = 10000 },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return kit.wayside(options)
end

--- A replica that is well but for what it does with GET; `reply` in place of an answer.
local function be_sick(reply)
  local node = replica:script(function(words)
    if words[1]:upper() == "GET" then return type(reply) == "function" and reply() or reply end
  end)
  finally(function() replica:unscript() end)
  return node
end

local function key() return kit.key_in(SLOT, "value") end

--- Reads until the node is failing; how many it took. Every one must be answered.
local function read_until_failing(way, most)
  local client = way:client()
  for n = 1, most do
    local reply = client:call("GET", key())
    assert.is_false(kit.is_error(reply), kit.show(reply))
    if way:node(replica).state == "failing" then return n end
  end
  error(("after %d reads the node is %s\n%s"):format(most, way:node(replica).state, way:show_events()))
end

--- Commands of this name that the scripted node received from now on.
local function count_received(scripted, name)
  local n = 0
  for _, words in ipairs(scripted:received()) do
    if words[1]:upper() == name then n = n + 1 end
  end
  return n
end

describe("43: a node that answers PING but no real read", function()
  it("stays where only PING is looked at, and every other read runs into it", function()
    local scripted = be_sick ""
    local way = serve(PING_ONLY)
    local client = way:client()
    for _ = 1, 16 do assert.is_false(kit.is_error(client:call("GET", key()))) end
    local seen = #way:events { kind = "connection", step = "wait", error = "timeout", node = replica.address }
    assert.is_true(seen >= 2, "time-outs: " .. seen .. "\n" .. way:show_events())
    assert.equal("healthy", way:node(replica).state)
    assert.is_true(count_received(scripted, "PING") > 0, "no PING came")
    assert.same({}, way:events { kind = "edge" })
  end)

  it("is taken out where a ring of its results says that half of them fail", function()
    local scripted = be_sick ""
    local way = serve(COUNTING:format "wayside.ring { size = 10, edge = { at_least = 0.5, min_volume = 3 } }")
    read_until_failing(way, 40)
    assert.equal("real", way:node(replica).reason)
    assert.equal(1, #way:events { kind = "edge", counter = "real" })
    scripted:forget()
    local client = way:client()
    for _ = 1, 100 do assert.is_false(kit.is_error(client:call("GET", key()))) end
    assert.equal(0, count_received(scripted, "GET"))
    kit.wait_for(function() return count_received(scripted, "PING") > 1 end, 3, "it to answer PING all the while")
    assert.equal("failing", way:node(replica).state)
    local why = kit.show(way:ask("WAYSIDE", "WHY", replica.address))
    assert.is_truthy(why:find("the counter real reached its edge", 1, true), why)
  end)
end)

describe("a counter", function()
  it("sees answers that come too late, though no client sees an error", function()
    be_sick(function() return { { sleep = 0.06 }, "$-1\r\n" } end)
    local way = serve(COUNTING:format [[wayside.window { seconds = 60, slower = 0.05, edge = { above = 0.5, min_volume = 4 } }]])
    local reads = read_until_failing(way, 60)
    assert.is_true(reads >= 4, "after " .. reads)
    assert.same({}, way:events { kind = "connection" })
  end)

  it("counts what both workers see together, and tells its edge once", function()
    be_sick "-BUSY Redis is busy running a script\r\n"
    local way = serve(COUNTING:format "wayside.consecutive { edge = { at_least = 12 } }")
    local clients = { way:client "tcp", way:client "unix", way:client "tcp", way:client "unix" }
    for n = 1, 400 do
      clients[n % #clients + 1]:call("GET", key())
      if way:node(replica).state == "failing" then break end
    end
    assert.equal("failing", way:node(replica).state, way:show_events())
    local by_thread, all = {}, 0
    for _, event in ipairs(way:events { kind = "result", class = "busy", node = replica.address }) do
      if event["function"] == "mark" then
        by_thread[event.thread] = (by_thread[event.thread] or 0) + event.n
        all = all + event.n
      end
    end
    assert.equal(12, all, way:show_events())
    assert.is_true((by_thread[0] or 0) > 0 and (by_thread[1] or 0) > 0, way:show_events())
    assert.equal(1, #way:events { kind = "edge" })
  end)

  it("starts afresh when the policy resets it, and then tells its edge again", function()
    be_sick "-BUSY Redis is busy running a script\r\n"
    local way = serve((COUNTING:gsub('return { state = "failing", seconds = 60, reason = event.counter }',
      "node.counters.real:reset() return {}")):format "wayside.consecutive { edge = { at_least = 3 } }")
    local client = way:client()
    kit.wait_for(function()
      for _ = 1, 10 do client:call("GET", key()) end
      return #way:events { kind = "edge" } >= 3
    end, 5, "three edges")
    local told = #way:events { kind = "edge" }
    local failures = #way:events { kind = "result", class = "busy", node = replica.address, ["function"] = "mark" }
    assert.equal(told, math.floor(failures / 3), ("%d edges of %d failures"):format(told, failures))
    assert.equal("healthy", way:node(replica).state)
  end)
end)

it("a reload goes on counting where the next policy declares the same, and a candidate counts by itself", function()
  be_sick "-BUSY Redis is busy running a script\r\n"
  local row = "wayside.consecutive { edge = { at_least = 12 } }"
  local way = serve(COUNTING:format(row), { limits = { retry_burst = 10000, probation = 0 } })
  local client = way:client()
  local function fail_until(n)
    kit.wait_for(function()
      local seen = 0
      for _, event in ipairs(way:events { kind = "result", class = "busy", ["function"] = "mark" }) do seen = seen + event.n end
      if seen >= n then return true end
      client:call("GET", key())
      return false, seen .. " failures"
    end, 10, n .. " failures")
  end
  fail_until(4)
  local eager = kit.file("eager.lua", (COUNTING:gsub("counting", "eager"):format "wayside.consecutive { edge = { at_least = 2 } }"))
  local reply = way:ask("WAYSIDE", "SHADOW", eager)
  assert.is_false(kit.is_error(reply), kit.show(reply))
  fail_until(8)
  local shadow, told = {}, way:ask("WAYSIDE", "SHADOW")
  for i = 1, #told, 2 do shadow[told[i]] = told[i + 1] end
  assert.equal(1, shadow.would_have_taken_out, kit.show(told))
  assert.equal(0, shadow.took_out, kit.show(told))
  assert.equal("healthy", way:node(replica).state)

  local same = kit.file("same.lua", (COUNTING:gsub('"counting"', '"again"'):format(row)))
  reply = way:ask("WAYSIDE", "RELOAD", same)
  assert.is_false(kit.is_error(reply), kit.show(reply))
  fail_until(12)
  way:wait_state(replica, "failing")
  local edges = way:events { kind = "edge" }
  assert.equal(1, #edges, way:show_events())
  assert.is_truthy(edges[1].where:find("same.lua", 1, true), edges[1].where)
end)

it("a policy whose counters are wrong is refused at start, with the field", function()
  local prepared = kit.prepared {
    cluster = cluster, policy = kit.file("wrong.lua", COUNTING:format "wayside.ring { siz = 10 }"),
  }
  local status, text = prepared:refused()
  assert.not_equal(0, status)
  assert.is_truthy(text:find("counters.real.siz: no such field, did you mean 'size'?", 1, true), text)
end)
