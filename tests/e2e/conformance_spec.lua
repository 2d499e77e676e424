--- One policy file, one behaviour: the same faults put before the daemon and before nginx are the same events, get the
--- same verdicts, and look the same to who asked.
--
-- Equal field by field but for bytes_written: nginx does not tell how much of a send was accepted, so that it may say
-- `unknown` where the daemon says `unsent`, and never the reverse.
local socket = require "socket"
local kit = require "tests.support.kit"

local policies = {}
for path in io.popen("ls policies/*.lua"):lines() do policies[#policies + 1] = path end

local TIMEOUTS = { dial = 0.25, tls = 0.5, write = 0.4, read = 0.3, total = 1.2 }
local SLOT = 100

local function key(name) return kit.key_in(SLOT, name) end
local GET, SET, INCR = { "GET", key "value" }, { "SET", key "other", "x" }, { "INCR", key "count" }

local function cut_up(how, match)
  return function(node) node.mitm:rule { dir = "up", act = "cut", how = how, match = match, times = 1 } end
end

-- Each: what is done to the slot's master, with what was run before it (so that its connection served), and the commands.
-- `reads`: of no use under a policy that sends reads anywhere.
local traces = {
  { "refused", make = function(node) node.mitm:refuse() end, run = { SET } },
  { "a refused read", reads = true, make = function(node) node.mitm:refuse() end, run = { GET } },
  { "dial timed out", make = function(node) node.mitm:backlog() end, run = { SET } },
  { "silence", before = { INCR }, make = function(node) node:freeze() end, run = { INCR } },
  { "silence to a read", reads = true, before = { GET }, make = function(node) node:freeze() end, run = { GET } },
  { "silence within a reply", before = { { "SET", key "long", "0123456789" } }, run = { { "GETSET", key "long", "new" } },
    make = function(node) node.mitm:rule { dir = "down", act = "swallow", match = "$10\r\n01234" } end },
  { "end of file on a fresh connection", make = cut_up("fin", "INCR"), run = { INCR } },
  { "reset on a fresh connection", make = cut_up("rst", "INCR"), run = { INCR } },
  { "end of file on one that served", before = { INCR }, make = cut_up("fin", "INCR"), run = { INCR } },
  { "end of file on one that served, with a read", reads = true, before = { GET }, make = cut_up("fin", "value"), run = { GET } },
  { "reset after a reply to what is in flight", before = { { "SET", key "count", 100 } }, run = { INCR, INCR, INCR, INCR },
    make = function(node) node.mitm:rule { dir = "down", act = "cut", how = "rst", match = ":102\r\n", times = 1 } end },
  { "end of file within a reply", before = { { "SET", key "long", "0123456789" } }, run = { { "GETSET", key "long", "new" } },
    make = function(node) node.mitm:rule { dir = "down", act = "cut", how = "fin", match = "$10\r\n01234", times = 1 } end },
  { "nonsense", before = { INCR }, run = { INCR },
    make = function(node) node.mitm:rule { dir = "down", act = "inject", with = "x\r\n", match = ":2", times = 1 } end },
  { "a transaction that is refused", make = function(node) node.mitm:refuse() end, run = { { "MULTI" }, INCR, { "EXEC" } } },
  { "silence to a transaction", before = { INCR }, make = function(node) node:freeze() end, run = { { "MULTI" }, INCR, SET, { "EXEC" } } },
  { "end of file behind EXEC", make = cut_up("fin", "EXEC"), run = { { "MULTI" }, INCR, { "EXEC" } } },
  { "a send that stops half way", before = { SET }, partial = true, run = { { "APPEND", key "big", { rep = 16000000 } } },
    make = function(node) node.mitm:rule { dir = "up", act = "stall", match = "APPEND" } end },
}
for _, words in ipairs { "LOADING Redis is loading the dataset in memory", "BUSY Redis is busy running a script",
  "CLUSTERDOWN The cluster is down", "TRYAGAIN Multiple keys request during rehashing of slot",
  "READONLY You can't write against a read only replica.", "MASTERDOWN Link with MASTER is down", "ERR max number of clients reached",
  "WRONGTYPE Operation against a key", "NOAUTH Authentication required." } do
  local blames = words:find "^LOADING" or words:find "^BUSY" or words:find "^MASTERDOWN" or words:find "^ERR max"
  traces[#traces + 1] = { blames = blames, "the error reply " .. words:match "^[^ ]+ ?[a-z]*", replies = words, run = { SET } }
end

-- Over TLS: what goes wrong in the handshake, and of the others what needs no look into the bytes. `mend` beside `make`;
-- `tls`: which of the cluster's files the hosts have, all of them by default.
local function on_new(rule)
  return function(node)
    rule.on = "new"
    node.mitm:rule(rule)
  end
end
local function ask(wanted)
  return function(node) assert(node:call("CONFIG", "SET", "tls-auth-clients", wanted) == "OK") end
end
local function show(name)
  return function(node, own) assert(node:call("CONFIG", "SET", "tls-cert-file", own[name].cert, "tls-key-file", own[name].key) == "OK") end
end
local tls_traces = {
  { "a certificate that has expired", make = show "late", mend = show "node", run = { SET } },
  { "a certificate of ours that is missing", tls = { "ca" }, make = ask "yes", mend = ask "optional", run = { INCR } },
  { "an answer that is no TLS", make = on_new { dir = "down", act = "inject", with = "-ERR x\r\n", at = 0 }, run = { INCR } },
  { "silence to the handshake", make = on_new { dir = "down", act = "swallow", at = 0 }, run = { INCR } },
  { "a handshake that trickles", make = on_new { dir = "down", act = "trickle", bytes = 1, ms = 20, at = 0 },
    run = { { "MULTI" }, INCR, { "EXEC" } } },
  { "end of file within the handshake", make = on_new { dir = "down", act = "cut", how = "fin", at = 60 }, run = { SET } },
  { "reset within the handshake", make = on_new { dir = "down", act = "cut", how = "rst", at = 60 }, run = { SET } },
  { "end of file within our hello", make = on_new { dir = "up", act = "cut", how = "fin", at = 60 }, run = { SET } },
  -- By TLS a node that is frozen takes no connection, and the daemon has one of its own for transactions.
  { "silence to a transaction", before = { { "MULTI" }, INCR, { "EXEC" } }, make = function(node) node:freeze() end,
    run = { { "MULTI" }, INCR, SET, { "EXEC" } } },
  { "a send of records that stops half way", before = { SET }, partial = true, run = { { "APPEND", key "big", { rep = 16000000 } } },
    make = function(node) node.mitm:rule { dir = "up", act = "stall", at = "+1000", on = "all" } end },
}
for _, trace in ipairs(traces) do
  local plain = { refused = true, ["dial timed out"] = true, silence = true, ["a transaction that is refused"] = true }
  if plain[trace[1]] then tls_traces[#tls_traces + 1] = trace end
end

-- ---- the two of them, seen alike ----

local FIELDS = { "kind", "phase", "step", "error", "errno", "message", "class", "blame", "n", "certainty", "commands", "attempt",
  "replies_read", "function", "verdict", "where", "did", "from", "to", "straggler", "fallback", "refused", "reused", "node" }
-- What the journal's lines and the console tell of some entries only.
local ONLY = {
  n = function(e) return e.error end, blame = function(e) return e.error end,
  reused = function(e) return e.error and e.kind == "connection" end,
  from = function(e) return e.from ~= e.to end, to = function(e) return e.from ~= e.to end,
  attempt = function(e) return e.kind == "commands" end, replies_read = function(e) return e.error and e.kind == "connection" end,
}

--- What a worker's journal says, as lines: times that a policy draws by lot are no difference. A transaction's
--- connection comes from a pool of such in the daemon, from the one pool in nginx: which may have served before.
local function lines_of(events, trace)
  local unit = trace.run[1][1] == "MULTI"
  local list = {}
  for _, event in ipairs(events) do
    -- That an idle connection has ended, the daemon sees at once, nginx when it would use it.
    local idle = event.kind == "connection" and tonumber(event.n) == 0
    -- What probe and reconnect were asked about is an entry of its own already.
    local again = event["function"] == "probe" or event["function"] == "reconnect"
    if tostring(event.thread) == "0" and event.kind ~= "change" and not idle and not again then
      local out = {}
      for _, name in ipairs(FIELDS) do
        local value = event[name]
        if ONLY[name] and not ONLY[name](event) or name == "reused" and unit then value = nil end
        if value ~= nil and value ~= false and not (name == "reused" and value == 0) then
          value = tostring(value):gsub("%f[%d]%d[%d.e-]* s", "N s")
          if name == "where" then value = value:gsub("^.*/", "") end
          if (name == "straggler" or name == "fallback" or name == "reused") and value == "1" then value = "true" end
          out[#out + 1] = name .. "=" .. value
        end
      end
      list[#list + 1] = table.concat(out, " ")
    end
  end
  return list
end

local NAMES = { "phase", "step", "error", "certainty", "class", "node" }
local function seen_of(reply)
  if type(reply) ~= "table" or not (reply.err or reply.error) then return tostring(reply) end
  local fields = reply
  if reply.err then
    fields = { error = reply.err:match "^WAYSIDE (%S+)", message = reply.err }
    for name, value in reply.err:gmatch " (%w+)=(%S+)" do fields[name] = value end
  end
  if not fields.phase or fields.message and not fields.message:match "^WAYSIDE " then return "-" .. fields.message end
  local out = {}
  for i, name in ipairs(NAMES) do out[i] = name .. "=" .. tostring(fields[name]) end
  return table.concat(out, " ")
end

local cluster, master
local function begin(tls)
  -- 60 s: masters are frozen, and are to be the same ones before the daemon and before nginx.
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 60000, front = "mitm", config = { "repl-timeout 3600" },
    tls = tls, auth_clients = tls and "optional" }
  master = cluster:node(1)
end

local function files_of(trace)
  local own, files = cluster.certificates, {}
  for k, name in pairs(trace.tls) do
    if type(k) == "number" then files[name] = own[name] else files[k] = name end
  end
  return files
end

local function heal()
  if master.frozen then master:thaw() end
  if master.scripted then master:unscript() end
  master.mitm:clear()
  master.mitm:accept()
  cluster:wait_ok()
end

--- Runs the trace before one of them: what its worker journaled, what its user saw, whether that took all the time there is.
local function run_on(start, run, trace, policy)
  master:call("SET", key "value", "v")
  master:call("DEL", key "count", key "big")
  master:call("WAIT", 1, 2000)
  if trace.replies then
    master:script(function(words)
      local name = words[2] or ""
      if name == key "value" or name == key "other" then return "-" .. trace.replies .. "\r\n" end
    end)
  end
  local way = start { cluster = cluster, policy = policy, workers = 1, timeouts = TIMEOUTS, tls = trace.tls and files_of(trace),
    limits = { refresh_interval = 30, refresh_period = 60 } }
  kit.rested(way) -- every node's first probe is over
  if trace.before then run(way, trace.before) end
  if trace.make then trace.make(master, cluster.certificates) end
  local seen, began = {}, socket.gettime()
  for i, reply in ipairs(run(way, trace.run)) do seen[i] = seen_of(reply) end
  local ran_out = socket.gettime() - began > TIMEOUTS.total - 0.1
  local events = lines_of(kit.rested(way), trace)
  way:stop()
  if trace.mend then trace.mend(master, cluster.certificates) end
  heal()
  return events, seen, ran_out
end

local function run_daemon(way, list)
  local commands = {}
  for i, command in ipairs(list) do
    commands[i] = {}
    for k, word in ipairs(command) do commands[i][k] = type(word) == "table" and ("x"):rep(word.rep) or word end
  end
  local client = way:client(nil, 10)
  local replies = client:pipeline(commands)
  client:close()
  return replies
end
local function run_nginx(way, commands) return assert(way:run(commands)) end

local function loose(list)
  local out = {}
  for i, line in ipairs(list) do out[i] = line:gsub("certainty=unsent", "certainty=unknown") end
  return out
end

--- Equal, but that nginx may be less certain of a send that stopped half way: unknown where the daemon knows that it was
--- unsent. What goes on until the time is over has no set number of rounds: of it, the rounds that both have are compared.
local function assert_alike(daemon, nginx, what, partial, endless)
  local function told(at)
    local function part(list) return table.concat(list, "\n", math.max(1, at - 2), math.min(#list, at + 2)) end
    return ("%s, entry %d; daemon (%d entries):\n%s\nnginx (%d):\n%s"):format(what, at, #daemon, part(daemon), #nginx, part(nginx))
  end
  for i, line in ipairs(daemon) do
    local surer = line:find("certainty=unknown", 1, true) and (nginx[i] or ""):find("certainty=unsent", 1, true)
    assert.is_nil(surer or nil, told(i))
  end
  if partial == "seen" and daemon[1]:find("certainty=unsent", 1, true) and nginx[1]:find("certainty=unknown", 1, true) then
    return -- what is known to be unsent may have gone again, and ended otherwise
  end
  if partial then daemon, nginx = loose(daemon), loose(nginx) end
  -- The last round of what has no end is cut by the time, at one of two verdicts.
  local n = endless and math.max(1, math.min(#daemon, #nginx) - 1) or math.max(#daemon, #nginx)
  if partial then n = 1 end -- what is less certain gets another answer from there on
  assert.is_true(n > 0, told(1))
  for i = 1, n do assert.is_true(daemon[i] == nginx[i], told(i)) end
end

--- What goes on until the time is over ends while it waits, with the error that was answered last, or while it is in flight,
--- with the deadline: but what failed in one has failed in the other.
local function assert_failed_alike(daemon, nginx)
  assert.equal(#daemon, #nginx)
  for i, seen in ipairs(daemon) do
    local other = nginx[i]
    local function failed(what) return what:find "^%-" ~= nil or what:find "error=%a" ~= nil end
    assert.is_true(seen == other or failed(seen) and failed(other), ("command %d; daemon: %s; nginx: %s"):format(i, seen, other))
  end
end

--- Reads that go anywhere are no trace; and of a node that answers with blame to what is held and sent again at once, a
--- thousand times a second, the journal has only the end.
local function is_told_by(trace, policy)
  local text = kit.process.read_file(policy)
  if trace.reads then return not text:find "%f[%w]pick%s*=" end
  return not (trace.blames and text:find('"hold"', 1, true) and text:find('connections = "drop"', 1, true))
end

--- A sample of so many pairs, drawn by lot, in which no policy and, while there are others, no trace comes twice; in soak
--- all pairs.
local function pairs_of_trial(of, sample)
  local all, drawn, taken = {}, {}, {}
  kit.random.shuffle(of)
  kit.random.shuffle(policies)
  for _, policy in ipairs(policies) do
    local fresh, any
    for _, trace in ipairs(of) do
      if is_told_by(trace, policy) then
        all[#all + 1] = { policy, trace }
        any, fresh = any or trace, fresh or not taken[trace] and trace or nil
      end
    end
    local trace = fresh or any
    taken[trace] = true
    if #drawn < sample then drawn[#drawn + 1] = { policy, trace } end
  end
  return kit.count(drawn, all)
end

local function agree(of, sample)
  for _, pair in ipairs(pairs_of_trial(of, sample)) do
    local policy, trace = pair[1], pair[2]
    it(("agree about %s under %s"):format(trace[1], policy), function()
      finally(heal)
      local daemon, daemon_seen, endless = run_on(kit.wayside, run_daemon, trace, policy)
      local nginx, nginx_seen, too = run_on(kit.gateway, run_nginx, trace, policy)
      endless = endless or too or math.min(#daemon, #nginx) > 6
      if not endless then assert_alike(daemon_seen, nginx_seen, "what the user saw", trace.partial and "seen")
      else assert_failed_alike(daemon_seen, nginx_seen) end
      if (trace.replies or ""):find "^WRONGTYPE" then assert.same({ {}, {} }, { daemon, nginx })
      else assert_alike(daemon, nginx, "the journal", trace.partial, endless) end
    end)
  end
end

describe("daemon and nginx", function()
  setup(begin)
  agree(traces, #policies)
end)

describe("daemon and nginx, by TLS,", function()
  setup(function() begin(true) end)
  agree(tls_traces, 3)
end)
