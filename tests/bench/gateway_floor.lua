--- The floor of a gateway: a client on cosockets that knows the slots and nothing else. No deadline of the whole, no
-- retry, no redirect, no mark: what any client of a cluster has to do.
local bit = require "bit"
local tcp, concat = ngx.socket.tcp, table.concat

local floor = {}

local crc = {}
for i = 0, 255 do
  local c = bit.lshift(i, 8)
  for _ = 1, 8 do c = bit.band(c, 0x8000) ~= 0 and bit.bxor(bit.lshift(c, 1), 0x1021) or bit.lshift(c, 1) end
  crc[i] = bit.band(c, 0xffff)
end
local function slot_of(key)
  local c = 0
  for i = 1, #key do c = bit.band(bit.bxor(bit.lshift(c, 8), crc[bit.band(bit.bxor(bit.rshift(c, 8), key:byte(i)), 255)]), 0xffff) end
  return c % 16384
end

local port_of -- slot -> port of its master
local function read_slots(seed)
  local sock = tcp()
  assert(sock:connect("127.0.0.1", seed))
  assert(sock:send "*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n")
  local text = assert(sock:receive(tonumber(assert(sock:receive "*l"):sub(2)) + 2))
  sock:close()
  local found = {}
  for line in text:gmatch "[^\n]+" do
    local port = line:match ":(%d+)@"
    for from, to in (line .. " "):gmatch " (%d+)%-(%d+)%f[ ]" do
      for slot = from, to do found[slot] = tonumber(port) end
    end
  end
  port_of = found
end

--- The values of the keys: each node's in one send, then all replies.
function floor.get(seed, keys)
  if not port_of then read_slots(seed) end
  local socks, asked, order = {}, {}, {}
  for i = 1, #keys do
    local key = keys[i]
    local port = port_of[slot_of(key)]
    local list = asked[port]
    if not list then list = {} asked[port] = list order[#order + 1] = port end
    list[#list + 1] = "*2\r\n$3\r\nGET\r\n$" .. #key .. "\r\n" .. key .. "\r\n"
  end
  for i = 1, #order do
    local sock = tcp()
    sock:settimeouts(100, 200, 300)
    assert(sock:connect("127.0.0.1", order[i], { pool_size = 64 }))
    assert(sock:send(concat(asked[order[i]])))
    socks[i] = sock
  end
  local values = {}
  for i = 1, #order do
    local sock = socks[i]
    for _ = 1, #asked[order[i]] do
      local n = tonumber(assert(sock:receive "*l"):sub(2))
      values[#values + 1] = n >= 0 and assert(sock:receive(n + 2)):sub(1, n) or ngx.null
    end
    sock:setkeepalive(60000)
  end
  return values
end

--- The sidecar way: the same by one connection to a daemon's unix socket, which routes.
function floor.sidecar(path, keys)
  local sock, words = tcp(), {}
  sock:settimeouts(100, 200, 600)
  for i = 1, #keys do words[i] = "*2\r\n$3\r\nGET\r\n$" .. #keys[i] .. "\r\n" .. keys[i] .. "\r\n" end
  assert(sock:connect(path, { pool_size = 64 }))
  assert(sock:send(concat(words)))
  local values = {}
  for i = 1, #keys do
    local line = assert(sock:receive "*l")
    local n = tonumber(line:sub(2))
    if not n then sock:setkeepalive(60000) return nil, line end
    values[i] = n >= 0 and assert(sock:receive(n + 2)):sub(1, n) or ngx.null
  end
  sock:setkeepalive(60000)
  return values
end

return floor
