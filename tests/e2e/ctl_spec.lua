--- wayside ctl: the console's answers as tables a person can read, and as JSON a program can.
local kit = require "tests.support.kit"
local process = require "tests.support.process"

local program = os.getenv "WAYSIDE" or "bin/wayside"

local function ctl(...)
  local errors = os.tmpname()
  local words = { program, "ctl", ... }
  words.name, words.stderr = "wayside ctl", errors
  local status, text = kit.run(words)
  local wrong = process.read_file(errors) or ""
  os.remove(errors)
  return status, text, wrong
end

local function lines(text)
  local list = {}
  for line in text:gmatch "[^\n]+" do list[#list + 1] = line end
  return list
end

describe("wayside ctl", function()
  local cluster, way
  setup(function()
    cluster = kit.cluster { masters = 1, replicas = 1, node_timeout = 500 }
    way = kit.wayside { cluster = cluster, policy = "policies/default.lua", workers = 1 }
    way:wait_event { kind = "change" }
  end)

  it("prints nodes as a table whose columns stand under each other", function()
    local status, text, wrong = ctl("--console", way.console, "nodes")
    assert.equal(0, status, wrong)
    local rows = lines(text)
    assert.equal(3, #rows, text)
    assert.is_truthy(rows[1]:find "^id +address +role", text)
    for _, name in ipairs { "address", "role", "state" } do
      local at = rows[1]:find("%f[%w]" .. name .. "%f[%W]")
      for i = 2, 3 do assert.is_truthy(rows[i]:sub(at - 1, at - 1) == " " and rows[i]:sub(at, at) ~= " ", text) end
    end
    assert.is_truthy(text:find(cluster:node(1).address, 1, true), text)
  end)

  it("is not needed where redis-cli is: the console is read by that as well, by its owner alone", function()
    local socket = way.console:gsub("^unix:", "")
    for _, resp in ipairs { "-2", "-3" } do
      local status, text = kit.run { "redis-cli", resp, "-s", socket, "WAYSIDE", "NODES" }
      assert.equal(0, status, text)
      assert.is_truthy(text:find(cluster:node(1).address, 1, true), text)
      assert.is_truthy(text:find("address", 1, true) and text:find("healthy", 1, true), text)
      status, text = kit.run { "redis-cli", resp, "-s", socket, "WAYSIDE", "HELP" }
      assert.equal(0, status, text)
      assert.is_truthy(text:find("WAYSIDE WHY node", 1, true), text)
    end
  end)

  it("is never on the clients' port: its commands are unknown there, and change nothing", function()
    local node = cluster:node(2)
    for _, how in ipairs { "tcp", "unix" } do
      local client = way:client(how)
      for _, words in ipairs { { "RELOAD" }, { "NODES" }, { "MARK", node.address, "failing" }, { "DRAIN", node.address } } do
        local reply = client:call("WAYSIDE", unpack(words))
        assert.is_true(kit.is_error(reply, "ERR unknown command"), kit.show(reply))
      end
    end
    assert.equal("healthy", way:node(node).state)
    assert.is_nil(way:log():find "reload=")
  end)

  it("takes the console's address from the configuration", function()
    local status, text = ctl("-c", way.file, "policy")
    assert.equal(0, status, text)
    assert.is_truthy(text:find "\nfunctions +%[", text)
    assert.is_truthy(text:find "^name +default\n", text)
    assert.is_truthy(text:find "\nset_aside +no\n", text)
  end)

  it("prints JSON of the types that the console told", function()
    local status, text = ctl("--console", way.console, "--json", "policy")
    assert.equal(0, status, text)
    assert.is_truthy(text:find '\n  "name": "default",\n', text)
    assert.is_truthy(text:find '\n  "set_aside": false,\n', text)
    assert.is_truthy(text:find '\n  "calls": %d+,\n', text)
    assert.is_truthy(text:find '\n  "options": {', text)
    status, text = ctl("--json", "--console", way.console, "nodes")
    assert.equal(0, status, text)
    assert.is_truthy(text:find "^%[\n  {\n", text)
    assert.is_truthy(text:find '"weight": 1%.0', text)
    status, text = ctl("--json", "--console", way.console, "EVENTS", "0")
    assert.equal(0, status, text)
    assert.equal("[]\n", text)
  end)

  it("prints words line by line", function()
    local status, text = ctl("--console", way.console, "why", cluster:node(2).address)
    assert.equal(0, status, text)
    assert.is_truthy(lines(text)[1]:find(cluster:node(2).address .. " (replica) is healthy", 1, true), text)
    status, text = ctl("--console", way.console, "help")
    assert.equal(0, status, text)
    for _, word in ipairs { "MARK node state", "DRAIN node", "UNMARK node", "WHY node" } do
      assert.is_truthy(text:find(word, 1, true), text)
    end
  end)

  it("marks, and takes back", function()
    local status, text = ctl("--console", way.console, "mark", cluster:node(2).address, "failing", "60")
    assert.equal(0, status, text)
    assert.is_truthy(text:find "from +healthy\nto +failing\nseconds +60\n", text)
    assert.equal("failing", way:node(cluster:node(2)).state)
    assert.equal(0, (ctl("--console", way.console, "unmark", cluster:node(2).address)))
    assert.equal("healthy", way:node(cluster:node(2)).state)
  end)

  it("ends with 1 on an error, whose words it says", function()
    local status, text, wrong = ctl("--console", way.console, "nodez")
    assert.equal(1, status, text)
    assert.equal("", text)
    assert.is_truthy(wrong:find "unknown subcommand 'nodez': did you mean WAYSIDE NODES", wrong)
    status, text, wrong = ctl("--console", "unix:/no/such/socket", "nodes")
    assert.equal(1, status, text)
    assert.is_truthy(wrong:find "console unix:/no/such/socket: No such file", wrong)
    status, text, wrong = ctl("nodes")
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "expected the console's address", wrong)
    status, text, wrong = ctl("--console", way.console)
    assert.equal(2, status, text)
    assert.is_truthy(wrong:find "expected COMMAND", wrong)
    -- Not a console at all: the clients' port answers otherwise.
    status, text, wrong = ctl("--console", way.tcp, "nodes")
    assert.equal(1, status, text)
    assert.is_truthy(wrong ~= "", "no words")
  end)
end)
