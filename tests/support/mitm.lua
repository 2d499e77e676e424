--- The TCP man in the middle (mitm.c): spoils connections at an exact byte.
--
--     local m = mitm.start { to = 7000 }                 -- m.port is where to connect
--     m:rule { dir = "down", act = "cut", how = "rst", at = 100 }
--     m:rule { dir = "up", act = "stall", match = "marker", times = 1 }
--     m:refuse()  m:accept()  m:backlog()  m:cut "rst"  m:clear()
local socket = require "socket"
local unix = require "socket.unix"
local ports = require "tests.support.ports"
local process = require "tests.support.process"
local waits = require "tests.support.wait"

local mitm = {}
local Mitm = {}
Mitm.__index = Mitm

local function hex(text)
  return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

--- The program: built by make (or named by MITM), or else here and now.
function mitm.program(folder)
  local built = os.getenv "MITM" or "build/support/mitm"
  if process.exists(built) then return built end
  local path = folder .. "/mitm"
  if not process.exists(path) then
    local status, text = process.run {
      "cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-o", path, "tests/support/mitm.c", "-lev", timeout = 60,
    }
    assert(status == 0, text)
  end
  return path
end

--- Starts one.
---@param options table `to` (port), `port` (where to listen, default a free one), `rcvbuf` (bytes), `folder`
function mitm.start(options)
  local self = setmetatable({ port = options.port or ports.free(), to = options.to }, Mitm)
  self.control = ("%s/mitm-%d.sock"):format(options.folder, self.port)
  self.errors = ("%s/mitm-%d.log"):format(options.folder, self.port)
  os.remove(self.control)
  local words = {
    mitm.program(options.folder), "--listen", self.port, "--to", self.to, "--control", self.control,
    name = "mitm", stderr = self.errors,
  }
  if options.rcvbuf then
    words[#words + 1] = "--rcvbuf"
    words[#words + 1] = options.rcvbuf
  end
  self.process = process.spawn(words)
  waits.wait_for(function()
    assert(self.process:alive(), "mitm ended: " .. process.tail(self.errors))
    self.sock = unix.stream()
    if self.sock:connect(self.control) then return true end
    self.sock:close()
  end, 5, "the man in the middle to answer")
  self.sock:settimeout(5)
  return self
end

function Mitm:command(line)
  assert(self.sock:send(line .. "\n"))
  local answer, err = self.sock:receive "*l"
  assert(answer, err)
  if answer:sub(1, 2) ~= "ok" then error("mitm: " .. answer .. ": " .. line, 3) end
  return answer
end

--- Adds a rule; see mitm.c. `match` and `with` are plain bytes; `on` may be "all", "new" or an id.
function Mitm:rule(rule)
  local words = { "rule" }
  for key, value in pairs(rule) do
    if key == "match" or key == "with" then value = hex(value) end
    words[#words + 1] = key .. "=" .. tostring(value)
  end
  self:command(table.concat(words, " "))
end

function Mitm:clear() self:command "clear" end
--- Closes the listening socket: dials are refused; open connections go on.
function Mitm:refuse() self:command "refuse" end
function Mitm:accept() self:command "accept" end
--- Accepts no more with the queue full: dials time out.
function Mitm:backlog() self:command "backlog" end
--- Packets get lost from now on: dials and open connections meet silence, until clear.
function Mitm:drop() self:command "drop" end
--- Cuts all connections (or one) now. how: "fin" or "rst".
function Mitm:cut(how, on) self:command(("cut how=%s node=%s on=%d"):format(how, how, on or 0)) end
function Mitm:redirect(port) self:command("to port=" .. port) end

--- The open connections, a list of { id, up, down } (bytes passed), and how many were ever accepted.
function Mitm:connections()
  local answer, list = self:command "conns", {}
  for id, up, down in answer:gmatch "(%d+):(%d+):(%d+)" do
    list[#list + 1] = { id = tonumber(id), up = tonumber(up), down = tonumber(down) }
  end
  return list, tonumber(answer:match "accepted=(%d+)")
end

function Mitm:freeze() self.process:kill "SIGSTOP" end
function Mitm:thaw() self.process:kill "SIGCONT" end

function Mitm:stop()
  if self.sock then self.sock:close() end
  self.process:stop()
  socket.sleep(0)
end

return mitm
