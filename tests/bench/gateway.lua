--- `make bench-gateway`: what an HTTP request costs that asks a cluster: by resty.wayside in the worker, by a daemon beside
-- nginx, and by the floor (gateway_floor.lua); and what is left of the rate while one of three nodes is frozen.
local cluster = require "tests.support.cluster"
local daemon = require "tests.support.daemon"
local gateway = require "tests.support.gateway"
local load = require "tests.bench.load"
local process = require "tests.support.process"
local socket = require "socket"
local unistd = require "posix.unistd"

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
  local beside = open(daemon.start { folder = folder, cluster = nodes, policy = policy, workers = 1, timeouts = TIMEOUTS })
  local module = ("(package.loaded.bench_floor or dofile %q)"):format(unistd.getcwd() .. "/tests/bench/gateway_floor.lua")
  local way = open(gateway.start {
    folder = folder, cluster = nodes, policy = policy, workers = 2, timeouts = TIMEOUTS, user = "root",
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

local function freeze(nodes, way)
  local rows = {}
  for _, path in ipairs { "/floor1", "/inside1", "/sidecar1" } do
    local healthy = http_load(way.port, path, SECONDS)
    nodes:node(2):freeze()
    http_load(way.port, path, 1) -- until it is marked
    local frozen = http_load(way.port, path, path == "/floor1" and 4 or SECONDS)
    nodes:node(2):thaw()
    rows[#rows + 1] = { path = path, healthy = healthy.rate, frozen = frozen.rate, good = (frozen.requests - frozen.bad) / frozen.seconds,
      p99 = frozen.p99 / 1000 }
    socket.sleep(1.5) -- the probes bring it back
  end
  return rows
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
  out[#out + 1] = "| one of three nodes frozen | healthy, requests/s | frozen, requests/s | of them answered with a value | p99 ms | share |"
  out[#out + 1] = "|---|---|---|---|---|---|"
  for _, row in ipairs(rows) do
    out[#out + 1] = ("| %s | %.0f | %.0f | %.0f | %.1f | %.0f %% |"):format(LABELS[row.path], row.healthy, row.frozen, row.good, row.p99,
      row.frozen / row.healthy * 100)
  end
  return table.concat(out, "\n") .. "\n"
end

local ok, err = xpcall(function()
  local nodes, beside, way = start()
  local cpu, rate, p99 = measure(nodes, beside, way)
  local text = report(cpu, rate, p99, freeze(nodes, way))
  process.write_file(built .. "/gateway.md", text)
  io.stdout:write(text)
end, debug.traceback)
if not ok and opened[3] then io.stderr:write(process.tail(opened[3].errors, 30), "\n") end
close_all()
if not ok then error(err, 0) end
