--- What is told of a command that failed is exact: nothing that was reported unsent was executed, a command is unsent exactly
--- when write() did not accept its last byte, what was answered is never sent again, and neither is a write of unknown fate.
--- Executions are counted on the servers.
local caps = require "tests.support.caps"
local kit = require "tests.support.kit"

local SLOT, OTHER = 100, 300 -- of one node
local TIMEOUTS = { dial = 0.4, write = 1, read = 1, total = 4 }
local TIMED_OUT = { kind = "connection", phase = "write", step = "send", error = "timeout" }
local NODE_BYTES = 64 * 1024 * 1024

local cluster, master, policies
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 0, node_timeout = 500, front = "mitm" }
  master = cluster:master_of(SLOT)
  policies = { bare = kit.bare_policy(), default = "policies/default.lua" }
end)
after_each(function() master.mitm:clear() end)

local function certainty_of(reply)
  if not kit.is_error(reply) then return "answered" end
  assert.is_true(kit.is_error(reply, "WAYSIDE "), kit.show(reply))
  return (reply.err:match "certainty=(%a+)")
end

--- Waits until commands are answered, and so over a connection that stands.
local function wait_service(client)
  kit.wait_for(function()
    local reply = client:call("SET", kit.key_in(SLOT, "ready"), "1")
    return reply == "OK", kit.show(reply)
  end, 5, "service")
end

-- ---- a pipeline of many kinds of commands, each of which can be counted ----

local COUNT_ONE = "return redis.call('INCR', KEYS[1])"

--- How often it was executed: from its key's value.
local function of_number(key) return { "GET", key }, function(reply) return tonumber(kit.show(reply)) or 0 end end
local function of_length(name)
  return function(key) return { name, key }, function(reply) return reply end end
end
local function of_field(key) return { "HGET", key, "n" }, function(reply) return tonumber(kit.show(reply)) or 0 end end

--- Commands whose replies are one each, with what they say when they went well and how executions are counted; keys are of
--- the same length in every round.
local function mixed(round)
  local list = {}
  local function key(slot) return kit.key_in(slot or SLOT, ("m%06d:%02d"):format(round, #list + 1)) end
  local function add(words, good, count, counted)
    list[#list + 1] = { words = words, good = good, count = count, key = counted }
  end
  local function is(want) return function(reply) return reply == want end end
  local function add_all()
    local k = key()
    add({ "INCR", k }, is(1), of_number, k)
    k = key()
    add({ "EVAL", COUNT_ONE, 1, k }, is(1), of_number, k)
    add({ "GET", kit.key_in(SLOT, "value") }, is "v")
    k = key()
    add({ "APPEND", k, "x" }, is(1), of_length "STRLEN", k)
    k = key(OTHER)
    add({ "RPUSH", k, "element" }, is(1), of_length "LLEN", k)
    add({ "MGET", kit.key_in(SLOT, "value"), kit.key_in(OTHER, "value") }, function(reply)
      return reply[1] == "v" and reply[2] == "v"
    end)
    k = key()
    add({ "HINCRBY", k, "n", 1 }, is(1), of_field, k)
    add({ "ECHO", "here" }, is "here")
    k = key()
    -- A transaction: three replies, and the last tells.
    add({ "MULTI" }, is "OK")
    add({ "INCR", k }, is "QUEUED")
    add({ "EXEC" }, function(reply) return #reply == 1 and reply[1] == 1 end, of_number, k)
  end
  add_all()
  add_all()
  return list
end

local function encode_all(list)
  local parts = {}
  for i, one in ipairs(list) do parts[i] = kit.resp.encode(one.words) end
  return table.concat(parts)
end

--- How often each was executed, by a connection past everything.
local function executions(direct, list)
  local commands, read, at = {}, {}, {}
  for i, one in ipairs(list) do
    if one.count then commands[#commands + 1], read[i] = one.count(one.key) at[i] = #commands end
  end
  local replies, done = direct:pipeline(commands), {}
  for i, one in pairs(read) do done[i] = one(replies[at[i]]) end
  return done
end

--- Nothing unsent was executed, nothing twice, and what was answered once.
local function check_round(list, replies, done, what)
  local told = { answered = 0, unsent = 0, unknown = 0 }
  for i, one in ipairs(list) do
    local certainty = certainty_of(replies[i])
    told[certainty] = told[certainty] + 1
    local words = ("%s: %s got %s, executed %s times"):format(what, table.concat(one.words, " "), kit.show(replies[i]),
      tostring(done[i]))
    if certainty == "answered" then assert.is_true(one.good(replies[i]), words) end
    if done[i] then
      if certainty == "answered" then assert.equal(1, done[i], words)
      elseif certainty == "unsent" then assert.equal(0, done[i], words)
      else assert.is_true(done[i] <= 1, words) end
    end
  end
  return told
end

--- Every place at which the stream of a direction can be cut, up and down; in soak this shape's, which are all of them over
--- the shapes.
local function places(lengths, shape)
  local list = {}
  for direction, length in pairs(lengths) do
    for at = 0, length do
      if kit.shares(shape, at) then
        for _, how in ipairs { "fin", "rst" } do list[#list + 1] = { dir = direction, at = at, how = how } end
      end
    end
  end
  table.sort(list, function(a, b)
    if a.dir ~= b.dir then return a.dir < b.dir end
    if a.at ~= b.at then return a.at < b.at end
    return a.how < b.how
  end)
  return kit.random.shuffle(list)
end

local round = 0 -- of all tests
local cuts = 0 -- and of them, those with a cut, over all shapes of the matrix

kit.matrix(function(workers, how, shape)
  local function serve(policy, more)
    local options = { cluster = cluster, policy = policies[policy], workers = workers, how = how, timeouts = TIMEOUTS,
      limits = { node_bytes = NODE_BYTES, client_inflight = 100000 } }
    for name, value in pairs(more or {}) do options[name] = value end
    return kit.wayside(options)
  end

  --- Cuts the connections that stand at these places of the next pipeline, round after round; in every other one write() takes
  --- a few bytes at a time, so that some is not yet written when the cut comes.
  local function cut_everywhere(policy, sample)
    local capping = caps.prepare(kit.folder())
    local way, direct = serve(policy, { env = capping.env }), master:connect()
    local client = way:client(nil, 10)
    for _, slot in ipairs { SLOT, OTHER } do assert.equal("OK", client:call("SET", kit.key_in(slot, "value"), "v")) end

    local function run(before)
      round = round + 1
      local list = mixed(round)
      wait_service(client)
      before()
      local replies = client:exchange(encode_all(list), #list, 10)
      assert.equal(#list, #replies)
      return list, replies
    end

    local function passed()
      local up, down = 0, 0
      for _, one in ipairs((master.mitm:connections())) do up, down = up + one.up, down + one.down end
      return up, down
    end
    run(function() end)
    local up, down
    local list, replies = run(function() up, down = passed() end)
    local up_now, down_now = passed()
    check_round(list, replies, executions(direct, list), "no cut")
    local all = places({ up = up_now - up, down = down_now - down }, shape)
    local total, count = { answered = 0, unsent = 0, unknown = 0 }, math.min(sample or #all, #all)
    for i = 1, count do
      local place = all[i]
      list, replies = run(function()
        for _, one in ipairs((master.mitm:connections())) do
          master.mitm:rule { dir = place.dir, act = "cut", how = place.how, at = "+" .. place.at, on = one.id }
        end
        if i % 2 == 0 then capping:set { port = master.port, per_call = kit.random.int(1, 8) } end
      end)
      capping:clear()
      master.mitm:clear()
      local told = check_round(list, replies, executions(direct, list), ("%s at %d of %s"):format(place.how, place.at, place.dir))
      for certainty, n in pairs(told) do total[certainty] = total[certainty] + n end
    end
    direct:close()
    cuts = cuts + count
    print(("%s: %d of %d cuts, %d in all so far; %d answered, %d unsent, %d unknown"):format(policy, count, #all, cuts,
      total.answered, total.unsent, total.unknown))
    assert.is_true(total.answered > 0 and total.unknown > 0)
    if policy == "bare" then assert.is_true(total.unsent > 0) end
  end

  it("is sound: cuts at every byte of a pipeline of many commands, nothing sent again", function()
    cut_everywhere("bare", not kit.soak and 120 or nil)
  end)

  it("is sound under the default policy too, which sends again what it may", function()
    cut_everywhere("default", not kit.soak and 100 or nil)
  end)

  --- A pipeline of one connection, and where each of its commands ends in the stream.
  local function plain()
    round = round + 1
    local list, ends, at = {}, {}, 0
    for i = 1, 6 do
      local key = kit.key_in(SLOT, ("p%06d:%02d"):format(round, i))
      local is_one = function(reply) return reply == 1 end
      list[#list + 1] = { words = { "INCR", key }, good = is_one, count = of_number, key = key }
      list[#list + 1] = { words = { "GET", kit.key_in(SLOT, "value") }, good = function(reply) return reply == "v" end }
      list[#list + 1] = { words = { "EVAL", COUNT_ONE, 1, key .. "e" }, good = is_one, count = of_number, key = key .. "e" }
    end
    for i, one in ipairs(list) do
      at = at + #kit.resp.encode(one.words)
      ends[i] = at
    end
    return list, ends
  end

  --- Positions in a stream of so many bytes: in soak this shape's, which are all of them over the shapes; else some, ends of
  --- commands and their neighbours among them.
  local function positions(ends, sample)
    local length = ends[#ends]
    local list = {}
    for at = 0, length - 1 do
      if kit.shares(shape, at) then list[#list + 1] = at end
    end
    if not sample then return list end
    kit.random.shuffle(list)
    local some = { 0, length - 1, ends[1] - 1, ends[1], ends[2] + 1, ends[#ends - 1] }
    for i = 1, sample do some[#some + 1] = list[i] end
    return some
  end

  it("is precise: unsent is exactly what has a byte that write() did not accept", function()
    local capping = caps.prepare(kit.folder())
    local way, direct = serve("bare", { env = capping.env }), master:connect()
    local client = way:client(nil, 10)
    assert.equal("OK", client:call("SET", kit.key_in(SLOT, "value"), "v"))
    local _, ends = plain()
    local rounds, total = 0, { answered = 0, unsent = 0, unknown = 0 }
    for _, failure in ipairs { "reset", "pipe" } do
      for _, accepted in ipairs(positions(ends, not kit.soak and 40)) do
        local list
        list, ends = plain()
        wait_service(client)
        capping:set { port = master.port, left = accepted, failure = failure, times = 1,
          per_call = kit.random.one { 0, 0, 1, 7, 100 } }
        local replies = client:exchange(encode_all(list), #list, 10)
        assert.equal(#list, #replies)
        assert.equal(accepted, capping:read().accepted)
        local told = check_round(list, replies, executions(direct, list), ("%s after %d"):format(failure, accepted))
        for i, reply in ipairs(replies) do
          assert.equal(ends[i] > accepted, certainty_of(reply) == "unsent", ("%d bytes of %d accepted: %s"):format(accepted, ends[i],
            kit.show(reply)))
        end
        for certainty, n in pairs(told) do total[certainty] = total[certainty] + n end
        rounds = rounds + 1
      end
    end
    capping:clear()
    direct:close()
    print(("%d writes cut short: %d answered, %d unsent, %d unknown"):format(rounds, total.answered, total.unsent, total.unknown))
    assert.is_true(total.unsent > 0 and total.unknown + total.answered > 0)
  end)

  for _, policy in ipairs { "bare", "default" } do
    it(("13: is precise where a write times out: every command has its answer or its error, and unsent is what was not accepted "
      .. "(%s)"):format(policy), function()
      local capping = caps.prepare(kit.folder())
      local way, direct = serve(policy, { env = capping.env, timeouts = { dial = 0.4, write = 0.05, read = 1, total = 4 } }), master:connect()
      local client = way:client(nil, 10)
      assert.equal("OK", client:call("SET", kit.key_in(SLOT, "value"), "v"))
      local _, ends = plain()
      for _, accepted in ipairs(positions(ends, kit.share(4, 100))) do
        local list
        list, ends = plain()
        wait_service(client)
        local before = #way:events(TIMED_OUT)
        capping:set { port = master.port, left = accepted, failure = "again" }
        client:send_raw(encode_all(list))
        kit.wait_for(function() return capping:read().accepted == accepted end, 5, "the bytes to be accepted")
        kit.wait_for(function()
          return #way:events(TIMED_OUT) > before, way:show_events()
        end, 5, "the write to time out")
        capping:clear()
        local replies = client:exchange("", #list, 10)
        assert.equal(#list, #replies)
        check_round(list, replies, executions(direct, list), ("nothing more after %d"):format(accepted))
        for i, reply in ipairs(replies) do
          local certainty = certainty_of(reply)
          local words = ("%d bytes of %d accepted: %s"):format(accepted, ends[i], kit.show(reply))
          -- The default sends again what was not sent.
          if policy == "bare" then assert.equal(ends[i] > accepted, certainty == "unsent", words)
          elseif ends[i] > accepted then assert.equal("answered", certainty, words) end
          if certainty ~= "answered" then assert.is_true(kit.is_error(reply, "WAYSIDE timeout phase=write step=send"), words) end
        end
      end
      direct:close()
    end)
  end

  it("is precise for transactions: unsent until the last byte of EXEC was accepted", function()
    local capping = caps.prepare(kit.folder())
    local way, direct = serve("bare", { env = capping.env }), master:connect()
    local client = way:client(nil, 10)
    local function unit()
      round = round + 1
      local name = kit.key_in(SLOT, ("t%06d"):format(round))
      return name, kit.resp.encode { "MULTI" } .. kit.resp.encode { "INCR", name } .. kit.resp.encode { "EXEC" }
    end
    local _, first = unit()
    assert.same({ "OK", "QUEUED", { 1 } }, client:exchange(first, 3))
    for _, accepted in ipairs(positions({ 15, 50, #first }, not kit.soak and 20)) do
      -- Its connection stands already: the rule is met by nothing else.
      capping:set { port = master.port, left = accepted, failure = "reset", times = 1 }
      local key, bytes = unit()
      local replies = client:exchange(bytes, 3)
      assert.equal(3, #replies)
      assert.equal(accepted, capping:read().accepted)
      assert.equal("unsent", certainty_of(replies[3]), kit.show(replies[3]))
      assert.equal(kit.null, direct:call("GET", key))
      kit.wait_for(function() return not kit.is_error(client:exchange(select(2, unit()), 3)[3]) end, 5, "service")
    end
    direct:close()
  end)

  it("writes in pieces of any size are whole in the end", function()
    local capping = caps.prepare(kit.folder())
    local way, direct = serve("bare", { env = capping.env }), master:connect()
    local client = way:client(nil, 10)
    for _, slot in ipairs { SLOT, OTHER } do assert.equal("OK", client:call("SET", kit.key_in(slot, "value"), "v")) end
    for _, per_call in ipairs { 1, 2, 3, 17, 100 } do
      round = round + 1
      local list = mixed(round)
      capping:set { port = master.port, per_call = per_call }
      local told = check_round(list, client:exchange(encode_all(list), #list, 10), executions(direct, list), per_call .. " a call")
      assert.equal(#list, told.answered)
      assert.is_true(capping:read().calls >= capping:read().accepted / per_call)
    end
    direct:close()
    assert.same({}, way:events { ["function"] = "backoff" })
  end)

  for _, policy in ipairs { "bare", "default" } do
    it(("12: reset after 50 of 3,000 writes and a half: those may have been executed, the others were not, and go again as the "
        .. "policy (%s) says"):format(policy), function()
      local capping = caps.prepare(kit.folder())
      local way, direct = serve(policy, { env = capping.env }), master:connect()
      local client, list, ends, at = way:client(nil, 10), {}, {}, 0
      round = round + 1
      for i = 1, 3000 do
        local key = kit.key_in(SLOT, ("w%06d:%04d"):format(round, i))
        list[i] = { words = { "INCR", key }, good = function(reply) return reply == 1 end, count = of_number, key = key }
        at = at + #kit.resp.encode(list[i].words)
        ends[i] = at
      end
      wait_service(client)
      capping:set { port = master.port, left = ends[50] + 20, failure = "again" }
      client:send_raw(encode_all(list))
      -- Each pass of the loop reads from the client and tries to write: after some, all are queued.
      local calls = capping:read().calls
      kit.wait_for(function() return capping:read().calls > calls + 50 end, 5, "the pipeline to be queued")
      capping:fail("reset", 1)
      local replies = client:exchange("", 3000, 10)
      assert.equal(3000, #replies)
      local done = executions(direct, list)
      direct:close()
      check_round(list, replies, done, "reset")
      for i, reply in ipairs(replies) do
        local certainty = certainty_of(reply)
        if i <= 50 then assert.is_true(certainty ~= "unsent", kit.show(reply))
        else assert.equal(policy == "bare" and "unsent" or "answered", certainty, i .. ": " .. kit.show(reply)) end
      end
      local told = way:wait_event { ["function"] = "backoff", certainty = "unsent" }
      assert.same({ "write", "send", "reset", 2950 }, { told.phase, told.step, told.error, told.n })
    end)
  end
end)
