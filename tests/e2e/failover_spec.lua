--- A master dies, freezes or hands over while clients read and write at a fixed rate: what each policy promises of it, on
--- a real cluster with a node time-out of 500 ms. The figures are printed. Half of the clients use TCP, half the unix socket.
local socket = require "socket"
local kit = require "tests.support.kit"
local failover = require "tests.support.failover"

local GOAL, BOUND = 0.05, 0.5 -- from the promotion to the first write: what we want, and what must hold
local READ = 1                -- timeouts.read, the default

local cluster
setup(function()
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 }
end)

local turn, last = 0, nil
local function repair()
  if last then failover.repair(cluster, last) end
  last = nil
end
after_each(repair)

--- One fault under load, with a policy; prints what was seen and puts the cluster right again.
---@param more table perhaps `workers` 2, `replica` (one is struck, no master), `after`
local function run(policy, how, more)
  more = more or {}
  local file = policy:find "/" and policy or ("policies/%s.lua"):format(policy)
  local way = kit.wayside { cluster = cluster, policy = file, workers = more.workers or 2,
    timeouts = { total = 10, read = READ },
    -- All that is in flight to a frozen node goes again at once: twice, with the default policy.
    limits = { retry_burst = 10000 } }
  -- Another master each time.
  turn = turn + 1
  last = more.replica and cluster:replicas_of(turn % 3 * 6000)[1] or cluster:master_of(turn % 3 * 6000)
  local out = failover.run { cluster = cluster, way = way, slot = turn % 3 * 6000, how = how, folder = kit.folder(), victim = last,
    promotes = not more.replica, before = kit.soak and 1 or 0.3, after = more.after or kit.soak and 2 or 0.5 }
  print(("%s, %s\n%s"):format(policy:match "[^/]*$", how, failover.show(out)))
  if out.promoted and out.success then
    print(("  first write %.0f ms after the promotion, goal %.0f: %s"):format((out.success - out.promoted) * 1000, GOAL * 1000,
      out.success - out.promoted <= GOAL and "met" or "NOT MET"))
  end
  out.way, out.text = way, failover.show(out)
  return out
end


--- What holds for every policy: nobody is answered wrongly, and the servers have what was acknowledged, and of what was
-- reported unknown at most all.
local function check_accounts(out)
  assert.is_true(out.reads.n > 0 and out.writes.n > 0 and out.other_writes.n > 0, out.text)
  for _, command in ipairs(out.commands) do
    local err = command.error
    assert.is_true(err == nil or err:find("^WAYSIDE ") ~= nil, err and ("%s: %s"):format(command.client, err))
  end
  assert.is_true(out.executed >= out.acknowledged, out.text)
  assert.is_true(out.executed <= out.acknowledged + out.unknown, out.text)
end

--- Clients that never asked the victim anything saw nothing of it.
local function check_others(out)
  -- The machine is shared; who waited for the failed shard would wait for the read deadline, or for the election.
  assert.is_true(out.others_after < math.max(READ / 2, 5 * out.others_before), out.text)
  assert.equal(0, out.other_reads.failed, out.text)
  assert.equal(0, out.other_writes.failed, out.text)
end

local function check_unmarked(out)
  for _, event in ipairs(out.way:events { ["function"] = "mark", to = "failing" }) do
    assert.is_nil(event, ("%s: %s %s %s"):format(event.node, event.kind, event.error, tostring(event.message)))
  end
end

local function check_prompt(out)
  assert.is_not_nil(out.success, out.text)
  assert.is_true(out.success - out.promoted < BOUND, out.text)
end

--- What failed failed while the cluster had no master for it, or by the deadline of what the old one had.
local function check_window(out)
  local until_then = math.max(out.promoted, out.fault + READ) + BOUND
  for _, command in ipairs(out.commands) do
    assert.is_true(not command.error or command.done < until_then,
      ("%s failed %.3f s after the fault: %s\n%s"):format(command.client, command.done - out.fault, tostring(command.error), out.text))
  end
end

--- Failed writes that were never sent.
local function unsent(out)
  local list = {}
  for _, command in ipairs(out.commands) do
    if command.error and command.error:find "certainty=unsent" then list[#list + 1] = command end
  end
  return list
end

-- Reads at replicas, all else as the default has it.
local REPLICAS = [[
local wayside = require "wayside"
return wayside.policy { name = "replicas", pick = "replica" }
]]

local function specs(workers)
  describe("ride_through, while a master", function()
    it("28: is killed: no read fails, and no write that was not sent", function()
      local out = run("ride_through", "kill", { workers = workers })
      check_accounts(out)
      check_others(out)
      assert.equal(0, out.reads.failed, out.text)
      assert.equal(out.writes.unknown, out.writes.failed, out.text)
      check_prompt(out)
      check_window(out)
      -- Reads did not wait for the election: replicas answered them.
      assert.is_true(out.reads.longest < 0.5, out.text)
    end)

    it("28: is frozen: reads wait for the read deadline at most", function()
      local out = run("ride_through", "freeze", { workers = workers })
      check_accounts(out)
      check_others(out)
      assert.equal(0, out.reads.failed, out.text)
      assert.equal(out.writes.unknown, out.writes.failed, out.text)
      check_prompt(out)
      check_window(out)
      assert.is_true(out.reads.longest < READ + 0.5, out.text)
    end)

    it("hands over to its replica: no command fails, and nobody is marked", function()
      local out = run("ride_through", "failover", { workers = workers })
      check_accounts(out)
      check_others(out)
      assert.equal(0, out.reads.failed + out.writes.failed, out.text)
      check_unmarked(out)
    end)

    it("51: has no replica: commands are held, each for its own time, until it is back", function()
      local HOLD = 1.2
      local alone = kit.cluster { masters = 2, replicas = 0, node_timeout = 500 }
      local node, other = alone:node(1), alone:node(2)
      local function serve(hold)
        local way = kit.wayside { cluster = alone, policy = "policies/ride_through.lua", options = { hold = hold }, workers = workers,
          timeouts = { total = 10 } }
        assert.equal("OK", way:call("SET", "k", "v"))
        assert.equal("OK", way:call("SET", kit.key_in(16000), "v"))
        return way
      end
      local short, long = serve(HOLD), serve(6)
      node:kill()
      -- The connection's end is seen; from then on everything waits, whenever it arrives.
      short:wait_state(node, "failing")
      long:wait_state(node, "failing")

      --- Six clients, reads and writes, a tenth of a second apart.
      local function ask_all(way)
        local clients, began = {}, {}
        for i = 1, 6 do
          clients[i] = way:client(nil, 12)
          clients[i]:send_raw(kit.resp.encode(i % 2 == 0 and { "GET", "k" } or { "SET", "k", "v" }))
          began[i] = socket.gettime()
          -- A change of the table in between lets all go that are held, and they come back.
          if i == 4 and other.process:alive() then
            other:kill()
            way:wait_state(other, "failing")
          end
          socket.sleep(0.1)
        end
        return clients, began
      end

      local clients, began = ask_all(short)
      local waited = {}
      for i, one in ipairs(clients) do
        local reply = one:read_reply()
        waited[i] = socket.gettime() - began[i]
        assert.is_true(kit.is_error(reply, "WAYSIDE no_node"), kit.show(reply))
        assert.is_true(kit.is_error(reply, "certainty=unsent"), kit.show(reply))
        assert.is_true(waited[i] > HOLD - 0.05 and waited[i] < HOLD + 0.5, ("%d waited %.3f s"):format(i, waited[i]))
      end
      table.sort(waited)
      print(("no replica: held for %.3f to %.3f s of %.1f"):format(waited[1], waited[6], HOLD))

      clients, began = ask_all(long)
      other:restart()
      node:restart()
      local restarted = socket.gettime()
      for i, one in ipairs(clients) do
        local reply = one:read_reply()
        assert.is_false(kit.is_error(reply), ("%d: %s"):format(i, kit.show(reply)))
      end
      print(("no replica: held up to %.2f s before the restart, answered %.0f ms after it"):format(restarted - began[1],
        (socket.gettime() - restarted) * 1000))
    end)
  end)

  describe("the default policy, while a master", function()
    local HOLD = 2

    --- Unsent commands are held for `hold`, and fail only after that.
    local function check_hold(out)
      for _, command in ipairs(unsent(out)) do
        assert.is_true(command.done - command.sent > HOLD - 0.1,
          ("%s failed after %.3f s: %s"):format(command.client, command.done - command.sent, command.error))
      end
      for _, command in ipairs(out.commands) do
        if command.client == "reads" and command.error then
          assert.is_true(command.done - command.sent > HOLD - 0.1, command.error)
        end
      end
    end

    for _, how in ipairs { "kill", "freeze" } do
      it(("is %s: what was not sent fails after its hold, not before"):format(how == "kill" and "killed" or "frozen"), function()
        local out = run("default", how, { workers = workers })
        check_accounts(out)
        check_others(out)
        check_hold(out)
        assert.is_not_nil(out.success, out.text)
        -- A frozen master is taken out by the second sign of it; pipelines wait for what is in flight.
        assert.is_true(out.recovered - math.max(out.promoted, out.fault + 2 * READ) < 1, out.text)
      end)
    end

    it("hands over to its replica: no command fails, and nobody is marked", function()
      local out = run("default", "failover", { workers = workers })
      check_accounts(out)
      check_others(out)
      assert.equal(0, out.reads.failed + out.writes.failed, out.text)
      check_unmarked(out)
    end)
  end)

  describe("fail_fast", function()
    for _, how in ipairs(kit.soak and { "kill", "freeze" } or { "kill" }) do
      it(("holds nothing while a master is %s, and serves again at once"):format(how == "kill" and "killed" or "frozen"), function()
        local out = run("fail_fast", how, { workers = workers })
        check_accounts(out)
        check_others(out)
        check_prompt(out)
        assert.is_true(#unsent(out) > 0, out.text)
        -- Before the mark one read deadline at most; after it, nothing waits.
        local waited = {}
        for _, command in ipairs(unsent(out)) do
          if command.sent > out.marked + 0.05 then waited[#waited + 1] = (command.done - command.sent) * 1000 end
        end
        table.sort(waited)
        assert.is_true(#waited > 100, #waited)
        local quick = 0
        for _, one in ipairs(waited) do quick = quick + (one < 1 and 1 or 0) end
        print(("  %d errors of commands sent after the mark: %.1f%% in under 1 ms (the goal); median %.2f ms, 99%% below %.2f ms, "
          .. "longest %.2f ms"):format(#waited, 100 * quick / #waited, waited[math.ceil(#waited / 2)],
          waited[math.ceil(#waited * 0.99)], waited[#waited]))
        -- Ten times the goal, or what others wait for answers meanwhile: the machine is shared with the load, the cluster and
        -- whatever else runs. blame_spec shows the goal, without a load beside it.
        assert.is_true(waited[math.ceil(#waited / 2)] < math.max(10, out.others_after * 1000), waited[math.ceil(#waited / 2)])
        assert.is_true(out.writes.longest < READ + 0.5, out.text)
      end)
    end
  end)

  describe("a replica that reads go to", function()
    for _, how in ipairs(kit.soak and { "kill", "freeze" } or { "freeze" }) do
      it(("is %s: no command fails, and none waits longer than the read deadline"):format(how == "kill" and "killed" or "frozen"), function()
        local out = run(kit.file("replicas.lua", REPLICAS), how, { workers = workers, replica = true, after = READ + 1 })
        check_accounts(out)
        check_others(out)
        assert.equal(0, out.reads.failed + out.writes.failed, out.text)
        assert.is_true(out.reads.longest < (how == "kill" and 0 or READ) + BOUND, out.text)
        assert.is_true(out.writes.longest < BOUND, out.text)
      end)
    end
  end)
end

for workers = kit.soak and 1 or 2, kit.soak and 4 or 2 do
  describe(workers .. " workers:", function() specs(workers) end)
end

if kit.soak then
  describe("five kills in a row under ride_through", function()
    it("tell the median from the promotion to the first write, which is to be 50 ms", function()
      local list, stall = {}, 0
      for _ = 1, 5 do
        local out = run("ride_through", "kill")
        check_accounts(out)
        check_others(out)
        check_prompt(out)
        assert.equal(0, out.reads.failed, out.text)
        assert.equal(out.writes.unknown, out.writes.failed, out.text)
        list[#list + 1] = out.success - out.promoted
        stall = math.max(stall, out.writes.longest)
        repair()
        out.way:stop()
      end
      table.sort(list)
      print(("first write %.0f, %.0f, %.0f, %.0f, %.0f ms after the promotion, median %.0f ms (goal %.0f ms); longest stall %.0f ms")
        :format(list[1] * 1000, list[2] * 1000, list[3] * 1000, list[4] * 1000, list[5] * 1000, list[3] * 1000, GOAL * 1000,
          stall * 1000))
      assert.is_true(list[3] < BOUND, list[3])
    end)
  end)
end
