--- The journal on disk, and what replay makes of it: nothing is lost without being counted, nothing stops because of
-- it, and the policy that made it answers the same again.
local stat = require "posix.sys.stat"
local kit = require "tests.support.kit"
local metrics = require "tests.support.metrics"
local ports = require "tests.support.ports"
local process = require "tests.support.process"
local unistd = require "posix.unistd"

local program = os.getenv "WAYSIDE" or "bin/wayside"

local function size_of(path)
  local found = stat.stat(path)
  return found and found.st_size or -1
end

local function lines_of(path)
  local list = {}
  for line in (process.read_file(path) or ""):gmatch "[^\n]+" do list[#list + 1] = line end
  return list
end

--- The exit status, standard output and standard error of a replay.
local function replay(...)
  local errors = os.tmpname()
  local words = { program, "replay", ... }
  words.name, words.stderr = "wayside replay", errors
  local status, text = kit.run(words)
  local wrong = process.read_file(errors) or ""
  os.remove(errors)
  return status, text, wrong
end

local function wait_line(path, pattern)
  return kit.wait_for(function()
    for _, line in ipairs(lines_of(path)) do
      if line:find(pattern) then return line end
    end
    return false, ("%d lines in %s"):format(#lines_of(path), path)
  end, 5, "a line with " .. pattern)
end

local function journal(name) return kit.folder() .. "/" .. name .. ".jsonl" end

-- ---- journals of faults ----

describe("a journal of faults", function()
  local cluster
  setup(function() cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 } end)
  before_each(function() cluster:wait_ok() end)

  --- Serves, does `what` under load for a while, stops; the journal's path.
  local function recorded(policy, name, what)
    local file = journal(name)
    local way = kit.wayside { cluster = cluster, policy = policy, workers = 2, config = { journal = { file = file } },
      timeouts = { dial = 0.3, read = 0.3 } }
    local client = way:client()
    local function load(seconds)
      local till = os.time() + seconds
      repeat
        local batch = {}
        for slot = 0, 15 do batch[#batch + 1] = { slot % 2 == 0 and "GET" or "SET", kit.key_in(slot * 1024, "k"), "v" } end
        for _, words in ipairs(batch) do if words[1] == "GET" then words[3] = nil end end
        client:pipeline(batch)
      until os.time() > till
    end
    load(0)
    what(way, load)
    local seen = #way:events()
    way:stop()
    assert.is_true(#lines_of(file) >= seen, ("%d lines, %d events"):format(#lines_of(file), seen))
    return file
  end

  local function same_again(file, policy)
    local status, text, wrong = replay(file, policy)
    assert.equal(0, status, text .. wrong)
    assert.is_truthy(text:find "\n0 differences\n", text)
    assert.is_truthy(text:find "each as it was asked", text)
    assert.is_nil(text:find "could not be asked", text)
    local _, again = replay(file, policy)
    assert.equal(text, again)
    return text
  end

  it("of a frozen node, by a policy that counts", function()
    local node = cluster:master_of(0)
    local file = recorded("policies/tko.lua", "frozen", function(way, load)
      node:freeze()
      load(1)
      way:wait_event { error = "timeout" }
      node:thaw()
      load(0)
    end)
    same_again(file, "policies/tko.lua")
    assert.is_truthy(process.read_file(file):find '"counters":{"node":%[%[')
  end)

  it("of a refused replica, with random reads", function()
    local replica = cluster:replicas_of(0)[1]
    local file = recorded("policies/go_redis.lua", "refused", function(way, load)
      replica:refuse()
      load(1)
      way:wait_event { kind = "connection" }
      replica:accept()
      load(0)
    end)
    same_again(file, "policies/go_redis.lua")
  end)

  -- Strikes are remembered by mark; a sweep compares the nodes, draws, marks, forgives and forgets.
  local SWEEPS = [[
    local wayside = require "wayside"
    return wayside.policy {
      name = "sweeps", every = %s, pick = "random",
      memory = { node = { strikes = 0, sweeps = 0 }, cluster = { marks = 0 } },
      counters = { failed = wayside.window { seconds = 60 } },
      mark = function(self, node, event)
        if not event.error or event.kind == "probe" then return nil end
        node.memory.strikes = node.memory.strikes + 1
        self.cluster.memory.marks = self.cluster.memory.marks + 1
        return { state = "suspect", reason = "strike" .. node.memory.strikes }
      end,
      tick = function(self, nodes, event)
        local answers, most = {}, 0
        for _, node in ipairs(nodes) do most = math.max(most, node.memory.strikes) end
        for _, node in ipairs(nodes) do
          node.memory.sweeps = node.memory.sweeps + wayside.random()
          if most > 0 and node.memory.strikes == most then
            node.memory.strikes = 0
            node.counters.failed:reset()
            answers[#answers + 1] = { node = node, state = "failing", seconds = 0.2 + 0.2 * wayside.random(),
              reason = "swept" .. self.cluster.memory.marks .. "of" .. node.counters.failed.volume }
          elseif node.state == "suspect" and node.memory.strikes == 0 then
            answers[#answers + 1] = { node = node, state = "healthy", reason = "forgiven" }
          end
        end
        return answers
      end,
    }]]

  it("of a killed replica, by a policy that sweeps and remembers: its sweeps are asked again too", function()
    local replica = cluster:replicas_of(0)[1]
    local sweeps = kit.file("sweeps.lua", SWEEPS:format "0.1")
    local file = recorded(sweeps, "swept", function(way, load)
      replica:kill()
      kit.wait_for(function()
        load(0)
        return #way:events { ["function"] = "tick", to = "failing" } >= 2
      end, 10, "two sweeps that mark")
      replica:restart()
      load(1)
    end)
    cluster:wait_ok()
    local text = same_again(file, sweeps)
    local asked = tonumber(text:match "each as it was asked:[^\n]* tick (%d+)")
    -- Every node of a sweep has its part, whether it was marked or not.
    assert.is_true(asked >= 2 * 6 and asked % 6 == 0, text)
    assert.is_truthy(text:find("recorded: %a+ %-> failing swept"), text)

    -- Another one is asked at the same times, another interval at its own.
    local other = kit.file("others.lua", (SWEEPS:format "0.1":gsub("0.2 %+", "3 +"):gsub("swept", "other")))
    local status, told, wrong = replay(file, other)
    assert.equal(1, status, told .. wrong)
    assert.is_truthy(told:find ': tick: recorded "failing [^"]*swept%d+[^"]*" [^\n]*, now "failing [^"]*other', told)
    assert.equal(told, select(2, replay(file, other)))
    local slower = kit.file("slower.lua", (SWEEPS:format "0.7"))
    status, told, wrong = replay(file, slower)
    assert.equal(1, status, told .. wrong)
    assert.is_truthy(told:find "of sweeps %(tick%) when this policy had none due", told)
    assert.is_truthy(told:find " now: %a+ %-> failing swept", told)
  end)

  it("of a killed master: the policy that made it answers the same, another's differences are named", function()
    local master = cluster:master_of(0)
    local file = recorded("policies/default.lua", "killed", function(way, load)
      master:kill()
      load(2)
      way:wait_event { error = "refused", ["function"] = "mark" }
    end)
    local text = same_again(file, "policies/default.lua")
    assert.is_truthy(text:find(master.address .. " recorded: %a+ %-> failing"), text)

    local status, other, wrong = replay(file, "policies/fail_fast.lua")
    assert.equal(1, status, other .. wrong)
    assert.is_truthy(other:find "states and memory the policy's own", other)
    assert.is_truthy(other:find(master.address .. '[^\n]*: mark: recorded "[^\n]*, now "failing connections drop'), other)
    assert.is_truthy(other:find(master.address .. " now: %a+ %-> failing"), other)
    assert.is_truthy(other:find "\n[1-9]%d* differences", other)
    local _, again = replay(file, "policies/fail_fast.lua")
    assert.equal(other, again)

    -- The same file with another option is another policy; asked as it was it is refused.
    status, text, wrong = replay("--as-asked", file, "policies/fail_fast.lua")
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "can't be asked again", wrong)
  end)
end)

-- ---- the file ----

describe("the journal's file", function()
  local cluster
  setup(function() cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 500 } end)

  local function serve(settings, options)
    local all = { cluster = cluster, policy = "policies/default.lua", workers = 1, config = { journal = settings } }
    for key, value in pairs(options or {}) do all[key] = value end
    return kit.wayside(all)
  end

  --- Events without end: an operator's mark and its taking back are two each.
  local function make_entries(way, n)
    local address = cluster:node(2).address
    for _ = 1, n do
      way:ask("WAYSIDE", "MARK", address, "suspect")
      way:ask("WAYSIDE", "UNMARK", address)
    end
  end

  it("begins with a header, and has a line for each entry, in the words of the contract", function()
    local file = journal "header"
    local way = serve { file = file }
    way:wait_event { kind = "change" }
    local header = wait_line(file, "wayside_journal")
    assert.is_truthy(header:find '"wayside_journal":1,"wayside":"%d', header)
    assert.is_truthy(header:find '"name":"default"', header)
    local line = wait_line(file, '"change":"added"')
    for _, word in ipairs { '"function":"mark"', '"seed":"%x+"', '"asking":1', '"commit":%d', '"view":{', '"memory":{', '"after":{' } do
      assert.is_truthy(line:find(word), word .. " in " .. line)
    end
    assert.equal("rw-r-----", stat.stat(file) and (function()
      local mode, text = stat.stat(file).st_mode, ""
      for bit, letter in ("rwxrwxrwx"):gmatch "()(.)" do
        text = text .. (math.floor(mode / 2 ^ (9 - bit)) % 2 == 1 and letter or "-")
      end
      return text
    end)())
  end)

  it("is rotated at its bound, and only so many old ones are kept", function()
    local file = journal "rotated"
    local way = serve { file = file, max_bytes = 20000, keep = 2 }
    make_entries(way, 60)
    kit.wait_for(function() return size_of(file .. ".2") > 0, size_of(file) end, 5, "a second old file")
    make_entries(way, 60)
    way:stop()
    for _, name in ipairs { file, file .. ".1", file .. ".2" } do
      assert.is_truthy(lines_of(name)[1]:find "wayside_journal", name)
      assert.is_true(size_of(name) < 30000, name .. " has " .. size_of(name))
    end
    assert.equal(-1, size_of(file .. ".3"))
    local status, text, wrong = replay(file .. ".2", file .. ".1", file, "policies/default.lua")
    assert.equal(0, status, text .. wrong)
    assert.is_truthy(text:find " in 1 run,", text)
  end)

  it("tells a reload by a line of its own, and each policy answers the same again", function()
    local file = journal "reloaded"
    local way = serve { file = file }
    wait_line(file, '"change":"added"')
    local told = way:ask("WAYSIDE", "RELOAD", unistd.getcwd() .. "/policies/fail_fast.lua")
    assert.is_nil(type(told) == "table" and told.err or nil)
    wait_line(file, '^{"policy":"%x+","name":"fail%-fast"')
    kit.wait_for(function()
      for _, event in ipairs(way:events { ["function"] = "probe" }) do
        if event.where:find("fail_fast.lua", 1, true) then return true end
      end
      return false, way:show_events()
    end, 5, "the new policy to be asked")
    way:stop()
    for _, policy in ipairs { "policies/default.lua", "policies/fail_fast.lua" } do
      local status, text, wrong = replay("--as-asked", file, policy)
      assert.equal(0, status, text .. wrong)
      assert.is_truthy(text:find "\n%d+ were asked of another policy\n", text)
      assert.is_truthy(text:find "\n0 differences\n", text)
    end
  end)

  it("is opened anew when somebody moved it, and on SIGUSR1", function()
    local file = journal "moved"
    local way = serve { file = file }
    wait_line(file, "wayside_journal")
    os.rename(file, file .. ".old")
    way.process:kill "SIGUSR1"
    wait_line(file, "wayside_journal")
    make_entries(way, 1)
    wait_line(file, '"by_operator":true')
  end)

  it("that can't be written is logged and counted, stops nothing, and is tried again", function()
    local folder = kit.folder() .. "/later"
    local http = "127.0.0.1:" .. ports.free()
    local way = serve({ file = folder .. "/j.jsonl" }, { http = http })
    make_entries(way, 1)
    assert.equal("OK", way:call("SET", "a", "1"))
    kit.wait_for(function() return way:log():find 'journal=%S+ open="No such file' ~= nil, way:log() end, 5, "a complaint")
    kit.wait_for(function()
      local lost = metrics.read(http)['journal_unwritten_total{reason="file"}'] or 0
      return lost > 0, lost
    end, 5, "lost entries to be counted")
    process.make_folder(folder)
    wait_line(folder .. "/j.jsonl", "wayside_journal")
    make_entries(way, 1)
    wait_line(folder .. "/j.jsonl", '"by_operator":true')
  end)

  it("on a full disk is logged and counted, and every line that is there is whole", function()
    local file = journal "full"
    local http = "127.0.0.1:" .. ports.free()
    local way = serve({ file = file }, { http = http })
    wait_line(file, '"change":"added"')
    local bound = size_of(file) + 20000
    assert.equal(0, (kit.run { "prlimit", "--fsize=" .. bound, "--pid", tostring(way.process.pid) }))
    make_entries(way, 40)
    kit.wait_for(function()
      local lost = metrics.read(http)['journal_unwritten_total{reason="file"}'] or 0
      return lost > 0, lost
    end, 5, "lost entries to be counted")
    assert.equal("OK", way:call("SET", "a", "1"))
    assert.is_true(size_of(file) <= bound, size_of(file))
    assert.equal("\n", process.read_file(file):sub(-1))
    local status, text, wrong = replay(file, "policies/default.lua")
    assert.equal(0, status, text .. wrong)
    assert.is_nil(text:find "cut short", text)
  end)

  it("survives kill -9 at any moment, and the next start goes on with it", function()
    local file = journal "kill9"
    for _ = 1, 2 do
      local way = serve { file = file }
      make_entries(way, 30)
      way:kill()
    end
    -- What a kill may leave, if the disk is slower than ours.
    local text = process.read_file(file)
    process.write_file(file, text:sub(1, -40))
    local way = serve { file = file }
    kit.wait_for(function()
      local headers = 0
      for _, line in ipairs(lines_of(file)) do
        if line:find "wayside_journal" then headers = headers + 1 end
      end
      return headers == 3, headers
    end, 5, "three headers")
    way:stop()
    local status, told, wrong = replay(file, "policies/default.lua")
    assert.equal(0, status, told .. wrong)
    assert.is_truthy(told:find " in 3 runs,", told)
    assert.is_truthy(told:find "\n1 line cut short by a crash\n", told)
  end)
end)

-- ---- what replay is given ----

describe("replay", function()
  it("tells bad lines with file and line, and counts them", function()
    local cluster = kit.cluster { masters = 1, replicas = 0, node_timeout = 500 }
    local file = journal "bad"
    local way = kit.wayside { cluster = cluster, policy = "policies/default.lua", config = { journal = { file = file } } }
    wait_line(file, '"change":"added"')
    way:stop()
    local lines = lines_of(file)
    local damaged = kit.file("damaged.jsonl", table.concat({
      lines[1], "no JSON at all", lines[2], (lines[2]:gsub('"phase":"%a+"', '"phase":"inward"')), "[1,2]", lines[2], "" }, "\n"))
    local status, text, wrong = replay(damaged, "policies/default.lua")
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find("damaged.jsonl:2: column", 1, true), wrong)
    assert.is_truthy(wrong:find('damaged.jsonl:4: event: phase: no such word: "inward"', 1, true), wrong)
    assert.is_truthy(wrong:find("damaged.jsonl:5: expected", 1, true), wrong)
    assert.is_truthy(text:find "\n3 bad lines\n", text)

    local none = kit.file("empty.jsonl", "")
    status, text, wrong = replay(none, "policies/default.lua")
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "holds no entry", wrong)
    status, text, wrong = replay("/no/such/journal", "policies/default.lua")
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "No such file", wrong)
    status, text, wrong = replay(file, kit.file("broken.lua", "return {"))
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "broken.lua:1:", wrong)
    status, text, wrong = replay(file)
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "expected JOURNAL and POLICY", wrong)
  end)
end)
