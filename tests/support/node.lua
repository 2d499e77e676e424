--- A scripted RESP node: a Lua function answers the commands, in a child process.
--
--     local n = node.start { folder = dir, script = function(words, conn)
--       if words[1]:upper() == "GET" then return "-LOADING Redis is loading the dataset in memory\r\n" end
--     end, forward = 7000 }
--
-- The script gets the words of each command and returns
--   a string     raw bytes, sent as they are (empty: no reply at all),
--   a table      steps, done in turn: a string is sent, { sleep = s } waits (this connection only),
--                { close = "fin" | "rst" } ends it, { trickle = bytes, every = s } drips,
--   nil          then the command goes to the real node at port `forward`, and its reply comes
--                back; without `forward` the answer is "-ERR unscripted".
-- `conn` is a table for the connection's own notes (conn.count, conn.id, ...); the upvalue
-- `conn.state` is shared by all connections and can be set from the test by
-- node:set(name, value). What was received is told by node:received().
local socket = require "socket"
local ports = require "tests.support.ports"
local process = require "tests.support.process"
local resp = require "tests.support.resp"

local node = {}
local Node = {}
Node.__index = Node

--- One whole command at the front of a buffer: words and the rest, or nil.
local function take_command(buffer)
  local count, at = buffer:match "^%*(%d+)\r\n()"
  if not count then
    local line, after = buffer:match "^([^\r\n]*)\r?\n()"
    if not line or buffer:sub(1, 1) == "*" then return nil end
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = word end
    return words, buffer:sub(after)
  end
  local words = {}
  for i = 1, tonumber(count) do
    local n, from = buffer:match("^%$(%d+)\r\n()", at)
    if not n then return nil end
    n = tonumber(n)
    if #buffer < from + n + 1 then return nil end
    words[i] = buffer:sub(from, from + n - 1)
    at = from + n + 2
  end
  return words, buffer:sub(at)
end

local function answer_own(server, words)
  if words[1] == "SCRIPTED.RECEIVED" then
    local out = { "*" .. #server.received .. "\r\n" }
    for _, one in ipairs(server.received) do out[#out + 1] = resp.encode(one) end
    return table.concat(out)
  elseif words[1] == "SCRIPTED.SET" then
    server.state[words[2]] = tonumber(words[3]) or words[3]
    return "+OK\r\n"
  elseif words[1] == "SCRIPTED.FORGET" then
    server.received = {}
    return "+OK\r\n"
  end
end

local function forward(server, conn, words)
  if not server.forward then return "-ERR unscripted command\r\n" end
  conn.upstream = conn.upstream or resp.connect("127.0.0.1:" .. server.forward, 5)
  if not conn.upstream then return { { close = "rst" } } end
  if not conn.upstream:send_raw(resp.encode(words)) then return { { close = "fin" } } end
  local reply, raw = conn.upstream:read_reply()
  if reply == nil then return { { close = "fin" } } end
  return raw
end

local function close_conn(server, conn, how)
  if how == "rst" then conn.sock:setoption("linger", { on = true, timeout = 0 }) end
  conn.sock:close()
  server.conns[conn.sock] = nil
  if conn.upstream then conn.upstream:close() end
end

--- Does the steps that are due; each step keeps those behind it waiting.
local function run_steps(server, conn, now)
  while conn.steps[1] and now >= conn.due do
    local step = conn.steps[1]
    if type(step) == "string" then
      local last, err, partial = conn.sock:send(step)
      if err and err ~= "timeout" then return close_conn(server, conn) end
      if err then
        conn.steps[1] = step:sub((partial or 0) + 1)
        conn.due = now + 0.002
        return
      end
      assert(last)
      table.remove(conn.steps, 1)
    elseif step.sleep then
      conn.due = now + step.sleep
      table.remove(conn.steps, 1)
    elseif step.trickle then
      conn.sock:send(step.trickle:sub(1, 1))
      step.trickle = step.trickle:sub(2)
      conn.due = now + step.every
      if step.trickle == "" then table.remove(conn.steps, 1) end
    else
      return close_conn(server, conn, step.close)
    end
  end
end

local function take_all(server, conn)
  while true do
    local words, rest = take_command(conn.buffer)
    if not words then return end
    conn.buffer = rest
    local reply = answer_own(server, words)
    if not reply then
      server.received[#server.received + 1] = words
      conn.count = conn.count + 1
      reply = server.script(words, conn)
      if reply == nil then reply = forward(server, conn, words) end
    end
    for _, step in ipairs(type(reply) == "table" and reply or { reply }) do
      if step ~= "" then conn.steps[#conn.steps + 1] = step end
    end
  end
end

local function on_readable(server, conn)
  local data, err, partial = conn.sock:receive(65536)
  local got = data or partial or ""
  conn.buffer = conn.buffer .. got
  take_all(server, conn)
  if err and err ~= "timeout" then return close_conn(server, conn) end
end

local function serve(server, listener)
  local ids = 0
  while true do
    local read, due = { listener }, 1
    local now = socket.gettime()
    for sock, conn in pairs(server.conns) do
      read[#read + 1] = sock
      if conn.steps[1] then due = math.min(due, math.max(0, conn.due - now)) end
    end
    for _, sock in ipairs((socket.select(read, nil, due))) do
      if sock == listener then
        local fresh = listener:accept()
        if fresh then
          fresh:settimeout(0)
          fresh:setoption("tcp-nodelay", true)
          ids = ids + 1
          server.conns[fresh] = {
            sock = fresh, id = ids, count = 0, buffer = "", steps = {}, due = 0, state = server.state,
          }
        end
      elseif server.conns[sock] then
        on_readable(server, server.conns[sock])
      end
    end
    now = socket.gettime()
    local list = {}
    for _, conn in pairs(server.conns) do list[#list + 1] = conn end
    for _, conn in ipairs(list) do run_steps(server, conn, now) end
  end
end

--- Starts one.
---@param options table `script`, `ip` ("127.0.0.1"), `port`, `forward` (a real node's port), `folder`, `state` (first values)
function node.start(options)
  local self = setmetatable({ port = options.port or ports.free() }, Node)
  local ip = options.ip or "127.0.0.1"
  self.address = ip .. ":" .. self.port
  self.errors = ("%s/node-%s-%d.log"):format(options.folder, ip, self.port)
  local listener = socket.tcp4()
  listener:setoption("reuseaddr", true)
  assert(listener:bind(ip, self.port))
  assert(listener:listen(128))
  listener:settimeout(0)
  local server = {
    script = options.script, forward = options.forward, state = options.state or {}, received = {}, conns = {},
  }
  self.process = process.fork(function() serve(server, listener) end,
    { name = "scripted node", stderr = self.errors, keep = { [listener:getfd()] = true } })
  listener:close()
  return self
end

--- A command on a connection of the test's own.
function Node:call(...)
  local client = assert(resp.connect(self.address))
  local reply = client:call(...)
  client:close()
  return reply
end

--- The commands it received, a list of lists of words; only those named `name` if given.
function Node:received(name)
  local list = {}
  for _, words in ipairs(self:call "SCRIPTED.RECEIVED") do
    if not name or (words[1] or ""):upper() == name:upper() then list[#list + 1] = words end
  end
  return list
end

function Node:forget() self:call "SCRIPTED.FORGET" end
--- Sets conn.state[name] in the script.
function Node:set(name, value) self:call("SCRIPTED.SET", name, value) end

function Node:stop()
  self.process:stop()
  local text = process.read_file(self.errors)
  if text and #text > 0 then error("the scripted node said:\n" .. text) end
end

return node
