--- A real Redis Cluster of redis-servers on loopback, with its own folder and free ports.
--
-- The nodes start with a nodes.conf that already tells the whole cluster, so nothing has
-- to be gossiped first. Each has a unix socket for the test's own commands, and announces
-- its port: with `front = "mitm"` that of a man in the middle before it.
local bit = require "bit"
local certificates = require "tests.support.certificates"
local ports = require "tests.support.ports"
local mitm = require "tests.support.mitm"
local process = require "tests.support.process"
local unistd = require "posix.unistd"
local resp = require "tests.support.resp"
local scripted = require "tests.support.node"
local waits = require "tests.support.wait"

local cluster = {}
local Cluster = {}
Cluster.__index = Cluster
local Node = {}
Node.__index = Node

local SLOTS = 16384
cluster.SLOTS = SLOTS

-- ---- keys and slots ----

local crc_table = {}
for i = 0, 255 do
  local crc = bit.lshift(i, 8)
  for _ = 1, 8 do
    crc = bit.lshift(crc, 1)
    if bit.band(crc, 0x10000) ~= 0 then crc = bit.bxor(crc, 0x11021) end
  end
  crc_table[i] = bit.band(crc, 0xffff)
end

--- The slot of a key (CRC16 of XMODEM, with hash tags).
function cluster.slot_of(key)
  local tag = key:match "{([^}]+)}"
  if tag and key:find("{", 1, true) + #tag + 1 == key:find("}", key:find("{", 1, true), true) then key = tag end
  local crc = 0
  for i = 1, #key do
    local index = bit.band(bit.bxor(bit.rshift(crc, 8), key:byte(i)), 0xff)
    crc = bit.band(bit.bxor(bit.lshift(crc, 8), crc_table[index]), 0xffff)
  end
  return crc % SLOTS
end

local tags = {}
--- A short hash tag for a slot: "{tag}" .. anything lies in it.
function cluster.tag_of(slot)
  local i = tags.next or 0
  while not tags[slot] do
    local found = cluster.slot_of(tostring(i))
    tags[found] = tags[found] or tostring(i)
    i = i + 1
  end
  tags.next = i
  return tags[slot]
end

--- A key of that slot.
function cluster.key_in(slot, name)
  return ("{%s}%s"):format(cluster.tag_of(slot), name or "")
end

-- ---- nodes ----

local function server_program()
  local named = os.getenv "REDIS_SERVER"
  local path = named or process.which "redis-server" or process.which "redis-check-rdb"
  return assert(path, "no redis-server: install redis-tools")
end

--- Where it listens: with the others, or on a host of its own.
function Node:ip() return self.place and self.place.host or self.cluster.ip end

function Node:start()
  -- What it is called by says which of its programs it is.
  local link = self.dir .. "/redis-server"
  if not process.exists(link) then assert(unistd.link(server_program(), link, true)) end
  local words = { link, self.dir .. "/redis.conf" }
  if self.place then words = self.place:enter(words) end
  words.name, words.dir, words.stdout = "redis " .. self.index, self.dir, self.dir .. "/log"
  self.process = process.spawn(words)
  self.frozen = false
end

--- Waits until it answers PING; LOADING and such are answers too.
function Node:wait_up(timeout)
  waits.wait_for(function()
    if not self.process:alive() then
      error(("redis %d ended:\n%s"):format(self.index, process.tail(self.dir .. "/log")), 0)
    end
    local client = resp.connect("unix:" .. self.socket, 1)
    if not client then return false end
    local reply = client:call "PING"
    client:close()
    return reply == "PONG", resp.show(reply)
  end, timeout or 10, self.address .. " to answer")
end

--- A command straight to the node, on a unix socket kept for it.
function Node:call(...)
  if not self.client or self.client.closed then
    local client, err = resp.connect("unix:" .. self.socket, 5)
    if not client then return { err = err, lost = true } end
    self.client = client
  end
  local reply = self.client:call(...)
  if type(reply) == "table" and (reply.lost or reply.timed_out) then
    self.client:close()
    self.client = nil
  end
  return reply
end

--- A new connection to the real node, past any man in the middle.
function Node:connect(timeout)
  local apart = self.place or self.cluster.certificates
  return assert(resp.connect(apart and "unix:" .. self.socket or self.cluster.ip .. ":" .. self.real_port, timeout))
end

--- kill -9: dials are refused from now on.
function Node:kill()
  if self.client then self.client:close() end
  self.client = nil
  self.process:kill "SIGCONT"
  self.process:kill "SIGKILL"
  assert(self.process:wait(5))
end

--- SIGSTOP: the kernel still accepts, nobody answers.
function Node:freeze()
  self.process:kill "SIGSTOP"
  self.frozen = true
end

function Node:thaw()
  self.process:kill "SIGCONT"
  self.frozen = false
end

--- On the same port, with its data folder.
function Node:restart()
  if self.process:alive() then self:kill() end
  self:start()
  self:wait_up()
end

--- Another node takes its address: empty, with an id of its own, and in no cluster. This one is gone.
function Node:replace()
  self:kill()
  for _, name in ipairs { "nodes.conf", "dump.rdb" } do os.remove(self.dir .. "/" .. name) end
  self:start()
  self:wait_up()
  self.id = self:call("CLUSTER", "MYID")
end

--- All packets from and to it get lost from now on, until `plug` (needs namespaces).
function Node:unplug() self.place:unplug() end
function Node:plug() self.place:plug() end

--- Stops listening and drops its clients, but stays a member of the cluster.
function Node:refuse()
  if self.mitm then
    self.mitm:refuse()
    self.mitm:cut "rst"
    return
  end
  assert(self:call("CONFIG", "SET", "port", "0") == "OK")
  self:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
end

--- Listens again.
function Node:accept()
  if self.mitm then return self.mitm:accept() end
  assert(self:call("CONFIG", "SET", "port", self.real_port) == "OK")
end

--- Puts a scripted node where clients look for this one (needs front = "mitm").
---@param script function see node.lua; where it returns nil this node answers
function Node:script(script, state)
  assert(self.mitm, "a scripted node takes the place of the man in the middle: front = \"mitm\"")
  self.scripted = scripted.start {
    script = script, forward = self.real_port, folder = self.cluster.folder, state = state,
  }
  self.mitm:redirect(self.scripted.port)
  self.mitm:cut "fin"
  return self.scripted
end

--- Takes it away again.
function Node:unscript()
  self.mitm:redirect(self.real_port)
  self.mitm:cut "fin"
  self.scripted:stop()
  self.scripted = nil
end

--- Makes it load its data for about so many seconds, in which it answers LOADING: DEBUG RELOAD with a delay per key. It needs
-- keys enough for the delay and for looking after its clients meanwhile, which it does every kilobyte.
function Node:load(seconds)
  local keys = self:call "DBSIZE"
  assert(keys >= 100, ("%d keys are too few to load slowly"):format(keys))
  assert(self:call("CONFIG", "SET", "key-load-delay", math.floor(seconds * 1e6 / keys)) == "OK")
  assert(self:call("CONFIG", "SET", "loading-process-events-interval-bytes", 1024) == "OK")
  self.loading = self:connect(seconds + 10)
  self.loading:send_raw(resp.encode { "DEBUG", "RELOAD" })
  waits.wait_for(function()
    local reply = self:call "PING"
    return resp.is_error(reply, "LOADING"), resp.show(reply)
  end, 5, self.address .. " to be loading")
end

--- Waits until it has loaded.
function Node:wait_loaded()
  local reply, why = self.loading:read_reply()
  self.loading:close()
  self.loading = nil
  assert(reply == "OK", reply and resp.show(reply) or why)
  assert(self:call("CONFIG", "SET", "key-load-delay", 0) == "OK")
end

--- Breaks a replica's link to its master, which stays broken until `rejoin`: it answers MASTERDOWN meanwhile.
function Node:orphan()
  assert(self:call("CONFIG", "SET", "replica-serve-stale-data", "no") == "OK")
  assert(self:call("CONFIG", "SET", "masterauth", "wrong") == "OK")
  local master = self:call("ROLE")
  for _, one in ipairs(self.cluster.nodes) do
    if one.port == master[3] then one:call("CLIENT", "KILL", "TYPE", "replica") end
  end
  waits.wait_for(function()
    local reply = self:call "PING"
    return resp.is_error(reply, "MASTERDOWN"), resp.show(reply)
  end, 5, self.address .. " to miss its master")
end

function Node:rejoin()
  assert(self:call("CONFIG", "SET", "masterauth", "") == "OK")
  waits.wait_for(function() return self:info "master_link_status" == "up" end, 10, self.address .. " to find its master")
  assert(self:call("CONFIG", "SET", "replica-serve-stale-data", "yes") == "OK")
end

function Node:is_master()
  local role = self:call "ROLE"
  return type(role) == "table" and role[1] == "master"
end

--- One field of INFO.
function Node:info(field)
  local text = self:call "INFO"
  return type(text) == "string" and text:match("\n" .. field .. ":([^\r\n]*)") or nil
end

--- How often it has executed a command so far.
function Node:calls(command)
  local text = self:call("INFO", "commandstats")
  return tonumber(text:match("cmdstat_" .. command:lower() .. ":calls=(%d+)")) or 0
end

function Node:stop()
  if self.client then self.client:close() end
  if self.loading then self.loading:close() end
  if self.scripted then self.scripted:stop() end
  if self.mitm then self.mitm:stop() end
  if self.process then self.process:stop() end
end

-- ---- the cluster ----

local function node_id(index)
  return ("%040x"):format(index + 0xabc000)
end

local function slots_of_master(index, masters)
  local first = math.floor((index - 1) * SLOTS / masters)
  return first, math.floor(index * SLOTS / masters) - 1
end

local function nodes_conf(self, of)
  local lines = {}
  for _, node in ipairs(self.nodes) do
    local first, last = slots_of_master(node.index, self.masters)
    local master = node.index <= self.masters
    lines[#lines + 1] = ("%s %s:%d@%d %s%s %s 0 0 %d connected%s"):format(
      node.id, node:ip(), node.port, node.bus_port, node == of and "myself," or "", master and "master" or "slave",
      master and "-" or self.nodes[node.of].id, master and node.index or node.of,
      master and (" %d-%d"):format(first, last) or "")
  end
  lines[#lines + 1] = ("vars currentEpoch %d lastVoteEpoch 0\n"):format(self.masters)
  return table.concat(lines, "\n")
end

local function redis_conf(self, node)
  local tls = self.certificates and "tls-" or ""
  local lines = {
    "bind " .. (node.place and "127.0.0.1 " or "") .. node:ip(), tls .. "port " .. node.real_port, "unixsocket " .. node.socket,
    "dir " .. node.dir, "cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-port " .. node.bus_port,
    "cluster-announce-ip " .. node:ip(), ("cluster-announce-%sport %d"):format(tls, node.port),
    "cluster-announce-bus-port " .. node.bus_port, "cluster-node-timeout " .. self.node_timeout,
    "cluster-require-full-coverage " .. (self.full_coverage and "yes" or "no"),
    "cluster-allow-replica-migration no", "repl-diskless-sync-delay 0", "save \"\"", "appendonly no",
    "enable-debug-command yes", "protected-mode no", "loglevel notice", "tcp-backlog 128",
  }
  local own = self.certificates
  if own then
    for _, line in ipairs { "port 0", "tls-cluster yes", "tls-replication yes", "tls-auth-clients " .. self.auth_clients,
      "tls-ca-cert-file " .. own.ca, "tls-cert-file " .. own.node.cert, "tls-key-file " .. own.node.key } do
      lines[#lines + 1] = line
    end
  end
  for _, line in ipairs(self.config) do lines[#lines + 1] = line end
  return table.concat(lines, "\n") .. "\n"
end

local function new_node(self, index)
  local node = setmetatable({ index = index, id = node_id(index), cluster = self }, Node)
  node.real_port, node.bus_port = ports.free(), ports.free()
  node.port = self.front and ports.free() or node.real_port
  node.place = self.net and self.net:add()
  node.address = node:ip() .. ":" .. node.port
  node.dir = process.make_folder(("%s/redis-%d"):format(self.folder, index))
  node.socket = node.dir .. "/sock"
  if index > self.masters then node.of = (index - self.masters - 1) % self.masters + 1 end
  return node
end

local started = 0

--- Starts a cluster and waits until every node says it is well.
---@param options table `masters` 3, `replicas` 3 (in all), `node_timeout` 500 (ms), `full_coverage` false,
---  `front` nil or "mitm", `mitm` (its options), `config` (list of redis.conf lines), `folder`, `net` (each node in a
---  network namespace of it: namespace.lua), `tls` (certificates.lua makes what the nodes show and ask for; `auth_clients`
---  "yes", "no" or "optional")
function cluster.start(options)
  started = started + 1
  local self = setmetatable({
    masters = options.masters or 3, replicas = options.replicas or 3, node_timeout = options.node_timeout or 500,
    ip = "127.0.0.1", full_coverage = options.full_coverage, net = options.net, front = options.front,
    config = options.config or {},
    folder = process.make_folder(("%s/cluster-%d"):format(options.folder, started)), nodes = {},
  }, Cluster)
  if options.tls then
    self.certificates = certificates.make(self.folder)
    self.auth_clients = options.auth_clients or "yes"
  end
  for i = 1, self.masters + self.replicas do self.nodes[i] = new_node(self, i) end
  for _, node in ipairs(self.nodes) do
    process.write_file(node.dir .. "/nodes.conf", nodes_conf(self, node))
    process.write_file(node.dir .. "/redis.conf", redis_conf(self, node))
    node:start()
  end
  local ok, err = pcall(function()
    for _, node in ipairs(self.nodes) do
      node:wait_up()
      if self.front then
        local rcvbuf = options.mitm and options.mitm.rcvbuf
        node.mitm = mitm.start { port = node.port, to = node.real_port, folder = self.folder, rcvbuf = rcvbuf }
      end
    end
    self:wait_ok(20)
  end)
  if not ok then
    self:stop()
    error(err, 0)
  end
  return self
end

--- `cluster.tls` of a configuration for it, nil where it speaks in plain.
function Cluster:tls()
  local own = self.certificates
  return own and { ca = own.ca, cert = own.client.cert, key = own.client.key }
end

function Cluster:node(index)
  return self.nodes[index]
end

--- Waits until all that live say cluster_state:ok, know each other well, and replicas are in step.
function Cluster:wait_ok(timeout)
  for _, node in ipairs(self.nodes) do
    if node.process:alive() and not node.frozen then
      waits.wait_for(function()
        local info = node:call("CLUSTER", "INFO")
        if type(info) ~= "string" or not info:find "cluster_state:ok" then return false, resp.show(info) end
        if node:is_master() then return true end
        return node:info "master_link_status" == "up", "replication link down"
      end, timeout or 10, ("redis %d to be well"):format(node.index))
    end
  end
end

local function first_living(self)
  for _, node in ipairs(self.nodes) do
    if node.process:alive() and not node.frozen then return node end
  end
  error "no node of the cluster is alive"
end

--- All at once at another address of loopback, with the same ports, ids, roles and slots, and empty: what had been
--- learnt of where the nodes are is wrong from now on.
function Cluster:readdress(ip)
  assert(not self.front, "a man in the middle stays where he is")
  for _, node in ipairs(self.nodes) do node:kill() end
  local old = " " .. self.ip:gsub("%.", "%%.") .. ":"
  self.ip = ip
  for _, node in ipairs(self.nodes) do
    node.address = ip .. ":" .. node.port
    local path = node.dir .. "/nodes.conf"
    process.write_file(path, (process.read_file(path):gsub(old, " " .. ip .. ":")))
    process.write_file(node.dir .. "/redis.conf", redis_conf(self, node))
    node:start()
  end
  for _, node in ipairs(self.nodes) do node:wait_up() end
  self:wait_ok(20)
end

--- What CLUSTER NODES of a living node says: a list of { id, flags (set), master, first slots text, node }.
function Cluster:view(from)
  local list = {}
  local text = (from or first_living(self)):call("CLUSTER", "NODES")
  assert(type(text) == "string", resp.show(text))
  for line in text:gmatch "[^\n]+" do
    local id, flags, master, rest = line:match "^(%S+) %S+ (%S+) (%S+) %S+ %S+ %S+ %S+(.*)$"
    local one = { id = id, flags = {}, master = master, slots = {} }
    for flag in flags:gmatch "[^,]+" do one.flags[flag] = true end
    for a, b in rest:gmatch " (%d+)%-?(%d*)" do
      one.slots[#one.slots + 1] = { tonumber(a), tonumber(b) or tonumber(a) }
    end
    for _, node in ipairs(self.nodes) do
      if node.id == id then one.node = node end
    end
    list[#list + 1] = one
  end
  return list
end

--- The node that is master of a slot now, as a living node sees it; nil if none.
function Cluster:master_of(slot)
  for _, one in ipairs(self:view()) do
    if one.flags.master and not one.flags.fail then
      for _, range in ipairs(one.slots) do
        if range[1] <= slot and slot <= range[2] then return one.node end
      end
    end
  end
end

--- The replicas of a slot's master.
function Cluster:replicas_of(slot)
  local master, list = self:master_of(slot), {}
  for _, one in ipairs(self:view()) do
    if master and one.master == master.id then list[#list + 1] = one.node end
  end
  return list
end

--- The config epoch of each master as one of the nodes knows it.
local function epochs(node)
  local text = node:call("CLUSTER", "NODES")
  assert(type(text) == "string", resp.show(text))
  local list = {}
  for line in text:gmatch "[^\n]+" do
    local id, flags, epoch = line:match "^(%S+) %S+ (%S+) %S+ %S+ %S+ (%d+)"
    if flags:find("master", 1, true) then list[#list + 1] = id .. " " .. epoch end
  end
  table.sort(list)
  return table.concat(list, ", ")
end

--- Moves a slot with its keys from its master to another, as redis-cli does.
function Cluster:move_slot(slot, to)
  local from = self:begin_move(slot, to)
  cluster.move_keys(slot, from, to)
  self:end_move(slot, from, to)
end

--- The first part of move_slot: from here on there is ASK. Both know each other's config epoch first: a node that takes a
--- slot with an epoch which it thinks the highest, and isn't, gives it back as soon as it hears of the higher one, and
--- from then on each says that the other has it.
---@return table from the slot's master
function Cluster:begin_move(slot, to)
  local from = self:master_of(slot)
  assert(from ~= to, "it is there already")
  waits.wait_for(function() return epochs(from) == epochs(to) end, 20, "two masters to agree on the config epochs")
  assert(to:call("CLUSTER", "SETSLOT", slot, "IMPORTING", from.id) == "OK")
  assert(from:call("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id) == "OK")
  return from
end

--- The last part of move_slot: from here on there is MOVED.
function Cluster.end_move(_, slot, from, to)
  for _, node in ipairs { to, from } do
    assert(node:call("CLUSTER", "SETSLOT", slot, "NODE", to.id) == "OK")
  end
end

--- The middle of move_slot: the keys go, the slot stays where it was.
function cluster.move_keys(slot, from, to)
  while true do
    local keys = from:call("CLUSTER", "GETKEYSINSLOT", slot, 100)
    if #keys == 0 then return end
    local reply = from:call("MIGRATE", to:ip(), to.real_port, "", 0, 5000, "KEYS", unpack(keys))
    assert(reply == "OK", resp.show(reply))
  end
end

--- "host:port" of every master, for --cluster and seeds.
function Cluster:seeds()
  local list = {}
  for i = 1, self.masters do list[i] = self.nodes[i].address end
  return list
end

--- Removes all keys everywhere.
function Cluster:flush()
  for _, node in ipairs(self.nodes) do
    if node.process:alive() and not node.frozen and node:is_master() then node:call "FLUSHALL" end
  end
end

function Cluster:stop()
  local wrong
  for _, node in ipairs(self.nodes) do
    local ok, err = pcall(node.stop, node)
    if not ok then wrong = err end
  end
  if wrong then error(wrong, 0) end
end

return cluster
