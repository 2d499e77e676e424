--- What a program allocated, locked and called in Lua, thread by thread (count_calls.c).
--
--     local counting = counts.prepare(folder)
--     kit.wayside { env = counting.env, ... }
--     local before = counting:read(pid)   -- { ["worker-0"] = { allocations =, locks =, lua_calls = } }
local ffi = require "ffi"
local process = require "tests.support.process"

ffi.cdef "struct counts_row { uint64_t tid, allocations, locks, lua_calls; };"

local counts = {}
local Counting = {}
Counting.__index = Counting

local function library(folder)
  local built = "build/support/count_calls.so"
  if process.exists(built) then return built end
  local path = folder .. "/count_calls.so"
  local status, text = process.run {
    "cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC", "-o", path, "tests/support/preload/count_calls.c", "-ldl",
    timeout = 60,
  }
  assert(status == 0, text)
  return path
end

--- The environment that makes a program count.
function counts.prepare(folder)
  local self = setmetatable({ file = folder .. "/counts" }, Counting)
  os.remove(self.file)
  self.env = { LD_PRELOAD = library(folder), COUNT_CALLS = self.file }
  return self
end

--- Counts by thread name; threads of one name are added up.
function Counting:read(pid)
  local bytes = assert(process.read_file(self.file), "nothing was counted")
  local size, by_name = ffi.sizeof "struct counts_row", {}
  for at = 0, #bytes - size, size do
    local row = ffi.new "struct counts_row"
    ffi.copy(row, bytes:sub(at + 1, at + size), size)
    local tid = tonumber(row.tid)
    local comm = tid > 0 and process.read_file(("/proc/%d/task/%d/comm"):format(pid, tid))
    if comm then
      local name = comm:match "[^\n]*"
      local sum = by_name[name] or { allocations = 0, locks = 0, lua_calls = 0 }
      sum.allocations = sum.allocations + tonumber(row.allocations)
      sum.locks = sum.locks + tonumber(row.locks)
      sum.lua_calls = sum.lua_calls + tonumber(row.lua_calls)
      by_name[name] = sum
    end
  end
  return by_name
end

return counts
