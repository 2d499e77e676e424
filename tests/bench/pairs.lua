--- Two daemons on one cluster, short loads in turn: what one costs as a ratio to the other, whatever else the machine does.
local figures = require "tests.bench.figures"
local load = require "tests.bench.load"
local socket = require "socket"

local pairs_of = { WIDTH = 0.03 }

--- Ratios of CPU, first to second, in rounds whose order turns.
---@param how table pairs (at most), least, seconds, and tell(number, ratio so far)
function pairs_of.run(with, without, how)
  local cell = { command = "get", pipeline = 16, bytes = 64, requests = 80000 }
  local ratios, cpu, start = {}, { with = {}, without = {} }, socket.gettime()
  load.run(cell, with)
  load.run(cell, without)
  for i = 1, how.pairs do
    if i > how.least and socket.gettime() - start > how.seconds then break end
    local first, second = with, without
    if i % 2 == 0 then first, second = without, with end
    local a, b = load.run(cell, first).cpu, load.run(cell, second).cpu
    if i % 2 == 0 then a, b = b, a end
    ratios[i], cpu.with[i], cpu.without[i] = a / b, a, b
    if i % 10 == 0 then how.tell(i, figures.median(ratios)) end
  end
  return ratios, cpu
end

--- The median with the interval that it lies in, and whether that is too wide to tell anything.
function pairs_of.words(ratios)
  local low, high = figures.median_interval(ratios)
  return ("%.3f, 95%% of the median in %.3f..%.3f, %d pairs"):format(figures.median(ratios), low, high, #ratios),
    (high - low) / 2 > pairs_of.WIDTH
end

return pairs_of
