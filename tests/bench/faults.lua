--- `make bench-faults`: what clients see of a fault, policy by policy: a master killed, a master frozen, a master whose packets
-- get lost, a replica that refuses, each under the same steady load of pipelined reads and writes; and Debian's nutcracker
-- before plain servers, where it applies. See README.md here. BENCH=full: medians of five; a killed master under ride_through always is one.
local cluster = require "tests.support.cluster"
local daemon = require "tests.support.daemon"
local failover = require "tests.support.failover"
local figures = require "tests.bench.figures"
local mitm = require "tests.support.mitm"
local namespace = require "tests.support.namespace"
local openloop = require "tests.support.openloop"
local process = require "tests.support.process"
local resp = require "tests.support.resp"
local socket = require "socket"
local targets = require "tests.bench.targets"

local ROUNDS = os.getenv "BENCH" == "full" and 5 or 1
-- Of a killed master under ride_through always: its first write after the promotion is promised as a median of five.
local PROMISED = 5
local built = os.getenv "BENCH_DIR" or "build/bench"

local POLICIES = { "default", "go_redis", "ride_through", "fail_fast" }
local FAULTS = {
  { name = "master killed", how = "kill", after = 2 },
  { name = "master frozen", how = "freeze", after = 2 },
  { name = "master's packets lost", how = "drop", after = 2 },
  { name = "replica refuses", how = "refuse", after = 1.5, replica = true },
}

local began, turn = socket.gettime(), 0
local function say(...)
  io.stdout:write(("%4.0f s  "):format(socket.gettime() - began), string.format(...), "\n")
  io.stdout:flush()
end

--- Times in ms since the fault, of one run.
local function measured(out)
  local function since(from, at) return at and math.max(0, at - from) * 1000 or nil end
  local errors = 0
  for _, command in ipairs(out.commands) do
    if command.error and not command.error:find "^WAYSIDE " and not command.error:find "^%u+ " then errors = errors + 1 end
  end
  return {
    reads = out.reads.n, writes = out.writes.n, reads_failed = out.reads.failed, writes_failed = out.writes.failed,
    unknown = out.writes.unknown, others_failed = out.other_reads.failed + out.other_writes.failed, wrong = errors,
    read_stall = out.reads.longest * 1000, write_stall = out.writes.longest * 1000,
    others_stall = math.max(out.other_reads.longest, out.other_writes.longest) * 1000,
    marked = since(out.struck, out.marked), promoted = since(out.struck, out.promoted),
    read = since(out.struck, out.read_success), write = since(out.promoted or out.struck, out.success),
    recovered = since(out.struck, out.recovered),
    lost = out.acknowledged - out.executed, surplus = out.executed - out.acknowledged - out.unknown,
  }
end

local function run_once(of, folder, policy, fault)
  local way = daemon.start { folder = folder, cluster = of, policy = ("policies/%s.lua"):format(policy), workers = 2,
    timeouts = { total = 10, read = 1 }, limits = { retry_burst = 10000 } }
  local slot = turn % 3 * 6000
  local victim = fault.replica and of:replicas_of(slot)[1] or of:master_of(slot)
  local ok, out = pcall(failover.run, { cluster = of, way = way, slot = slot, how = fault.how, victim = victim, folder = folder,
    before = 0.5, after = fault.after, promotes = not fault.replica })
  failover.repair(of, victim)
  way:stop()
  if not ok then error(out, 0) end
  return measured(out)
end

-- ---- beside it: nutcracker, which knows neither replicas nor failovers ----

--- Keys that lie on one of its servers, or on the others.
local function keys_on(client, server, wanted)
  local direct = assert(resp.connect("127.0.0.1:" .. server.port, 5))
  return function(name)
    local list, i = {}, 0
    while #list < 16 do
      i = i + 1
      local key = name .. i
      client:call("SET", key, "0")
      if (direct:call("EXISTS", key) == 1) == wanted then list[#list + 1] = key end
      client:call("DEL", key)
    end
    return list
  end
end

--- The fault at one of its servers; nobody repairs anything, so it lasts for `lasts` seconds.
local function run_nutcracker(base, fault, lasts)
  local folder, man = process.make_folder(("%s/nutcracker-%d"):format(base, turn)), nil
  local target = targets.nutcracker(folder, { timeout = 1000, before = function(port)
    if man or fault.how ~= "drop" then return port end
    man = mitm.start { to = port, folder = folder }
    return man.port
  end })
  local victim, address = target.servers[1].process, "127.0.0.1:" .. target.port
  local client = assert(resp.connect(address, 5))
  local clients = failover.clients({ tcp = address, unix = address }, keys_on(client, target.servers[1], true),
    keys_on(client, target.servers[1], false), 0.02, "t" .. turn)
  failover.fill(client, clients)
  local load = openloop.start { folder = folder, clients = clients }
  socket.sleep(0.5)
  local out = { fault = socket.gettime() }
  if fault.how == "kill" then victim:kill "SIGKILL" elseif fault.how == "freeze" then victim:kill "SIGSTOP" else man:drop() end
  out.struck = socket.gettime()
  socket.sleep(lasts)
  out.commands = load:finish()
  failover.summarize(out)
  for _, one in ipairs(target.servers) do one.process:stop() end
  target.process:stop()
  if man then man:stop() end
  -- What was executed died with the server, and its errors don't say of which command that is true.
  out.executed = out.acknowledged
  local m = measured(out)
  m.unknown = nil
  if not out.success then m.recovered = nil end
  return m
end

--- The medians of several runs; what none of them had is nil.
local function medians(runs)
  local out, lists = {}, {}
  for _, run in ipairs(runs) do
    for key, value in pairs(run) do
      lists[key] = lists[key] or {}
      table.insert(lists[key], value)
    end
  end
  for key, list in pairs(lists) do out[key] = figures.median(list) end
  return out
end

local function ms(value) return value and ("%.0f"):format(value) or "-" end
local function count(value, of) return ("%d of %d"):format(value, of) end

local function table_of(results)
  local rows = { { "fault", "policy", "reads failed", "writes failed", "of them unknown", "longest read", "longest write", "marked",
    "promoted", "first read", "first write after promotion", "recovered", "others failed", "others' longest" } }
  for _, one in ipairs(results) do
    local m = one.of
    rows[#rows + 1] = { one.fault, one.policy, count(m.reads_failed, m.reads), count(m.writes_failed, m.writes),
      m.unknown and ("%d"):format(m.unknown) or "-", ms(m.read_stall), ms(m.write_stall), ms(m.marked), ms(m.promoted), ms(m.read),
      one.replica and "-" or ms(m.write), ms(m.recovered), ("%d"):format(m.others_failed), ms(m.others_stall) }
  end
  return figures.markdown(rows, 2)
end

local function accounts(results)
  local lost, surplus, wrong = 0, 0, 0
  for _, one in ipairs(results) do
    for _, run in ipairs(one.runs) do
      lost = lost + math.max(0, run.lost)
      surplus = surplus + math.max(0, run.surplus)
      wrong = wrong + run.wrong
    end
  end
  return ("INCRs acknowledged but not on the servers: %d; executed though reported unsent: %d; wrong or missing replies: %d.\n")
    :format(lost, surplus, wrong)
end

--- All policies, and nutcracker, under one fault: added to results.
local function strike(of, folder, fault, results)
  local function take(policy, run)
    local runs = {}
    for i = 1, policy == "ride_through" and fault.how == "kill" and not fault.replica and PROMISED or ROUNDS do
      turn = turn + 1
      runs[i] = run()
    end
    local one = { fault = fault.name, replica = fault.replica, policy = policy, runs = runs, of = medians(runs) }
    results[#results + 1] = one
    say("%s, %s: %d reads and %d writes failed, longest %s and %s ms, first write %s ms after the promotion", fault.name, policy,
      one.of.reads_failed, one.of.writes_failed, ms(one.of.read_stall), ms(one.of.write_stall), ms(one.of.write))
  end
  local longest = 0
  for _, policy in ipairs(POLICIES) do
    take(policy, function() return run_once(of, folder, policy, fault) end)
    longest = math.max(longest, results[#results].of.promoted or 0)
  end
  if not fault.replica then
    take("nutcracker", function() return run_nutcracker(folder, fault, longest / 1000 + fault.after) end)
  end
end

local function start_cluster(folder, net)
  return cluster.start { folder = folder, masters = 3, replicas = 3, node_timeout = 500, net = net }
end

local function bench(folder)
  say("starting three masters and three replicas, node time-out 500 ms")
  local of = start_cluster(folder)
  local results, skipped = {}, ""
  for _, fault in ipairs(FAULTS) do
    if fault.how ~= "drop" then strike(of, folder, fault, results) end
  end
  of:stop()
  local net, why = namespace.start()
  for _, fault in ipairs(net and FAULTS or {}) do
    if fault.how == "drop" then
      of = start_cluster(folder, net)
      strike(of, folder, fault, results)
      of:stop()
    end
  end
  if net then net:stop() else skipped = ("Without lost packets: %s.\n"):format(why) end
  local text = table.concat({
    ("Times in ms since the fault, medians of %d (a killed master under ride_through: of %d); two workers, timeouts.read 1 s, "
      .. "timeouts.total 10 s. The load: 2 readers and 2 writers of the master's slots, 1 and 1 of the others', each a pipeline of "
      .. "8 every 20 ms, by TCP and unix socket (where "
      .. "packets get lost the nodes and wayside are in network namespaces, and clients use the unix socket alone). nutcracker: "
      .. "three plain servers, timeout 1000, one of them struck, for as long as the others' runs; it has no replicas, so nobody "
      .. "takes over.\n"):format(ROUNDS, PROMISED), table_of(results), accounts(results), skipped }, "\n")
  local path = built .. "/faults.md"
  process.write_file(path, "# make bench-faults\n\n" .. text)
  io.stdout:write("\n", text)
  say("written to %s", path)
end

local folder = process.new_folder()
local ok, err = xpcall(bench, debug.traceback, folder)
if not ok then io.stderr:write(tostring(err), "\n") end
process.remove_tree(folder)
os.exit(ok and 0 or 1)
