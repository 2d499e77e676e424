--- How many bytes a program's send() accepts for one peer (cap_writes.c).
--
--     local capping = caps.prepare(folder)
--     kit.wayside { env = capping.env, ... }
--     capping:set { port = node.port, left = 100, failure = "reset", times = 1 }
--     capping:read()    -- { port =, left =, accepted =, calls = }
local ffi = require "ffi"
local process = require "tests.support.process"

ffi.cdef [[struct cap_rule {
  uint32_t port, per_call; int64_t left; uint32_t failure, times; uint64_t accepted, calls;
};]]

local caps = {}
local Capping = {}
Capping.__index = Capping

local errnos = { again = 11, pipe = 32, reset = 104 }

local function library(folder)
  local built = "build/support/cap_writes.so"
  if process.exists(built) then return built end
  local path = folder .. "/cap_writes.so"
  local status, text = process.run {
    "cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC", "-o", path, "tests/support/preload/cap_writes.c", "-ldl",
    timeout = 60,
  }
  assert(status == 0, text)
  return path
end

local count = 0

--- The environment that makes the writes of the daemon's workers obey; the control thread's probes and questions don't.
function caps.prepare(folder)
  count = count + 1
  local self = setmetatable({ file = ("%s/cap-%d"):format(folder, count) }, Capping)
  os.remove(self.file)
  self.env = { LD_PRELOAD = library(folder), CAP_WRITES = self.file, CAP_THREADS = "worker" }
  return self
end

local function write(self, at, bytes)
  local file = assert(io.open(self.file, "r+b"))
  file:seek("set", at)
  file:write(bytes)
  file:close()
end

--- Sets the rule, counting anew; the port is written last, so that no half a rule is obeyed.
---@param rule table `port` (the peer's), `per_call` (bytes), `left` (bytes in all, then calls fail), `failure` ("again",
---  "pipe", "reset"), `times` (so many failures, then the rule ends; 0: without end)
function Capping:set(rule)
  local c = ffi.new "struct cap_rule"
  c.per_call, c.left = rule.per_call or 0, rule.left or -1
  c.failure, c.times = errnos[rule.failure or "again"], rule.times or 0
  write(self, 0, ffi.string(c, ffi.sizeof(c)))
  c.port = rule.port
  write(self, 0, ffi.string(c, 4))
end

--- What calls fail with from now on, and how many of them.
function Capping:fail(failure, times)
  local c = ffi.new("uint32_t[2]", errnos[failure], times or 0)
  write(self, ffi.offsetof("struct cap_rule", "failure"), ffi.string(c, ffi.sizeof(c)))
end

--- No rule from now on.
function Capping:clear() write(self, 0, ("\0"):rep(4)) end

--- What became of the rule.
function Capping:read()
  local bytes = assert(process.read_file(self.file), "the program did not map its rule")
  local c = ffi.new "struct cap_rule"
  assert(#bytes == ffi.sizeof(c), #bytes)
  ffi.copy(c, bytes, #bytes)
  return { port = c.port, left = tonumber(c.left), accepted = tonumber(c.accepted), calls = tonumber(c.calls) }
end

return caps
