--- What /metrics tells, as numbers.
local http = require "socket.http"

local metrics = {}

--- All samples of a daemon started with `http`: "name{labels}" → number, without the prefix.
---@param address string host:port
function metrics.read(address)
  local text, status = http.request("http://" .. address .. "/metrics")
  assert(status == 200, tostring(status))
  local samples = {}
  for name, value in text:gmatch "wayside_(%S+) (%S+)\n" do samples[name] = tonumber(value) end
  return samples
end

--- The samples that differ between two readings: name → by how much.
function metrics.between(before, after)
  local changed = {}
  for name, value in pairs(after) do
    if value ~= (before[name] or 0) then changed[name] = value - (before[name] or 0) end
  end
  return changed
end

return metrics
