--- Nodes that vanish without a word: packets that are dropped, processes that are frozen, and sockets on which nothing happens.
--- Found by the read deadline where something is in flight, by TCP's own means where nothing is.
local ffi = require "ffi"
local dirent = require "posix.dirent"
local unistd = require "posix.unistd"
local socket = require "socket"
local kit = require "tests.support.kit"

local READ, PASS = 0.5, 0.15 -- timeouts.read; a loop's pass, the retry and this test's own part in a slow build

-- Packets get lost only in namespaces, which not every machine lets us make.
local cluster, missing, master, replica
setup(function()
  -- 15 s: the only master is the majority, so that soon after its time-out the replica would answer CLUSTERDOWN to all.
  cluster, missing = kit.separate_cluster { masters = 1, replicas = 1, node_timeout = 15000 }
  if cluster then master, replica = cluster:node(1), cluster:node(2) end
end)

local function specs(workers)
  --- A client with a connection to the master at work; the policy's first look at new nodes is over.
  local function ready(options)
    if not cluster then pending(missing) end
    options.cluster, options.workers, options.policy = cluster, workers, "policies/ride_through.lua"
    local way = kit.wayside(options)
    kit.owned { stop = function() master:plug() end }
    local client = way:client(nil, 20)
    assert.equal("OK", client:call("SET", "k", "v"))
    -- The replication's own connection comes back with its next retransmission.
    kit.wait_for(function() return master:call("WAIT", 1, 500) == 1 end, 15, "the replica to have it")
    kit.wait_for(function() return #way:events { kind = "probe" } >= 2 end, 5, "the nodes to be looked at")
    return way, client
  end

  it("45: is found by the read deadline, and so is a frozen one: one pass later the read is answered elsewhere", function()
    local way, client = ready { timeouts = { read = READ, total = 10 } }
    for _, how in ipairs { "dropped", "frozen" } do
      if how == "dropped" then master:unplug() else master:freeze() end
      local began = socket.gettime()
      assert.equal("v", kit.show(client:call("GET", "k")))
      local took = socket.gettime() - began
      local event = way:wait_event { ["function"] = "mark", to = "failing", node = master.address }
      print(("%s: found and answered elsewhere after %.0f ms, read deadline %.0f"):format(how, took * 1000, READ * 1000))
      assert.equal("timeout", event.error)
      assert.equal("read", event.phase)
      assert.is_true(took > READ - 0.05 and took < READ + PASS, took)
      -- The next ones don't wait at all.
      began = socket.gettime()
      for _ = 1, 20 do assert.equal("v", kit.show(client:call("GET", "k"))) end
      assert.is_true(socket.gettime() - began < 0.3, socket.gettime() - began)
      if how == "dropped" then master:plug() else master:thaw() end
      way:wait_state(master, "healthy", 10)
      assert.equal("OK", client:call("SET", "k", "v"))
      kit.wait_for(function() return master:call("WAIT", 1, 500) == 1 end, 15, "the replica to have it")
    end
    assert.equal("replica", way:node(replica).role)
  end)

  it("45: with commands in flight and no read deadline to speak of, by TCP_USER_TIMEOUT", function()
    local USER = 1
    local way, client = ready { timeouts = { read = 60, total = 60, tcp_user = USER } }
    master:unplug()
    local began = socket.gettime()
    assert.equal("v", kit.show(client:call("GET", "k")))
    local took = socket.gettime() - began
    print(("dropped, read deadline 60 s: TCP_USER_TIMEOUT of %.1f s found it after %.2f s"):format(USER, took))
    -- The kernel looks when it retransmits: at most twice the time.
    assert.is_true(took > USER - 0.2 and took < 2 * USER + 1, took)
    local event = way:wait_event { ["function"] = "mark", to = "failing", node = master.address }
    assert.equal("timeout", event.error)
    assert.equal(110, event.errno, way:show_events()) -- ETIMEDOUT: the system's, not our deadline's
  end)

  it("45: an idle connection by keepalive, before any command uses it", function()
    local way, client = ready { timeouts = { keepalive_idle = 1, keepalive_interval = 1, keepalive_count = 2, tcp_user = 2,
      read = 60, total = 60 } }
    master:unplug()
    local began = socket.gettime()
    local event = way:wait_event({ kind = "connection", node = master.address, errno = 110 }, 8)
    print(("dropped, nothing in flight: keepalive 1/1/2 found it after %.2f s"):format(socket.gettime() - began))
    assert.equal(0, event.n or 0)
    assert.equal("timeout", event.error)
    began = socket.gettime()
    assert.equal("v", kit.show(client:call("GET", "k"))) -- by the replica: not over a dead connection
    assert.is_true(socket.gettime() - began < 1, socket.gettime() - began)
  end)

  it("45: dials to it end with their own deadline", function()
    local way, client = ready { timeouts = { dial = 0.4, read = READ, total = 10 } }
    master:unplug()
    master:call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") -- of which nobody hears
    assert.equal("v", kit.show(client:call("GET", "k")))
    local event = way:wait_event({ node = master.address, kind = "probe", phase = "connect", step = "dial", error = "timeout" }, 5)
    assert.equal("slow", event.class)
  end)
end

for workers = kit.soak and 1 or 2, kit.soak and 4 or 2 do
  describe(("a node whose packets are dropped, in a network namespace, %d workers:"):format(workers), function() specs(workers) end)
end

describe("a node whose packets a man in the middle drops", function()
  it("45: is found by the read deadline", function()
    local fronted = kit.cluster { masters = 1, replicas = 1, node_timeout = 500, front = "mitm" }
    local victim = fronted:node(1)
    local way = kit.wayside { cluster = fronted, policy = "policies/ride_through.lua", timeouts = { read = READ, total = 10 } }
    local client = way:client(nil, 10)
    assert.equal("OK", client:call("SET", "k", "v"))
    assert.equal(1, victim:call("WAIT", 1, 2000))
    victim.mitm:drop()
    local began = socket.gettime()
    assert.equal("v", kit.show(client:call("GET", "k")))
    local took = socket.gettime() - began
    print(("dropped before the node: answered elsewhere after %.0f ms, read deadline %.0f"):format(took * 1000, READ * 1000))
    assert.is_true(took > READ - 0.05 and took < READ + PASS, took)
    victim.mitm:clear()
    way:wait_state(victim, "healthy", 10)
  end)
end)

-- ---- what sockets are set to, read off those that are open ----

ffi.cdef [[
long syscall(long number, ...);
int getsockopt(int fd, int level, int name, void *value, unsigned *size);
struct way_test_sockaddr { unsigned short family; unsigned char port[2]; unsigned char rest[108]; };
int getsockname(int fd, struct way_test_sockaddr *sa, unsigned *size);
int getpeername(int fd, struct way_test_sockaddr *sa, unsigned *size);
]]
local PIDFD_OPEN, PIDFD_GETFD = 434, 438
local EBADF = 9 -- closed meanwhile
local AF_INET, SOL_SOCKET, IPPROTO_TCP = 2, 1, 6
local OPTIONS = {
  nodelay = { IPPROTO_TCP, 1 }, keepalive = { SOL_SOCKET, 9 }, idle = { IPPROTO_TCP, 4 }, interval = { IPPROTO_TCP, 5 },
  count = { IPPROTO_TCP, 6 }, user_ms = { IPPROTO_TCP, 18 },
}

local function port_of(call, fd)
  local sa, size = ffi.new "struct way_test_sockaddr", ffi.new("unsigned[1]", 110)
  if call(fd, sa, size) ~= 0 or sa.family ~= AF_INET then return nil end
  return sa.port[0] * 256 + sa.port[1]
end

local function options_of(fd)
  local out = {}
  for name, where in pairs(OPTIONS) do
    local value, size = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
    assert(ffi.C.getsockopt(fd, where[1], where[2], value, size) == 0)
    out[name] = value[0]
  end
  return out
end

--- The connected TCP sockets of a process: list of { port, peer, options }, or nil where the system hands none out.
local function sockets_of(pid)
  local handle, list = ffi.C.syscall(PIDFD_OPEN, ffi.cast("long", pid), ffi.cast("long", 0)), {}
  if handle < 0 then return nil end
  for name in dirent.files(("/proc/%d/fd"):format(pid)) do
    local fd = tonumber(name) and tonumber(ffi.C.syscall(PIDFD_GETFD, ffi.cast("long", handle), ffi.cast("long", tonumber(name)),
      ffi.cast("long", 0)))
    if fd and fd >= 0 then -- what is no socket has no name of one
      local port, peer = port_of(ffi.C.getsockname, fd), port_of(ffi.C.getpeername, fd)
      if port and peer then list[#list + 1] = { port = port, peer = peer, options = options_of(fd) } end
      unistd.close(fd)
    elseif fd and ffi.errno() ~= EBADF then
      list = nil
      break
    end
  end
  unistd.close(tonumber(handle))
  return list
end

describe("every TCP socket", function()
  local plain
  setup(function() plain = kit.cluster { masters = 1, replicas = 1, node_timeout = 500 } end)

  --- Sockets to nodes and of clients, each with what it is set to.
  local function look(timeouts)
    local way = kit.wayside { cluster = plain, workers = 2, timeouts = timeouts }
    local clients = {}
    for i = 1, 4 do
      clients[i] = way:client "tcp"
      assert.equal("OK", clients[i]:call("SET", "k", "v"))
      clients[i]:call("WATCH", "k") -- a connection of its own
    end
    local list = sockets_of(way.process.pid)
    if not list then return end
    local nodes, served = {}, {}
    for _, one in ipairs(list) do
      local of_node = one.peer == plain:node(1).port or one.peer == plain:node(2).port
      table.insert(of_node and nodes or served, one)
    end
    -- Two workers, four connections of clients' own, and the control thread's.
    assert.is_true(#nodes >= 7, #nodes)
    local of_clients = 0
    for _, one in ipairs(served) do of_clients = of_clients + (one.port == way.port and 1 or 0) end
    assert.equal(4, of_clients)
    return list
  end

  it("to a node and of a client has keepalive 15/5/3 and TCP_USER_TIMEOUT 10 s", function()
    local list = look()
    if not list then return pending "the system hands out no descriptors (pidfd_getfd)" end
    for _, one in ipairs(list) do
      assert.same({ nodelay = 1, keepalive = 1, idle = 15, interval = 5, count = 3, user_ms = 10000 }, one.options)
    end
    print(("%d TCP sockets looked at"):format(#list))
  end)

  it("has what the configuration says", function()
    local list = look { tcp_user = 2.5, keepalive_idle = 7, keepalive_interval = 2, keepalive_count = 4 }
    if not list then return pending "the system hands out no descriptors (pidfd_getfd)" end
    for _, one in ipairs(list) do
      assert.same({ nodelay = 1, keepalive = 1, idle = 7, interval = 2, count = 4, user_ms = 2500 }, one.options)
    end
    for _, one in ipairs(look { tcp_user = 0 }) do assert.equal(0, one.options.user_ms) end
  end)
end)
