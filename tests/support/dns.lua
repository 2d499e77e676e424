--- A name server on loopback that says what a test tells it to.
--
--     local names = dns.start { folder = dir, names = { ["redis.test"] = "127.0.0.1" } }
--     names.address                            -- for cluster.name_servers
--     names:set("redis.test", "127.0.0.2")     -- from the next question on; nil: no such name
--     names:asked()                            -- how many questions have come
--
-- It answers A with the address, AAAA with nothing, and with a time to live of 0, so that nobody keeps it.
local socket = require "socket"
local process = require "tests.support.process"

local dns = {}
local Dns = {}
Dns.__index = Dns

local function names_of(path)
  local names = {}
  for name, ip in (process.read_file(path) or ""):gmatch "(%S+) (%S+)\n" do names[name] = ip end
  return names
end

--- The question: its name in lower case, its type, and its bytes.
local function read_question(packet)
  local labels, at = {}, 13
  while true do
    local n = packet:byte(at)
    if not n or n > 63 then return nil end
    if n == 0 then break end
    labels[#labels + 1] = packet:sub(at + 1, at + n)
    at = at + n + 1
  end
  local high, low = packet:byte(at + 1, at + 2)
  if not low or #packet < at + 4 then return nil end
  return table.concat(labels, "."):lower(), high * 256 + low, packet:sub(13, at + 4)
end

local function answer(packet, names)
  local name, kind, question = read_question(packet)
  if not name then return nil end
  local ip = names[name]
  local record = ""
  if ip and kind == 1 then
    record = "\192\012\0\1\0\1\0\0\0\0\0\4" .. ip:gsub("(%d+)%.?", function(n) return string.char(tonumber(n)) end)
  end
  local flags = ip and "\129\128" or "\129\131"
  return packet:sub(1, 2) .. flags .. "\0\1\0" .. (record == "" and "\0" or "\1") .. "\0\0\0\0" .. question .. record
end

--- Whole at every moment, for who reads it meanwhile.
local function replace(path, text)
  process.write_file(path .. ".new", text)
  assert(os.rename(path .. ".new", path))
end

local function run(sock, path)
  local questions = 0
  while true do
    local packet, ip, port = sock:receivefrom()
    local reply = packet and answer(packet, names_of(path))
    if reply then
      questions = questions + 1
      replace(path .. ".asked", tostring(questions))
      sock:sendto(reply, ip, port)
    end
  end
end

local count = 0

---@param options table `names` (name to address), `folder`
function dns.start(options)
  count = count + 1
  local self = setmetatable({ names = {}, path = ("%s/dns-%d"):format(options.folder, count) }, Dns)
  for name, ip in pairs(options.names) do self.names[name] = ip end
  self:write()
  local sock = assert(socket.udp())
  assert(sock:setsockname("127.0.0.1", 0))
  local _, port = sock:getsockname()
  self.address = "127.0.0.1:" .. port
  self.process = process.fork(function() run(sock, self.path) end,
    { name = "dns", stderr = self.path .. ".log", keep = { [sock:getfd()] = true } })
  sock:close()
  return self
end

--- For the server, which reads it at each question.
function Dns:write()
  local lines = {}
  for name, ip in pairs(self.names) do lines[#lines + 1] = name .. " " .. ip .. "\n" end
  replace(self.path, table.concat(lines))
end

function Dns:set(name, ip)
  self.names[name:lower()] = ip
  self:write()
end

function Dns:asked() return tonumber(process.read_file(self.path .. ".asked") or "0") end

function Dns:stop() self.process:stop() end

return dns
