--- The fault kit: what end-to-end specs are written with. See README.md here.
--
-- What is started in a block (it, describe, file) ends with that block.
local busted = require "busted"
local cluster = require "tests.support.cluster"
local daemon = require "tests.support.daemon"
local dns = require "tests.support.dns"
local gateway = require "tests.support.gateway"
local mitm = require "tests.support.mitm"
local namespace = require "tests.support.namespace"
local nginx = require "tests.support.nginx"
local node = require "tests.support.node"
local process = require "tests.support.process"
local random = require "tests.support.random"
local resp = require "tests.support.resp"
local socket = require "socket"
local wait = require "tests.support.wait"

local kit = {
  random = random, resp = resp, process = process, null = resp.null, is_error = resp.is_error, show = resp.show,
  key_in = cluster.key_in, move_keys = cluster.move_keys, slot_of = cluster.slot_of, wait_for = wait.wait_for, poll = wait.poll,
}

--- True in `make soak`: full counts.
kit.soak = os.getenv "SOAK" ~= nil and os.getenv "SOAK" ~= "0"

--- The count to run: the sample, or all in soak.
function kit.count(sample, full) return kit.soak and full or sample end

--- The journal of a daemon or of nginx's workers, once nothing has been added to it for so long.
---@param seconds number? 0.15; longer than a probe may take, and none is under way
function kit.rested(way, seconds)
  local events, since = way:events(), socket.gettime()
  return kit.wait_for(function()
    local now = way:events()
    if #now ~= #events then events, since = now, socket.gettime() end
    return socket.gettime() - since > (seconds or 0.15) and events, #events .. " entries"
  end, 5, "the journal to rest")
end

-- ---- scopes: one list of open things per block that is running ----

local scopes = { {} }

local function owned(thing)
  table.insert(scopes[#scopes], thing)
  return thing
end
--- Ends with the block: anything with a stop method.
kit.owned = owned

local function close_scope()
  local scope = #scopes > 1 and table.remove(scopes) or scopes[1]
  local wrong
  for i = #scope, 1, -1 do
    local ok, err = pcall(scope[i].stop, scope[i])
    if not ok then wrong = wrong or err end
    scope[i] = nil
  end
  if wrong then error(wrong, 0) end
end

for _, block in ipairs { "test", "describe" } do
  busted.subscribe({ block, "start" }, function() table.insert(scopes, {}) return nil, true end, { priority = 1 })
  busted.subscribe({ block, "end" }, function() close_scope() return nil, true end, { priority = 1 })
end
busted.subscribe({ "file", "end" }, function()
  while #scopes > 1 do close_scope() end
  close_scope()
  return nil, true
end)

local folder
local function test_folder()
  if not folder then
    folder = process.new_folder()
    table.insert(scopes[1], 1, { stop = function()
      process.remove_tree(folder)
      folder = nil
    end })
  end
  return folder
end
--- A folder that is removed in the end.
kit.folder = test_folder

--- Writes a file into the tests' folder; its path.
function kit.file(name, text)
  local path = test_folder() .. "/" .. name
  process.write_file(path, text)
  return path
end

local function with_folder(options)
  local copy = { folder = test_folder() }
  for key, value in pairs(options or {}) do copy[key] = value end
  return copy
end

--- A real cluster: kit.cluster { masters = 3, replicas = 3, node_timeout = 500, front = "mitm" }.
function kit.cluster(options) return owned(cluster.start(with_folder(options))) end

--- The same in a network of its own, whose nodes can be unplugged; clients of a daemon before it use its unix socket. nil and why
-- where there can be none, for a test to be pending.
function kit.separate_cluster(options)
  local net, why = namespace.start()
  if not net then return nil, why end
  local copy = with_folder(options)
  copy.net = owned(net)
  return owned(cluster.start(copy))
end

--- The daemon before it: kit.wayside { cluster = cluster, policy = "policies/default.lua", workers = 2 }.
function kit.wayside(options) return owned(daemon.start(with_folder(options))) end

--- The daemon prepared but not started, for what must be refused: :refused().
function kit.prepared(options) return owned(daemon.prepare(with_folder(options))) end

--- A man in the middle before any port: kit.mitm { to = port }.
function kit.mitm(options) return owned(mitm.start(with_folder(options))) end

--- A real nginx: kit.nginx { http = text, locations = text, workers = 2 }.
function kit.nginx(options) return owned(nginx.start(with_folder(options))) end

--- nginx with resty.wayside: kit.gateway { cluster = cluster, policy = file, segment = path }; see gateway.lua.
function kit.gateway(options) return owned(gateway.start(with_folder(options))) end

--- Prepared but not started.
function kit.prepared_gateway(options) return owned(gateway.prepare(with_folder(options))) end

--- nginx prepared but not started, for what must be refused: :refused().
function kit.prepared_nginx(options) return owned(nginx.prepare(with_folder(options))) end

--- A scripted node: kit.node { script = function(words, conn) ... end }.
function kit.node(options) return owned(node.start(with_folder(options))) end

--- A name server: kit.dns { ["redis.test"] = "127.0.0.1" }.
function kit.dns(names) return owned(dns.start { names = names, folder = test_folder() }) end

--- A program to its end: status, text.
function kit.run(options) return process.run(options) end

local SHAPES = 8 -- of the matrix, in soak
local sockets, matrices = { "tcp", "unix" }, 0

--- The count to run within kit.matrix: the sample, or in soak this shape's share of all, so that together the shapes run all.
function kit.share(sample, full) return kit.soak and math.ceil(full / SHAPES) or sample end

--- If this shape of kit.matrix is the one to try number `n` (from 0) of many: in soak every number has one shape; without, all
-- are this shape's, to draw a sample from.
function kit.shares(shape, n) return not kit.soak or n % SHAPES == shape - 1 end

--- The specs that `define(workers, how, shape)` makes, once for each number of workers and each kind of socket: two workers and
-- one kind, in turn, as a sample; in soak one to four workers and both. Both go to kit.wayside { workers =, how = }; `shape`, 1
-- to 8 in soak, goes to kit.shares.
function kit.matrix(define)
  matrices = matrices + 1
  local shape = 0
  for workers = kit.soak and 1 or 2, kit.soak and 4 or 2 do
    for i, how in ipairs(sockets) do
      if kit.soak or i % 2 == matrices % 2 then
        shape = shape + 1
        local number = shape
        busted.describe(("%d workers, %s:"):format(workers, how), function() define(workers, how, number) end)
      end
    end
  end
end

--- A policy under which nothing goes again, so that what is told is what became of the one attempt; marks are short.
--- As a file: what kit.wayside takes.
function kit.bare_policy()
  return kit.file("bare.lua", [[
local wayside = require "wayside"
return wayside.policy {
  name = "bare",
  mark = function(self, node, event)
    if event.error then return { state = "failing", seconds = 0.01, reason = event.error } end
  end,
  backoff = function(self, node, event)
    if event.error == "no_node" then return { retry = "hold", within = 2 } end
  end,
  probe = function() end,
}
]])
end

--- A RESP client to any "host:port" or "unix:/path".
function kit.connect(target, timeout) return resp.connect(target, timeout) end

return kit
