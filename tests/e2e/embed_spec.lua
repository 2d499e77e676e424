--- wayside inside a C program: the examples, as they are built, before a real cluster with nodes that die.
local stat = require "posix.sys.stat"
local kit = require "tests.support.kit"
local process = require "tests.support.process"

local VARIANT = (os.getenv "WAYSIDE" or ""):match "%-(%a+)$"
local BUILD = (os.getenv "BUILD_ROOT" or "build") .. (VARIANT and "/" .. VARIANT or "")

--- `make test` has built them, and with flags that a make of ours may not know.
local function built()
  local function age(path) return (stat.stat(path) or { st_mtime = 0 }).st_mtime end
  for _, name in ipairs { "embed", "embed_uv", "embed_static" } do
    local made = age(BUILD .. "/examples/" .. name)
    for _, source in ipairs { "core/wayside.h", ("examples/%s.c"):format(name:gsub("_static", "")) } do
      if made < age(source) then return false end
    end
    if name == "embed_static" and made < age(BUILD .. "/lib/libwayside.a") then return false end
  end
  return true
end

local started = 0
local function start(name, ...)
  started = started + 1
  local out = ("%s/%s.%d.out"):format(kit.folder(), name, started)
  local child = process.spawn { BUILD .. "/examples/" .. name, stdout = out, name = name, ... }
  kit.owned(child)
  return {
    text = function() return process.read_file(out) or "" end,
    wait_line = function(self, pattern, timeout)
      return kit.wait_for(function() return self.text():match(pattern), process.tail(out, 10) end, timeout or 10, pattern)
    end,
    totals = function(self)
      assert.is_true(child:wait(20), "still running: " .. process.tail(out, 20))
      assert.equal(0, child.status, self.text())
      local sent, answered, failed = self.text():match "sent=(%d+) answered=(%d+) failed=(%d+)"
      assert.is_truthy(sent, self.text())
      return tonumber(sent), tonumber(answered), tonumber(failed)
    end,
  }
end

describe("wayside in a C program", function()
  local cluster
  setup(function()
    if not built() then
      local status, text = kit.run { "make", "VARIANT=" .. (VARIANT or ""), "build", "examples", timeout = 300 }
      assert.equal(0, status, text)
    end
    cluster = kit.cluster { masters = 3, replicas = 3, node_timeout = 500 }
  end)

  -- The master dies once commands have been counted on it, so that some of them meet its death.
  local function kill_a_master()
    local victim = cluster:master_of(0)
    local before = victim:calls "incr"
    kit.wait_for(function() return victim:calls "incr" > before + 20 end, 10, "commands on the master that is to die")
    victim:kill()
    return victim
  end

  it("rides through a killed master: events, states, and no write lost without a word", function()
    cluster:wait_ok()
    local program = start("embed", cluster:seeds()[2], kit.count(4, 8))
    local victim = kill_a_master()
    finally(function() victim:restart() end)
    program:wait_line("event node=" .. victim.address:gsub("%p", "%%%0") .. " phase=%a+ step=%a+ error=%a+ class=%a+")
    local sent, answered, failed = program:totals()
    assert.equal(sent, answered + failed, program.text())
    assert.is_true(answered > sent * 0.9, program.text())
    -- What failed is told with its fate, and only what was in flight may fail, or was held in vain: the vote took longer.
    for line in program.text():gmatch "failed phase=[^\n]+" do
      assert.is_truthy(line:match "certainty=unknown" or line:match "error=no_node certainty=unsent", line)
    end
    assert.is_truthy(program.text():find("node=" .. victim.address .. " role=", 1, true), program.text())
  end)

  it("a verdict function in C decides where no policy is", function()
    cluster:wait_ok()
    local program = start("embed", cluster:seeds()[2], kit.count(3, 8), "own")
    local victim = kill_a_master()
    finally(function() victim:restart() end)
    local address = victim.address:gsub("%p", "%%%0")
    program:wait_line("event node=" .. address .. " [^\n]*question=mark verdict=\"failing 2 s")
    program:wait_line("event node=" .. address .. " [^\n]*question=backoff verdict=\"retry hold")
    local sent, answered, failed = program:totals()
    assert.equal(sent, answered + failed, program.text())
    assert.is_true(answered > sent * 0.9, program.text())
  end)

  it("embed_uv does the same beside libuv", function()
    cluster:wait_ok()
    local program = start("embed_uv", cluster:seeds()[2], kit.count(3, 8))
    local victim = kill_a_master()
    finally(function() victim:restart() end)
    local sent, answered, failed = program:totals()
    assert.equal(sent, answered + failed, program.text())
    assert.is_true(sent > 200 and answered > sent * 0.9, program.text())
  end)

  it("serves from the static library alone", function()
    cluster:wait_ok()
    local sent, answered, failed = start("embed_static", cluster:seeds()[2], 0.5):totals()
    assert.is_true(sent > 20, sent)
    assert.same({ sent, 0 }, { answered, failed })
  end)

  it("what is wrong in its configuration is told, and nothing is left running", function()
    local status, text = kit.run { BUILD .. "/examples/embed", "nonsense", 1 }
    assert.equal(1, status)
    assert.is_truthy(text:match "configuration:1: cluster%.seeds", text)
  end)

  describe("as it is installed", function()
    local root
    setup(function()
      root = kit.folder() .. "/root"
      local status, text = kit.run { "make", "VARIANT=" .. (VARIANT or ""), "DESTDIR=" .. root, "PREFIX=/usr", "install", timeout = 300 }
      assert.equal(0, status, text)
    end)

    local function sh(line, ...)
      local status, text = kit.run { "sh", "-c", line, "sh", root, ... }
      assert.equal(0, status, text)
      return text
    end

    it("builds a program with what pkg-config tells, which serves", function()
      cluster:wait_ok()
      local made = kit.folder() .. "/installed"
      sh([[PKG_CONFIG_PATH=$1/usr/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$1; export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
        cc -o "$2" examples/embed.c $(pkg-config --cflags --libs wayside) -Wl,-rpath,$1/usr/lib $3 -lhiredis -lev]], made,
        VARIANT == "asan" and "-fsanitize=address,undefined" or VARIANT == "tsan" and "-fsanitize=thread" or "-O1")
      local status, text = kit.run { made, cluster:seeds()[1], "0.5" }
      assert.equal(0, status, text)
      local sent, failed = text:match "sent=(%d+) answered=%d+ failed=(%d+)"
      assert.equal("0", failed, text)
      assert.is_true(tonumber(sent) > 0, text)
    end)

    it("shows what its header and its map name, under one version, and nothing else", function()
      local map, shown, static = {}, {}, {}
      for name in kit.process.read_file("core/wayside.map"):gmatch "(way_[%w_]+);" do map[name] = true end
      for name, version in sh("nm -D --defined-only $1/usr/lib/libwayside.so.0"):gmatch " T ([%w_]+)(@*[%w_]*)" do
        assert.equal("@@WAYSIDE_0", version, name)
        shown[name] = true
      end
      for name in sh("nm -g --defined-only $1/usr/lib/libwayside.a"):gmatch " [A-Z] ([%w_]+)" do
        if not name:find "^__" then static[name] = true end
      end
      assert.same(map, shown)
      assert.same(map, static)
      for name in kit.process.read_file("core/wayside.h"):gmatch "[ *](way_host_[%w_]+)%(" do
        if not name:find "_fn$" then assert.is_true(map[name], name) end
      end
      -- LuaJIT is one for all in the process: linked into the library it would be a second one.
      assert.matches("NEEDED%s+libluajit%-5%.1%.so%.2\n", sh "objdump -p $1/usr/lib/libwayside.so.0 | tr -s ' '")
      assert.matches("SONAME%s+libwayside%.so%.0\n", sh "objdump -p $1/usr/lib/libwayside.so.0 | tr -s ' '")
      assert.equal("libwayside.so.0", (sh("readlink $1/usr/lib/libwayside.so"):gsub("%s", "")))
    end)

    it("gives nginx its module", function()
      local way = kit.gateway { cluster = cluster, timeouts = { total = 2 },
        http = ('lua_package_path "%s/usr/share/lua/5.1/?.lua;;";'):format(root), package_path = false,
        config = { library = root .. "/usr/lib/libwayside.so.0" } }
      assert.equal("PONG", (way:call "PING"))
      assert.equal("OK", (way:call("SET", "installed", 1)))
    end)
  end)
end)
