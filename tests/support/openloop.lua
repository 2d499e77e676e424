--- Load at a fixed rate, from a process of its own: it sends when the time has come, whatever is still
-- unanswered, and writes down what became of each command.
--
--     local load = openloop.start { folder = kit.folder(), clients = {
--       { name = "reads", target = way.tcp, every = 0.02, make = function(n) return { { "GET", "k" } } end,
--         good = function(reply, words) return reply == "v" end },
--     } }
--     ... faults ...
--     local commands = load:finish()
--
-- Each command is a table: `client` (its name), `number` of its pipeline, `sent`, `done` (seconds since the epoch),
-- `error` (the error reply's words, "no reply", or "wrong: " and the reply where `good` said no), nil if it went well.
local socket = require "socket"
local process = require "tests.support.process"
local resp = require "tests.support.resp"

local openloop = {}
local Load = {}
Load.__index = Load

local LAST_REPLIES = 12 -- seconds that are waited for them after the end

local function verdict(client, reply, words)
  if resp.is_error(reply) then return reply.err end
  if client.good and not client.good(reply, words) then return "wrong: " .. resp.show(reply) end
end

local function note(out, client, command, done, err)
  out[#out + 1] = ("%d %d %.6f %.6f %s"):format(client.index, command.number, command.sent, done, err or "")
end

local function send_due(client, now)
  while client.due <= now and not client.conn.closed do
    client.number = client.number + 1
    local commands = client.make(client.number)
    local parts = {}
    for i, words in ipairs(commands) do
      parts[i] = resp.encode(words)
      client.queue[client.tail] = { number = client.number, sent = now, words = words }
      client.tail = client.tail + 1
    end
    client.conn:send_raw(table.concat(parts))
    client.due = client.due + client.every
  end
end

local function take_replies(client, out)
  client.conn:fill(0)
  local now = socket.gettime()
  while client.head < client.tail do
    local reply = client.conn:read_reply(0)
    if reply == nil then break end
    local command = client.queue[client.head]
    client.queue[client.head] = nil
    client.head = client.head + 1
    note(out, client, command, now, verdict(client, reply, command.words))
  end
end

--- True while replies are missing.
local function is_behind(clients)
  for _, client in ipairs(clients) do
    if client.head < client.tail and not client.conn.closed then return true end
  end
end

local function run_one_pass(clients, out, sending)
  local socks, by, due = {}, {}, socket.gettime() + 0.02
  for _, client in ipairs(clients) do
    if not client.conn.closed then
      socks[#socks + 1] = client.conn.sock
      by[client.conn.sock] = client
      if sending and client.due < due then due = client.due end
    end
  end
  for _, sock in ipairs((socket.select(socks, nil, math.max(0, due - socket.gettime())))) do take_replies(by[sock], out) end
  if not sending then return end
  local now = socket.gettime()
  for _, client in ipairs(clients) do send_due(client, now) end
end

local function run(clients, path)
  local out, start, stop_at = {}, socket.gettime() + 0.02, nil
  for i, client in ipairs(clients) do
    client.index, client.number, client.head, client.tail, client.queue = i, 0, 1, 1, {}
    client.conn = assert(resp.connect(client.target))
    client.due = start + client.every * (i - 1) / #clients
  end
  process.write_file(path .. ".began", "")
  while true do
    local now = socket.gettime()
    if not stop_at and process.exists(path .. ".stop") then stop_at = now end
    if stop_at and (not is_behind(clients) or now > stop_at + LAST_REPLIES) then break end
    run_one_pass(clients, out, not stop_at)
  end
  local now = socket.gettime()
  for _, client in ipairs(clients) do
    for i = client.head, client.tail - 1 do note(out, client, client.queue[i], now, "no reply") end
  end
  process.write_file(path, table.concat(out, "\n") .. "\n")
end

local count = 0

--- Starts it; it sends when this returns.
---@param options table `folder`, and `clients`: a list of { name, target, every (seconds), make(number) giving the
---  pipeline of that number as a list of commands, good(reply, words) }
function openloop.start(options)
  count = count + 1
  local path = ("%s/load-%d"):format(options.folder, count)
  local self = setmetatable({ path = path, clients = options.clients, errors = path .. ".log" }, Load)
  self.process = process.fork(function() run(options.clients, path) end, { name = "load", stderr = self.errors })
  while not process.exists(path .. ".began") do
    assert(self.process:alive(), "the load ended: " .. process.tail(self.errors))
    socket.sleep(0.002)
  end
  return self
end

--- Ends the load and waits for the last replies: the list of all commands, in the order of their replies.
function Load:finish()
  process.write_file(self.path .. ".stop", "")
  if not self.process:wait(LAST_REPLIES + 8) then
    self:stop()
    error("the load did not end", 2)
  end
  local text = process.read_file(self.path)
  assert(text, "the load ended: " .. process.tail(self.errors))
  local list = {}
  for index, number, sent, done, err in text:gmatch "(%d+) (%d+) (%S+) (%S+) ([^\n]*)\n" do
    list[#list + 1] = { client = self.clients[tonumber(index)].name, index = tonumber(index), number = tonumber(number),
      sent = tonumber(sent), done = tonumber(done), error = err ~= "" and err or nil }
  end
  return list
end

function Load:stop() self.process:stop() end

--- How many there are, how many failed and with what, and the longest wait of one.
---@param want function which of them count; all if nil
function openloop.sum(commands, want)
  local sum = { n = 0, failed = 0, unknown = 0, longest = 0, words = {} }
  for _, c in ipairs(commands) do
    if not want or want(c) then
      sum.n = sum.n + 1
      sum.longest = math.max(sum.longest, c.done - c.sent)
      if c.error then
        sum.failed = sum.failed + 1
        if c.error:find "certainty=unknown" then sum.unknown = sum.unknown + 1 end
        local kind = c.error:gsub("127%.0%.0%.1:%d+", "NODE")
        sum.words[kind] = (sum.words[kind] or 0) + 1
      end
    end
  end
  return sum
end

--- The errors of a sum, most frequent first, as text.
function openloop.show(sum)
  local list = {}
  for words, n in pairs(sum.words) do list[#list + 1] = { words, n } end
  table.sort(list, function(a, b) return a[2] > b[2] end)
  for i, one in ipairs(list) do list[i] = ("%d x %s"):format(one[2], one[1]) end
  return #list == 0 and "no errors" or table.concat(list, "; ")
end

return openloop
