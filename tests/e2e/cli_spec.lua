--- The command line: what it prints, what it refuses and in which words.
local socket = require "posix.sys.socket"
local poll = require "posix.poll"
local unistd = require "posix.unistd"
local kit = require "tests.support.kit"

local program = os.getenv "WAYSIDE" or "bin/wayside"
local port = require("tests.support.ports").free()

--- Runs it to its end: status, standard output, standard error.
local function wayside(...)
  local out, err = kit.file("stdout", ""), kit.file("stderr", "")
  local words = { program, ... }
  words.name, words.stdout, words.stderr, words.timeout = "wayside", out, err, 20
  local status = kit.run(words)
  return status, kit.process.read_file(out), kit.process.read_file(err)
end

--- Runs it with words that it must refuse: its standard error, without the test's folder.
local function refused(status, ...)
  local got, out, err = wayside(...)
  assert.equal("", out)
  assert.equal(status, got, err)
  local folder = kit.file("x", ""):match "^(.*/)"
  return (err:gsub(folder:gsub("%p", "%%%0"), ""))
end

--- Refused as bad usage: the first line says why, the second where to look.
local function bad_usage(...)
  local first, second, rest = refused(2, ...):match "^(.-)\n(.-)\n(.*)$"
  assert.equal("wayside: see wayside --help", second)
  assert.equal("", rest)
  return first
end

--- A configuration that is well but for what is put into it.
local function configuration(more)
  return kit.file("conf.lua", ([[
return {
  listen = "127.0.0.1:%d",
  cluster = { seeds = "127.0.0.1:1" },
  %s
}
]]):format(port, more or ""))
end

describe("wayside", function()
  it("helps: every command, every flag, and nothing on standard error", function()
    for _, word in ipairs { "--help", "-h" } do
      local status, out, err = wayside(word)
      assert.equal(0, status)
      assert.equal("", err)
      local wanted = { "serve", "check", "--listen", "--cluster", "--policy", "--option", "--workers", "--console",
        "--http", "--segment", "--timeout", "--limit", "--log-level", "-c, --config", "-h, --help", "-V, --version" }
      for _, want in ipairs(wanted) do
        assert.is_truthy(out:find(want, 1, true), "no " .. want .. " in\n" .. out)
      end
    end
    assert.equal(0, (wayside("serve", "--help")))
    assert.equal(0, (wayside("check", "--help")))
  end)

  it("tells its version and its libraries'", function()
    for _, word in ipairs { "--version", "-V" } do
      local status, out, err = wayside(word)
      assert.equal(0, status)
      assert.equal("", err)
      local patterns = { "^wayside %d+%.%d+%.%d+\n", "\nLuaJIT 2%.1", "\nhiredis %d+%.%d+%.%d+\n", "\nlibev 4%.%d+\n",
        "\nOpenSSL %d", "\nc%-ares 1%.%d+", "\nlibmicrohttpd %d" }
      for _, pattern in ipairs(patterns) do assert.is_truthy(out:find(pattern), pattern .. " is not in\n" .. out) end
    end
  end)

  it("ends with 1 when what was asked for can't be written", function()
    local child = kit.owned(kit.process.spawn { program, "--help", name = "wayside", stdout = "/dev/full" })
    assert.is_true(child:wait(20))
    assert.equal(1, child.status)
  end)

  it("answers bad usage with 2, the reason and a suggestion", function()
    local rows = {
      { "expected a command: serve, check, reload, replay, ctl or test" },
      { "expected a command before flags: serve, check, reload, replay, ctl or test", "--listen", "127.0.0.1:1" },
      { "serv: unknown command, did you mean serve?", "serv" },
      { "frobnicate: unknown command, expected serve, check, reload, replay, ctl or test", "frobnicate" },
      { "--lisen: unknown option, did you mean --listen?", "serve", "--lisen=x" },
      { "--verzion: unknown option, did you mean --version?", "serve", "--verzion" },
      { "--frobnicate: unknown option", "serve", "--frobnicate" },
      { "-x: unknown option", "serve", "-x" },
      { "--listen: expected ADDRESS, got nothing", "serve", "--listen" },
      { "-c: expected FILE, got nothing", "serve", "-c" },
      { "-c: expected one file, got two", "serve", "-c", "a", "-c", "b" },
      { "conf.lua: expected no further word", "serve", "conf.lua" },
      { "check: expected FILE, got nothing", "check" },
      { "test: expected FILE, got nothing", "test" },
      { "ctl: expected COMMAND, got nothing: ctl help lists them", "ctl" },
      { "replay: expected JOURNAL and POLICY, got one word", "replay", "a" },
      { "--json: belongs to ctl", "replay", "--json", "a", "b" },
      { "--evolve: belongs to replay", "serve", "--evolve" },
      { "--evolve: expected --as-asked or --evolve, got both", "replay", "--as-asked", "--evolve", "a", "b" },
      { '--workers: expected an integer from 1 to 64, got "many"', "serve", "--workers", "many" },
      { '--workers: expected an integer from 1 to 64, got 65', "serve", "--workers=65" },
      { '--listen: expected "host:port" or "unix:/path", got "6380"', "serve", "--listen=6380" },
      { "--timeout: reed: unknown name, did you mean read?", "serve", "--timeout", "reed=1" },
      { '--timeout: read: expected seconds (number, 0.001 to 3600), got "1s"', "serve", "--timeout", "read=1s" },
      { '--limit: guard: expected true or false, got "no"', "check", "--limit", "guard=no", "any.lua" },
      { '--option: expected name=value, got "x"', "serve", "--option", "x" },
    }
    for _, row in ipairs(rows) do assert.equal("wayside: " .. row[1], bad_usage(unpack(row, 2))) end
  end)
end)

describe("the table of time-outs and limits", function()
  local table_text
  setup(function() table_text = select(2, wayside("check", "--defaults")) end)

  it("has name, default, bounds, and what is seen when one is hit", function()
    local rows = 0
    for name, text in table_text:gmatch "(%w+%.[%w_]+) = ([^\n]+\n    [^\n]+\n    when hit: [^\n]+)\n" do
      assert.is_truthy(text:match "^%S+ [^(]*%([^)]+%)\n", name .. ": " .. text)
      rows = rows + 1
    end
    local _, lines = table_text:gsub("\n", "")
    assert.equal(lines, rows * 3)
    assert.is_true(rows > 30, table_text)
    assert.is_truthy(table_text:find("timeouts.dial = 0.5 s (0.001 to 60)\n", 1, true), table_text)
    assert.is_truthy(table_text:find("limits.guard = true (true or false)\n", 1, true), table_text)
  end)

  it("is the manual's", function()
    local _, roff = wayside("check", "--defaults=roff")
    local page = kit.process.read_file "core/wayside.conf.5"
    local written = page:match '\n%.\\" settings begin[^\n]*\n(.-)%.\\" settings end\n'
    assert.is_true(written == roff, "core/wayside.conf.5 is not up to date: put the output of "
      .. "`wayside check --defaults=roff` between its markers")
  end)

  it("is the example's, entry by entry and in its order", function()
    local example = kit.process.read_file "examples/wayside.lua"
    local from = 1
    for group, name, value in table_text:gmatch "(%w+)%.([%w_]+) = (%S+)[^\n]*\n    [^\n]+\n    when hit: " do
      local shown = ("\n    -- %s = %s, "):format(name, value)
      local at = example:find(shown, from, true)
      assert.is_truthy(at, ("%s.%s = %s is not in examples/wayside.lua, or not in its place"):format(group, name,
        value))
      from = at
    end
  end)
end)

describe("the manual", function()
  it("has every flag, and the program's version", function()
    local page = kit.process.read_file "core/wayside.1"
    local plain = page:gsub("\\%-", "-")
    local _, help = wayside "--help"
    for flag in help:gmatch "\n  (%-%-[%w-]+)" do
      assert.is_truthy(plain:find(flag, 1, true), flag .. " is not in core/wayside.1")
    end
    local _, version = wayside "--version"
    for _, name in ipairs { "core/wayside.1", "core/wayside.conf.5" } do
      local written = kit.process.read_file(name):match '^%.TH %S+ %d "" "([^"]+)"'
      assert.equal(version:match "^[^\n]+", written, name)
    end
  end)
end)

describe("wayside check", function()
  it("says which policy a good configuration gets", function()
    local status, out, err = wayside("check", configuration())
    assert.equal("", err)
    assert.equal(0, status)
    assert.is_truthy(out:match "conf%.lua: ok %(configuration with policy default [%w.]+%)\n$", out)
  end)

  it("says name and version of a good policy", function()
    local file = kit.file("mine.lua", 'return { name = "mine", version = "7" }')
    local status, out, err = wayside("check", file)
    assert.equal("", err)
    assert.equal(0, status)
    assert.equal(file .. ": ok (policy mine 7)\n", out)
  end)

  it("finds good what the project ships", function()
    for _, file in ipairs { "examples/wayside.lua", "policies/default.lua", "policies/go_redis.lua" } do
      local status, out, err = wayside("check", file)
      assert.equal("", err)
      assert.equal(0, status)
      assert.equal(file .. ": ok", out:match "^[^(]*%f[ ]", out)
    end
  end)

  it("loads the policy that a configuration names, from its folder and with its options", function()
    kit.file("optional.lua", 'return { name = "optional", options = { size = { default = 1, min = 0, max = 9 } } }')
    local file = configuration 'policy = { file = "optional.lua", options = { size = 5 } }'
    local status, out = wayside("check", file)
    assert.equal(0, status)
    assert.equal(file .. ": ok (configuration with policy optional)\n", out)
    local text = refused(1, "check", "--option", "size=10", file)
    assert.is_truthy(text:match "^wayside: conf%.lua: policy: .*size.*9.*10", text)
    text = refused(1, "check", "--option", "sise=1", file)
    assert.is_truthy(text:match "^wayside: conf%.lua: policy: .*sise.*did you mean.*size", text)
  end)

  it("goes on after a bad file, and ends with 1", function()
    local good = kit.file("mine.lua", 'return { name = "mine" }')
    local bad = kit.file("bad.lua", "return {\n listne = 1 }")
    local status, out, err = wayside("check", bad, "absent.lua", good)
    assert.equal(1, status)
    assert.equal(good .. ": ok (policy mine)\n", out)
    assert.equal(("wayside: %s:2: listne: unknown key, did you mean listen?\n"):format(bad)
      .. "wayside: absent.lua: No such file or directory\n", err)
  end)

  it("takes flags into account", function()
    local file = kit.file("half.lua", "return { workers = 2 }")
    assert.equal("wayside: half.lua: listen: expected an address to serve on (or --listen), got nothing\n",
      refused(1, "check", file))
    local status = wayside("check", "--listen", "127.0.0.1:1", "--cluster=127.0.0.1:2", "--policy", "none", file)
    assert.equal(0, status)
  end)

  it("leaves nothing behind", function()
    local path = kit.file("left", "")
    os.remove(path)
    local file = configuration(('segment = %q, admin = { console = "unix:%s" }'):format(path, path .. ".sock"))
    assert.equal(0, (wayside("check", file)))
    assert.is_false(kit.process.exists(path))
    assert.is_false(kit.process.exists(path .. ".sock"))
  end)
end)

describe("wayside serve refuses", function()
  local function serve(...)
    return (refused(1, "serve", ...):gsub("\n$", ""))
  end

  it("a configuration that is missing or does not run", function()
    assert.equal("wayside: absent.lua: No such file or directory", serve("-c", "absent.lua"))
    assert.equal("wayside: conf.lua:2: unexpected symbol near '='",
      serve("-c", kit.file("conf.lua", "return {\n x = = 1 }")))
    assert.equal("wayside: conf.lua: expected the file to return a table, got nothing",
      serve("-c", kit.file("conf.lua", "")))
    assert.equal("wayside: conf.lua: is a policy, not a configuration (which would name it: "
      .. 'policy = "conf.lua"; or --policy)', serve("-c", kit.file("conf.lua", 'return { name = "x" }')))
  end)

  it("a bad key or value, with its line", function()
    assert.equal("wayside: conf.lua:4: worker: unknown key, did you mean workers?",
      serve("-c", configuration "worker = 2"))
    assert.equal("wayside: conf.lua:4: timeouts.read: expected seconds (number, 0.001 to 3600), got a string",
      serve("-c", configuration 'timeouts = { read = "1" }'))
  end)

  it("to start without a listener or a seed", function()
    assert.equal("wayside: listen: expected an address to serve on (or --listen), got nothing", serve())
    assert.equal("wayside: cluster.seeds: expected an address of a node (or --cluster), got nothing",
      serve("--listen", "127.0.0.1:" .. port))
  end)

  it("a policy that is missing, does not compile, raises or returns something else, and says why", function()
    local rows = {
      { nil, "gone%.lua: No such file or directory" },
      { "return {\n  name = = 1\n}", "p%.lua:2: unexpected symbol near '='" },
      { "local x\n\nerror 'no such luck'", "p%.lua:3: no such luck" },
      { "local x\nreturn x.y", "p%.lua:2: attempt to index local 'x' %(a nil value%)" },
      { "return 5", "p%.lua.*expected.*got.*5" },
      { "local x = 1", "p%.lua.*expected.*got" },
      { "return { version = '1' }", "p%.lua.*name.*expected" },
      { "return {\n name = 'x',\n marc = function() end }", "p%.lua:3: marc: .*did you mean '?mark'?%?" },
      { "return {\n name = 'x',\n mark = 5 }", "p%.lua:3: mark: expected .*got .*5" },
      { "while true do end", "p%.lua:1: .*instructions" },
      { "return { name = 'x', mark = io.open }", "p%.lua:1: " },
    }
    for _, row in ipairs(rows) do
      local file = row[1] and kit.file("p.lua", row[1]) or "gone.lua"
      local text = serve("--listen", "127.0.0.1:" .. port, "--cluster", "127.0.0.1:1", "--policy", file)
      assert.is_truthy(text:match("^wayside: .*" .. row[2]), text)
    end
  end)

  it("an address that is taken", function()
    local taken = kit.owned { fd = assert(socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0)),
      stop = function(self) unistd.close(self.fd) end }
    assert(socket.bind(taken.fd, { family = socket.AF_INET, addr = "127.0.0.1", port = port }))
    assert(socket.listen(taken.fd, 1))
    local address = "127.0.0.1:" .. port
    local text = serve("--listen", address, "--cluster", "127.0.0.1:1")
    assert.is_truthy(text:find(address, 1, true) and text:match "Address already in use", text)
  end)
end)

describe("wayside serve", function()
  it("tells its service manager when it serves and when it begins to stop", function()
    local path = kit.file("notify", "")
    os.remove(path)
    local fd = assert(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, 0))
    kit.owned { stop = function() unistd.close(fd) end }
    assert(socket.bind(fd, { family = socket.AF_UNIX, path = path }))
    local function told()
      return poll.rpoll(fd, 5000) == 1 and socket.recv(fd, 1024) or "nothing in 5 s"
    end
    local log = kit.file("log", "")
    local child = kit.owned(kit.process.spawn { program, "serve", "--listen", "127.0.0.1:" .. port, "--cluster",
      "127.0.0.1:1", name = "wayside", stdout = log, env = { NOTIFY_SOCKET = path } })
    assert.equal("READY=1", told(), kit.process.read_file(log))
    child:kill "SIGTERM"
    assert.equal("STOPPING=1", told(), kit.process.read_file(log))
    assert.is_true(child:wait(5), "it does not end")
    assert.equal(0, child.status, kit.process.read_file(log))
  end)
end)
