--- One load by redis-benchmark, and what a process used meanwhile.
local ffi = require "ffi"
local process = require "tests.support.process"

ffi.cdef [[
struct bench_time { long s, ns; };
int clock_gettime(int clock, struct bench_time *at);
]]

local load = { clients = 50, keys = 10000 }

local at = ffi.new "struct bench_time"

--- CPU seconds, user and system, of all threads of a process so far. /proc/PID/stat tells the same in hundredths of a
-- second, which is too coarse for short loads: this is the process's CPU clock (clock_getcpuclockid(3) makes the same
-- number of its pid).
function load.cpu(pid)
  local clock = bit.bor(bit.lshift(bit.bnot(pid), 3), 2)
  assert(ffi.C.clock_gettime(clock, at) == 0, "no such process: " .. pid)
  return tonumber(at.s) + tonumber(at.ns) / 1e9
end

--- VmRSS in KiB.
function load.resident(pid)
  local text = assert(process.read_file(("/proc/%d/status"):format(pid)))
  return tonumber(text:match "VmRSS:%s*(%d+)")
end

local function read_csv(text, words)
  local rps, p50, p99 = text:match '"[GS]ET","([%d.]+)","[%d.]+","[%d.]+","([%d.]+)","[%d.]+","([%d.]+)"'
  if not rps then error(("redis-benchmark %s wrote:\n%s"):format(table.concat(words, " "), text), 0) end
  return { rps = tonumber(rps), p50 = tonumber(p50), p99 = tonumber(p99) }
end

--- Runs one load with random keys.
---@param cell table `command` ("get", "set"), `pipeline`, `bytes`, `requests`
---@param target table `port`; `cluster` true: redis-benchmark talks to every node itself; `pid` of the proxy if there is one
---@return table rps, p50 and p99 in ms, and with a pid `cpu` in seconds for a million requests
function load.run(cell, target)
  local words = { "redis-benchmark", "-h", "127.0.0.1", "-p", target.port, "-c", load.clients, "-r", load.keys, "-P", cell.pipeline,
    "-d", cell.bytes, "-n", cell.requests, "-t", cell.command, "--csv", target.cluster and "--cluster" or nil,
    stderr = "/dev/null", timeout = 120 }
  local before = target.pid and load.cpu(target.pid)
  local status, text = process.run(words)
  local used = target.pid and load.cpu(target.pid) - before
  if status ~= 0 then error(("%s: redis-benchmark ended with %s: %s"):format(target.name, tostring(status), text), 0) end
  local result = read_csv(text, words)
  result.cpu = used and used / cell.requests * 1e6
  return result
end

--- Gives every key a value of that size, so that each GET finds one.
function load.fill(target, bytes)
  load.run({ command = "set", pipeline = 64, bytes = bytes, requests = load.keys * 12 }, target)
end

return load
