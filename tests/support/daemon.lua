--- bin/wayside as a test sees it: started with a configuration, asked over its console.
local unistd = require "posix.unistd"
local process = require "tests.support.process"
local ports = require "tests.support.ports"
local resp = require "tests.support.resp"
local waits = require "tests.support.wait"

local daemon = {}
local Daemon = {}
Daemon.__index = Daemon

daemon.program = os.getenv "WAYSIDE" or "bin/wayside"

--- A Lua value as source text.
local function source(value, indent)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  end
  local out, inner = {}, (indent or "") .. "  "
  for i = 1, #value do out[#out + 1] = inner .. source(value[i], inner) end
  local keys = {}
  for key in pairs(value) do
    if type(key) == "string" then keys[#keys + 1] = key end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    out[#out + 1] = ("%s[%q] = %s"):format(inner, key, source(value[key], inner))
  end
  return "{\n" .. table.concat(out, ",\n") .. "\n" .. (indent or "") .. "}"
end

daemon.source = source

local function configuration(self, options)
  local seeds = options.seeds or (options.cluster and options.cluster:seeds())
  local tls = options.tls
  if tls == nil and options.cluster then tls = options.cluster:tls() end
  local config = {
    listen = { self.tcp, self.unix },
    workers = options.workers or 2,
    cluster = { seeds = seeds, tls = tls },
    timeouts = options.timeouts,
    limits = options.limits,
    segment = options.segment,
    admin = { console = self.console, http = options.http },
  }
  -- A file named in a configuration is looked for beside it.
  local policy = options.policy
  if policy and policy:sub(1, 1) ~= "/" then policy = unistd.getcwd() .. "/" .. policy end
  if policy then config.policy = { file = policy, options = options.options } end
  for key, value in pairs(options.config or {}) do config[key] = value end
  return "return " .. source(config) .. "\n"
end

local count = 0

--- Writes the configuration, without starting anything.
---@param options table see daemon.start
function daemon.prepare(options)
  count = count + 1
  local self = setmetatable({ folder = options.folder, turn = 0, how = options.how }, Daemon)
  local base = ("%s/way-%d"):format(options.folder, count)
  self.port = ports.free()
  self.tcp = "127.0.0.1:" .. self.port
  self.unix = "unix:" .. base .. ".sock"
  self.console = "unix:" .. base .. ".admin"
  self.errors = base .. ".log"
  self.file = base .. ".lua"
  process.write_file(self.file, options.text or configuration(self, options))
  self.words = { daemon.program, "serve", "-c", self.file }
  for _, flag in ipairs(options.flags or {}) do self.words[#self.words + 1] = flag end
  local net = options.cluster and options.cluster.net
  if net then self.words, self.how = net:enter(self.words), "unix" end
  self.words.name, self.words.stderr, self.words.stdout = "wayside", self.errors, self.errors
  self.words.env = options.env
  return self
end

--- Starts the daemon and waits until it serves.
---@param options table `cluster` or `seeds`, `policy` (file), `options` (of the policy), `workers` 2, `timeouts`,
---  `tls` (cluster.tls; nil: what the cluster needs), `limits`, `segment`, `http`, `config` (more keys), `flags`, `env`, `folder`,
---  `how` (what clients use: "tcp", "unix", or nil for both in turn);
---  `ready = false` waits only until it accepts, for clusters that can't be reached
function daemon.start(options)
  local self = daemon.prepare(options)
  self.process = process.spawn(self.words)
  self:wait_ready(options.ready)
  return self
end

--- Waits until commands are answered: all slots known, and the console open.
function Daemon:wait_ready(ready)
  waits.wait_for(function()
    if not self.process:alive() then error("wayside ended:\n" .. process.tail(self.errors, 40), 0) end
    local client = resp.connect(self.how == "unix" and self.unix or self.tcp, 2)
    if not client then return false, "no connection" end
    local reply = ready == false and client:call "PING" or client:call("GET", "{0}ready")
    client:close()
    return not resp.is_error(reply), resp.show(reply)
  end, 10, "wayside to serve; its log:\n" .. process.tail(self.errors, 20))
end

--- Where clients connect to; by TCP and by unix socket in turn unless `how` here or in the options ("tcp" or "unix") says it.
function Daemon:target(how)
  self.turn = self.turn + 1
  how = how or self.how or (self.turn % 2 == 0 and "unix" or "tcp")
  return how == "tcp" and self.tcp or self.unix
end

--- A client to one of them.
function Daemon:client(how, timeout)
  return assert(resp.connect(self:target(how), timeout))
end

--- One command on a connection of its own.
function Daemon:call(...)
  local client = self:client()
  local reply = client:call(...)
  client:close()
  return reply
end

--- A command to the admin console.
function Daemon:ask(...)
  if not self.admin or self.admin.closed then self.admin = assert(resp.connect(self.console)) end
  return self.admin:call(...)
end

--- A map that came as RESP3 map or as flat list of names and values.
local function as_map(value)
  if type(value) ~= "table" or value[1] == nil then return value end
  local map = {}
  for i = 1, #value, 2 do map[value[i]] = value[i + 1] end
  return map
end

local function plain(map)
  for key, value in pairs(map) do
    if value == resp.null or value == "" then map[key] = nil
    elseif type(value) == "string" and value:match "^%-?%d+%.?%d*$" then map[key] = tonumber(value) end
  end
  return map
end

local function maps(reply)
  assert(type(reply) == "table" and not reply.err, resp.show(reply))
  local list = {}
  for i, one in ipairs(reply) do list[i] = plain(as_map(one)) end
  return list
end

--- The events the policy saw, oldest first: tables of phase, step, error, certainty, ...
-- What probe and reconnect were asked repeats an event of another entry: left out unless `want` names a function.
---@param want table fields that must be equal, all if nil
function Daemon:events(want)
  local list = {}
  for _, event in ipairs(maps(self:ask("WAYSIDE", "EVENTS", 1024))) do
    local fits = want and want["function"] or event["function"] ~= "probe" and event["function"] ~= "reconnect"
    for key, value in pairs(want or {}) do
      if event[key] ~= value then fits = false end
    end
    if fits then list[#list + 1] = event end
  end
  return list
end

--- The events that made a node's state worse. (That a new replica waits for its first probe is no such event.)
function Daemon:marks()
  local list = {}
  for _, event in ipairs(self:events { ["function"] = "mark" }) do
    if event.error and event.from ~= event.to and (event.to == "suspect" or event.to == "failing") then list[#list + 1] = event end
  end
  return list
end

--- The nodes as the node table has them: list of id, address, role, state, reason, ...
function Daemon:nodes() return maps(self:ask("WAYSIDE", "NODES")) end

--- The record of one node, by a node of the cluster or its address.
function Daemon:node(which)
  local address = type(which) == "table" and which.address or which
  for _, one in ipairs(self:nodes()) do
    if one.address == address then return one end
  end
end

--- Waits for an event with these fields; returns it.
function Daemon:wait_event(want, timeout)
  local text = {}
  for key, value in pairs(want) do text[#text + 1] = key .. "=" .. tostring(value) end
  return waits.wait_for(function()
    local found = self:events(want)
    return found[#found], self:show_events()
  end, timeout or 5, "an event " .. table.concat(text, " "))
end

function Daemon:wait_state(node, state, timeout)
  return waits.wait_for(function()
    local record = self:node(node)
    return record and record.state == state and record, record and record.state or "no record"
  end, timeout or 5, ("%s to be %s"):format(node.address, state))
end

--- Events as lines, for messages of failing tests.
function Daemon:show_events()
  local out = {}
  for _, e in ipairs(self:events()) do
    local words = {}
    for key, value in pairs(e) do words[#words + 1] = key .. "=" .. tostring(value) end
    table.sort(words)
    out[#out + 1] = table.concat(words, " ")
  end
  return #out == 0 and "no events" or table.concat(out, "\n", math.max(1, #out - 15))
end

--- What it has logged so far.
function Daemon:log() return process.read_file(self.errors) or "" end

--- Starts it and expects it to end by itself: exit status and what it wrote.
function Daemon:refused(timeout)
  self.process = process.spawn(self.words)
  local ended = self.process:wait(timeout or 5)
  self.process:stop()
  self.stopped = true
  return ended and self.process.status, self:log()
end

function Daemon:kill()
  self.process:kill "SIGKILL"
  self.process:wait(5)
end

--- Ends it. A daemon that ended before by itself makes the test fail.
function Daemon:stop()
  if self.admin then self.admin:close() end
  if not self.process or self.stopped then return end
  self.stopped = true
  local was_alive = self.process:alive()
  self.process:stop(5)
  if not was_alive and self.process.signal ~= 9 then
    error(("wayside ended by itself, status %s, signal %s:\n%s"):format(
      tostring(self.process.status), tostring(self.process.signal), process.tail(self.errors, 40)), 0)
  end
end

return daemon
