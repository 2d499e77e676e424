--- Child processes that never outlive the test.
--
-- Each is asked by the kernel to die with this one (PR_SET_PDEATHSIG), starts without any
-- descriptor of ours but the three standard ones, and is always ended by its own pid.
local unistd = require "posix.unistd"
local fcntl = require "posix.fcntl"
local dirent = require "posix.dirent"
local signal = require "posix.signal"
local stdlib = require "posix.stdlib"
local stat = require "posix.sys.stat"
local wait = require "posix.sys.wait"
local waits = require "tests.support.wait"
local ffi = require "ffi"

ffi.cdef "int prctl(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5);"

local process = {}
local Process = {}
Process.__index = Process

local PR_SET_PDEATHSIG = 1

local function die_with_parent(parent)
  ffi.C.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
  if unistd.getppid() ~= parent then unistd._exit(126) end
end

--- Calls `what` with every descriptor but the standard ones and those in `keep`.
local function each_other(keep, what)
  local found = {}
  for name in dirent.files "/proc/self/fd" do
    local fd = tonumber(name)
    if fd and fd > 2 and not (keep and keep[fd]) then found[#found + 1] = fd end
  end
  for _, fd in ipairs(found) do what(fd) end
end

--- Leaves no descriptor of ours to a Lua child. Its number stays taken, for the socket object
-- that the child inherited would close it, at a time of its own, under whoever has it next.
local function blank_others(keep)
  local null = fcntl.open("/dev/null", fcntl.O_RDWR)
  each_other(keep, function(fd)
    if fd ~= null then unistd.dup2(null, fd) end
  end)
end

local function redirect(path, fd)
  if not path then return end
  local mode = tonumber("644", 8)
  local file = fcntl.open(path, bit.bor(fcntl.O_WRONLY, fcntl.O_CREAT, fcntl.O_APPEND), mode)
  if not file then unistd._exit(125) end
  unistd.dup2(file, fd)
  if file > 2 then unistd.close(file) end
end

local function as_process(pid, name)
  return setmetatable({ pid = pid, name = name, running = true }, Process)
end

--- Starts a program.
---@param options table [1..n] the arguments; `argv0`, `stdin`, `stdout`, `stderr` (files), `env`, `dir`, `name`
---@return table process
function process.spawn(options)
  local argv = { [0] = options.argv0 or options[1] }
  for i = 2, #options do argv[i - 1] = tostring(options[i]) end
  io.stdout:flush()
  io.stderr:flush()
  local parent = unistd.getpid()
  local pid = assert(unistd.fork())
  if pid == 0 then
    die_with_parent(parent)
    local null = fcntl.open(options.stdin or "/dev/null", fcntl.O_RDONLY)
    if null then unistd.dup2(null, 0) end
    redirect(options.stdout, 1)
    redirect(options.stderr or options.stdout, 2)
    each_other(nil, unistd.close)
    for key, value in pairs(options.env or {}) do stdlib.setenv(key, value, true) end
    if options.dir then unistd.chdir(options.dir) end
    unistd.execp(options[1], argv)
    unistd._exit(127)
  end
  return as_process(pid, options.name or options[1])
end

--- Runs a Lua function in a child. It inherits all values, and no descriptor but those kept.
---@param run function never returns to the caller's code: the child ends with it
---@param options table `name`, `stderr` (file), `keep` (set of descriptors)
function process.fork(run, options)
  options = options or {}
  io.stdout:flush()
  io.stderr:flush()
  local parent = unistd.getpid()
  local pid = assert(unistd.fork())
  if pid == 0 then
    die_with_parent(parent)
    redirect(options.stderr, 2)
    blank_others(options.keep)
    local ok, err = xpcall(run, debug.traceback)
    if not ok then io.stderr:write(tostring(err), "\n") io.stderr:flush() end
    unistd._exit(ok and 0 or 1)
  end
  return as_process(pid, options.name or "lua")
end

--- Runs a program to its end. Returns its exit status (or nil, signal) and what it wrote.
---@param options table as for spawn; `timeout` in seconds, default 30; `input` text for stdin
function process.run(options)
  local base = os.tmpname()
  options.stdout = options.stdout or base
  if options.input then
    options.stdin = base .. ".in"
    process.write_file(options.stdin, options.input)
  end
  local child = process.spawn(options)
  local ended = child:wait(options.timeout or 30)
  if not ended then child:stop() end
  local text = process.read_file(options.stdout) or ""
  os.remove(base)
  if options.input then os.remove(options.stdin) end
  if not ended then
    error(("%s did not end within %s s; it wrote:\n%s"):format(child.name, options.timeout or 30, text), 2)
  end
  return child.status, text, child.signal
end

function Process:kill(name)
  if not self.running then return end
  signal.kill(self.pid, signal[name or "SIGKILL"])
end

--- True while it runs; collects it when it has ended.
function Process:alive()
  if not self.running then return false end
  local pid, how, code = wait.wait(self.pid, wait.WNOHANG)
  if pid == nil or (pid == self.pid and how ~= "running") then
    self.running = false
    if how == "exited" then self.status = code else self.signal = code end
  end
  return self.running
end

--- True once it has ended, false after `timeout` seconds.
function Process:wait(timeout)
  return waits.poll(function() return not self:alive() end, timeout or 5, 0.002)
end

--- Asks it to end, then makes it.
function Process:stop(grace)
  if not self:alive() then return end
  self:kill "SIGCONT"
  if grace then
    self:kill "SIGTERM"
    if self:wait(grace) then return end
  end
  self:kill "SIGKILL"
  self:wait(5)
end

function process.read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

function process.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

--- The last lines of a file, for messages of failing tests.
function process.tail(path, lines)
  local all = {}
  for line in (process.read_file(path) or ""):gmatch "[^\n]+" do all[#all + 1] = line end
  return table.concat(all, "\n", math.max(1, #all - (lines or 20) + 1))
end

--- Removes a folder and what is in it.
function process.remove_tree(path)
  assert(path:match "^/.+/wayside%-test", "not a folder of tests: " .. path)
  for name in dirent.files(path) do
    if name ~= "." and name ~= ".." then
      local full = path .. "/" .. name
      local info = stat.lstat(full)
      if info and stat.S_ISDIR(info.st_mode) ~= 0 then process.remove_tree(full) else os.remove(full) end
    end
  end
  unistd.rmdir(path)
end

--- A new folder; what dead test runs left behind is removed first.
function process.new_folder()
  local base = os.getenv "TMPDIR" or "/tmp"
  for name in dirent.files(base) do
    local owner = name:match "^wayside%-test%-(%d+)%-"
    if owner and not stat.stat("/proc/" .. owner) then pcall(process.remove_tree, base .. "/" .. name) end
  end
  return assert(stdlib.mkdtemp(("%s/wayside-test-%d-XXXXXX"):format(base, unistd.getpid())))
end

function process.make_folder(path)
  assert(stat.mkdir(path))
  return path
end

--- Is there a file of that name?
function process.exists(path)
  return stat.stat(path) ~= nil
end

--- A program's full path, or nil.
function process.which(name)
  for dir in (os.getenv "PATH" or "/usr/bin"):gmatch "[^:]+" do
    local path = dir .. "/" .. name
    if unistd.access(path, "x") == 0 then return path end
  end
end

return process
