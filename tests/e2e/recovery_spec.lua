--- The way back: when a node that was taken out is used again, what it is asked meanwhile, and what can't bring it back.
local socket = require "socket"
local kit = require "tests.support.kit"
local openloop = require "tests.support.openloop"

local SLOT = 100

local cluster, master, replica
setup(function()
  -- 15 s: masters are frozen and paused for seconds, and come back as masters.
  cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 15000, front = "mitm", config = { "repl-timeout 3600" } }
  master, replica = cluster:node(1), cluster:node(4)
end)

local function key(name) return kit.key_in(SLOT, name) end

--- The marks that brought the node into a state.
local function marks(way, node, to)
  local list = {}
  for _, event in ipairs(way:events { ["function"] = "mark", node = node.address, to = to }) do
    if event.from ~= to then list[#list + 1] = event end
  end
  return list
end

local function probes(way, node, since)
  local answered, failed = 0, 0
  for _, event in ipairs(way:events { ["function"] = "mark", kind = "probe", node = node.address }) do
    if event.time >= since then
      if event.error then failed = failed + 1 else answered = answered + 1 end
    end
  end
  return answered, failed
end

--- New nodes are looked at once: after that a probe is one of a failing node.
local function wait_greeted(way)
  kit.wait_for(function()
    local seen = 0
    for _, node in ipairs(cluster.nodes) do seen = seen + math.min(1, #way:events { kind = "probe", node = node.address }) end
    return seen == #cluster.nodes, seen
  end, 5, "the nodes to be looked at")
end

kit.matrix(function(workers, how)
  setup(function() cluster:flush() end)

  -- The contract's own example: a mark of 15 s, a probe each second, and the first good one ends it.
  local FIXED = [[
local wayside = require "wayside"
return wayside.policy {
  name = "fixed-time",
  mark = function(_, _, event)
    if event.error then return { state = "failing", seconds = 15, reason = event.error } end
    if event.kind == "probe" then return { state = "healthy" } end
  end,
  probe = function(_, node) if node.state == "failing" then return { after = 1, timeout = 0.5 } end end,
}
]]

  describe("a node that is back after two seconds", function()
    -- The longest from its return to its first request: one more probe and its spread, or the mark's end.
    local policies = {
      { name = "default", longest = 2 * 1.2 + 1, greets = true }, -- a probe that failed may have doubled the wait
      { name = "ride_through", longest = 0.6 + 0.7, greets = true },
      { name = "fail_fast", longest = 0.24 + 0.7, greets = true },
      { name = "go_redis", longest = 1 + 0.7, options = { failing_timeout = 3, max_redirects = 0, read_only = false }, time = true },
      { name = "fixed-time", longest = 1 + 0.7, file = true },
    }

    it("40: is used again as soon as a probe says so, not when its mark would have ended, and is marked once", function()
      local clients = {}
      for i, policy in ipairs(policies) do
        policy.way = kit.wayside { cluster = cluster, workers = math.max(workers, 2), options = policy.options,
          policy = policy.file and kit.file("fixed.lua", FIXED) or ("policies/%s.lua"):format(policy.name) }
        if policy.greets then wait_greeted(policy.way) end
        local counter = key("back" .. i)
        for _ = 1, 4 do
          clients[#clients + 1] = { name = policy.name, target = policy.way:target(how), every = 0.02,
            make = function() return { { "INCR", counter } } end }
        end
      end
      local load = openloop.start { folder = kit.folder(), clients = clients }
      socket.sleep(0.2)
      local gone = socket.gettime()
      master:refuse()
      socket.sleep(2)
      local back = socket.gettime()
      master:accept()
      kit.wait_for(function()
        for _, policy in ipairs(policies) do
          if policy.way:node(master).state ~= "healthy" then return false, policy.name end
        end
        return true
      end, 6, "all to use it again")
      socket.sleep(0.3)
      local commands = load:finish()
      for _, policy in ipairs(policies) do
        local first
        for _, c in ipairs(commands) do
          if c.client == policy.name and not c.error and c.done > back and (not first or c.done < first) then first = c.done end
        end
        local answered, failed = probes(policy.way, master, gone)
        local marked = #marks(policy.way, master, "failing")
        print(("%-12s first request %4.0f ms after the return; probes: %d while it was away, %d answered; marked %d times"):format(
          policy.name, first and (first - back) * 1000 or -1, failed, answered, marked))
        assert.is_not_nil(first, policy.name .. " never used it again")
        assert.is_true(first - back < policy.longest, ("%s: %.2f s"):format(policy.name, first - back))
        -- Several workers have seen it break: one series of probes, of which one answer is enough.
        assert.is_true(answered <= 1, ("%s: %d probes answered"):format(policy.name, answered))
        assert.is_true(failed <= 2 / 0.16 + 1, ("%s: %d probes failed"):format(policy.name, failed))
        assert.equal(policy.time and 0 or 1, answered)
        -- Only a mark that ends by itself while the node is away has to be made again.
        assert.equal(1, marked, policy.name)
        policy.way:stop()
      end
    end)
  end)

  describe("a node that is back, under each shipped policy", function()
    -- The longest from its return to its first request. What only looks at rates of failures, or at many in a row, takes no
    -- node out for two seconds' refusals: it is used at once.
    local longest = {
      default = 3.4, ride_through = 1.3, fail_fast = 1, go_redis = 4.5, tko = 2.5, drain = 1.5,
      bounded_staleness = 3.4, retry_budget = 3.4, zone_reads = 3.4,
      antiflap = 1, circuit_breaker = 1, haproxy = 1, backoff = 3.4, -- it marks as the default does
      -- As many failures in a row as take a node out may come in two seconds, or not: then the host looks after it.
      outlier = 4.5, success_rate = 4.5,
    }
    local options = { tko = { initial = 1 } }

    it("is used again within its bound", function()
      local ways, clients = {}, {}
      for path in io.popen("ls policies/*.lua"):lines() do
        local name = path:match "([%w_]+)%.lua$"
        assert.is_number(longest[name], name .. " has no bound here")
        ways[name] = kit.wayside { cluster = cluster, workers = workers, policy = path, options = options[name] }
        local counter = key("shipped-" .. name)
        for _ = 1, 2 do
          clients[#clients + 1] = { name = name, target = ways[name]:target(how), every = 0.02,
            make = function() return { { "INCR", counter } } end }
        end
      end
      for name, way in pairs(ways) do assert.equal(1, way:call("INCR", key("shipped-" .. name))) end
      local load = openloop.start { folder = kit.folder(), clients = clients }
      socket.sleep(0.5)
      local gone = socket.gettime()
      master:refuse()
      socket.sleep(2)
      local back = socket.gettime()
      master:accept()
      socket.sleep(4.6) -- the longest of them, and no condition would say more
      local commands = load:finish()
      for name, way in pairs(ways) do
        local first
        for _, c in ipairs(commands) do
          if c.client == name and not c.error and c.done > back and (not first or c.done < first) then first = c.done end
        end
        local answered, failed = probes(way, master, gone)
        print(("%-18s first request %4.0f ms after the return; probes: %d while it was away, %d answered; marked %d times"):format(
          name, first and (first - back) * 1000 or -1, failed, answered, #marks(way, master, "failing")))
        assert.is_not_nil(first, name .. " never used it again")
        assert.is_true(first - back < longest[name], ("%s: %.2f s"):format(name, first - back))
        assert.is_true(failed <= 2 / 0.16 + 1, ("%s: %d probes failed"):format(name, failed))
        way:stop()
      end
    end)
  end)

  -- Reads where both nodes are asked alike; a probe each 0.1 s.
  local SERIES = [[
local wayside = require "wayside"
return wayside.policy {
  name = "series",
  pick = "random",
  mark = function(_, _, event)
    if event.error then return { state = "failing", reason = event.error, connections = "drop" } end
    if event.kind == "probe" then return { state = "healthy" } end
  end,
  probe = function(_, node) if node.state == "failing" then return { after = 0.1, timeout = 0.5 } end end,
}
]]

  describe("a node that several workers of two processes see die", function()
    it("42: is marked once, probed in one series, and avoided by all at once", function()
      local policy, segment = kit.file("series.lua", SERIES), kit.folder() .. "/series.seg"
      local ways, clients = {}, {}
      for i = 1, 2 do
        ways[i] = kit.wayside { cluster = cluster, policy = policy, workers = workers, how = how, segment = segment }
        for _ = 1, 4 do clients[#clients + 1] = ways[i]:client(nil, 10) end
      end
      assert.equal("OK", clients[1]:call("SET", key "series", "v"))
      assert.equal(1, master:call("WAIT", 1, 2000))
      local get = { "GET", key "series" }
      for _ = 1, 16 do
        for _, client in ipairs(clients) do assert.equal("v", kit.show(client:call(unpack(get)))) end
      end
      -- Each worker has a connection. All of them end in one moment, and from then on the node only loads.
      local node = replica:script(function(words)
        if words[1]:upper() == "GET" then return "-LOADING Redis is loading the dataset in memory\r\n" end
      end)
      kit.owned { stop = function() replica:unscript() end }
      local bytes = kit.resp.encode(get)
      for _, client in ipairs(clients) do client:send_raw(bytes:rep(32)) end
      for _, client in ipairs(clients) do
        for _ = 1, 32 do assert.equal("v", kit.show((client:read_reply()))) end
      end
      for _, way in ipairs(ways) do way:wait_state(replica, "failing") end
      local marked = #marks(ways[1], replica, "failing") + #marks(ways[2], replica, "failing")
      -- From here on only probes come to it.
      node:forget()
      local began = socket.gettime()
      while socket.gettime() < began + 1.5 do
        for _, client in ipairs(clients) do assert.equal("v", kit.show(client:call(unpack(get)))) end
      end
      local took, probed, asked = socket.gettime() - began, 0, 0
      for _, words in ipairs(node:received "GET") do
        if words[2] == get[2] then asked = asked + 1 else probed = probed + 1 end
      end
      print(("two processes of %d workers: %d mark, %d probes in %.1f s at one each 0.1 s"):format(workers, marked, probed, took))
      assert.equal(1, marked)
      assert.equal(0, asked)
      assert.is_true(probed >= 3 and probed <= took / 0.1 + 2, probed)
    end)
  end)

  describe("a frozen master", function()
    it("44: is marked by the read deadline, and no dial brings it back, though each succeeds", function()
      local way = kit.wayside { cluster = cluster, policy = "policies/ride_through.lua", workers = workers, how = how, options = { wait = 0.1,
        timeout = 0.2 }, timeouts = { read = 0.3 } }
      local client = way:client(nil, 10)
      assert.equal("OK", client:call("SET", key "frozen", "v"))
      assert.equal(1, master:call("WAIT", 1, 2000))
      wait_greeted(way)
      master:freeze()
      kit.owned { stop = function() master:thaw() end }
      local began = socket.gettime()
      assert.equal("v", client:call("GET", key "frozen"))
      local found = socket.gettime() - began
      assert.is_true(found > 0.25 and found < 0.3 + 0.25, found)
      local event = way:wait_event { ["function"] = "mark", to = "failing", node = master.address }
      assert.equal("read", event.phase)
      assert.equal("timeout", event.error)
      -- Its kernel goes on accepting what probes dial.
      local _, before = master.mitm:connections()
      local ended = socket.gettime() + 1.2
      while socket.gettime() < ended do
        assert.equal("failing", way:node(master).state)
        assert.equal("v", kit.show(client:call("GET", key "frozen")))
      end
      local _, after = master.mitm:connections()
      local _, failed = probes(way, master, began)
      print(("frozen: found after %.0f ms, %d dials accepted since, %d probes without an answer"):format(found * 1000, after - before,
        failed))
      assert.is_true(failed >= 2 and after - before >= 2, way:show_events())
      master:thaw()
      way:wait_state(master, "healthy")
      assert.equal("OK", client:call("SET", key "frozen", "again"))
    end)
  end)

  -- The default's answers, quicker; reads go to the replica while they can.
  local FLAPPING = [[
local wayside = require "wayside"
return wayside.policy {
  name = "flapping",
  pick = "replica",
  options = { wait = { default = 0.1 }, wait_max = { default = 0.8 }, ramp = { default = 0 } },
}
]]

  describe("a node whose probes succeed and whose first request fails", function()
    it("46: stays out longer each time, up to the cap", function()
      local way = kit.wayside { cluster = cluster, policy = kit.file("flapping.lua", FLAPPING), workers = workers, how = how }
      assert.equal("OK", way:call("SET", key "flapping", "v"))
      assert.equal(1, master:call("WAIT", 1, 2000))
      wait_greeted(way)
      replica:script(function(words)
        if words[1]:upper() == "GET" and words[2]:find "flapping" then return { { close = "rst" } } end
        if words[1]:upper() == "GET" then return "$-1\r\n" end
      end)
      kit.owned { stop = function() replica:unscript() end }
      local client, rounds = way:client(nil, 10), kit.count(6, 9)
      kit.wait_for(function()
        assert.equal("v", kit.show(client:call("GET", key "flapping"))) -- nobody sees anything of it
        return #marks(way, replica, "failing") >= rounds
      end, 20, rounds .. " rounds")
      local out, since = {}, nil
      for _, event in ipairs(way:events { ["function"] = "mark", node = replica.address }) do
        if event.to == "failing" and not since then
          since = event.time
        elseif event.to == "healthy" and since then
          out[#out + 1] = event.time - since
          since = nil
        end
      end
      local text = {}
      for i, seconds in ipairs(out) do text[i] = ("%.2f"):format(seconds) end
      print("flapping, out for (s): " .. table.concat(text, ", "))
      assert.is_true(#out >= rounds - 1, #out)
      for i, seconds in ipairs(out) do
        local wait = math.min(0.8, 0.1 * 2 ^ (i - 1))
        assert.is_true(seconds > 0.8 * wait - 0.02 and seconds < 1.2 * wait + 0.35, ("round %d: %.3f s, told to wait %.1f"):format(i,
          seconds, wait))
      end
    end)
  end)

  -- Out for a moment, then two commands decide.
  local TRIALS = [[
local wayside = require "wayside"
return wayside.policy {
  name = "trials",
  pick = "replica",
  mark = function(_, node, event)
    if event.kind == "expiry" and node.state == "failing" then return { state = "probing", trials = 2 } end
    if event.error then return { state = "failing", seconds = 0.3, reason = event.error } end
    if node.state == "probing" then return { state = "healthy", reason = "trial" } end
  end,
  backoff = function() return { retry = "other" } end,
  probe = function() end,
}
]]

  describe("half-open", function()
    it("as many commands as the policy said are let through, whatever comes, and they decide", function()
      local way = kit.wayside { cluster = cluster, policy = kit.file("trials.lua", TRIALS), workers = 4 }
      assert.equal("OK", way:call("SET", key "trials", "v"))
      assert.equal(1, master:call("WAIT", 1, 2000))
      local node = replica:script(function(words)
        if words[1]:upper() == "GET" then return "-LOADING Redis is loading the dataset in memory\r\n" end
      end)
      kit.owned { stop = function() if replica.scripted then replica:unscript() end end }
      local clients = {}
      for i = 1, 8 do clients[i] = way:client(nil, 10) end
      local get = { "GET", key "trials" }
      for _, client in ipairs(clients) do assert.equal("v", kit.show(client:call(unpack(get)))) end
      way:wait_state(replica, "failing")
      node:forget()
      local before, bytes = #marks(way, replica, "probing"), kit.resp.encode(get)
      kit.wait_for(function()
        for _, client in ipairs(clients) do client:send_raw(bytes) end
        for _, client in ipairs(clients) do assert.equal("v", kit.show((client:read_reply()))) end
        -- The last round is over, too.
        return #marks(way, replica, "probing") - before >= 4 and way:node(replica).state == "failing"
      end, 10, "four rounds of trials")
      local rounds, asked = #marks(way, replica, "probing") - before, #node:received "GET"
      print(("half-open: %d rounds of two trials, %d commands came"):format(rounds, asked))
      assert.is_true(asked >= rounds and asked <= 2 * rounds, asked)
      replica:unscript()
      kit.wait_for(function()
        for _, client in ipairs(clients) do assert.equal("v", kit.show(client:call(unpack(get)))) end
        return way:node(replica).state == "healthy"
      end, 5, "a trial to bring it back")
      assert.equal("trial", way:node(replica).reason)
    end)
  end)

  -- The default's answers, with reads at random.
  local RAMP = [[
local wayside = require "wayside"
return wayside.policy {
  name = "ramp",
  pick = "random",
  options = { wait = { default = 0.1 }, ramp = { default = 2 } },
}
]]

  describe("slow start", function()
    it("a node that is back gets little at first, and its share of the reads in the end", function()
      local way = kit.wayside { cluster = cluster, policy = kit.file("ramp.lua", RAMP), workers = workers, how = how }
      local client = way:client(nil, 10)
      assert.equal("OK", client:call("SET", key "ramp", "v"))
      assert.equal(1, master:call("WAIT", 1, 2000))
      wait_greeted(way)
      replica:refuse()
      local batch = {}
      for i = 1, 50 do batch[i] = { "GET", key "ramp" } end
      kit.wait_for(function()
        for _, reply in ipairs(client:pipeline(batch)) do assert.equal("v", kit.show(reply)) end
        return way:node(replica).state == "failing"
      end, 5, "the replica to be out")
      replica:accept()
      local back = way:wait_state(replica, "healthy") and socket.gettime()
      local share, windows = {}, 5
      for i = 1, windows do
        local before, sent = replica:calls "get", 0
        repeat
          client:pipeline(batch)
          sent = sent + #batch
        until socket.gettime() > back + i * 0.5
        share[i] = (replica:calls "get" - before) / sent
      end
      print(("slow start over 2 s, the node's share by half seconds: %.2f %.2f %.2f %.2f %.2f"):format(unpack(share)))
      assert.is_true(share[1] > 0 and share[1] < 0.25, share[1])
      assert.is_true(share[5] > 0.4 and share[5] < 0.6, share[5])
      assert.is_true(share[1] < share[3] and share[3] < share[5])
    end)
  end)

  describe("a whole cluster that pauses", function()
    it("32: is served again by itself when the pause is over", function()
      local PAUSE = 5
      local way = kit.wayside { cluster = cluster, policy = "policies/default.lua", workers = workers, how = how }
      wait_greeted(way)
      local keys = { kit.key_in(100, "pause"), kit.key_in(6000, "pause"), kit.key_in(12000, "pause") }
      local client = way:client(nil, 15)
      for _, one in ipairs(keys) do assert.equal("OK", client:call("SET", one, "v")) end
      local load = openloop.start { folder = kit.folder(), clients = {
        { name = "reads", target = way:target(), every = 0.05, make = function(n) return { { "GET", keys[n % 3 + 1] } } end },
        { name = "writes", target = way:target(), every = 0.05, make = function(n) return { { "SET", keys[n % 3 + 1], "v" } } end },
      } }
      local over = socket.gettime() + PAUSE
      for _, node in ipairs(cluster.nodes) do node:connect():call("CLIENT", "PAUSE", PAUSE * 1000, "ALL") end
      socket.sleep(over - socket.gettime())
      kit.wait_for(function()
        for _, node in ipairs(way:nodes()) do
          if node.state ~= "healthy" then return false, node.address .. " is " .. node.state end
        end
        return true
      end, 8, "every node to be healthy")
      local recovered = socket.gettime() - over
      for _, one in ipairs(keys) do assert.equal("v", kit.show(client:call("GET", one))) end
      local sent = socket.gettime()
      socket.sleep(0.5)
      local after = openloop.sum(load:finish(), function(c) return c.sent > sent end)
      print(("paused for %.0f s: all well again %.2f s after it"):format(PAUSE, recovered))
      assert.is_true(after.n > 10)
      assert.equal(0, after.failed, openloop.show(after))
      assert.is_true(recovered < 5, recovered)
    end)
  end)

  describe("a failover that completes while a probe of the old master is pending", function()
    it("50: brings it back as a replica, not as a master", function()
      local other = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 }
      -- The probe is answered when the node is thawed, long after its successor was elected.
      local way = kit.wayside { cluster = other, policy = "policies/ride_through.lua", options = { wait = 0.1, timeout = 8 },
        workers = workers, how = how, timeouts = { read = 0.3, total = 10 } }
      local old, successor = other:node(1), other:node(4)
      local client, counter = way:client(nil, 12), key "pending"
      assert.equal(1, client:call("INCR", counter))
      old:freeze()
      client:call("GET", counter) -- the read deadline finds it
      way:wait_state(old, "failing")
      socket.sleep(0.3) -- a probe is on its way
      kit.wait_for(function() return successor:is_master() end, 15, "the replica to be promoted")
      assert.equal(2, client:call("INCR", counter))
      local before = old.frozen and #way:events { kind = "probe", node = old.address }
      old:thaw()
      local thawed = socket.gettime()
      local load = openloop.start { folder = kit.folder(), clients = {
        { name = "writes", target = way:target(), every = 0.005, make = function() return { { "INCR", counter } } end },
      } }
      kit.wait_for(function()
        local record = way:node(old)
        return record.state == "healthy" and record.role == "replica", record.state .. " " .. record.role
      end, 10, "it to be back as a replica")
      local took = socket.gettime() - thawed
      local all = openloop.sum(load:finish())
      print(("old master: back as a replica %.2f s after it was thawed, %d writes meanwhile, %d failed"):format(took, all.n, all.failed))
      assert.is_true(#way:events { kind = "probe", node = old.address } > before, "no probe was pending")
      assert.equal(0, all.failed, openloop.show(all))
      assert.equal(tostring(2 + all.n), successor:call("GET", counter))
      assert.equal("master", way:node(successor).role)
      -- Nobody took it for a master again: no write came to it.
      for _, event in ipairs(way:events { ["function"] = "backoff", commands = "writes" }) do
        assert.is_true(event.time < thawed, way:show_events())
      end
    end)
  end)
end)
