--- A RESP2 and RESP3 client for tests: it shows replies as they came, and the raw bytes if
-- asked.
--
-- Strings and statuses are Lua strings, integers and doubles numbers, arrays lists, nulls
-- `resp.null`, errors tables { err = "ERR ..." }. RESP3 maps are tables by key, sets lists,
-- pushes are collected in `client.pushes`.
local socket = require "socket"
local unix = require "socket.unix"

local resp = {}
resp.null = setmetatable({}, { __tostring = function() return "null" end })

local Client = {}
Client.__index = Client
resp.Client = Client

--- Encodes one command, a list of strings or numbers.
function resp.encode(words)
  local out = { "*" .. #words .. "\r\n" }
  for i = 1, #words do
    local word = tostring(words[i])
    out[#out + 1] = "$" .. #word .. "\r\n"
    out[#out + 1] = word
    out[#out + 1] = "\r\n"
  end
  return table.concat(out)
end

--- Connects. target: "host:port" or "unix:/path".
---@return table client, or nil and the reason
function resp.connect(target, timeout)
  local path = target:match "^unix:(.+)$"
  local sock, ok, err
  if path then
    sock = unix.stream()
    sock:settimeout(timeout or 5)
    ok, err = sock:connect(path)
  else
    local host, port = target:match "^(.+):(%d+)$"
    sock = socket.tcp4()
    sock:settimeout(timeout or 5)
    ok, err = sock:connect(host, tonumber(port))
    if ok then sock:setoption("tcp-nodelay", true) end
  end
  if not ok then
    sock:close()
    return nil, err
  end
  sock:settimeout(0)
  return setmetatable({
    sock = sock, target = target, timeout = timeout or 5, buffer = "", at = 1, pushes = {},
  }, Client)
end

local function out_of_time(client)
  return { timed_out = true, err = "no reply within " .. client.timeout .. " s" }
end

--- Reads what there is, waiting up to `deadline`. True, or nil and "closed" or "timeout".
function Client:fill(deadline)
  while true do
    local data, err, partial = self.sock:receive(262144)
    local got = data or partial
    if got and #got > 0 then
      self.buffer = self.at > #self.buffer and got or self.buffer:sub(self.at) .. got
      self.at = 1
      return true
    end
    if err ~= "timeout" then
      self.closed = err
      return nil, err
    end
    local left = deadline - socket.gettime()
    if left <= 0 then return nil, "timeout" end
    socket.select({ self.sock }, nil, left)
  end
end

--- n bytes from position `from` on, reading in pieces without copying a long buffer each time.
function Client:need(last, deadline)
  if #self.buffer - self.at + 1 >= last then return true end
  local parts, have = { self.buffer:sub(self.at) }, #self.buffer - self.at + 1
  while have < last do
    self.buffer, self.at = "", 1
    local ok, err = self:fill(deadline)
    if not ok then
      self.buffer, self.at = table.concat(parts), 1
      return nil, err
    end
    parts[#parts + 1] = self.buffer
    have = have + #self.buffer
  end
  self.buffer, self.at = table.concat(parts), 1
  return true
end

local parse

local function parse_line(client, offset, deadline)
  local from = 0
  while true do
    local stop = client.buffer:find("\r\n", client.at + offset + from, true)
    if stop then return client.buffer:sub(client.at + offset, stop - 1), stop + 2 - client.at end
    from = math.max(0, #client.buffer - client.at - offset)
    local ok, err = client:need(#client.buffer - client.at + 2, deadline)
    if not ok then return nil, err end
  end
end

local function parse_bulk(client, offset, line, deadline)
  local n = tonumber(line)
  if n == -1 then return resp.null, offset end
  local ok, err = client:need(offset + n + 2, deadline)
  if not ok then return nil, err end
  local start = client.at + offset
  return client.buffer:sub(start, start + n - 1), offset + n + 2
end

local function parse_list(client, offset, count, deadline)
  local list = {}
  for i = 1, count do
    local value, after = parse(client, offset, deadline)
    if value == nil then return nil, after end
    list[i], offset = value, after
  end
  return list, offset
end

local function parse_map(client, offset, count, deadline)
  local list, after = parse_list(client, offset, count * 2, deadline)
  if not list then return nil, after end
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map, after
end

local simple = {
  ["+"] = function(line) return line end,
  ["-"] = function(line) return { err = line } end,
  [":"] = function(line) return tonumber(line) end,
  ["_"] = function() return resp.null end,
  ["#"] = function(line) return line == "t" end,
  [","] = function(line) return tonumber(line) or line end,
  ["("] = function(line) return line end,
}

--- One value at `offset` bytes behind client.at. Returns it and the offset behind it, or nil, reason.
function parse(client, offset, deadline)
  local ok, err = client:need(offset + 1, deadline)
  if not ok then return nil, err end
  local kind = client.buffer:sub(client.at + offset, client.at + offset)
  local line, after = parse_line(client, offset + 1, deadline)
  if not line then return nil, after end
  if simple[kind] then return simple[kind](line), after end
  if kind == "$" then return parse_bulk(client, after, line, deadline) end
  if kind == "=" or kind == "!" then
    local text, next_offset = parse_bulk(client, after, line, deadline)
    if text and kind == "!" then return { err = text }, next_offset end
    return text and text:sub(5), next_offset
  end
  local count = tonumber(line)
  if kind == "*" and count == -1 then return resp.null, after end
  if kind == "*" or kind == "~" then return parse_list(client, after, count, deadline) end
  if kind == "%" then return parse_map(client, after, count, deadline) end
  if kind == ">" then
    local list, behind = parse_list(client, after, count, deadline)
    if not list then return nil, behind end
    client.pushes[#client.pushes + 1] = list
    return parse(client, behind, deadline)
  end
  if kind == "|" then
    local map, behind = parse_map(client, after, count, deadline)
    if not map then return nil, behind end
    return parse(client, behind, deadline)
  end
  error(("not RESP: %q"):format(client.buffer:sub(client.at + offset, client.at + offset + 60)))
end

--- The next reply and its raw bytes, or nil and "closed" or "timeout".
function Client:read_reply(timeout)
  local value, after = parse(self, 0, socket.gettime() + (timeout or self.timeout))
  if value == nil then return nil, after end
  local raw = self.buffer:sub(self.at, self.at + after - 1)
  self.at = self.at + after
  return value, raw
end

--- Sends bytes as they are. True, or nil, the reason and the position of the first byte not sent.
function Client:send_raw(bytes)
  local from = 1
  local deadline = socket.gettime() + self.timeout
  while from <= #bytes do
    local last, err, partial = self.sock:send(bytes, from)
    from = (last or partial or from - 1) + 1
    if err and err ~= "timeout" then
      self.closed = err
      return nil, err, from
    end
    if from <= #bytes then
      if socket.gettime() > deadline then return nil, "timeout", from end
      socket.select(nil, { self.sock }, 0.1)
    end
  end
  return true
end

--- One command, one reply; where no reply came, { err = why, lost = true }.
function Client:call(...)
  local ok, err = self:send_raw(resp.encode { ... })
  if not ok then return { err = err, lost = true } end
  local reply
  reply, err = self:read_reply()
  if reply == nil then
    if err == "timeout" then return out_of_time(self) end
    return { err = err, lost = true }
  end
  return reply
end

--- The reply's raw bytes, to be compared byte by byte.
function Client:call_raw(...)
  assert(self:send_raw(resp.encode { ... }))
  local reply, raw = self:read_reply()
  assert(reply ~= nil, raw)
  return raw
end

--- Writes as much as the socket takes without waiting; the next position to write from.
local function push_bytes(client, bytes, from)
  local last, err, partial = client.sock:send(bytes, from, math.min(#bytes, from + 1048575))
  if err and err ~= "timeout" then client.closed = err end
  return (last or partial or from - 1) + 1
end

--- Sends commands (lists of words) at once, reading while writing. Returns the list of replies;
-- where the connection broke, the list ends early and the reason is returned too.
function Client:pipeline(commands, timeout)
  local parts = {}
  for i, words in ipairs(commands) do parts[i] = resp.encode(words) end
  return self:exchange(table.concat(parts), #commands, timeout)
end

--- Sends bytes that hold `count` commands and reads as many replies.
function Client:exchange(bytes, count, timeout)
  local deadline = socket.gettime() + (timeout or self.timeout)
  local replies, from = {}, 1
  while #replies < count do
    if from <= #bytes and not self.closed then from = push_bytes(self, bytes, from) end
    local unfinished = from <= #bytes and not self.closed
    if unfinished then
      socket.select({ self.sock }, { self.sock }, 0.05)
      self:fill(0)
    end
    while #replies < count do
      -- While there is more to write only whole replies are taken, so that neither side waits.
      local reply, err = parse(self, 0, unfinished and 0 or deadline)
      if reply == nil then
        if unfinished and err == "timeout" then break end
        return replies, err
      end
      self.at = self.at + err
      replies[#replies + 1] = reply
    end
    if socket.gettime() > deadline then return replies, "timeout" end
  end
  return replies
end

--- True when the peer closed within `timeout` seconds, all it had sent before being read.
function Client:is_closed(timeout)
  local deadline = socket.gettime() + (timeout or 2)
  while true do
    local ok, err = self:fill(deadline)
    if not ok then return err ~= "timeout", err end
    self.at = #self.buffer + 1
  end
end

function Client:close()
  self.sock:close()
end

--- Is it an error reply (whose text holds `text`)?
function resp.is_error(reply, text)
  return type(reply) == "table" and type(reply.err) == "string"
      and (not text or reply.err:find(text, 1, true) ~= nil)
end

--- A reply as a short text, for messages of failing tests.
function resp.show(reply)
  if type(reply) ~= "table" then return tostring(reply) end
  if reply == resp.null then return "null" end
  if reply.err then return "-" .. reply.err end
  local out = {}
  for i = 1, math.min(#reply, 8) do out[i] = resp.show(reply[i]) end
  for key, value in pairs(reply) do
    if type(key) ~= "number" then out[#out + 1] = tostring(key) .. "=" .. resp.show(value) end
  end
  return "[" .. table.concat(out, " ") .. (#reply > 8 and " ..." or "") .. "]"
end

return resp
