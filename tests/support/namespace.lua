--- A network of its own for a cluster: each node in a network namespace, all on one switch, from which a node can be unplugged.
-- Its packets are lost from then on, both ways, and nobody is told: no reset, no ICMP, no carrier that goes.
--
--     local net, why = namespace.start()     -- nil where namespaces can't be made
--     local port = net:add()                 -- port.host, port:enter { "redis-server", ... }
--     net:enter { "bin/wayside", ... }       -- beside the switch, which reaches all
--     port:unplug()  port:plug()
--
-- All is in a user namespace of our own, so that it needs no root and nothing of the machine's network is touched. Each
-- namespace lives as long as the process that holds it.
local unistd = require "posix.unistd"
local process = require "tests.support.process"
local waits = require "tests.support.wait"

local namespace = {}
local Net = {}
Net.__index = Net
local Port = {}
Port.__index = Port

local PREFIX, GATEWAY = "10.77.0.", 254
local HOLD = { "setpriv", "--pdeathsig", "KILL", "sleep", "infinity" }

local function joined(...)
  local all = {}
  for _, list in ipairs { ... } do
    for _, word in ipairs(list) do all[#all + 1] = word end
  end
  return all
end

--- The words that run others in the namespaces of this process, and let them die with us.
local function entering(pid, words)
  return joined({ "nsenter", "-t", pid, "-U", "-n", "--preserve-credentials", "setpriv", "--pdeathsig", "KILL" }, words)
end

local function network_of(pid) return unistd.readlink(("/proc/%d/ns/net"):format(pid)) end

--- Starts a process that holds a new namespace. It, or nil and why.
local function hold(words, outer)
  local log = os.tmpname()
  words.name, words.stdout, words.stderr = "namespace", log, log
  local holder = process.spawn(words)
  local made = waits.poll(function()
    local now = network_of(holder.pid)
    return not holder:alive() and "ended" or now and now ~= outer and process.read_file(("/proc/%d/comm"):format(holder.pid)) == "sleep\n"
  end, 5)
  local text = process.read_file(log) or ""
  os.remove(log)
  if made == true then return holder end
  holder:stop()
  return nil, (text:gsub("%s+", " "))
end

local function run(pid, words)
  local status, text = process.run(entering(pid, words))
  assert(status == 0, table.concat(words, " ") .. ": " .. text)
end

local function ip(pid, line)
  local words = { "ip" }
  for word in line:gmatch "%S+" do words[#words + 1] = word end
  run(pid, words)
end

local function build_switch(holder)
  ip(holder.pid, "link set lo up")
  ip(holder.pid, "link add switch type bridge")
  ip(holder.pid, ("addr add %s%d/24 dev switch"):format(PREFIX, GATEWAY))
  ip(holder.pid, "link set switch up")
end

--- The network; or nil and the reason, in words for a skipped test.
function namespace.start()
  for _, program in ipairs { "unshare", "nsenter", "setpriv", "ip" } do
    if not process.which(program) then return nil, "no network namespaces: there is no " .. program end
  end
  local holder, why = hold(joined({ "unshare", "--user", "--map-root-user", "--net" }, HOLD), network_of(unistd.getpid()))
  if not holder then return nil, "no network namespaces: " .. why end
  local ok, err = pcall(build_switch, holder)
  if not ok then
    holder:stop()
    return nil, "no network namespaces: " .. tostring(err):gsub("%s+", " ")
  end
  return setmetatable({ holder = holder, ports = {} }, Net)
end

--- A command line that runs beside the switch.
function Net:enter(words) return entering(self.holder.pid, words) end

--- A host of its own, plugged in.
function Net:add()
  local index, hub = #self.ports + 1, self.holder.pid
  local port = setmetatable({ net = self, host = PREFIX .. index, name = "port" .. index }, Port)
  port.holder = assert(hold(entering(hub, joined({ "unshare", "--net" }, HOLD)), network_of(hub)))
  self.ports[index] = port
  local mac = ("02:00:0a:4d:00:%02x"):format(index)
  ip(hub, ("link add %s type veth peer name eth0 address %s netns %d"):format(port.name, mac, port.holder.pid))
  ip(hub, ("link set %s master switch up"):format(port.name))
  -- Known for good: or else the lost answers to ARP would make an error of what is to be silence.
  ip(hub, ("neigh replace %s lladdr %s dev switch nud permanent"):format(port.host, mac))
  ip(port.holder.pid, "link set lo up")
  ip(port.holder.pid, ("addr add %s/24 dev eth0"):format(port.host))
  ip(port.holder.pid, "link set eth0 up")
  return port
end

--- A command line that runs on this host.
function Port:enter(words) return entering(self.holder.pid, words) end

--- Packets from and to this host get lost from now on.
function Port:unplug() ip(self.net.holder.pid, ("link set %s nomaster"):format(self.name)) end

function Port:plug() ip(self.net.holder.pid, ("link set %s master switch"):format(self.name)) end

function Net:stop()
  for _, port in ipairs(self.ports) do port.holder:stop() end
  self.holder:stop()
end

return namespace
