--- The case this project comes from: reads spread at random over master and replica, one of
--- them refusing connections. Every pipeline must be answered.
local socket = require "socket"
local kit = require "tests.support.kit"

local cluster, gone
setup(function()
  -- The only master is killed: after its time-out the replica, no majority, would say CLUSTERDOWN to all reads.
  cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 60000 }
end)
after_each(function()
  if not gone then return end
  if gone.process:alive() then gone:accept() else gone:restart() end
  cluster:wait_ok()
end)

kit.matrix(function(workers, sockets)
  for _, victim in ipairs { "master", "replica" } do
    for _, how in ipairs { "refuse", "kill" } do
      describe(("random routing with the %s gone (%s)"):format(victim, how), function()
        it("1: answers 10,000 pipelines of reads without an error", function()
          local way = kit.wayside {
            cluster = cluster, policy = "policies/go_redis.lua", workers = workers, how = sockets,
          }
          local writes = {}
          for i = 1, 100 do writes[i] = { "SET", "k" .. i, i } end
          for _, reply in ipairs(way:client():pipeline(writes)) do assert.equal("OK", reply) end
          assert.equal(1, cluster:node(1):call("WAIT", 1, 2000))
          local clients = {}
          for i = 1, 16 do clients[i] = way:client(nil, 10) end

          local node = cluster:node(victim == "master" and 1 or 2)
          gone = node
          local function pipelines(count)
            local errors, slowest, first = 0, 0, nil
            for i = 1, count do
              local commands, from = {}, kit.random.int(0, 90)
              for j = 1, 10 do commands[j] = { "GET", "k" .. from + j } end
              local began = socket.gettime()
              local replies = clients[i % 16 + 1]:pipeline(commands, 10)
              slowest = math.max(slowest, socket.gettime() - began)
              for j = 1, 10 do
                if replies[j] ~= tostring(from + j) then
                  errors, first = errors + 1, first or kit.show(replies[j])
                end
              end
            end
            return errors, slowest, first
          end

          assert.equal(0, (pipelines(500)))
          node[how](node)
          local errors, slowest, first = pipelines(10000)
          print(("%s %s: %d errors in 10,000 pipelines, slowest %.1f ms"):format(victim, how, errors, slowest * 1000))
          assert.equal(0, errors, first)
          assert.is_true(slowest < 2, slowest)
          -- A master of which nothing hard is known stays as a last resort: suspect.
          local state = kit.wait_for(function()
            local now = way:node(node).state
            return now ~= "healthy" and now, now
          end, 5, "a mark")
          assert.is_true(state == "failing" or victim == "master" and state == "suspect", state)
          -- Marked means avoided: a dial for every few pipelines would be the old fault again.
          local dials = way:events { kind = "connection", node = node.address, ["function"] = "mark" }
          assert.is_true(#dials < 100, #dials .. " dials failed")
        end)
      end)
    end
  end
end)
