--- `make bench-gateway`: what an HTTP request costs that asks a cluster: by resty.wayside in the worker, by a daemon beside
-- nginx, and by the floor (gateway_floor.lua); and what is left of the rate while one of three nodes is frozen.
local cluster = require "tests.support.cluster"
local daemon = require "tests.support.daemon"
local gateway = require "tests.support.gateway"
local load = require "tests.bench.load"
local process = require "tests.support.process"
local unistd = require "posix.unistd"
local waits = require "tests.support.wait"

local full = os.getenv "BENCH" == "full"
local built = os.getenv "BENCH_DIR" or "build/bench"
local ROUNDS, SECONDS, CONNECTIONS, KEYS = full and 9 or 3, full and 3 or 1, 32, 1000
local TIMEOUTS = { dial = 0.1, write = 0.2, read = 0.3, total = 0.5 }

local folder = process.new_folder()
local opened = {}
local function open(thing) opened[#opened + 1] = thing return thing end
local function close_all()
  for i = #opened, 1, -1 do pcall(opened[i].stop, opened[i]) end
  process.remove_tree(folder)
end

local function cpu_of_all(pids)
  local seconds = 0
  for _, pid in ipairs(pids) do seconds = seconds + load.cpu(pid) end
  return seconds
end

local function median(list)
  local copy = { unpack(list) }
  table.sort(copy)
  return copy[math.ceil(#copy / 2)]
end

local function http_load(port, path, seconds)
  local status, text = process.run { built .. "/http_load", port, CONNECTIONS, seconds, path, timeout = seconds + 30 }
  assert(status == 0, text)
  local r = {}
  for name, value in text:gmatch "(%w+)=([%d.]+)" do r[name] = tonumber(value) end
  r.rate = r.requests / r.seconds
  return r
end

local function locations(seed, unix, module)
  local out = { "location = /empty { content_by_lua_block { ngx.print 'ok' } }" }
  local ways = {
    floor = ("local _, values = pcall(floor.get, %d, keys)"):format(seed),
    inside = "local commands = {} for i = 1, #keys do commands[i] = { 'GET', keys[i] } end local values = wayside:pipeline(commands)",
    sidecar = ("local _, values = pcall(floor.sidecar, %q, keys)"):format(unix),
  }
  for name, code in pairs(ways) do
    for _, count in ipairs { 1, 10 } do
      out[#out + 1] = ([[location = /%s%d { content_by_lua_block {
        local floor, keys = %s, {}
        for i = 1, %d do keys[i] = "key:" .. math.random(1, %d) end
        %s
        local n = 0
        for i = 1, #keys do n = n + (type(values) == "table" and type(values[i]) == "string" and #values[i] or 0) end
        if n < 16 * #keys then ngx.status = 503 end
        ngx.print(n)
      } }]]):format(name, count, module, count, KEYS, code)
    end
  end
  return table.concat(out, "\n")
end

local function start()
  local nodes = open(cluster.start { folder = folder, masters = 3, replicas = 0, node_timeout = 60000,
    config = { "cluster-require-full-coverage no" } })
  for i = 1, KEYS do
    local key = "key:" .. i
    nodes:master_of(cluster.slot_of(key)):call("SET", key, ("v"):rep(16))
  end
  local policy = unistd.getcwd() .. "/policies/fail_fast.lua"
  local segment = folder .. "/bench.seg"
  local beside = open(daemon.start { folder = folder, cluster = nodes, policy = policy, workers = 1, timeouts = TIMEOUTS, segment = segment })
  local module = ("(package.loaded.bench_floor or dofile %q)"):format(unistd.getcwd() .. "/tests/bench/gateway_floor.lua")
  local way = open(gateway.start {
    folder = folder, cluster = nodes, policy = policy, workers = 2, timeouts = TIMEOUTS, user = "root", segment = segment,
    init_worker = ("wayside:start() package.loaded.bench_floor = dofile %q"):format(unistd.getcwd() .. "/tests/bench/gateway_floor.lua"),
    locations = locations(nodes:node(1).port, beside.unix, module),
  })
  return nodes, beside, way
end

local PATHS = { "/empty", "/floor1", "/inside1", "/sidecar1", "/floor10", "/inside10", "/sidecar10" }
local LABELS = { ["/empty"] = "an empty handler", ["/floor1"] = "one GET, floor", ["/inside1"] = "one GET, in-process",
  ["/sidecar1"] = "one GET, sidecar", ["/floor10"] = "ten GETs, floor", ["/inside10"] = "ten GETs, in-process",
  ["/sidecar10"] = "ten GETs, sidecar" }

--- CPU microseconds per request, of nginx, daemon and servers.
local function measure(nodes, beside, way)
  local pids, cpu, rate, p99 = { beside.process.pid }, {}, {}, {}
  for _, pid in ipairs(way:workers()) do pids[#pids + 1] = pid end
  for i = 1, 3 do pids[#pids + 1] = nodes:node(i).process.pid end
  for round = 1, ROUNDS do
    for i = 1, #PATHS do
      local path = PATHS[(i + round - 2) % #PATHS + 1]
      local before = cpu_of_all(pids)
      local r = http_load(way.port, path, SECONDS)
      io.stderr:write(("%-12s %8.0f/s bad %d, p99 %.1f ms, CPU %.1f us\n"):format(path, r.rate, r.bad, r.p99 / 1000,
        (cpu_of_all(pids) - before) / r.requests * 1e6))
      assert(r.bad <= r.requests / 100, ("%s: %d of %d answers bad"):format(path, r.bad, r.requests))
      cpu[path], rate[path], p99[path] = cpu[path] or {}, rate[path] or {}, p99[path] or {}
      table.insert(cpu[path], (cpu_of_all(pids) - before) / r.requests * 1e6)
      table.insert(rate[path], r.rate)
      table.insert(p99[path], r.p99)
    end
  end
  return cpu, rate, p99
end

--- Under load, since a mark needs what fails; the floor knows of none.
local function await_state(way, node, state, path)
  local pattern = "node=" .. node.address:gsub("%p", "%%%0") .. " role=%a+ state=" .. state
  waits.wait_for(function()
    http_load(way.port, path, 0.2)
    for _, text in pairs(way:on_each "/status") do
      if not text:find(pattern) then return false, text end
    end
    return true
  end, 10, node.address .. " to be " .. state)
end

--- Each round's two rates come right after one another: what else the machine has to do, both have.
local function freeze(nodes, way)
  local rows = {}
  local victim = nodes:node(2)
  for i, path in ipairs { "/floor1", "/inside1", "/sidecar1" } do
    local row = { path = path, healthy = {}, frozen = {}, good = {}, p99 = {}, share = {}, good_share = {} }
    for _ = 1, i == 1 and 1 or ROUNDS do
      local healthy = http_load(way.port, path, SECONDS)
      victim:freeze()
      if i > 1 then await_state(way, victim, "failing", path) else http_load(way.port, path, 1) end
      local frozen = http_load(way.port, path, i == 1 and 4 or SECONDS)
      victim:thaw()
      await_state(way, victim, "healthy", path)
      local good = (frozen.requests - frozen.bad) / frozen.seconds
      table.insert(row.healthy, healthy.rate)
      table.insert(row.frozen, frozen.rate)
      table.insert(row.good, good)
      table.insert(row.p99, frozen.p99 / 1000)
      table.insert(row.share, frozen.rate / healthy.rate)
      table.insert(row.good_share, good / healthy.rate)
      io.stderr:write(("%-12s healthy %.0f/s, frozen %.0f/s, good %.0f/s, p99 %.1f ms\n"):format(path, healthy.rate, frozen.rate, good,
        frozen.p99 / 1000))
    end
    rows[i] = row
  end
  return rows
end

--- Each figure that is to be reached, beside what was measured.
local function targets(cpu, rows)
  local function of_floor(path, floor)
    local ratios = {}
    for i, value in ipairs(cpu[path]) do ratios[i] = value / cpu[floor][i] end
    return median(ratios)
  end
  local list = {
    { "one GET in-process, CPU of the floor's, at most", of_floor("/inside1", "/floor1"), 1.25, false },
    { "ten GETs by sidecar, CPU of ten by the floor, at most", of_floor("/sidecar10", "/floor10"), 0.75, false },
    { "a frozen node, in-process, rate of the healthy one, at least", median(rows[2].share), 0.70, true },
    { "a frozen node, by sidecar, rate of the healthy one, at least", median(rows[3].share), 0.70, true },
  }
  local out = { "", "| to reach | wanted | measured | |", "|---|---|---|---|" }
  for _, t in ipairs(list) do
    local reached = t[4] and t[2] >= t[3] or not t[4] and t[2] <= t[3]
    out[#out + 1] = ("| %s | %.2f | %.2f | %s |"):format(t[1], t[3], t[2], reached and "reached" or "missed")
  end
  return table.concat(out, "\n") .. "\n"
end

local function report(cpu, rate, p99, rows)
  local out = { "| HTTP request | CPU us, median | least..most | of the floor | requests/s | p99 ms |", "|---|---|---|---|---|---|" }
  for _, path in ipairs(PATHS) do
    local sorted = { unpack(cpu[path]) }
    table.sort(sorted)
    local base = path:match "10$" and "/floor10" or path:match "1$" and "/floor1"
    local ratios = {}
    for i, value in ipairs(cpu[path]) do ratios[i] = base and value / cpu[base][i] or 0 end
    out[#out + 1] = ("| %s | %.1f | %.1f..%.1f | %s | %.0f | %.1f |"):format(LABELS[path], median(cpu[path]), sorted[1], sorted[#sorted],
      base and ("%.2f"):format(median(ratios)) or "", median(rate[path]), median(p99[path]) / 1000)
  end
  out[#out + 1] = ""
  out[#out + 1] = "| one of three nodes frozen | healthy, requests/s | frozen, requests/s | share | answered with a value | share | p99 ms |"
  out[#out + 1] = "|---|---|---|---|---|---|---|"
  for _, row in ipairs(rows) do
    out[#out + 1] = ("| %s | %.0f | %.0f | %.0f %% | %.0f | %.0f %% | %.1f |"):format(LABELS[row.path], median(row.healthy),
      median(row.frozen), median(row.share) * 100, median(row.good), median(row.good_share) * 100, median(row.p99))
  end
  return table.concat(out, "\n") .. "\n"
end

local ok, err = xpcall(function()
  local nodes, beside, way = start()
  local cpu, rate, p99 = measure(nodes, beside, way)
  local rows = freeze(nodes, way)
  local text = report(cpu, rate, p99, rows) .. targets(cpu, rows)
  process.write_file(built .. "/gateway.md", text)
  io.stdout:write(text)
end, debug.traceback)
if not ok and opened[3] then io.stderr:write(process.tail(opened[3].errors, 30), "\n") end
close_all()
if not ok then error(err, 0) end
