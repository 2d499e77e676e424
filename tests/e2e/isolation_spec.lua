--- No reply reaches the wrong command or the wrong client, whatever happens to connections on
--- either side; and what one client sees is in the order in which it asked.
local socket = require "socket"
local kit = require "tests.support.kit"

local cluster
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500, front = "mitm" }
end)

--- Spoils a random node's connections in a random way; what it does passes by itself.
local function spoil()
  local mitm = kit.random.one(cluster.nodes).mitm
  local kind = kit.random.int(1, 7)
  local direction = kit.random.one { "up", "down" }
  local at = "+" .. kit.random.int(0, 3000)
  if kind <= 3 then
    mitm:rule { dir = direction, act = "cut", how = kit.random.one { "fin", "rst" }, at = at, times = 1 }
  elseif kind == 4 then
    mitm:rule { dir = direction, act = "delay", ms = kit.random.int(1, 60), at = at, times = 1 }
  elseif kind == 5 then
    mitm:rule { dir = direction, act = "trickle", bytes = kit.random.int(100, 2000), ms = 1, at = at, times = 1 }
  elseif kind == 6 then
    mitm:cut(kit.random.one { "fin", "rst" })
  else
    mitm:rule { dir = direction, act = "swallow", at = at, times = 1 }
  end
  return mitm
end

--- A pipeline of commands on keys of the client's own, each with a check of its reply.
local function own_pipeline(name, round)
  local commands, checks = {}, {}
  local function add(words, check)
    commands[#commands + 1], checks[#checks + 1] = words, check
  end
  local function is(want)
    return function(reply) return reply == want end
  end
  for i = 1, kit.random.int(1, 60) do
    local key = ("iso:%s:%d"):format(name, kit.random.int(1, 40))
    local what = kit.random.int(1, 5)
    if what == 1 then add({ "ECHO", key .. round .. i }, is(key .. round .. i))
    elseif what == 2 then add({ "SET", key, key .. ("x"):rep(kit.random.int(0, 300)) }, is "OK")
    elseif what == 3 then
      add({ "GET", key }, function(reply)
        return reply == kit.null or type(reply) == "string" and reply:find(key, 1, true) == 1
      end)
    elseif what == 4 then
      add({ "MGET", key, "iso:" .. name .. ":1" }, function(reply)
        return type(reply) == "table" and #reply == 2
            and (reply[1] == kit.null or reply[1]:find(key, 1, true) == 1)
            and (reply[2] == kit.null or reply[2]:find("iso:" .. name .. ":1", 1, true) == 1)
      end)
    else
      add({ "EVAL", "return ARGV[1]", 1, key, key .. i }, is(key .. i))
    end
  end
  return commands, checks
end

kit.matrix(function(workers, how)
  setup(function() cluster:flush() end)

  for _, policy in ipairs { "policies/default.lua", "policies/go_redis.lua" } do
    describe("clients that come and go while connections to nodes break, under " .. policy, function()
      it("get their own replies and nobody else's", function()
        local way = kit.wayside { cluster = cluster, policy = policy, workers = workers, how = how,
          timeouts = { dial = 0.3, read = 0.3, write = 0.3, total = 3 } }
        local clients, errors, answers = {}, 0, 0
        local rounds = kit.share(150, 2500) -- 5,000 in all under the two
        local spoiled = {}
        for round = 1, rounds do
          if round % 3 == 0 then spoiled[spoil()] = true end
          if round % 25 == 0 then
            for mitm in pairs(spoiled) do mitm:clear() end
            spoiled = {}
          end
          local running = {}
          for i = 1, 8 do
            clients[i] = clients[i] or way:client(nil, 10)
            clients[i].protocol = clients[i].protocol or kit.random.one { 2, 3 }
            if clients[i].protocol == 3 and not clients[i].greeted then
              clients[i].greeted = clients[i]:call("HELLO", "3")
            end
            local commands, checks = own_pipeline(i, round)
            local parts = {}
            for j, words in ipairs(commands) do parts[j] = kit.resp.encode(words) end
            assert(clients[i]:send_raw(table.concat(parts)))
            if kit.random.int(1, 12) == 1 then
              -- This one leaves with its commands in flight.
              if kit.random.int(1, 2) == 1 then socket.sleep(0.001) end
              clients[i]:close()
              clients[i] = nil
            else
              running[i] = { commands = commands, checks = checks }
            end
          end
          for i, one in pairs(running) do
            local replies, why = clients[i]:exchange("", #one.commands, 8)
            assert.equal(#one.commands, #replies, ("round %d, client %d: %s, rest %q; alive %s; log:\n%s\nevents:\n%s"):format(
              round, i, tostring(why), clients[i].buffer:sub(clients[i].at, clients[i].at + 200),
              tostring(way.process:alive()), way:log():sub(-6000), ""))
            for j, check in ipairs(one.checks) do
              if kit.is_error(replies[j]) then
                errors = errors + 1
                assert.is_true(kit.is_error(replies[j], "WAYSIDE "), kit.show(replies[j]))
              else
                answers = answers + 1
                assert.is_true(check(replies[j]), ("round %d, client %d: %s got %s"):format(
                  round, i, table.concat(one.commands[j], " "), kit.show(replies[j])))
              end
            end
          end
        end
        for mitm in pairs(spoiled) do mitm:clear() end
        print(("%d rounds: %d answers, %d errors"):format(rounds, answers, errors))
        assert.is_true(answers > errors)
        kit.wait_for(function()
          local well = 0
          for slot = 0, 16383, 2000 do
            local reply = way:call("SET", kit.key_in(slot, "end"), "1")
            if reply == "OK" then well = well + 1 end
          end
          return well == 9, well
        end, 25, "all slots to be served again")
      end)
    end)
  end

  describe("an increasing sequence written by each of eight clients", function()
    it("never decreases on the servers, whatever happens to connections", function()
      local way = kit.wayside { cluster = cluster, policy = "policies/default.lua", workers = workers, how = how,
        timeouts = { dial = 0.3, read = 0.3, write = 0.3, total = 3 } }
      -- Each write tells if it came after a larger one; a script sees what the server saw.
      local script = [[
        local last = tonumber(redis.call('GET', KEYS[1]) or '0')
        local now = tonumber(ARGV[1])
        if now < last then redis.call('INCR', KEYS[2]) return redis.error_reply('DECREASE ' .. last .. ' then ' .. now) end
        redis.call('SET', KEYS[1], ARGV[1])
        return now
      ]]
      local clients, sequence, spoiled = {}, {}, {}
      for i = 1, 8 do clients[i], sequence[i] = way:client(nil, 10), 0 end
      for round = 1, kit.share(120, 4000) do
        if round % 3 == 0 then spoiled[spoil()] = true end
        if round % 20 == 0 then
          for mitm in pairs(spoiled) do mitm:clear() end
          spoiled = {}
        end
        local counts = {}
        for i = 1, 8 do
          local parts = {}
          counts[i] = kit.random.int(1, 40)
          for j = 1, counts[i] do
            sequence[i] = sequence[i] + 1
            local tag = ("{order%d:%d}"):format(i, kit.random.int(1, 3))
            parts[j] = kit.resp.encode { "EVAL", script, 2, tag .. "value", tag .. "decreases", sequence[i] }
          end
          assert(clients[i]:send_raw(table.concat(parts)))
        end
        for i = 1, 8 do
          local replies = clients[i]:exchange("", counts[i], 8)
          assert.equal(counts[i], #replies)
          for _, reply in ipairs(replies) do
            assert.is_false(kit.is_error(reply, "DECREASE"), kit.show(reply))
          end
        end
      end
      for mitm in pairs(spoiled) do mitm:clear() end
      for i = 1, 8 do
        for j = 1, 3 do
          local tag = ("{order%d:%d}"):format(i, j)
          local node = cluster:master_of(kit.slot_of(tag))
          assert.equal(kit.null, node:call("GET", tag .. "decreases"))
        end
      end
    end)
  end)
end)
