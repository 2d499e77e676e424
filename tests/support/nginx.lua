--- A real nginx with workers, as a test sees it: Debian's, with resty.wayside in it.
local unistd = require "posix.unistd"
local stat = require "posix.sys.stat"
local signal = require "posix.signal"
local socket = require "socket"
local ports = require "tests.support.ports"
local process = require "tests.support.process"
local waits = require "tests.support.wait"

local nginx = {}
local Nginx = {}
nginx.methods = Nginx
Nginx.__index = Nginx

local MODULES = "/usr/lib/nginx/modules"
local count = 0

--- The whole configuration. `http` goes into the http block, `locations` into its server.
local function configuration(self, options)
  local load = options.modules or { "ndk_http_module", "ngx_http_lua_module" }
  local modules = {}
  local path = options.package_path == false and "" or ('lua_package_path "%s/core/runtime/?.lua;;";'):format(unistd.getcwd())
  for i, name in ipairs(load) do modules[i] = ("load_module %s/%s.so;"):format(MODULES, name) end
  return ([[
%s
%s
daemon off;
worker_processes %d;
pid %s/nginx.pid;
error_log %s notice;
events { worker_connections 2048; }
http {
  access_log off;
  large_client_header_buffers 4 256k;
  client_body_temp_path %s/body; proxy_temp_path %s/proxy; fastcgi_temp_path %s/fastcgi;
  uwsgi_temp_path %s/uwsgi; scgi_temp_path %s/scgi;
  %s
  lua_socket_log_errors off;
  %s
  server {
    listen 127.0.0.1:%d reuseport;
    keepalive_requests 1000000;
    location = /pid { content_by_lua_block { ngx.say(ngx.worker.pid()) } }
    %s
  }
}
]]):format(table.concat(modules, "\n"), options.user and "user " .. options.user .. ";" or "", options.workers or 2,
    self.folder, self.errors, self.folder, self.folder, self.folder, self.folder, self.folder,
    path, options.http or "", self.port, options.locations or "")
end

--- Writes the configuration, without starting anything.
---@param options table `workers` 2, `user` (of workers; nginx's own choice if root starts it), `http`, `locations`,
---  `modules`, `folder`, `package_path` (false: `http` sets it)
function nginx.prepare(options)
  count = count + 1
  local self = setmetatable({ options = options }, Nginx)
  self.folder = ("%s/nginx-%d"):format(options.folder, count)
  assert(stat.mkdir(self.folder))
  self.port = ports.free()
  self.errors = self.folder .. "/error.log"
  self.file = self.folder .. "/nginx.conf"
  self:configure(options)
  self.words = { process.which "nginx" or "/usr/sbin/nginx", "-p", self.folder, "-c", self.file, "-e", self.errors,
    name = "nginx", stdout = self.errors, stderr = self.errors, env = options.env }
  return self
end

--- Another configuration, for the next start or HUP.
function Nginx:configure(options)
  for key, value in pairs(options) do self.options[key] = value end
  process.write_file(self.file, configuration(self, self.options))
end

function nginx.start(options)
  local self = nginx.prepare(options)
  self:serve()
  return self
end

function Nginx:serve()
  self.stopped = nil
  self.process = process.spawn(self.words)
  waits.wait_for(function()
    if not self.process:alive() then error("nginx ended:\n" .. process.tail(self.errors, 40), 0) end
    return (self:get "/pid"), process.tail(self.errors, 5)
  end, 10, "nginx to serve")
end

--- Starts it and expects it to end by itself: exit status and what it wrote.
function Nginx:refused()
  self.process = process.spawn(self.words)
  local ended = self.process:wait(5)
  self.process:stop()
  self.stopped = true
  return ended and self.process.status, self:log()
end

--- A connection that stays open: reuse it with :get.
function Nginx:connect(timeout)
  local sock = socket.tcp()
  sock:settimeout(timeout or 10)
  local ok, err = sock:connect("127.0.0.1", self.port)
  if not ok then return nil, err end
  return setmetatable({ sock = sock }, { __index = {
    get = function(c, path)
      local sent, why = c.sock:send("GET " .. path .. " HTTP/1.1\r\nHost: t\r\n\r\n")
      if not sent then return nil, why end
      return Nginx.read(c.sock)
    end,
    close = function(c) c.sock:close() end,
  } })
end

--- One response: body, status.
function Nginx.read(sock)
  local line, err = sock:receive "*l"
  if not line then return nil, err end
  local status, length, chunked = tonumber(line:match "^HTTP/1%.%d (%d+)"), nil, false
  repeat
    line, err = sock:receive "*l"
    if not line then return nil, err end
    length = length or tonumber(line:lower():match "^content%-length: (%d+)")
    chunked = chunked or line:lower() == "transfer-encoding: chunked"
  until line == ""
  if not chunked then return sock:receive(length or 0), status end
  local body = {}
  repeat
    local n = tonumber(sock:receive "*l" or "", 16)
    if not n then return nil, "cut off" end
    body[#body + 1] = n > 0 and sock:receive(n) or ""
    sock:receive "*l"
  until n == 0
  return table.concat(body), status
end

--- One request on a connection of its own: body, status.
function Nginx:get(path, timeout)
  local c, err = self:connect(timeout)
  if not c then return nil, err end
  local body, status = c:get(path)
  c:close()
  return body, status
end

--- The same request until each worker has answered one: pid -> body. The answer must begin with the pid's line.
function Nginx:on_each(path)
  local found, missing = {}, self.options.workers or 2
  waits.wait_for(function()
    local body = self:get(path) or ""
    local pid, rest = body:match "^(%d+)\n(.*)$"
    if pid and not found[tonumber(pid)] then
      found[tonumber(pid)] = rest
      missing = missing - 1
    end
    return missing == 0, body
  end, 10, "an answer of each worker to " .. path)
  return found
end

--- The pids of the workers that are not on their way out.
function Nginx:workers()
  local list = {}
  local children = process.read_file(("/proc/%d/task/%d/children"):format(self.process.pid, self.process.pid)) or ""
  for pid in children:gmatch "%d+" do
    local title = (process.read_file("/proc/" .. pid .. "/cmdline") or ""):gsub("%z", " ")
    if title:match "^nginx: worker process *$" then list[#list + 1] = tonumber(pid) end
  end
  return list
end

function Nginx:kill_worker(pid) signal.kill(pid, signal.SIGKILL) end

--- Reloads the configuration; returns once new workers serve.
function Nginx:hup()
  local before = {}
  for _, pid in ipairs(self:workers()) do before[pid] = true end
  self.process:kill "SIGHUP"
  waits.wait_for(function()
    local fresh = 0
    for _, pid in ipairs(self:workers()) do fresh = fresh + (before[pid] and 0 or 1) end
    return fresh == (self.options.workers or 2), process.tail(self.errors, 5)
  end, 10, "new workers")
end

function Nginx:log() return process.read_file(self.errors) or "" end

function Nginx:stop()
  if self.stopped or not self.process then return end
  self.stopped = true
  self.process:stop(5)
end

return nginx
