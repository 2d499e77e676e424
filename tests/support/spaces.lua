--- Network namespaces: a hub where the daemon runs, and one for each node, from which packets get lost at will.
--
--     local why = spaces.missing()                -- nil, or why this machine can't
--     local hub = spaces.start { nodes = 2, folder = dir }
--     hub:inside(1, { "redis-server", ... })      -- the words that run it in node 1's namespace; 0: the hub's
--     hub.ip[1]                                   -- node 1, seen from everywhere
--     hub:lose(1)  hub:find(1)                    -- nothing gets in or out, and nobody is told so; all is well again
--
-- A namespace lives as long as a process that sleeps in it. Nodes are joined to the hub by veth pairs, and it forwards
-- between them. Lost is what is routed to `hole`, a device without ARP whose other end takes nothing. The machine's own
-- network is left alone; the test reaches nodes and daemon by unix sockets, which know no namespaces.
local unistd = require "posix.unistd"
local process = require "tests.support.process"
local waits = require "tests.support.wait"

local spaces = {}
local Hub = {}
Hub.__index = Hub

local function space_of(pid) return unistd.readlink(("/proc/%s/ns/net"):format(pid)) end

--- A process that only sleeps, in a new namespace.
local function make_space()
  local holder = process.spawn { "unshare", "-n", "sleep", "1000000", name = "namespace", stdout = "/dev/null" }
  local here = space_of "self"
  local made = waits.poll(function()
    local there = holder:alive() and space_of(holder.pid)
    return there and there ~= here or not holder:alive()
  end, 3, 0.002)
  if made and holder:alive() then return holder end
  holder:stop()
end

local function enter(holder, words)
  local all = { "nsenter", ("--net=/proc/%d/ns/net"):format(holder.pid), "--" }
  for _, word in ipairs(words) do all[#all + 1] = word end
  for key, value in pairs(words) do
    if type(key) == "string" then all[key] = value end
  end
  return all
end

--- Commands of ip, one a line, in a namespace: true, or nil and what went wrong.
local function ip(holder, lines)
  local words = enter(holder, { "ip", "-batch", "-" })
  words.input = lines
  local status, text = process.run(words)
  if status ~= 0 then return nil, text end
  return true
end

local HOLE = [[
link set lo up
link add hole type veth peer name bottom
link set hole arp off
link set hole up
link set bottom up
]]

--- Why there can be none here, or nil.
function spaces.missing()
  for _, program in ipairs { "unshare", "nsenter", "ip" } do
    if not process.which(program) then return program .. " is not installed" end
  end
  if unistd.geteuid() ~= 0 then return "namespaces need root" end
  local holder = make_space()
  if not holder then return "this machine lets nobody make namespaces" end
  local ok, why = ip(holder, HOLE)
  if ok then ok, why = process.run(enter(holder, { "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward" })) == 0, "no forwarding" end
  holder:stop()
  if not ok then return "no links in a namespace: " .. tostring(why):gsub("%s+", " ") end
end

local function join(self, i)
  local node = make_space()
  assert(node, "no namespace")
  self.holders[i] = node
  self.ip[i] = ("10.99.%d.2"):format(i)
  local name = "node" .. i
  assert(ip(self.holders[0], ([[
link add NAME type veth peer name hub netns PID
addr add 10.99.I.1/30 dev NAME
link set NAME up
]]):gsub("NAME", name):gsub("PID", node.pid):gsub("I", i)))
  assert(ip(node, HOLE .. ([[
addr add 10.99.I.2/30 dev hub
link set hub up
route add default via 10.99.I.1
]]):gsub("I", i)))
end

---@param options table `nodes`: how many
function spaces.start(options)
  local self = setmetatable({ holders = {}, ip = {} }, Hub)
  self.holders[0] = assert(make_space(), "no namespace")
  local ok, err = pcall(function()
    assert(ip(self.holders[0], HOLE))
    assert(process.run(enter(self.holders[0], { "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward" })) == 0)
    for i = 1, options.nodes do join(self, i) end
  end)
  if not ok then
    self:stop()
    error(err, 2)
  end
  return self
end

--- The words that run a program in a namespace, for process.spawn.
function Hub:inside(i, words) return enter(self.holders[i], words) end

function Hub:lose(i)
  assert(ip(self.holders[0], ("route replace 10.99.%d.2/32 dev hole\n"):format(i)))
  assert(ip(self.holders[i], ("route replace 10.99.%d.1/32 dev hole\nroute replace default dev hole\n"):format(i)))
end

function Hub:find(i)
  assert(ip(self.holders[0], ("route del 10.99.%d.2/32 dev hole\n"):format(i)))
  assert(ip(self.holders[i], ("route del 10.99.%d.1/32 dev hole\nroute replace default via 10.99.%d.1\n"):format(i, i)))
end

function Hub:stop()
  for _, holder in pairs(self.holders) do holder:stop() end
end

return spaces
