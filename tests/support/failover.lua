--- A master fails under load, and what its clients saw of it. For specs and for benches.
--
-- The load: readers and writers of the slots of one master (the victim), by TCP and by unix socket, and a reader and a
-- writer of the others', each sending a pipeline of 8 every `every` seconds. Writers INCR keys of their own, so that
-- what was executed can be counted afterwards.
local socket = require "socket"
local cluster = require "tests.support.cluster"
local openloop = require "tests.support.openloop"
local waits = require "tests.support.wait"

local failover = {}

local PIPELINE, KEYS = 8, 16

local function keys_of(slots, name)
  local list = {}
  for i = 1, KEYS do list[i] = cluster.key_in(slots[(i - 1) % #slots + 1], name .. i) end
  return list
end

local function reader(name, target, every, keys)
  return { name = name, target = target, every = every, keys = keys, make = function(number)
    local list = {}
    for i = 1, PIPELINE do list[i] = { "GET", keys[(number * PIPELINE + i) % #keys + 1] } end
    return list
  end, good = function(reply, words) return reply == words[2] end }
end

local function writer(name, target, every, keys)
  return { name = name, target = target, every = every, keys = keys, make = function(number)
    local list = {}
    for i = 1, PIPELINE do list[i] = { "INCR", keys[(number * PIPELINE + i) % #keys + 1] } end
    return list
  end, good = function(reply) return type(reply) == "number" end }
end

--- Slots of the victim's and of the others', a few of each.
local function choose_slots(of, victim)
  local own, others = {}, {}
  for slot = 0, cluster.SLOTS - 1, 397 do
    local list = of:master_of(slot) == victim and own or others
    if #list < KEYS then list[#list + 1] = slot end
  end
  return own, others
end

local turn = 0

--- The clients of the load, for openloop.
---@param way table `tcp` and `unix`: where half of them connect to; where there is `how`, all go by that
---@param own function keys of the victim's by their name, a list of 16
---@param others function the same of somebody else's
---@param run string in the names of what writers write, for each run another
function failover.clients(way, own, others, every, run)
  local tcp, unix = way[way.how or "tcp"], way[way.how or "unix"]
  return {
    reader("reads", tcp, every, own "r"), reader("reads", unix, every, own "r"),
    writer("writes", tcp, every, own(run .. "wa")), writer("writes", unix, every, own(run .. "wb")),
    reader("other reads", unix, every, others "r"), writer("other writes", tcp, every, others(run .. "wc")),
  }
end

--- What readers read.
function failover.fill(client, clients)
  for _, one in ipairs(clients) do
    if one.name:find "reads" then
      for _, key in ipairs(one.keys) do
        local reply = client:call("SET", key, key)
        assert(reply == "OK", key .. ": " .. tostring(reply.err))
      end
    end
  end
  client:close()
end

--- Makes sure that replicas have all that their masters have, so that what is read there is there.
local function settle(of)
  for _, node in ipairs(of.nodes) do
    if node.process:alive() and node:is_master() then node:call("WAIT", 1, 1000) end
  end
end

--- INCRs as the servers have them, per writer.
local function executed(way, clients)
  local reader_of, total = way:client(), 0
  for _, one in ipairs(clients) do
    if one.name:find "writes" then
      for _, key in ipairs(one.keys) do
        local reply
        -- A policy that holds nothing needs a moment after a failover.
        waits.wait_for(function()
          reply = reader_of:call("GET", key)
          return type(reply) ~= "table" or not reply.err, type(reply) == "table" and reply.err
        end, 5, "a count to be read")
        total = total + (tonumber(reply) or 0)
      end
    end
  end
  reader_of:close()
  return total
end

--- When one of these became a master.
local function watch(replicas, limit)
  return waits.poll(function()
    for _, node in ipairs(replicas) do
      if node:is_master() then return socket.gettime() end
    end
  end, limit, 0.001)
end

local function when_marked(way, victim, since)
  for _, event in ipairs(way:events { ["function"] = "mark", to = "failing", node = victim.address }) do
    if event.time >= since then return event.time end
  end
end

--- Puts the cluster right again.
function failover.repair(of, victim)
  if victim.frozen then victim:thaw() end
  if victim.unplugged then victim:plug() end
  victim.unplugged = nil
  if victim.refusing then
    victim:accept()
    victim.refusing = nil
  end
  if not victim.process:alive() then victim:restart() end
  -- It may believe for a moment that it is what it was.
  waits.wait_for(function()
    local masters, replicas = 0, 0
    for _, node in ipairs(of.nodes) do
      if node:is_master() then masters = masters + 1 else replicas = replicas + 1 end
    end
    return masters == of.masters and replicas == of.replicas, masters .. " masters"
  end, 20, "every node to have its role")
  of:wait_ok(20)
  waits.wait_for(function()
    for _, one in ipairs(of:view()) do
      if one.flags.fail or one.flags["fail?"] or one.flags.master and #one.slots == 0 then return false, one.id end
    end
    return true
  end, 20, "nobody to be suspected")
end

--- When the first of a kind succeeded at or after `since`; of those sent at or after `sent`, where that is given.
local function first_success(commands, kind, since, sent)
  local at
  for _, c in ipairs(commands) do
    local counts = c.client == kind and not c.error and c.done >= since and (not sent or c.sent >= sent)
    if counts and (not at or c.done < at) then at = c.done end
  end
  return at
end

--- Since when nothing failed or waited any more: the last reply that was an error or took over 100 ms.
local function recovered(commands, since)
  local last = since
  for _, c in ipairs(commands) do
    if c.sent >= since - 1 and (c.error or c.done - c.sent > 0.1) and c.done > last then last = c.done end
  end
  return last
end

local faults = {
  kill = function(victim) victim:kill() end,
  freeze = function(victim) victim:freeze() end,
  refuse = function(victim)
    victim:refuse()
    victim.refusing = true
  end,
  drop = function(victim)
    victim:unplug()
    victim.unplugged = true
  end,
  failover = function(_, replica) assert(replica:call("CLUSTER", "FAILOVER") == "OK") end,
}

--- A wait that 99 of 100 others' commands stay below, of those sent in a span of time.
local function others_99(commands, from, to)
  local list = {}
  for _, c in ipairs(commands) do
    if c.client:find "^other" and c.sent >= from and c.sent < to then list[#list + 1] = c.done - c.sent end
  end
  table.sort(list)
  return list[math.ceil(#list * 0.99)] or 0
end

--- The sums and times of `commands` around `fault` and `struck` (and `promoted`), put beside them.
function failover.summarize(out)
  local function since(kind)
    return openloop.sum(out.commands, function(c) return c.client == kind and c.done >= out.fault end)
  end
  out.reads, out.writes, out.other_reads, out.other_writes = since "reads", since "writes", since "other reads", since "other writes"
  out.success = first_success(out.commands, "writes", out.promoted or out.struck, not out.promoted and out.struck or nil)
  out.read_success = first_success(out.commands, "reads", out.struck, out.struck)
  out.recovered = recovered(out.commands, out.fault)
  out.others_before, out.others_after = others_99(out.commands, 0, out.fault), others_99(out.commands, out.fault, math.huge)
  local counted = openloop.sum(out.commands, function(c) return c.client:find "writes" ~= nil end)
  out.acknowledged, out.unknown = counted.n - counted.failed, counted.unknown
end

--- Runs it: load, the fault, and on for `after` seconds from the promotion (or from the fault, where none is to come).
---@param options table `cluster`, `way`, `slot` (whose master is the victim), `how` (kill, freeze, refuse, failover, or
---  drop: its packets, on a cluster in namespaces),
---  `victim` (default that master), `before` 0.6, `after` 1, `every` 0.02, `promotes` (default true), `folder`
---@return table `commands`, `fault`, `marked`, `promoted` (times), `reads`, `writes`, `others` (sums since the fault),
---  `success` (first write on the victim's slots after the promotion), `read_success` (first read sent after the fault),
---  `recovered` (nothing fails or waits any more), `others_before`, `others_after` (99 of 100 waited less),
---  `executed`, `acknowledged`, `unknown`
function failover.run(options)
  local of, way = options.cluster, options.way
  local master = of:master_of(options.slot)
  local replicas, victim = of:replicas_of(options.slot), options.victim or master
  local own, others = choose_slots(of, master)
  turn = turn + 1
  local function keys_at(slots) return function(name) return keys_of(slots, name) end end
  local clients = failover.clients(way, keys_at(own), keys_at(others), options.every or 0.02, "t" .. turn)
  failover.fill(way:client(), clients)
  settle(of)
  local load = openloop.start { folder = options.folder, clients = clients }
  socket.sleep(options.before or 0.6)
  local out = { fault = socket.gettime(), victim = victim }
  faults[options.how](victim, replicas[1])
  out.struck = socket.gettime()
  if options.promotes ~= false then out.promoted = watch(replicas, 15) end
  socket.sleep(options.after or 1)
  out.commands = load:finish()
  out.marked = when_marked(way, victim, out.fault)
  failover.summarize(out)
  out.executed = executed(way, clients)
  return out
end

local function ms(from, to)
  return to and ("%.0f ms"):format((to - from) * 1000) or "never"
end

--- What it saw, in a few lines.
function failover.show(out)
  local function line(name, sum)
    return ("  %s: %d, failed %d, longest %.0f ms; %s"):format(name, sum.n, sum.failed, sum.longest * 1000, openloop.show(sum))
  end
  return table.concat({
    ("  marked after %s, promoted after %s, first write %s after that, all well again after %s"):format(
      ms(out.fault, out.marked), ms(out.fault, out.promoted), out.promoted and ms(out.promoted, out.success) or "-",
      ms(out.fault, out.recovered)),
    line("reads", out.reads), line("writes", out.writes), line("others' reads", out.other_reads),
    line("others' writes", out.other_writes),
    ("  99%% of others' below %.1f ms before, %.1f ms since"):format(out.others_before * 1000, out.others_after * 1000),
    ("  INCRs: %d acknowledged, %d unknown, %d on the servers"):format(out.acknowledged, out.unknown, out.executed),
  }, "\n")
end

return failover
