--- What is compared: a cluster of three masters and what stands before it, each with one thread.
local cluster = require "tests.support.cluster"
local daemon = require "tests.support.daemon"
local ports = require "tests.support.ports"
local process = require "tests.support.process"
local resp = require "tests.support.resp"
local waits = require "tests.support.wait"

local targets = {}
local built = os.getenv "BENCH_DIR" or "build/bench"

local function await(port, child, log)
  waits.wait_for(function()
    if not child:alive() then error(("%s ended:\n%s"):format(child.name, process.tail(log)), 0) end
    local client = resp.connect("127.0.0.1:" .. port, 2)
    if not client then return false, "no connection" end
    local reply = client:call("GET", "ready")
    client:close()
    return not resp.is_error(reply), resp.show(reply)
  end, 10, child.name .. " to answer")
end

--- A program with a log of its own, answering when this returns.
local function start(name, port, folder, words)
  local log = ("%s/%s.log"):format(folder, name:gsub("%W", "_"))
  words.name, words.stdout = name, log
  local child = process.spawn(words)
  await(port, child, log)
  return { name = name, port = port, pid = child.pid, process = child }
end

local function plain_server(folder, number)
  local port = ports.free()
  local server = process.which "redis-server" or process.which "redis-check-rdb"
  return start("plain " .. number, port, folder, { server, "--port", port, "--bind", "127.0.0.1", "--save", "",
    "--appendonly", "no", "--dir", folder, argv0 = "redis-server" })
end

--- Debian's twemproxy before plain servers: it knows no clusters and hashes by itself.
---@param options table perhaps `timeout` (ms that a server may take, none if nil), `before` (what stands before a server:
---  a function that is given its port and gives another)
---@return table target, with its `servers`
function targets.nutcracker(folder, options)
  options = options or {}
  local port, servers, lines = ports.free(), {}, {}
  for i = 1, 3 do
    servers[i] = plain_server(folder, i)
    lines[i] = ("    - 127.0.0.1:%d:1"):format(options.before and options.before(servers[i].port) or servers[i].port)
  end
  local file = folder .. "/nutcracker.yml"
  process.write_file(file, ("bench:\n  listen: 127.0.0.1:%d\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n%s  servers:\n%s\n")
    :format(port, options.timeout and ("  timeout: %d\n"):format(options.timeout) or "", table.concat(lines, "\n")))
  local program = process.which "nutcracker" or "/usr/sbin/nutcracker"
  local target = start("nutcracker", port, folder, { program, "-c", file, "-a", "127.0.0.1", "-s", ports.free(), "-v", 4 })
  target.servers = servers
  return target
end

function targets.cluster(folder)
  return cluster.start { folder = folder, masters = 3, replicas = 0, node_timeout = 5000 }
end

--- redis-benchmark straight to all nodes (it uses a thread for each), and to one server.
function targets.direct(folder, of)
  return { name = "direct, all nodes", port = of.nodes[1].port, cluster = true },
    { name = "direct, one node", port = plain_server(folder, 4).port }
end

function targets.floor(folder, of)
  local port, words = ports.free(), { built .. "/floor", "mux" }
  words[3] = port
  for _, one in ipairs(of:view()) do
    for _, range in ipairs(one.slots) do
      words[#words + 1] = ("%d:%d-%d"):format(one.node.port, range[1], range[2])
    end
  end
  return start("floor", port, folder, words)
end

--- wayside with one worker, journal and metrics on. policy nil: the default one.
function targets.wayside(folder, of, policy)
  local self = daemon.start { folder = folder, cluster = of, workers = 1, http = "127.0.0.1:" .. ports.free(),
    flags = { "--policy", policy or "default" } }
  return { name = policy and "wayside, policy " .. policy or "wayside", port = self.port, pid = self.process.pid, daemon = self }
end

-- What most policies count: failures in a row, and a window with an edge, of each node.
local COUNTING = [[
local wayside = require "wayside"
return wayside.policy {
  name = "counting",
  mark = function() end,
  counters = { row = wayside.consecutive { edge = { at_least = 5 } },
    bad = wayside.window { seconds = 10, buckets = 10, edge = { above = 0.5, min_volume = 20 } } },
}
]]

--- wayside under a policy that counts, with a candidate in its shadow that declares the same counters.
function targets.counting(folder, of)
  local file = folder .. "/counting.lua"
  process.write_file(file, COUNTING)
  local target = targets.wayside(folder, of, file)
  target.name = "wayside, counters and a candidate with the same"
  local reply = target.daemon:ask("WAYSIDE", "SHADOW", file)
  if resp.is_error(reply) then error("no shadow: " .. resp.show(reply)) end
  return target
end

return targets
