--- wayside in nginx: Redis Cluster for the Lua of a gateway, under the policy that the operator wrote.
--
--     init_by_lua_block {
--       wayside = require("resty.wayside").new {
--         cluster = { seeds = { "10.0.0.1:6379" } }, policy = { file = "/etc/wayside/policy.lua" },
--         segment = "/run/wayside/gateway.seg", timeouts = { dial = 0.1, read = 0.3, total = 0.5 } }
--     }
--     init_worker_by_lua_block { wayside:start() }
--     ...
--     local replies, err = wayside:pipeline { { "GET", "k" }, { "INCR", "hits" } }
--
-- A pipeline may have a transaction in it, { "MULTI" } to { "EXEC" } on keys of one slot: one request, whose answer is EXEC's.
--
-- libwayside routes, decides and explains; nginx's own sockets carry the bytes, one light thread for each
-- node that is concerned. The keys of `new` are those of the daemon's configuration file (where `listen`,
-- `workers` and `admin` mean nothing), and three more: `library` (where libwayside.so is), `pool_size` (idle
-- connections per node and worker, 64) and `pool_idle` (seconds that they are kept, 60).
--
-- TLS to nodes (`cluster.tls`) is spoken by libwayside as well: nginx's sockets carry its records, and nginx.conf's
-- lua_ssl_* directives play no part.
--
-- A policy runs in a Lua state of libwayside's own, so that nothing it does reaches nginx's.
local ffi = require "ffi"

ffi.cdef [[
struct way_gateway;
struct way_gateway_job;
struct way_gateway_conn;
struct way_gateway_error { char text[1024]; };
struct way_gateway_step {
    struct way_gateway_conn *conn;
    const char *host;
    const char *pool;
    double seconds;
    int port;
    int more;
};
struct way_gateway_result {
    const char *reply;
    size_t bytes;
    int type;
    const char *error, *phase, *step, *certainty, *class_name, *verdict, *node, *state;
};
size_t way_gateway_abi(void);
int way_gateway_new(struct way_gateway **out, const char *text, size_t n, unsigned kept, double seconds,
    struct way_gateway_error *error);
int way_gateway_tls(const struct way_gateway *g);
int way_gateway_start(struct way_gateway *g, struct way_gateway_error *error);
void way_gateway_free(struct way_gateway *g);
double way_gateway_tick(struct way_gateway *g);
struct way_gateway_job *way_gateway_begin(struct way_gateway *g, double seconds);
void way_gateway_add(struct way_gateway_job *j, const char *p, size_t n);
int way_gateway_next(struct way_gateway_job *j, struct way_gateway_step *step);
int way_gateway_result(struct way_gateway_job *j, unsigned i, struct way_gateway_result *out);
void way_gateway_end(struct way_gateway_job *j);
int way_gateway_up(struct way_gateway_conn *c, int reused);
int way_gateway_sent(struct way_gateway_conn *c);
int way_gateway_in(struct way_gateway_conn *c, const char *p, size_t n);
size_t way_gateway_out(struct way_gateway_conn *c, const char **p);
void way_gateway_failed(struct way_gateway_conn *c, int sending, const char *words);
double way_gateway_due(struct way_gateway_conn *c);
int way_gateway_release(struct way_gateway_conn *c);
int way_gateway_reload(struct way_gateway *g, const char *policy, struct way_gateway_error *error);
int way_gateway_reloaded(struct way_gateway *g, struct way_gateway_error *text);
const char *way_gateway_status(struct way_gateway *g);
const char *way_gateway_why(struct way_gateway *g, const char *node);
const char *way_gateway_events(struct way_gateway *g, double *after);
]]

local VERSION = 2 -- of these declarations
local OVER, MOVE = 0, 1
local SEND, RECEIVE = 1, 2
local RECEIVE_BYTES = 65536
local LEAST_SLEEP = 0.001
local TURNS = 1000 -- of a timer, before a new one takes over: what a timer allocates is freed with it

local concat, type, tonumber, tostring, ipairs, pairs = table.concat, type, tonumber, tostring, ipairs, pairs
local ffi_string, ffi_gc, ffi_new = ffi.string, ffi.gc, ffi.new
local ngx = ngx
local tcp, null, get_phase = ngx.socket.tcp, ngx.null, ngx.get_phase
local spawn, wait_thread, kill_thread, sleep = ngx.thread.spawn, ngx.thread.wait, ngx.thread.kill, ngx.sleep
local update_time = ngx.update_time

--- Where nginx lets Lua use sockets.
local PHASES = { rewrite = true, server_rewrite = true, access = true, content = true, timer = true,
  ssl_cert = true, ssl_session_fetch = true, ssl_client_hello = true }

local C -- the library

local function load_library(path)
  if C then return C end
  local tried = {}
  for _, name in ipairs(path and { path } or { "libwayside.so.0", "/usr/local/lib/libwayside.so.0" }) do
    local ok, found = pcall(ffi.load, name)
    if ok then
      C = found
      break
    end
    tried[#tried + 1] = tostring(found)
  end
  if not C then error("resty.wayside: libwayside can't be loaded: " .. concat(tried, "; "), 0) end
  local abi = VERSION * 1000000 + ffi.sizeof "struct way_gateway_step" * 1000 + ffi.sizeof "struct way_gateway_result"
  if tonumber(C.way_gateway_abi()) ~= abi then
    error("resty.wayside: this file and libwayside are of different versions", 0)
  end
  return C
end

-- ---- configuration ----

local function source(value, path)
  local kind = type(value)
  if kind == "string" then return ("%q"):format(value) end
  if kind == "number" then return ("%.17g"):format(value) end
  if kind == "boolean" then return tostring(value) end
  if kind ~= "table" then error("resty.wayside: " .. path .. ": expected text, number, boolean or table, got " .. kind, 0) end
  local out = {}
  for key, each in pairs(value) do
    if type(key) ~= "string" and type(key) ~= "number" then
      error("resty.wayside: " .. path .. ": expected keys that are names, got a " .. type(key), 0)
    end
    local name = type(key) == "number" and ("[%d]"):format(key) or ("[%q]"):format(key)
    out[#out + 1] = name .. " = " .. source(each, path .. "." .. tostring(key))
  end
  return "{ " .. concat(out, ", ") .. " }"
end

local OWN_KEYS = { library = "string", pool_size = "number", pool_idle = "number" }

local function take_own_keys(options)
  local own, rest = {}, {}
  for key, value in pairs(options) do
    if OWN_KEYS[key] then
      if type(value) ~= OWN_KEYS[key] or (OWN_KEYS[key] == "number" and not (value > 0 and value < 1e6)) then
        error(("resty.wayside: %s: expected a %s, got %s"):format(key,
          OWN_KEYS[key] == "number" and "number above 0" or "path", tostring(value)), 0)
      end
      own[key] = value
    else
      rest[key] = value
    end
  end
  return own, rest
end

-- ---- commands and replies ----

local LENGTHS = {}
for n = 0, 256 do LENGTHS[n] = "\r\n$" .. n .. "\r\n" end

local function bad_command(i, what, got)
  error(("resty.wayside: command %d: expected %s, got %s"):format(i, what, type(got)), 3)
end

--- One command as a multi bulk.
local function encode(command, i)
  if type(command) ~= "table" then bad_command(i, "a list of words", command) end
  local n = #command
  if n == 0 then bad_command(i, "at least one word", nil) end
  local out = { "*" .. n }
  for k = 1, n do
    local word = command[k]
    if type(word) == "number" then word = tostring(word) end
    if type(word) ~= "string" then bad_command(i, "text or number as word " .. k, word) end
    out[2 * k] = LENGTHS[#word] or "\r\n$" .. #word .. "\r\n"
    out[2 * k + 1] = word
  end
  out[2 * n + 2] = "\r\n"
  return concat(out)
end

local WORDS = { "phase", "step", "error", "certainty", "class", "verdict", "node", "state", "message" }
local Failure = {}
Failure.__index = Failure
Failure.__tostring = function(self)
  local out = {}
  for _, name in ipairs(WORDS) do
    if self[name] then out[#out + 1] = name .. "=" .. self[name] end
  end
  return concat(out, " ")
end

--- An error reply that is an answer.
local function answer_error(message)
  return setmetatable({ phase = "read", step = "reply", error = "reply", certainty = "answered", class = "answer",
    message = message }, Failure)
end

--- The value at `at` of RESP text that is whole; and where the next begins.
local function decode(text, at)
  local kind, line, after = text:sub(at, at), text:match("^([^\r]*)\r\n()", at + 1)
  if kind == "+" then return line, after end
  if kind == ":" then return tonumber(line), after end
  if kind == "-" then return answer_error(line), after end
  local n = tonumber(line)
  if n < 0 then return null, after end
  if kind == "$" then return text:sub(after, after + n - 1), after + n + 2 end
  local list = {}
  for i = 1, n do list[i], after = decode(text, after) end
  return list, after
end

local BULK, STATUS, INTEGER, ERROR = ("$"):byte(), ("+"):byte(), (":"):byte(), ("-"):byte()

local function value_of(r)
  local kind = r.type
  if kind == BULK or kind == STATUS then return ffi_string(r.reply, r.bytes) end
  if kind == INTEGER then return tonumber(ffi_string(r.reply, r.bytes)) end
  if kind == 0 then return null end
  if kind == ERROR then return answer_error(ffi_string(r.reply, r.bytes)) end
  return (decode(ffi_string(r.reply, r.bytes), 1))
end

local function word(p)
  return p ~= nil and ffi_string(p) or nil
end

local function failure_of(r)
  return setmetatable({ error = word(r.error), phase = word(r.phase), step = word(r.step),
    certainty = word(r.certainty), class = word(r.class_name), verdict = word(r.verdict), node = word(r.node),
    state = word(r.state), message = r.type == ERROR and ffi_string(r.reply, r.bytes) or nil }, Failure)
end

-- ---- moving bytes ----

local out_place = ffi_new "const char *[1]" -- read before anybody else can run

--- Milliseconds that the next step of a connection may take. nginx counts them from the time of its last event: what a
--- handler has worked since is none of the node's.
local function due_ms(conn)
  update_time()
  return C.way_gateway_due(conn) * 1000
end

--- Dials, sends and receives until nothing is left to be done on the connection.
local function move(self, conn, host, port, pool)
  local sock = tcp()
  local ms = due_ms(conn)
  sock:settimeouts(ms, ms, ms)
  self.dial.pool = pool
  local ok, err = sock:connect(host, port, self.dial)
  if not ok then
    C.way_gateway_failed(conn, 0, err)
    C.way_gateway_release(conn)
    return
  end
  local what = C.way_gateway_up(conn, sock:getreusedtimes() > 0 and 1 or 0)
  while what == SEND or what == RECEIVE do
    ms = due_ms(conn)
    sock:settimeouts(ms, ms, ms)
    if what == SEND then
      local n = C.way_gateway_out(conn, out_place)
      ok, err = sock:send(ffi_string(out_place[0], n))
      if not ok then
        C.way_gateway_failed(conn, 1, err)
        break
      end
      what = C.way_gateway_sent(conn)
    else
      local bytes
      bytes, err = sock:receiveany(RECEIVE_BYTES)
      if not bytes then
        C.way_gateway_failed(conn, 0, err)
        break
      end
      what = C.way_gateway_in(conn, bytes, #bytes)
    end
  end
  if C.way_gateway_release(conn) == 1 then
    sock:setkeepalive(self.pool_idle)
  else
    sock:close()
  end
end

local function move_as(self, id, ...)
  move(self, ...)
  return id
end

local function sleep_as(id, seconds)
  sleep(seconds)
  return id
end

--- Waits until one of the threads has ended, and takes it off.
local function wait_for_one(threads)
  local list = {}
  for _, thread in pairs(threads) do list[#list + 1] = thread end
  local ok, id = wait_thread(unpack(list))
  if not ok then return nil, id end
  threads[id] = nil
  return true
end

--- Moves all that is to be moved until the job is over.
local function run(self, job)
  local step = ffi_new "struct way_gateway_step"
  local threads, count
  while true do
    local what = C.way_gateway_next(job, step)
    if what == OVER then break end
    if what == MOVE then
      local host = ffi_string(step.host)
      if host:find(":", 1, true) then host = "[" .. host .. "]" end
      local conn, port, pool = step.conn, step.port, ffi_string(step.pool)
      if step.more == 0 and not (threads and next(threads)) then
        move(self, conn, host, port, pool)
      else
        threads = threads or {}
        count = (count or 0) + 1
        threads[count] = spawn(move_as, self, count, conn, host, port, pool)
      end
    elseif not (threads and next(threads)) then
      sleep(step.seconds > 0 and step.seconds or LEAST_SLEEP)
    else
      if step.seconds > 0 and not threads.sleeper then threads.sleeper = spawn(sleep_as, "sleeper", step.seconds) end
      local ok, err = wait_for_one(threads)
      if not ok then return nil, err end
    end
  end
  for _, thread in pairs(threads or {}) do kill_thread(thread) end
  return true
end

-- ---- what users call ----

local Gateway = {}
Gateway.__index = Gateway

--- Sends commands to the nodes of their keys; those of one slot in their order.
---@param commands table list of commands, each a list of words (text or numbers)
---@param seconds number|nil how long it may take; timeouts.total is the default, and the most
---@return table|nil replies in the order of the commands: text, numbers, ngx.null, lists; or an error: a table of
---  phase, step, error, certainty, node, state, class, verdict and message
---@return table|string|nil the first error there is among them; the reason when there are no replies at all
function Gateway:pipeline(commands, seconds)
  local phase = get_phase()
  if not PHASES[phase] then return nil, "nginx has no sockets in the phase " .. phase end
  if not self.started then return nil, "not started: call start() in init_worker_by_lua" end
  local n = #commands
  if n == 0 then return {} end
  local words = {}
  for i = 1, n do words[i] = encode(commands[i], i) end
  local job = C.way_gateway_begin(self.handle, seconds or 0)
  if job == nil then return nil, "too many pipelines are under way" end
  ffi_gc(job, C.way_gateway_end) -- a request that is cut off leaves by this door
  for i = 1, n do C.way_gateway_add(job, words[i], #words[i]) end
  local ok, err = run(self, job)
  local replies, first = {}, err
  if ok then
    local result = self.result
    for i = 1, n do
      local failed = C.way_gateway_result(job, i - 1, result)
      local value = failed == 1 and failure_of(result) or value_of(result)
      if not first and getmetatable(value) == Failure then first = value end
      replies[i] = value
    end
  end
  ffi_gc(job, nil)
  C.way_gateway_end(job)
  return ok and replies or nil, first
end

--- One command: its reply; or nil and the error.
function Gateway:call(...)
  local replies, err = self:pipeline { { ... } }
  if err then return nil, err end
  return replies[1]
end

local function keep_time(premature, self)
  local exiting = ngx.worker.exiting
  for _ = 1, TURNS do
    if premature or exiting() then return end
    sleep(C.way_gateway_tick(self.handle))
  end
  local ok, err = ngx.timer.at(0, keep_time, self)
  if not ok and err ~= "process exiting" then
    ngx.log(ngx.ERR, "resty.wayside: no timer: topology and probes stand still in this worker: ", err)
  end
end

--- Begins work in this worker: from init_worker_by_lua.
function Gateway:start()
  if self.started then return true end
  local phase = get_phase()
  if phase == "init" then
    error("resty.wayside: start() belongs into init_worker_by_lua: workers are forked after init_by_lua", 2)
  end
  local failure = ffi_new "struct way_gateway_error"
  if C.way_gateway_start(self.handle, failure) < 0 then
    error("resty.wayside: " .. ffi_string(failure.text), 2)
  end
  local ok, err = ngx.timer.at(0, keep_time, self)
  if not ok then error("resty.wayside: no timer: " .. err, 2) end
  self.started = true
  return true
end

--- Puts another policy in charge for all workers, and for whoever shares the segment; or changes nothing.
---@param policy string|nil a file; nil: the one in charge is read again
---@return string|nil what is in charge now
---@return string|nil why nothing changed
function Gateway:reload(policy)
  local phase = get_phase()
  if not PHASES[phase] then return nil, "nginx can't wait in the phase " .. phase end
  local text = ffi_new "struct way_gateway_error"
  if C.way_gateway_reload(self.handle, policy, text) < 0 then return nil, ffi_string(text.text) end
  local done
  repeat
    sleep(C.way_gateway_tick(self.handle))
    done = C.way_gateway_reloaded(self.handle, text)
  until done ~= 0
  if done < 0 then return nil, ffi_string(text.text) end
  return ffi_string(text.text)
end

--- What there is to be known, as lines of logfmt: the policy, each node, the counters of this worker.
---@return string
function Gateway:status()
  return ffi_string(C.way_gateway_status(self.handle))
end

--- Why a node is in its state.
---@param node string its address, "host:port"
---@return string|nil lines
---@return string|nil reason
function Gateway:why(node)
  local text = C.way_gateway_why(self.handle, tostring(node))
  if text == nil then return nil, "no such node" end
  return ffi_string(text)
end

--- What this worker's journal has had since the entry numbered `after`, and where it stands now.
function Gateway:events(after)
  local place = ffi_new("double[1]", after or 0)
  local text = ffi_string(C.way_gateway_events(self.handle, place))
  return text, place[0]
end

local wayside = { _VERSION = "0.1.0" }

--- Reads the configuration, loads the policy once to prove it, maps the table: from init_by_lua, so that all
--- workers have it.
---@param options table see above; raises with what is wrong in it
---@return table gateway
function wayside.new(options)
  if type(options) ~= "table" then error("resty.wayside: new: expected a table, got " .. type(options), 2) end
  local own, rest = take_own_keys(options)
  load_library(own.library)
  local text = "return " .. source(rest, "new")
  local place, failure = ffi_new "struct way_gateway *[1]", ffi_new "struct way_gateway_error"
  local kept, seconds = own.pool_size or 64, own.pool_idle or 60
  if C.way_gateway_new(place, text, #text, kept, seconds, failure) < 0 then
    error("resty.wayside: " .. ffi_string(failure.text), 2)
  end
  return setmetatable({
    handle = ffi_gc(place[0], C.way_gateway_free), result = ffi_new "struct way_gateway_result",
    dial = { pool_size = C.way_gateway_tls(place[0]) == 1 and 1 or kept }, pool_idle = seconds * 1000,
  }, Gateway)
end

return wayside
