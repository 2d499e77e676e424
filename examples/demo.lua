--- `make demo`: a load through wayside, a killed master, a frozen replica, both brought back, and what became of them.
--
-- Starts a cluster of three masters with a replica each, wayside with two workers before it, and 2,000 requests a second in
-- pipelines. Prints what wayside's journal says as it happens, and a line for each second of the load. Ends with 0 once all
-- nodes are healthy again, with 1 if they don't become so. Ctrl-C ends it, with all it started.
local cluster = require "tests.support.cluster"
local daemon = require "tests.support.daemon"
local demo_load = require "examples.demo_load"
local process = require "tests.support.process"
local poll = require "posix.poll"
local signal = require "posix.signal"
local socket = require "socket"
local unistd = require "posix.unistd"

-- A signal arrives as a hook, which compiled loops don't look at.
jit.off()
local interrupted = false

local function check_interrupted()
  if interrupted then error("interrupted", 0) end
end

local POLICY = "examples/spread_reads.lua"
local NODE_TIMEOUT_MS = 1500
-- Seconds after the load began; it ends when all has been healthy for CALM, and gives up after LONGEST.
local KILL, FREEZE, REVIVE, THAW, CALM, LONGEST = 3, 9, 15, 18, 3, 40

-- ---- looks ----

local plain = unistd.isatty(1) ~= 1 or os.getenv "NO_COLOR"
local codes = { bold = "1", red = "31", green = "32", yellow = "33", cyan = "36", dim = "2" }

local function paint(colour, text)
  if plain or not colour then return text end
  return ("\27[%sm%s\27[0m"):format(codes[colour], text)
end

local function out(text)
  io.stdout:write((text:gsub(" +$", "")), "\n")
  io.stdout:flush()
end

local EVENT = "%7.3f  %-6s %-10s %-14s %-8s %-8s %-28s %s"
local HEAD = EVENT:gsub("%%7.3f", "%%7s"):format("s", "node", "event", "phase step", "error", "certainty", "verdict", "what wayside did")

--- 127.0.0.1:12001 as :12001, everywhere in a text.
local function short(text)
  return (text:gsub("127%.0%.0%.1:", ":"))
end

--- counted(1, "error") is "1 error", counted(2, "error") "2 errors".
local function counted(count, word)
  return ("%d %s%s"):format(count, word, count == 1 and "" or "s")
end

-- ---- the journal ----

local function identity(entry)
  return table.concat({ entry.time, tostring(entry.thread), entry.node or "", entry.kind, entry["function"] or "", entry.did or "" }, " ")
end

local function ask_events(way, count)
  local list = {}
  for i, flat in ipairs(way:ask("WAYSIDE", "EVENTS", count)) do
    local entry = {}
    for k = 1, #flat, 2 do entry[flat[k]] = flat[k + 1] end
    list[i] = entry
  end
  return list
end

--- What the journal got since the last call, oldest first.
local function new_events(self)
  for _, count in ipairs { 32, 1024 } do
    local list = ask_events(self.way, count)
    local from = #list < count and 1 or nil
    for i = #list, 1, -1 do
      if identity(list[i]) == self.last_event then
        from = i + 1
        break
      end
    end
    if from or count == 1024 then
      if #list > 0 then self.last_event = identity(list[#list]) end
      return { unpack(list, from or 1) }
    end
  end
end

local function event_words(entry)
  local what = entry.kind
  if entry.commands then what = counted(entry.n, entry.commands:gsub("s$", ""))
  elseif entry.change then what = entry.change end
  local step = entry.phase and entry.phase .. " " .. entry.step or ""
  -- An error reply is better known by its first word.
  local failure = entry.error == "reply" and entry.message and entry.message:match "^%S+" or entry.error or ""
  local verdict = entry["function"] == "mark" and entry.verdict == "nil" and "no change" or entry.verdict or ""
  local did = entry.did == "nothing" and "" or entry.did or ""
  if entry.straggler then verdict = "(known already)" end
  return { short(entry.node or ""), what, step, failure, entry.certainty or "", short(verdict), short(did) }
end

local function event_colour(entry)
  if entry.to == "failing" and entry.from ~= "failing" then return "red" end
  if entry.to == "suspect" and entry.from ~= "suspect" then return "yellow" end
  if entry.to == "healthy" and entry.from ~= "healthy" then return "green" end
end

--- Prints them; those that differ in time alone become one line.
local function show_events(self)
  local shown, count = nil, 0
  local function flush()
    if shown then out(paint(shown.colour, shown.line .. (count > 1 and ("  (%d times)"):format(count) or ""))) end
  end
  for _, entry in ipairs(new_events(self)) do
    local words = event_words(entry)
    local same = table.concat(words, "|")
    if entry["function"] == "probe" or entry["function"] == "reconnect" then -- luacheck: ignore 542
      -- asked because of an event that has its line
    elseif shown and shown.same == same then
      count = count + 1
    else
      flush()
      shown = { same = same, colour = event_colour(entry), line = EVENT:format(tonumber(entry.time) - self.began, unpack(words)) }
      count = 1
    end
  end
  flush()
end

-- ---- the load ----

local function states(self)
  local out_of, healthy = {}, 0
  for _, node in ipairs(self.way:nodes()) do
    if node.state == "healthy" then healthy = healthy + 1
    else out_of[#out_of + 1] = short(node.address) .. " " .. node.state end
  end
  return healthy, table.concat(out_of, ", ")
end

local function show_second(self, fields)
  show_events(self)
  self.seconds = self.seconds + 1
  local total = self.total
  for key, value in pairs(fields) do
    if key == "slowest" then total.slowest = math.max(total.slowest, value) else total[key] = total[key] + value end
  end
  local healthy, others = states(self)
  local line = ("%5d s  load   %4d requests = %4d reads + %4d writes, %3d errors, slowest %6.1f ms, %4d waiting   %s"):format(
    self.seconds, fields.reads + fields.writes, fields.reads, fields.writes, fields.errors, fields.slowest, fields.waiting,
    others == "" and healthy .. " healthy" or others)
  out(paint(fields.errors > 0 and "red" or "cyan", line))
  local well = healthy == #self.cluster.nodes and fields.errors == 0 and fields.wrong == 0
      and fields.reads + fields.writes > demo_load.rate / 2
  self.well = well and self.well + 1 or 0
end

local function read_load(self)
  local ready = poll.rpoll(self.pipe, 20)
  if ready ~= 1 then return end
  local text = unistd.read(self.pipe, 65536)
  if not text or text == "" then error("the load ended before its time", 0) end
  self.unread = self.unread .. text
  for line in self.unread:gmatch "([^\n]*)\n" do
    local kind, rest = line:match "^(%S+) (.*)$"
    if kind == "second" then
      local fields = {}
      for key, value in rest:gmatch "(%S+)=(%S+)" do fields[key] = tonumber(value) end
      show_second(self, fields)
    else
      local count, why = rest:match "^(%d+) (.*)$"
      self.errors[why] = (self.errors[why] or 0) + tonumber(count)
    end
  end
  self.unread = self.unread:match "[^\n]*$"
end

-- ---- what is done to the cluster ----

local function act(self, format, ...)
  out(paint("bold", ("%7.3f  >>> %s"):format(socket.gettime() - self.began, short(format:format(...)))))
end

local function scenes(self)
  local victim, frozen = self.cluster:node(1), self.cluster:node(5)
  return {
    { at = KILL, run = function()
      act(self, "kill -9: %s, master of a third of the slots", victim.address)
      victim:kill()
    end },
    { at = FREEZE, run = function()
      act(self, "SIGSTOP: %s, a replica that serves reads", frozen.address)
      frozen:freeze()
    end },
    { at = REVIVE, run = function()
      act(self, "started again: %s", victim.address)
      victim:start()
    end },
    { at = THAW, run = function()
      act(self, "SIGCONT: %s", frozen.address)
      frozen:thaw()
    end },
  }
end

local function play(self)
  local list, at = scenes(self), 1
  while true do
    check_interrupted()
    local passed = socket.gettime() - self.began
    if list[at] and passed >= list[at].at then
      list[at].run()
      at = at + 1
    end
    show_events(self)
    read_load(self)
    if not list[at] and self.well >= CALM then return true end
    if passed > LONGEST then return false end
  end
end

-- ---- beginning and end ----

local function introduce(self)
  for i, node in ipairs(self.cluster.nodes) do
    out(("%-8s %s"):format(short(node.address), i <= self.cluster.masters and "master" or
      "replica of " .. short(self.cluster:node(node.of).address)))
  end
  out(("wayside  serves on %s, 2 workers, policy %s"):format(self.way.tcp, POLICY))
  out(("load     %d requests a second from 16 clients: 3 reads to 1 write, pipelines of 8\n"):format(demo_load.rate))
  out(paint("bold", HEAD))
end

local function summarize(self, healthy)
  local t = self.total
  out(("\n%d requests in %d s: %s, %d wrong replies, the slowest took %.1f ms."):format(t.reads + t.writes, self.seconds,
    counted(t.errors, "error"), t.wrong, t.slowest))
  for why, count in pairs(self.errors) do out(("  %5d x  %s"):format(count, why)) end
  if healthy then
    out(paint("green", ("All %d nodes are healthy again."):format(#self.cluster.nodes)))
  else
    local _, others = states(self)
    out(paint("red", "Not healthy again: " .. (others ~= "" and others or "the load has errors")))
  end
  return healthy and t.wrong == 0
end

local function demo(self)
  out "starting three masters with a replica each, and wayside"
  self.cluster = cluster.start { folder = self.folder, masters = 3, replicas = 3, node_timeout = NODE_TIMEOUT_MS }
  check_interrupted()
  self.way = daemon.start { folder = self.folder, cluster = self.cluster, workers = 2, policy = POLICY }
  self.began = socket.gettime() + 0.2
  introduce(self)
  local before = ask_events(self.way, 1)
  self.last_event = before[1] and identity(before[1])
  self.load, self.pipe = demo_load.start(self.way.tcp, self.began)
  return summarize(self, play(self))
end

local function end_all(self)
  for _, one in ipairs { self.load or false, self.way or false, self.cluster or false } do
    if one then pcall(one.stop, one) end
  end
  process.remove_tree(self.folder)
end

for _, name in ipairs { "SIGINT", "SIGTERM", "SIGHUP" } do
  signal.signal(signal[name], function() interrupted = true end)
end

local self = { folder = process.new_folder(), seconds = 0, well = 0, unread = "", errors = {},
  total = { reads = 0, writes = 0, errors = 0, wrong = 0, waiting = 0, slowest = 0 } }
-- Ctrl-C reaches the servers too: whatever that leads to is no news.
local ok, result = xpcall(demo, function(err) return interrupted and "interrupted" or debug.traceback(err) end, self)
if not ok then io.stderr:write("\n", tostring(result), "\n") end
end_all(self)
os.exit(ok and result and 0 or 1)
