--- examples/openresty: each way is started by its one command, before a real cluster, and asked through while a master dies.
local unistd = require "posix.unistd"
local signal = require "posix.signal"
local kit = require "tests.support.kit"
local gateway = require "tests.support.gateway"
local nginx = require "tests.support.nginx"
local ports = require "tests.support.ports"
local process = require "tests.support.process"

local count = 0

--- The command in the foreground, as its reader would start it; serving when this returns.
local function start(way)
  count = count + 1
  local folder = ("%s/openresty-%d"):format(kit.folder(), count)
  process.make_folder(folder)
  local port, out = ports.free(), folder .. ".out"
  local child = process.spawn { "examples/openresty/run", way, port, name = way, stdout = out, stderr = out,
    env = { TMPDIR = folder, WAYSIDE = unistd.getcwd() .. "/" .. (os.getenv "WAYSIDE" or "bin/wayside"), WAYSIDE_LIBRARY = gateway.library } }
  kit.owned(child)
  kit.wait_for(function()
    if not child:alive() then error("the example ended:\n" .. process.tail(out, 30), 0) end
    return (process.read_file(out) or ""):find("serving on http://127.0.0.1:" .. port, 1, true), process.tail(out, 5)
  end, 20, "the example to serve")
  return { child = child, folder = folder, port = port, out = out,
    get = function(self, path) return nginx.methods.get(self, path, 10) end, connect = nginx.methods.connect }
end

--- The nodes as local-cluster told them: port, pid, role and slots.
local function nodes_of(example)
  local list = {}
  for path in io.popen("ls " .. example.folder .. "/*/nodes"):lines() do
    for port, pid, role, slots in process.read_file(path):gmatch "node port=(%d+) pid=(%d+) role=(%a+) id=%S+ ?s?l?o?t?s?=?([%d-]*)" do
      list[#list + 1] = { port = tonumber(port), pid = tonumber(pid), role = role, from = tonumber(slots:match "^%d+") or -1 }
    end
  end
  return list
end

describe("examples/openresty", function()
  for way, how in pairs { ["in-process"] = "ended", sidecar = "killed" } do
    it(way .. " serves a real cluster by one command, tells of a killed master, and is served again", function()
      local example = start(way)
      local body, status = example:get "/set?key=k&value=one"
      assert.equal(200, status, body)
      assert.matches("^written, as number %d+\n$", body)
      assert.equal("one\n", (example:get "/get?key=k"))
      assert.equal("(nothing)\n", (example:get "/get?key=none"))
      local victim
      for _, node in ipairs(nodes_of(example)) do
        if node.role == "master" and node.from == 0 then victim = node end
      end
      assert.is_table(victim, "no master of slot 0")
      local key = kit.key_in(0, "k"):gsub("[{}]", { ["{"] = "%7B", ["}"] = "%7D" })
      assert.equal(200, select(2, example:get("/set?key=" .. key .. "&value=two")))
      assert.equal(0, signal.kill(victim.pid, signal.SIGKILL))
      -- An error has the whole story, until the replica is the master.
      kit.wait_for(function()
        body, status = example:get("/set?key=" .. key .. "&value=three")
        if status == 200 then return true end
        assert.equal(503, status, body)
        for _, word in ipairs { "phase=%a+", "step=%a+", "certainty=%a+", "class=%a+", "node=127" } do assert.matches(word, body) end
        return false, body
      end, 20, "the slot to be served again")
      assert.equal("three\n", (example:get("/get?key=" .. key)))
      if way == "in-process" then
        local text = example:get "/wayside/status"
        assert.is_truthy(text:match "slots_covered=1%.0000", text)
        local why = example:get("/wayside/why?node=127.0.0.1:" .. victim.port)
        assert.is_truthy(why:match "refused" or why:match "eof" or why:match "reset" or why:match "no such node", why)
        assert.matches("^nothing changed: .*/nowhere.lua", (example:get "/wayside/reload?policy=/nowhere.lua"))
        local policy = unistd.getcwd() .. "/policies/fail_fast.lua"
        assert.matches("policy=fail%-fast", (example:get("/wayside/reload?policy=" .. policy)))
      end
      -- All that it started ends with it.
      local nodes = nodes_of(example)
      example.child:stop(how == "killed" and nil or 5)
      kit.wait_for(function()
        if example:connect() then return false, "nginx still serves" end
        for _, node in ipairs(nodes) do
          if process.exists("/proc/" .. node.pid) then return false, "node " .. node.pid end
        end
        return true
      end, 5, "all that it started to be gone")
    end)
  end

  it("says how it is called", function()
    local status, text = kit.run { "examples/openresty/run", "nonsense" }
    assert.equal(2, status)
    assert.matches("run in%-process|sidecar", text)
  end)
end)
