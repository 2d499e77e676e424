--- Free TCP ports below the range the system hands out by itself, so that a port stays ours
-- while its server is down.
local socket = require "socket"
local unistd = require "posix.unistd"

local ports = {}
local LOW, HIGH = 11000, 31000
local at = LOW + (unistd.getpid() * 7919 + math.floor(socket.gettime() * 1000)) % (HIGH - LOW)

local function is_free(port)
  local s = socket.tcp4()
  local ok = s:bind("127.0.0.1", port) and s:listen(1)
  s:close()
  return ok
end

--- A port on which nobody listens now; it is not handed out again by this process.
function ports.free()
  for _ = LOW, HIGH do
    at = at + 1
    if at > HIGH then at = LOW end
    if is_free(at) then return at end
  end
  error "no free port"
end

return ports
