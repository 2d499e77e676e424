--- `make bench`: wayside against direct access, nutcracker and the floor, in one run, in turn; the default policy against
-- none, in pairs; and what one fault costs. See README.md. BENCH=full takes more rounds.
local figures = require "tests.bench.figures"
local load = require "tests.bench.load"
local pairs_of = require "tests.bench.pairs"
local process = require "tests.support.process"
local resp = require "tests.support.resp"
local route = require "tests.bench.route"
local socket = require "socket"
local targets = require "tests.bench.targets"

local full = os.getenv "BENCH" == "full"
local built = os.getenv "BENCH_DIR" or "build/bench"

-- Seconds that the table's rounds and the pairs may take, and how many there are at most. At least one round and
-- twenty pairs there are.
local ROUNDS, ROUNDS_SECONDS = full and 12 or 4, full and math.huge or 170
local PAIRS, PAIRS_SECONDS, PAIRS_LEAST = full and 100 or 40, full and math.huge or 35, 20
local REQUESTS = { [1] = 20000, [16] = 120000, [64] = 240000 }
local IDLE_CLIENTS = 500

-- What wayside may cost, as a ratio to the floor's CPU seconds; its memory after load, and the default policy's share.
local RATIO = { [1] = 1.25, [16] = 1.6, [64] = 2.2 }
local MEMORY_KIB, POLICY_RATIO, EVENT_NS = 16 * 1024, 1.03, 2000

local began = socket.gettime()
local function say(...)
  io.stdout:write(("%4.0f s  "):format(socket.gettime() - began), string.format(...), "\n")
  io.stdout:flush()
end

local function each_cell()
  local cells = {}
  for _, bytes in ipairs { 64, 1024 } do
    for _, pipeline in ipairs { 1, 16, 64 } do
      for _, command in ipairs { "get", "set" } do
        cells[#cells + 1] = { bytes = bytes, pipeline = pipeline, command = command, requests = REQUESTS[pipeline], of = {} }
      end
    end
  end
  return cells
end

local function label(cell)
  return ("%s %s, -P %d"):format(cell.command:upper(), cell.bytes == 64 and "64 B" or "1 KiB", cell.pipeline)
end

-- ---- the table's rounds ----

local function note(cell, name, result)
  local of = cell.of[name] or { rps = {}, p50 = {}, p99 = {}, cpu = {}, ratio = {} }
  cell.of[name] = of
  for key, value in pairs(result) do table.insert(of[key], value) end
end

--- Each target once; the order turns with the rounds, so that nobody is always first.
local function run_cell(cell, list, round)
  local results = {}
  for i = 1, #list do
    local target = list[(i + round - 2) % #list + 1]
    results[target.name] = load.run(cell, target)
  end
  for _, target in ipairs(list) do
    local result = results[target.name]
    if result.cpu then result.ratio = result.cpu / results.floor.cpu end
    note(cell, target.name, result)
  end
  local cpu = {}
  for _, target in ipairs(list) do
    local result = results[target.name]
    if result.cpu then cpu[#cpu + 1] = ("%s %.2f"):format(target.name, result.cpu) end
  end
  say("round %d  %-18s CPU s per million: %s; wayside %.2f times the floor", round, label(cell), table.concat(cpu, ", "),
    results.wayside.ratio)
end

local function run_rounds(cells, list)
  local start, longest, round = socket.gettime(), 0, 0
  while round < ROUNDS and socket.gettime() - start + longest <= ROUNDS_SECONDS do
    local from, bytes = socket.gettime(), nil
    round = round + 1
    for _, cell in ipairs(cells) do
      if cell.bytes ~= bytes then
        bytes = cell.bytes
        for _, target in ipairs(list) do load.fill(target, bytes) end
      end
      run_cell(cell, list, round)
    end
    longest = math.max(longest, socket.gettime() - from)
  end
  if round < ROUNDS then say("no time for more rounds") end
  return round
end

-- ---- memory ----

local function measure_memory(list)
  local out = {}
  for _, target in ipairs(list) do
    if target.pid then out[#out + 1] = { name = target.name, kib = load.resident(target.pid) } end
  end
  return out
end

--- KiB for each client that has asked something and waits, of a process that has seen no others.
local function idle_cost(target)
  local before, open = load.resident(target.pid), {}
  for i = 1, IDLE_CLIENTS do
    open[i] = assert(resp.connect("127.0.0.1:" .. target.port, 5))
    local reply = open[i]:call("GET", "idle" .. i)
    assert(not resp.is_error(reply), resp.show(reply))
  end
  local after = load.resident(target.pid)
  for _, client in ipairs(open) do client:close() end
  return (after - before) / IDLE_CLIENTS
end

-- ---- pairs ----

local function how(what)
  return { pairs = PAIRS, least = PAIRS_LEAST, seconds = PAIRS_SECONDS,
    tell = function(i, ratio) say("pair %d: %s so far %.3f", i, what, ratio) end }
end

-- ---- one event ----

local function run_events()
  local out = {}
  local file = built .. "/event-journal.jsonl"
  for _, arguments in ipairs { { "default", "6", "", file }, { "default", "6", "", "off" }, { "default", "6", "default" },
    { "default", "6", "policies/go_redis.lua" }, { "default", "100" }, { "none", "6" }, { "tests/bench/least.lua", "6" } } do
    local status, text = process.run { built .. "/policy_event", arguments[1], arguments[2], full and "3" or "1",
      arguments[3] or "", arguments[4] or "" }
    assert(status == 0, text)
    os.remove(file)
    local one = {}
    for key, value in text:gmatch "([%w_]+)=(%S+)" do one[key] = tonumber(value) or value end
    one.shadow = arguments[3] ~= "" and arguments[3] or nil
    one.off = arguments[4] == "off"
    out[#out + 1] = one
  end
  return out
end

local function run_counters()
  local status, text = process.run { built .. "/counter_report", full and "2" or "0.3" }
  assert(status == 0, text)
  local out = {}
  for key, value in text:gmatch "([%w_]+)=(%S+)" do out[key] = tonumber(value) end
  return out
end

-- ---- what is printed ----

local function cpu_words(of)
  if #of.cpu == 0 then return "", "" end
  local low, high = figures.range(of.ratio)
  return ("%.2f"):format(figures.median(of.cpu)), ("%.2f (%.2f..%.2f)"):format(figures.median(of.ratio), low, high)
end

local function main_table(cells, list)
  local rows = { { "load", "through", "requests/s", "p50 ms", "p99 ms", "CPU s per million", "times the floor" } }
  for _, cell in ipairs(cells) do
    for i, target in ipairs(list) do
      local of = cell.of[target.name]
      local cpu, ratio = cpu_words(of)
      rows[#rows + 1] = { i == 1 and label(cell) or "", target.name, figures.thousands(figures.median(of.rps)),
        ("%.2f"):format(figures.median(of.p50)), ("%.2f"):format(figures.median(of.p99)), cpu, ratio }
    end
  end
  return figures.markdown(rows, 2)
end

local function memory_table(memory, idle)
  local rows = { { "memory", "after load, MiB", "for an idle client, KiB" } }
  for _, one in ipairs(memory) do
    rows[#rows + 1] = { one.name, ("%.1f"):format(one.kib / 1024), one.name == "wayside" and ("%.1f"):format(idle) or "" }
  end
  return figures.markdown(rows, 1)
end

local function event_table(events)
  local rows = { { "one refused dial, ns", "nodes", "mark", "backoff", "both", "of mark, in Lua" } }
  for _, one in ipairs(events) do
    local name = "policy " .. one.policy .. (one.shadow and ", in its shadow " .. one.shadow or "") ..
      (one.off and ", journal off" or "")
    rows[#rows + 1] = { name, ("%d"):format(one.nodes), ("%d"):format(one.mark), ("%d"):format(one.backoff), ("%d"):format(one.event),
      one.policy == "none" and "" or ("%d"):format(one.lua) }
  end
  return figures.markdown(rows, 1)
end

local function counter_table(of)
  local rows = { { "one report of a batch, ns", "no counter", "a row", "a window", "a ring", "an average", "tokens", "four",
    "four, shared by two threads" } }
  rows[2] = { "" }
  for _, name in ipairs { "none", "row", "window", "ring", "ewma", "tokens", "four", "four_shared" } do
    rows[2][#rows[2] + 1] = ("%.0f"):format(of[name])
  end
  return figures.markdown(rows, 1)
end

local function met(yes) return yes and "met" or "NOT MET" end

--- For a pipeline depth, the dearest of its loads decides.
local function ratio_goal(cells, pipeline)
  local worst, where = 0, nil
  for _, cell in ipairs(cells) do
    local ratio = cell.pipeline == pipeline and figures.median(cell.of.wayside.ratio) or 0
    if ratio > worst then worst, where = ratio, cell end
  end
  return ("CPU at -P %-2d   %.2f times the floor (%s), goal %.2f: %s"):format(pipeline, worst, label(where), RATIO[pipeline],
    met(worst <= RATIO[pipeline]))
end

local function policy_goal(name, ratios)
  local words, wide = pairs_of.words(ratios)
  local verdict = wide and "inconclusive, the interval is too wide" or met(figures.median(ratios) <= POLICY_RATIO)
  return ("policy         %s / none %s, goal %.2f: %s"):format(name, words, POLICY_RATIO, verdict)
end

--- Of the default policy; what a policy in Lua costs at least, and the host without one, stand beside it.
local function event_goal(events)
  local of = {}
  for _, one in ipairs(events) do of[one.policy .. (one.shadow and "+" or "") .. (one.off and "-" or "") .. one.nodes] = one end
  local least, default = of["tests/bench/least.lua6"], of.default6
  return ("one event      %.2f us, %.2f times the least that answers in Lua (%.2f), without Lua %.2f, goal %.1f: %s"):format(
    default.event / 1000, default.event / least.event, least.event / 1000, of.none6.event / 1000, EVENT_NS / 1000,
    met(default.event <= EVENT_NS)),
    ("journal file   %.1f us of CPU an entry, control thread and writer; to the worker an entry is one in memory")
      :format(default.spool / 1000)
end

local function goals(cells, memory, ratios, counted, events)
  local out = {}
  for _, pipeline in ipairs { 1, 16, 64 } do out[#out + 1] = ratio_goal(cells, pipeline) end
  for _, one in ipairs(memory) do
    if one.name == "wayside" then
      out[#out + 1] = ("memory         %.1f MiB after load, goal %d: %s"):format(one.kib / 1024, MEMORY_KIB / 1024,
        met(one.kib <= MEMORY_KIB))
    end
  end
  out[#out + 1] = policy_goal("default", ratios)
  out[#out + 1] = policy_goal("counters and a candidate with the same", counted)
  out[#out + 1], out[#out + 2] = event_goal(events)
  return table.concat(out, "\n") .. "\n"
end

local function versions()
  local _, text = process.run { os.getenv "WAYSIDE" or "bin/wayside", "--version" }
  local cpu = (process.read_file "/proc/cpuinfo" or ""):match "model name%s*:%s*([^\n]+)" or "?"
  local _, count = (process.read_file "/proc/cpuinfo" or ""):gsub("\nprocessor", "")
  return ("%s%d x %s, %s\n"):format(text, count + 1, cpu, os.date "!%Y-%m-%d %H:%M UTC")
end

local function report(parts)
  local text = table.concat(parts, "\n")
  local path = built .. "/bench.md"
  process.write_file(path, "# make bench\n\n" .. text)
  io.stdout:write("\n", text)
  say("written to %s", path)
end

local function bench(folder)
  say("starting three masters, plain servers, nutcracker, the floor, wayside")
  local of = targets.cluster(folder)
  local all_nodes, one_node = targets.direct(folder, of)
  local list = { all_nodes, one_node, targets.nutcracker(folder), targets.floor(folder, of), targets.wayside(folder, of) }
  local cells = each_cell()
  local rounds = run_rounds(cells, list)
  local memory = measure_memory(list)
  local with, without = targets.wayside(folder, of, "default"), targets.wayside(folder, of, "none")
  local idle = idle_cost(with)
  local ratios = pairs_of.run(with, without, how "default / none")
  local both = targets.counting(folder, of)
  local counted = pairs_of.run(both, without, how "counters, candidate / none")
  local price = route.price(folder, how "route / none")
  say("the cost of one event")
  local events = run_events()
  say("the cost of counters")
  local counters = run_counters()
  report { versions(), ("%d clients, %d random keys, %d rounds; medians, the ratio with its least and most.\n"):format(load.clients,
    load.keys, rounds), main_table(cells, list), memory_table(memory, idle), event_table(events), counter_table(counters),
    goals(cells, memory, ratios, counted, events) .. price .. "\n" }
  for _, target in ipairs { list[#list], with, without, both } do target.daemon:stop() end
end

local folder = process.new_folder()
local ok, err = xpcall(bench, debug.traceback, folder)
if not ok then io.stderr:write(tostring(err), "\n") end
-- The servers end with this process; what they wrote has to go first.
process.remove_tree(folder)
os.exit(ok and 0 or 1)
