--- test: what policies are tested with. A virtual clock, made-up nodes, any event.
--
--     local t = require "wayside.test".start("policies/fixed_time.lua", { fail_for = 5 })
--     local node = t:node {}
--     t:fail(node, { error = "refused" })
--     assert.equal("failing", node.state)
--     t:advance(5)
--     assert.equal("healthy", node.state)
--
-- The policy is loaded and asked by the host's own C: same loader, sandbox, checks, node table and guard. Every question
-- is asked in two Lua states, and answers that differ raise.

-- open(path, options): nil and a text where the policy does not load. Given by who runs this file, or, where it was
-- required as a module, the one that is installed beside it; in a selftest there is none.
local host = ...
if type(host) ~= "table" then
    if not rawget(_G, "jit") then error("wayside.test needs LuaJIT: busted --lua=luajit", 0) end
    host = require "wayside.test_host"
end

local test = {}

local kit = {}
kit.__index = kit

-- Where an error happens unless the event says otherwise: phase and step.
local usual = {
    refused = { "connect", "dial" }, unreachable = { "connect", "dial" }, dns = { "connect", "resolve" },
    tls = { "connect", "tls" }, certificate = { "connect", "tls" }, auth = { "connect", "hello" }, no_node = { "connect", "route" },
    overflow = { "connect", "queue" }, shed = { "connect", "queue" },
}

local slots_each = 64

--- A policy, loaded.
---@param path string the policy's file, "default" or "none"
---@param options table|nil values for its options
---@return table t
function test.start(path, options)
    local opened, why = host.open(path, options)
    if not opened then error(why, 2) end
    return test.attach(opened)
end

--- A policy that is loaded already: what a selftest is given.
function test.attach(opened)
    local t = setmetatable({ host = opened, now = 1000, nodes = {}, shards = 0, seed = 0 }, kit)
    t.plan = opened:plan()
    t.swept_at = t.plan.every > 0 and t.now + t.plan.every or math.huge
    return t
end

--- What is wrong with a policy that must not load.
---@param path string
---@param options table|nil
---@return string|nil reason nil: it loads
function test.refused(path, options)
    local _, why = host.open(path, options)
    return why
end

local function topology(t)
    local lines = {}
    for _, node in ipairs(t.nodes) do
        local slots = ""
        if node.master then slots = string.format(" %d-%d", node.shard_number * slots_each, (node.shard_number + 1) * slots_each - 1) end
        lines[#lines + 1] = string.format("%s %s@1 %s %s 0 0 %d connected%s\n", node.name, node.where, node.master and "master" or "slave",
            node.master and "-" or t.masters[node.shard_number].name, node.shard_number + 1, slots)
    end
    return table.concat(lines)
end

local node_methods = {}

local node_meta = {
    __index = function(node, key)
        if node_methods[key] then return node_methods[key] end
        return rawget(node, "t").host:view(rawget(node, "number"), rawget(node, "t").now)[key]
    end,
}

--- A node. Answers probes while `up` is true; `reply(command)` may return raw RESP, or nil and an error.
---@param wanted table role ("master", the default: of a shard of its own; "replica"), shard (a node of it), zone, silent
--   (the policy does not hear of its being added)
---@return table node with the fields of a node in a policy, and `pending`, its next probe
function kit:node(wanted)
    local index = #self.nodes + 1
    local shard = wanted.shard and wanted.shard.shard_number
    if wanted.role == "replica" and not shard then shard = self.shards - 1 end
    self.masters = self.masters or {}
    local node = {
        t = self, up = true, name = string.format("%040x", index), where = "10.0.0." .. index .. ":7000",
        master = wanted.role ~= "replica", shard_number = shard or self.shards,
    }
    if node.master then self.masters[node.shard_number] = node end
    if node.shard_number == self.shards then self.shards = self.shards + 1 end
    self.nodes[index] = node
    if wanted.zone then self.host:zone(node.where, wanted.zone) end
    self:publish()
    node.number = self.host:find("10.0.0." .. index, 7000)
    setmetatable(node, node_meta)
    if not wanted.silent then self:change(node, "added") end
    return node
end

--- The numbers that wayside.random() gives next, before others that are the same in each run.
---@param numbers table each from 0 to below 1
function kit:random(numbers)
    return self.host:random(numbers)
end

--- The topology is read again: `master` and `shard_number` of the nodes, and t.masters, may have been changed.
function kit:publish()
    self.host:publish(topology(self), self.now)
end

function kit:next_seed()
    self.seed = self.seed + 1
    return self.seed
end

local function event_of(t, given, standard)
    local event = {}
    for key, value in pairs(standard) do event[key] = value end
    for key, value in pairs(given or {}) do event[key] = value end
    local place = event.error and usual[event.error] or { "read", "wait" }
    event.phase, event.step = event.phase or place[1], event.step or place[2]
    if event.phase == "connect" and not (given and given.step) and place[1] ~= "connect" then event.step = "dial" end
    if event.phase == "write" and not (given and given.step) then event.step = "send" end
    event.now, event.unix = t.now, event.unix or 1.7e9 + t.now
    event.began = event.began or t.now
    if event.error == "reply" then event.reply = event.reply or (event.message or ""):match("^%S+") end
    if not event.error then event.error = nil end
    return event
end

function kit:ask_probe(node, event)
    local answer = self.host:probe(node.number, event, self:next_seed())
    rawset(node, "pending", answer and { at = self.now + answer.after, answer = answer } or false)
end

--- Asks mark about counters' edges that came true; they become a list of decisions.
local function ask_edges(t, node, names)
    local list = {}
    for index, name in ipairs(names) do
        list[index] = t:decide(node, event_of(t, nil, { kind = "edge", counter = name }))
        list[index].counter = name
    end
    return list
end

function kit:decide(node, event)
    local what = self.host:decide(node.number, event, self:next_seed())
    if event.kind == "probe" or event.change == "added" or what.mark then self:ask_probe(node, event) end
    what.edges = ask_edges(self, node, what.edges)
    return what
end

--- Something goes wrong with a node.
---@param node table
---@param event table error and whatever else an event has; phase and step are the error's usual ones
---@return table what class, blame, permanent, asked, mark, refused (by the guard); edges, a list of the same for each
--- counter whose edge came true, with `counter`
function kit:fail(node, event)
    local kind = event.error == "reply" and "result" or "connection"
    return self:decide(node, event_of(self, event, { kind = kind, n = 1 }))
end

--- Commands are answered well. The policy hears of it where it would in the daemon.
---@param node table
---@param event table|nil n (1), latency (0.001), trial
---@return table what as in fail
function kit:succeed(node, event)
    local filled = event_of(self, event, { kind = "result", n = 1, latency = 0.001 })
    local edges = ask_edges(self, node, self.host:report(node.number, self.now, filled.n, filled.latency, filled.n, 0))
    local first = self.host:answered(node.number)
    if not (first or node.state ~= "healthy" or self.plan.watches_success or event and event.trial) then
        return { asked = false, edges = edges }
    end
    local what = self:decide(node, filled)
    what.edges = edges
    return what
end

function kit:change(node, what)
    return self:decide(node, event_of(self, nil, { kind = "change", change = what }))
end

--- Commands failed: what becomes of them?
---@param node table
---@param event table as in fail; commands ("reads"), certainty, attempt (1), age
---@return table|nil answer nil: the client gets the error
function kit:backoff(node, event)
    local filled = event_of(self, event, { kind = "commands", n = 1, commands = "reads", attempt = 1 })
    filled.certainty = filled.certainty or (filled.phase == "connect" and "unsent" or "unknown")
    local answer = self.host:backoff(node.number, filled, self:next_seed())
    if answer and answer.retry ~= "hold" then
        ask_edges(self, node, self.host:report(node.number, self.now, 0, 0, 0, filled.n))
    end
    return answer
end

function kit:reconnect(node, event)
    return self.host:reconnect(node.number, event_of(self, event, { kind = "connection" }), self:next_seed())
end

--- A probe of the node ends, whether it was due or not.
function kit:probe(node, event)
    rawset(node, "pending", false)
    return self:decide(node, event_of(self, event, { kind = "probe", latency = 0.001 }))
end

local function run_probe(t, node)
    local answer, failed = "+OK\r\n", nil
    if node.up and rawget(node, "reply") then answer, failed = node.reply(node.pending.answer.command) end
    if not node.up then failed = "refused" end
    local reply = answer and answer:match("^%-([^\r]*)")
    if failed then
        t:probe(node, { error = failed })
    elseif reply then
        t:probe(node, { error = "reply", message = reply, answer = answer })
    else
        t:probe(node, { answer = answer })
    end
end

local function expire(t, node)
    t:decide(node, event_of(t, nil, { kind = "expiry" }))
    t.host:heal(node.number, t.now)
end

--- What the last probe with INFO replication told of a node.
---@param node table
---@param told table link_up (true), last_io (0), behind (0)
function kit:replication(node, told)
    self.host:replication(node.number, told.link_up ~= false, told.last_io or 0, told.behind or 0)
end

--- A command is answered in that time: the first one's is the node's average.
function kit:latency(node, seconds)
    self.host:latency(node.number, seconds, self.now + 1e-3)
end

--- So many commands are in flight to the node.
function kit:inflight(node, commands)
    self.host:inflight(node.number, commands)
end

--- A command is routed: what `route` says.
---@param request table slot, command ("get"), write, attempt (1), tried
---@param nodes table|nil the candidates: by default the first node's shard, without what fails or drains
---@return table|nil node nil: `pick` decides
function kit:route(request, nodes)
    local numbers, list = {}, {}
    for _, node in ipairs(nodes or self.nodes) do
        local usable = node.state ~= "failing" and node.state ~= "draining"
        if usable and (nodes or node.shard_number == self.nodes[1].shard_number) then
            list[#list + 1], numbers[#numbers + 1] = node, node.number
        end
    end
    local index = self.host:route(request, numbers, self.now, self:next_seed())
    return index and list[index]
end

--- A sweep, whether it was due or not: tick is asked of all nodes.
---@return table answers a list of { node =, mark =, refused = (by the guard) }
function kit:tick(late)
    local answers = self.host:tick({ kind = "tick", now = self.now, began = self.now, unix = 1.7e9 + self.now, late = late or 0 },
        self:next_seed())
    for _, answer in ipairs(answers) do
        for _, node in ipairs(self.nodes) do
            if node.number == answer.node then answer.node = node break end
        end
        self:ask_probe(answer.node, event_of(self, nil, { kind = "tick" }))
    end
    return answers
end

local function sweep(t)
    t:tick()
    t.swept_at = t.swept_at + t.plan.every
end

--- Time passes: marks end, probes run and sweeps are made when they are due.
---@param seconds number
function kit:advance(seconds)
    local target = self.now + seconds
    while true do
        local due, what, at = nil, nil, target
        for _, node in ipairs(self.nodes) do
            local ends, pending = node.ends, rawget(node, "pending")
            if ends and ends <= at then due, what, at = node, expire, ends end
            if pending and pending.at <= at then due, what, at = node, run_probe, pending.at end
        end
        if self.swept_at <= at then due, what, at = self.nodes[1], sweep, self.swept_at end
        if not due then break end
        self.now = math.max(self.now, at)
        what(self, due)
        if what == expire and due.ends and due.ends <= self.now then error("a mark that ended is still there", 2) end
    end
    self.now = target
end

return test
