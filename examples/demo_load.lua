--- The load of `make demo`: pipelines of eight commands at fixed times, whether or not earlier ones were answered.
local process = require "tests.support.process"
local resp = require "tests.support.resp"
local socket = require "socket"
local unistd = require "posix.unistd"

local demo_load = {}

local READERS, WRITERS, PIPELINE, PERIOD = 12, 4, 8, 0.064
local KEYS = 3000
-- A client that waits for so many replies sends no more until some came.
local WAITING_MOST = 2000

--- Requests a second while all is well.
demo_load.rate = (READERS + WRITERS) * PIPELINE / PERIOD

local function new_second()
  return { reads = 0, writes = 0, errors = 0, wrong = 0, slowest = 0 }
end

local function send_pipeline(self, client, now)
  local parts = {}
  for i = 1, PIPELINE do
    local key = "demo:" .. math.random(KEYS)
    -- Each key's value is its own name: a reply that belongs to another request is seen.
    parts[i] = resp.encode(client.writes and { "SET", key, key } or { "GET", key })
    client.waiting[#client.waiting + 1] = { key = key, due = client.due }
  end
  if not client.link:send_raw(table.concat(parts)) then self:lose(client, now) end
end

--- A connection that was closed: all that waited on it failed.
local function lose(self, client)
  for _ = client.first, #client.waiting do self:count_error "connection closed" end
  client.link:close()
  client.waiting, client.first = {}, 1
  client.link = assert(resp.connect(self.target, 5))
end

local function count_error(self, text)
  self.second.errors = self.second.errors + 1
  local kind = text:gsub("%d+%.%d+%.%d+%.%d+:%d+", "NODE"):gsub("[%d.]+ s", "N s")
  self.errors[kind] = (self.errors[kind] or 0) + 1
end

local function take_reply(self, client, reply, now)
  local asked, second = client.waiting[client.first], self.second
  client.waiting[client.first] = false
  client.first = client.first + 1
  second.slowest = math.max(second.slowest, now - asked.due)
  local kind = client.writes and "writes" or "reads"
  second[kind] = second[kind] + 1
  if resp.is_error(reply) then
    self:count_error(reply.err)
  elseif client.writes and reply ~= "OK" or not client.writes and reply ~= resp.null and reply ~= asked.key then
    second.wrong = second.wrong + 1
  end
end

local function read_replies(self, client, now)
  while client.first <= #client.waiting do
    local reply, why = client.link:read_reply(0)
    if reply == nil then
      if why ~= "timeout" then self:lose(client) end
      return
    end
    take_reply(self, client, reply, now)
  end
  client.waiting, client.first = {}, 1
end

local function tell(self, out)
  local waiting = 0
  for _, client in ipairs(self.clients) do waiting = waiting + #client.waiting - client.first + 1 end
  local s = self.second
  unistd.write(out, ("second reads=%d writes=%d errors=%d wrong=%d slowest=%.1f waiting=%d\n"):format(s.reads, s.writes, s.errors,
    s.wrong, s.slowest * 1000, waiting))
  for text, count in pairs(self.errors) do unistd.write(out, ("error %d %s\n"):format(count, text)) end
  self.errors, self.second = {}, new_second()
end

local function serve(self, client, now)
  if now >= client.due then
    if #client.waiting - client.first < WAITING_MOST then send_pipeline(self, client, now) end
    client.due = client.due + PERIOD
  end
  read_replies(self, client, now)
end

local function run(target, began, out)
  local self = { target = target, clients = {}, errors = {}, second = new_second(), lose = lose, count_error = count_error }
  local sockets = {}
  for i = 1, READERS + WRITERS do
    self.clients[i] = { link = assert(resp.connect(target, 5)), writes = i > READERS, waiting = {}, first = 1,
      due = began + PERIOD * i / (READERS + WRITERS) }
  end
  local next_second = began + 1
  while true do
    local now = socket.gettime()
    if now >= next_second then
      tell(self, out)
      next_second = next_second + 1
    end
    local due = next_second
    for i, client in ipairs(self.clients) do
      serve(self, client, now)
      due = math.min(due, client.due)
      sockets[i] = client.link.sock
    end
    socket.select(sockets, nil, math.max(0, due - socket.gettime()))
  end
end

--- Starts it in a process of its own.
---@param target string where wayside serves, "host:port"
---@param began number the second zero, in seconds since 1970
---@return table process, number descriptor: a line each second, `second reads=.. ..`, then `error COUNT TEXT` lines
function demo_load.start(target, began)
  local from, to = unistd.pipe()
  local child = process.fork(function() run(target, began, to) end, { name = "load", keep = { [to] = true } })
  unistd.close(to)
  return child, from
end

return demo_load
