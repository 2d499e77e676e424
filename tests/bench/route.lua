--- What a `route` in Lua costs: CPU per request with one of three lines against the same policy without, in one run.
-- Both send every read to its master, so nothing differs but who chose it. `make bench-route`, and a part of `make bench`.
local cluster = require "tests.support.cluster"
local figures = require "tests.bench.figures"
local load = require "tests.bench.load"
local pairs_of = require "tests.bench.pairs"
local process = require "tests.support.process"
local targets = require "tests.bench.targets"

local route = {}

local TEXT = [[
local wayside = require "wayside"
return wayside.policy {
  name = "bench-%s",
  %s
}
]]
local THREE_LINES = [[
route = function(_, request, nodes)
    if request.write then return nil end
    for index = 1, #nodes do if nodes[index].state == "healthy" then return index end end
  end,]]

local function target(folder, of, name, field)
  local path = ("%s/bench_%s.lua"):format(folder, name)
  process.write_file(path, TEXT:format(name, field))
  return targets.wayside(folder, of, path)
end

--- On a cluster of its own: the route sees a master and a replica.
---@param how table as for tests.bench.pairs
---@return string line
function route.price(folder, how)
  local of = cluster.start { folder = folder, masters = 3, replicas = 3, node_timeout = 5000 }
  local with, without = target(folder, of, "route", THREE_LINES), target(folder, of, "without", "")
  load.fill(without, 64)
  local ratios, cpu = pairs_of.run(with, without, how)
  with.daemon:stop()
  without.daemon:stop()
  local words, wide = pairs_of.words(ratios)
  local a, b = figures.median(cpu.with), figures.median(cpu.without)
  return ("route          with / without %s; %.2f and %.2f CPU us a request at -P 16, %.0f ns for the route%s"):format(words, a, b,
    (a - b) * 1000, wide and ": inconclusive, the interval is too wide" or "")
end

if arg and (arg[0] or ""):find "route%.lua$" then
  local folder = process.new_folder()
  local ok, line = xpcall(route.price, debug.traceback, folder,
    { pairs = 40, least = 20, seconds = 40, tell = function(i, ratio) print(("pair %d: %.3f"):format(i, ratio)) end })
  process.remove_tree(folder)
  print(line)
  os.exit(ok and 0 or 1)
end

return route
