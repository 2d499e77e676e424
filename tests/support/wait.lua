--- Waiting for a condition instead of sleeping for a guess.
local socket = require "socket"

local wait = {}

--- Calls `condition` until it is true or `timeout` seconds are over. Returns its value or false.
function wait.poll(condition, timeout, interval)
  local deadline = socket.gettime() + timeout
  while true do
    local value = condition()
    if value then return value end
    if socket.gettime() >= deadline then return false end
    socket.sleep(interval or 0.005)
  end
end

--- As poll, but raises after the timeout. The condition may return `false, what it saw`.
---@param what string what is awaited, for the message
function wait.wait_for(condition, timeout, what, level)
  local seen
  local value = wait.poll(function()
    local result, detail = condition()
    seen = detail
    return result
  end, timeout or 5)
  if value then return value end
  local tail = seen ~= nil and "; last seen: " .. tostring(seen) or ""
  error(("waited %s s in vain for %s%s"):format(timeout or 5, what or "a condition", tail), (level or 1) + 1)
end

return wait
