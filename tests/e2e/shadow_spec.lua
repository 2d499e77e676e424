--- A candidate in the shadow: asked what the policy in charge is asked, on the same live events, and never obeyed. What
--- it would have done is told beside what was done; whatever it does, traffic does not notice.
local socket = require "socket"
local failover = require "tests.support.failover"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local openloop = require "tests.support.openloop"
local ports = require "tests.support.ports"
local process = require "tests.support.process"

local FUNCTIONS = { "classify", "mark", "backoff", "probe", "reconnect", "route", "tick" }

--- A marks for `fail_for` seconds, holds what found no node for `hold`, and lets reads wait `after` before they go again.
local function policy(name, v)
  return kit.file(name .. ".lua", ([[
local wayside = require "wayside"
return wayside.policy {
  name = %q,
  memory = { node = { faults = 0 } },
  mark = function(_, node, event)
    if event.error then
      node.memory.faults = node.memory.faults + 1
      return { state = "failing", seconds = %s, reason = event.error }
    elseif event.kind == "probe" and node.state ~= "healthy" then
      return { state = "healthy" }
    end
  end,
  backoff = function(_, _, event)
    if event.error == "no_node" or event.certainty == "unsent" then return { retry = "hold", within = 6 - event.age } end
    if event.commands == "reads" then return { retry = "hold", after = %s, within = 6 - event.age } end
  end,
  probe = function(_, node)
    if node.state == "failing" then return { after = 0.2 } end
  end,
}
]]):format(name, v.fail_for or 1, v.after or 0))
end

local function as_map(value)
  if type(value) ~= "table" then return value end
  local map = {}
  for i = 1, #value, 2 do map[value[i]] = value[i + 1] end
  return map
end

local function status(way)
  local map = as_map(way:ask("WAYSIDE", "SHADOW"))
  map.disagreed, map.errors = as_map(map.disagreed), as_map(map.errors)
  for i, node in ipairs(map.nodes or {}) do map.nodes[i] = as_map(node) end
  return map
end

local function differences(way, n)
  local list = way:ask("WAYSIDE", "SHADOW", "DIFF", n or 128)
  assert(not list.err, list.err)
  for i, one in ipairs(list) do
    list[i] = as_map(one)
    list[i].in_charge, list[i].candidate = as_map(list[i].in_charge), as_map(list[i].candidate)
  end
  return list
end

local function begin(way, file, ...)
  local reply = way:ask("WAYSIDE", "SHADOW", file, ...)
  assert(not reply.err, reply.err)
  return as_map(reply)
end

local function in_charge(way) return as_map(way:ask("WAYSIDE", "POLICY")) end

local cluster, last
setup(function() cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 } end)
after_each(function()
  if last then failover.repair(cluster, last) end
  last = nil
end)

local http
local function start(file, options)
  http = "127.0.0.1:" .. ports.free()
  local how = { cluster = cluster, policy = file, workers = 2, http = http, timeouts = { total = 10 },
    limits = { retry_burst = 10000 } }
  for key, value in pairs(options or {}) do how[key] = value end
  return kit.wayside(how)
end

local turn = 0
local function strike(way, options)
  turn = turn + 1
  local slot = turn % 3 * 6000
  last = cluster:master_of(slot)
  local how = { cluster = cluster, way = way, slot = slot, how = "kill", folder = kit.folder(), before = 0.3, after = 0.5 }
  for key, value in pairs(options or {}) do how[key] = value end
  local out = failover.run(how)
  out.text = failover.show(out)
  return out
end

--- Nobody noticed: reads were answered, and writes but for those of which nobody can know.
local function check_traffic(out)
  assert.equal(0, out.reads.failed, out.text)
  assert.equal(0, out.other_reads.failed, out.text)
  assert.equal(0, out.other_writes.failed, out.text)
  assert.equal(out.writes.unknown, out.writes.failed, out.text)
  assert.is_true(out.executed >= out.acknowledged, out.text)
end

--- Has the master of slot 0 blame itself, in the midst of a pipeline: mark and backoff are asked, and probe.
local function blame(client)
  local key = kit.key_in(0, "x")
  assert.same({ "OK", { err = "BUSY so it says" }, "v" }, client:pipeline {
    { "SET", key, "v" }, { "EVAL", "return redis.error_reply('BUSY so it says')", "1", key }, { "GET", key },
  })
end

-- ---- what it says ----

it("an equal candidate never differs, through a failover under load", function()
  local text = process.read_file "policies/default.lua"
  local equal = kit.file("equal.lua", text .. "-- the same, but for this line\n")
  local way = start "policies/default.lua"
  local begun = begin(way, equal)
  assert.equal("default", begun.name)
  assert.is_true(begun.hash ~= in_charge(way).hash)
  local out = strike(way)
  failover.repair(cluster, last)
  way:wait_state(last, "healthy", 10)
  socket.sleep(0.2) -- what the last probe asked
  local seen = status(way)
  for _, name in ipairs(FUNCTIONS) do
    assert.equal(0, seen.disagreed[name], name .. ": " .. kit.show(way:ask("WAYSIDE", "SHADOW", "DIFF", 3)))
  end
  print(("  %d events, all agreed; %d dropped"):format(seen.events, seen.dropped))
  assert.equal("on", seen.shadow)
  assert.equal(seen.events, seen.agreed)
  assert.is_true(seen.events > 10, out.text)
  assert.equal(0, seen.dropped)
  assert.same({}, seen.nodes)
  assert.equal(seen.took_out, seen.would_have_taken_out)
  assert.same({}, differences(way))
  for cause, n in pairs(seen.errors) do assert.equal(0, n, cause) end
end)

it("one that differs is told beside the one in charge, counted by function, and not obeyed", function()
  local short, written = policy("short", {}), kit.folder() .. "/differences.jsonl"
  local way = start(short, { config = { journal = { file = written } } })
  begin(way, policy("long", { fail_for = 60, after = 0.001 }))
  local out = strike(way)
  check_traffic(out)
  -- By whom the node is marked, the end of its mark tells.
  local marks = way:events { ["function"] = "mark", to = "failing", node = last.address }
  assert.is_true(#marks > 0, way:show_events())
  for _, mark in ipairs(marks) do
    assert.truthy(mark.verdict:find("^failing 1 s "), mark.verdict)
    assert.truthy(mark.where:find "short.lua", mark.where)
  end
  assert.is_true(way:node(last).state ~= "failing" or way:node(last).ends <= 1)

  local seen = status(way)
  assert.is_true(seen.disagreed.mark > 0)
  assert.equal(0, seen.disagreed.classify)
  local counted = metrics.read(http)
  for _, name in ipairs(FUNCTIONS) do
    assert.equal(seen.disagreed[name], counted[('shadow_disagreements_total{function="%s"}'):format(name)], name)
  end
  local shown = {}
  for _, one in ipairs(differences(way)) do
    -- What was soft evidence against a master, the guard made suspect on both sides.
    local soft = one["function"] == "mark" and not one.in_charge.node:find "-> failing$"
    if not soft then shown[one["function"]] = shown[one["function"]] or one end
    assert.truthy(one.in_charge.where:find "short.lua" or one.in_charge.where == "not asked", one.in_charge.where)
    assert.truthy(one.candidate.where:find "long.lua" or one.candidate.where == "not asked", one.candidate.where)
  end
  assert.equal(last.address, shown.mark.node)
  assert.truthy(shown.mark.in_charge.verdict:find "^failing 1 s ", shown.mark.in_charge.verdict)
  assert.truthy(shown.mark.candidate.verdict:find "^failing 60 s ", shown.mark.candidate.verdict)
  assert.truthy(shown.mark.in_charge.node:find "^%l+ %-> failing$", shown.mark.in_charge.node)
  assert.truthy(shown.mark.candidate.node:find "^would be %l+ %-> failing$", shown.mark.candidate.node)
  if seen.disagreed.backoff > 0 then
    assert.truthy(shown.backoff.candidate.verdict:find "after 0.001 s", shown.backoff.candidate.verdict)
  end

  -- Where the nodes' states differ: the real one comes back as soon as a probe says so.
  failover.repair(cluster, last)
  way:wait_state(last, "healthy", 10)
  for _, node in ipairs(status(way).nodes) do
    assert.equal(last.address, node.node)
    assert.equal("healthy", node.state)
    assert.equal("failing", node.would_be)
  end

  -- They are in the journal's file too, in pairs; a replay leaves them out, and finds what it always finds.
  way:stop()
  local before, pairs_of = "", {}
  for line in process.read_file(written):gmatch "[^\n]+" do
    if line:find('"shadow":"candidate"', 1, true) then
      assert.truthy(before:find('"shadow":"in_charge"', 1, true), before)
      local name = line:match '"function":"(%l+)"'
      pairs_of[name] = (pairs_of[name] or 0) + 1
      assert.truthy(line:find "long.lua" or line:find '"where":"not asked"', line)
    end
    before = line
  end
  for name, n in pairs(pairs_of) do assert.is_true(n >= seen.disagreed[name], name .. " " .. n) end
  assert.is_true(pairs_of.mark > 0)
  local code, text = kit.run { os.getenv "WAYSIDE" or "bin/wayside", "replay", written, short }
  assert.equal(0, code, text)
  assert.truthy(text:find "lines of a shadow's differences left out", text)
end)

it("one that routes is asked about a share of the commands, and its answers are told beside where they went", function()
  local way = start("policies/default.lua", { limits = { shadow_sample = 1, retry_burst = 10000 } })
  local client, key = way:client(), kit.key_in(0, "routed")
  local master = cluster:master_of(0)
  begin(way, kit.file("elsewhere.lua", [[
local wayside = require "wayside"
return wayside.policy { name = "elsewhere", route = function(_, request, nodes) return #nodes end }
]]))
  local function got() return master:calls "get" end
  kit.wait_for(function() -- each worker has taken its seat
    assert.equal("OK", client:call("SET", key, "v"))
    return status(way).asked > 0, "not asked"
  end, 5, "the candidate to be asked")
  local before, asked = got(), status(way).asked
  for _ = 1, 50 do assert.equal("v", client:call("GET", key)) end
  assert.equal(50, got() - before) -- where the policy in charge picks
  local seen = status(way)
  assert.equal(50, seen.asked - asked)
  assert.equal(50, seen.disagreed.route)
  assert.equal(seen.disagreed.route, metrics.read(http)['shadow_disagreements_total{function="route"}'])
  local one = kit.wait_for(function() return differences(way, 1)[1], "none" end, 2, "a difference")
  assert.equal("route", one["function"])
  assert.equal("reads", one.commands)
  assert.equal(master.address, one.node)
  assert.equal("nil, picked " .. master.address, one.in_charge.verdict)
  assert.equal("pick", one.in_charge.where)
  assert.equal(cluster:replicas_of(0)[1].address, one.candidate.verdict)
  assert.truthy(one.candidate.where:find "elsewhere.lua:2", one.candidate.where)
  assert.equal("OK", way:ask("WAYSIDE", "SHADOW", "OFF"))
end)

-- ---- how it fails ----

local misdeeds = {
  { "loops", "while true do end", { budget = true, deadline = true } },
  { "raises", "error 'no'", { error = true } },
  { "allocates", "local t = {} while true do t[#t + 1] = { #t } end", { memory = true, deadline = true, budget = true } },
  { "answers nonsense", "return { state = 'dead', retry = 'never', after = -1 }", { answer = true } },
}

-- Every replica at half its weight, and a count in its memory; or out, or never.
local function sweeper(name, every, answer)
  return kit.file(name .. ".lua", ([[
    local wayside = require "wayside"
    return wayside.policy {
      name = "%s", every = %s, mark = function() end, probe = function() end,
      memory = { node = { sweeps = 0 } },
      tick = function(_, nodes)
        local answers = {}
        for _, node in ipairs(nodes) do
          node.memory.sweeps = node.memory.sweeps + 1
          if node.role == "replica" then answers[#answers + 1] = %s end
        end
        return answers
      end,
    }]]):format(name, every, answer))
end
local HALF = '{ node = node, weight = 0.5, reason = "half" .. node.memory.sweeps }'
local OUT = 'node.state == "healthy" and { node = node, state = "failing", seconds = 600, reason = "swept" .. '
  .. 'node.memory.sweeps } or nil'

it("one that sweeps is asked in the same sweeps, equal it never differs, and what it would mark nobody obeys", function()
  local way = start(sweeper("half", "0.1", HALF))
  local function sweeps() return metrics.read(http).ticks_total end
  begin(way, sweeper("half", "0.1", HALF))
  local from = sweeps()
  kit.wait_for(function() return sweeps() >= from + 10 end, 5, "sweeps")
  local seen = status(way)
  assert.is_true(seen.asked >= 9, kit.show(seen))
  assert.is_true(seen.agreed >= 3 * 9, kit.show(seen))
  for _, name in ipairs(FUNCTIONS) do assert.equal(0, seen.disagreed[name], kit.show(seen)) end

  -- Its own file name, another answer, the same sweeps.
  begin(way, sweeper("out", "0.1", OUT))
  kit.wait_for(function() return status(way).disagreed.tick >= 6 end, 5, "differences of sweeps")
  seen = status(way)
  local counted = metrics.read(http)['shadow_disagreements_total{function="tick"}']
  assert.is_true(counted >= seen.disagreed.tick, counted)
  assert.equal(3, seen.would_have_taken_out, kit.show(seen))
  assert.equal(0, seen.took_out)
  local one = differences(way)[1]
  assert.same({ "tick", "tick" }, { one["function"], one.kind })
  assert.matches("^state kept weight 0.5 half%d+$", one.in_charge.verdict)
  local first
  for _, each in ipairs(differences(way)) do -- it counts on from what the one in charge remembered
    if each.candidate.verdict == "failing 600 s swept" .. each.in_charge.verdict:match "%d+$" then first = first or each end
  end
  assert.is_truthy(first, kit.show(differences(way)))
  assert.equal("would be healthy -> failing", first.candidate.node)
  assert.matches("out.lua:%d+$", first.candidate.where)
  for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state) end
  assert.equal(3, #seen.nodes)
end)

it("one that sweeps beside a policy that does not is asked at its own interval", function()
  local way = start(policy("short", {}))
  begin(way, sweeper("out", "0.2", OUT))
  local began = status(way).since
  kit.wait_for(function() return status(way).asked >= 5 end, 5, "sweeps of its own")
  local seen = status(way)
  local took = seen.since - began
  assert.is_true(took > 0.7 and took < 3, ("five sweeps in %.2f s"):format(took))
  assert.equal(3, seen.disagreed.tick, kit.show(seen)) -- once each: then they are out, in its world
  assert.equal(3, seen.would_have_taken_out)
  assert.equal("not asked", differences(way)[1].in_charge.where)
  assert.equal(0, metrics.read(http).ticks_total)
  for _, node in ipairs(way:nodes()) do assert.equal("healthy", node.state) end
end)

it("one that loops, raises, allocates or answers nonsense is switched off, and traffic does not notice", function()
  local way = start(policy("short", {}), { limits = { retry_burst = 10000, policy_errors = 5 } })
  for _, misdeed in ipairs(misdeeds) do
    local name, body, causes = misdeed[1], misdeed[2], misdeed[3]
    local before = metrics.read(http)
    local f = ("function() %s end"):format(body)
    begin(way, kit.file("bad.lua", ([[
local wayside = require "wayside"
return wayside.policy { name = "bad", mark = %s, backoff = %s, probe = %s, reconnect = %s }
]]):format(f, f, f, f)))
    local client = way:client()
    local seen = kit.wait_for(function()
      blame(client)
      local now = status(way)
      return now.shadow == "off" and now, kit.show(way:ask("WAYSIDE", "SHADOW"))
    end, 20, "it to be switched off")
    client:close()
    local sum = 0
    for cause, n in pairs(seen.errors) do
      sum = sum + n
      assert.is_true(n == 0 or causes[cause] == true, name .. ": " .. cause)
    end
    assert.is_true(sum >= 5, name)
    assert.truthy(seen.reason:find "errors within 60 s, the last one in ", seen.reason)
    assert.truthy(seen.reason:find "bad.lua:2", seen.reason)
    assert.truthy(way:log():find "shadow=candidate policy=bad off=true reason=", "no line in the log")
    -- The one in charge is none the worse for it.
    local changed = metrics.between(before, metrics.read(http))
    for what in pairs(changed) do
      assert.is_nil(what:find "^policy_errors_total" or what:find "^policy_fallback_total", name .. ": " .. what)
    end
    assert.equal(0, in_charge(way).set_aside)
  end
end)

it("one that is not there, or is none, is refused with the place", function()
  local way = start "policies/default.lua"
  local reply = way:ask("WAYSIDE", "SHADOW", kit.folder() .. "/nowhere.lua")
  assert.truthy(reply.err and reply.err:find "nowhere.lua", kit.show(reply))
  reply = way:ask("WAYSIDE", "SHADOW", kit.file("typo.lua", "return require('wayside').policy { name = 'x', mrak = 1 }"))
  assert.truthy(reply.err and reply.err:find "mrak" and reply.err:find "typo.lua", kit.show(reply))
  reply = way:ask("WAYSIDE", "SHADOW", "policies/default.lua", "wait=soon")
  assert.truthy(reply.err and reply.err:find "wait", kit.show(reply))
  reply = way:ask("WAYSIDE", "SHADOW", "a.lua", "b.lua")
  assert.truthy(reply.err and reply.err:find "one policy", kit.show(reply))
  assert.truthy(way:ask("WAYSIDE", "SHADOW", "DIFF").err:find "no candidate")
  assert.truthy(way:ask("WAYSIDE", "SHADOW", "OFF").err:find "no candidate")
  assert.truthy(way:ask("WAYSIDE", "PROMOTE").err:find "no candidate")
  assert.equal("none", status(way).shadow)
  -- Its options are its own.
  begin(way, "policies/default.lua", "wait=2", "recover=time")
  assert.equal("on", status(way).shadow)
  assert.truthy(way:ask("WAYSIDE", "SHADOW", "DIFF", "many").err:find "expected a number")
  assert.equal("OK", way:ask("WAYSIDE", "SHADOW", "OFF"))
  assert.equal("none", status(way).shadow)
end)

-- ---- and then ----

it("one that is promoted decides from then on, and no request is lost to it", function()
  local way = start(policy("short", {}))
  local load = openloop.start { folder = kit.folder(), clients = {
    { name = "tcp", target = way.tcp, every = 0.005, make = function(n) return { { "SET", "k" .. n % 64, n }, { "GET", "k" .. n % 64 } } end },
    { name = "unix", target = way.unix, every = 0.005, make = function(n) return { { "INCR", "n" .. n % 64 }, { "GET", "k" .. n % 64 } } end },
  } }
  local rounds = kit.count(10, 100)
  for round = 1, rounds do
    local name = "try" .. round
    begin(way, policy(name, { fail_for = 10 + round }))
    local reply = as_map(way:ask("WAYSIDE", "PROMOTE"))
    assert.equal("committed", reply.reload, kit.show(reply))
    assert.equal(name, in_charge(way).name)
    kit.wait_for(function() return status(way).shadow == "none", status(way).shadow end, 2, "it to leave the shadow")
  end
  local sum = openloop.sum(load:finish())
  print(("  %d promotions, %d requests, %d failed"):format(rounds, sum.n, sum.failed))
  assert.equal(0, sum.failed, openloop.show(sum))
  assert.is_true(sum.n > rounds)
  -- It decides.
  blame(way:client())
  local mark = way:wait_event { ["function"] = "mark", error = "reply" }
  assert.truthy(mark.verdict:find(("^failing %d s"):format(10 + rounds)), mark.verdict)
end)

it("a reload ends what is compared with the policy before it", function()
  local way = start(policy("short", {}))
  begin(way, policy("long", { fail_for = 60 }))
  assert.equal("committed", as_map(way:ask("WAYSIDE", "RELOAD", policy("other", { fail_for = 2 }))).reload)
  local seen = kit.wait_for(function()
    local now = status(way)
    return now.shadow == "off" and now, now.shadow
  end, 2, "the shadow to end")
  assert.truthy(seen.reason:find "another policy is in charge", seen.reason)
end)
