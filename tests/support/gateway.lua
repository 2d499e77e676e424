--- nginx with resty.wayside in it, as a test drives it.
--
--     local way = kit.gateway { cluster = cluster, policy = "policies/default.lua", segment = path, workers = 2 }
--     way:run { { "GET", "k" } }         one HTTP request that runs a pipeline: a list of replies
--
-- Over HTTP a value goes as a line: `= text`, `: number`, `~` for a null, `* n` before a list's elements, and
-- `! name=value ...` for an error.
local unistd = require "posix.unistd"
local daemon = require "tests.support.daemon"
local nginx = require "tests.support.nginx"
local waits = require "tests.support.wait"

local gateway = {}
local Gateway = setmetatable({}, { __index = function(_, name) return nginx.methods[name] end })
Gateway.__index = Gateway

gateway.library = unistd.getcwd() .. "/build/lib/libwayside.so.0"

local LOCATIONS = [[
location = /run { content_by_lua_block {
  local list, command = {}, nil
  for word in ngx.unescape_uri(ngx.var.args):gmatch "[^\n]+" do
    if word == "|" then command = nil
    else
      if not command then command = {} list[#list + 1] = command end
      command[#command + 1] = word:sub(1, 1) == "#" and ("x"):rep(tonumber(word:sub(2))) or word:sub(2)
    end
  end
  ngx.update_time()
  local replies, err = wayside:pipeline(list, tonumber(ngx.var.http_seconds))
  ngx.say(ngx.worker.pid())
  local function put(value)
    local kind = type(value)
    if value == ngx.null then ngx.say "~"
    elseif kind == "number" then ngx.say(": ", value)
    elseif kind == "string" then ngx.say("= ", ngx.escape_uri(value))
    elseif value.error then
      local out = {}
      for name, each in pairs(value) do out[#out + 1] = name .. "=" .. ngx.escape_uri(each) end
      table.sort(out)
      ngx.say("! ", table.concat(out, " "))
    else
      ngx.say("* ", #value)
      for i = 1, #value do put(value[i]) end
    end
  end
  if not replies then return ngx.say("? ", tostring(err)) end
  for _, value in ipairs(replies) do put(value) end
} }
location = /status { content_by_lua_block { ngx.say(ngx.worker.pid()) ngx.print(wayside:status()) } }
location = /events { content_by_lua_block {
  local text = wayside:events(0)
  ngx.say(ngx.worker.pid()) ngx.print(text) } }
location = /why { content_by_lua_block { ngx.print((wayside:why(ngx.var.arg_node))) } }
]]

local function http_text(options)
  local tls = options.tls
  if tls == nil and options.cluster then tls = options.cluster:tls() end
  local config = {
    library = gateway.library,
    cluster = { seeds = options.seeds or options.cluster:seeds(), tls = tls },
    timeouts = options.timeouts, limits = options.limits, segment = options.segment,
  }
  local policy = options.policy
  if policy and policy:sub(1, 1) ~= "/" then policy = unistd.getcwd() .. "/" .. policy end
  if policy then config.policy = { file = policy, options = options.options } end
  for key, value in pairs(options.config or {}) do config[key] = value end
  return ("init_by_lua_block { wayside = require('resty.wayside').new %s %s }\n"
    .. "init_worker_by_lua_block { %s }\n%s"):format(daemon.source(config), options.init or "", options.init_worker or "wayside:start()",
    options.http or "")
end

function gateway.prepare(options)
  local self = nginx.prepare { folder = options.folder, workers = options.workers, user = options.user, modules = options.modules,
    package_path = options.package_path,
    http = http_text(options), locations = LOCATIONS .. (options.locations or "") }
  return setmetatable(self, Gateway)
end

--- Starts it, and waits until each worker knows all slots.
function gateway.start(options)
  local self = gateway.prepare(options)
  self:serve()
  if options.ready ~= false then self:wait_ready() end
  return self
end

function Gateway:wait_ready()
  waits.wait_for(function()
    for pid, text in pairs(self:on_each "/status") do
      if not text:find("slots_covered=1.0000", 1, true) then return false, pid .. ": " .. text end
    end
    return true
  end, 10, "each worker to know all slots; its log:\n" .. self:log())
end

local function unescape(text) return (text:gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end)) end

local function take_value(lines)
  local kind, rest = (lines() or "= cut off"):match "^(.) ?(.*)$"
  if kind == "=" then return unescape(rest) end
  if kind == ":" then return tonumber(rest) end
  if kind == "~" then return gateway.null end
  if kind == "*" then
    local list = {}
    for i = 1, tonumber(rest) do list[i] = take_value(lines) end
    return list
  end
  local err = {}
  for name, value in rest:gmatch "([%w_]+)=(%S*)" do err[name] = unescape(value) end
  return err
end
gateway.null = setmetatable({}, { __tostring = function() return "null" end })

--- The path of a request that runs these commands. A word { rep = n } is n times "x".
function gateway.path(commands)
  local words = {}
  for i, command in ipairs(commands) do
    if i > 1 then words[#words + 1] = "|" end
    for _, word in ipairs(command) do words[#words + 1] = type(word) == "table" and "#" .. word.rep or "=" .. tostring(word) end
  end
  local text = table.concat(words, "\n"):gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end)
  return "/run?" .. text
end

--- Replies to the commands in one request: values, `gateway.null`, lists, errors as tables; the worker's pid.
---@param commands table
---@param client table|nil a connection to be used
function Gateway:run(commands, client)
  local body, status = (client or self).get(client or self, gateway.path(commands))
  if status ~= 200 then return nil, ("%s %s"):format(tostring(status), tostring(body)) end
  local pid, rest = body:match "^(%d+)\n(.*)$"
  if rest:sub(1, 1) == "?" then return nil, rest:sub(3, -2) end
  local lines, replies = rest:gmatch "[^\n]+", {}
  for i = 1, #commands do replies[i] = take_value(lines) end
  return replies, tonumber(pid)
end

--- One command's reply.
function Gateway:call(...)
  local replies, why = self:run { { ... } }
  if not replies then return nil, why end
  return replies[1], why
end

--- What each worker holds of a node: pid -> state.
function Gateway:states(node)
  local found = {}
  for pid, text in pairs(self:on_each "/status") do
    found[pid] = text:match("node=" .. node.address:gsub("%p", "%%%0") .. " role=%a+ state=(%a+)") or "unknown"
  end
  return found
end

function Gateway:wait_states(node, state, timeout)
  return waits.wait_for(function()
    local seen = {}
    for _, each in pairs(self:states(node)) do seen[#seen + 1] = each end
    for _, each in ipairs(seen) do
      if each ~= state then return false, table.concat(seen, " ") end
    end
    return true
  end, timeout or 5, ("%s to be %s for each worker"):format(node.address, state))
end

--- Waits until each worker says that this policy, in this version, is in charge.
function Gateway:wait_version(policy, version)
  local wanted = ("policy=%s version=%s"):format(policy, version)
  waits.wait_for(function()
    for _, text in pairs(self:on_each "/status") do
      if not text:find(wanted, 1, true) then return false, text end
    end
    return true
  end, 8, wanted .. " on each worker")
end

--- The journal of all workers, entry by entry: tables of name -> value, and `line`.
function Gateway:events(want)
  local list = {}
  for pid, text in pairs(self:on_each "/events") do
    for line in text:gmatch "[^\n]+" do
      local entry = { line = line, pid = pid }
      for name, value in line:gmatch '([%w_]+)=(%b"")' do entry[name] = value:sub(2, -2) end
      for name, value in line:gsub('[%w_]+=%b""', ""):gmatch "([%w_]+)=(%S+)" do entry[name] = value end
      local fits = true
      for key, value in pairs(want or {}) do fits = fits and entry[key] == value end
      if fits then list[#list + 1] = entry end
    end
  end
  return list
end

return gateway
