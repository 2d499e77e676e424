-- wayside.lua: a configuration with every key. See wayside.conf(5).
--
--   wayside check examples/wayside.lua
--   wayside serve -c examples/wayside.lua
--
-- It is Lua that returns one table; it may compute what it returns. Lines that are commented
-- out show the default. Seconds everywhere. Flags of the command line win.

return {
  -- Where clients are served: "host:port", "[ipv6]:port" or "unix:/path", one or a list.
  listen = { "127.0.0.1:6380", "unix:/run/wayside/redis.sock" },

  -- Threads that serve, 1 to 64. Each has connections of its own to every node, so take no
  -- more than the load needs.
  workers = 2,

  cluster = {
    -- Any nodes of the cluster; the others are learnt from them. Name several: they are all
    -- that is known at the start, and when all known nodes are gone.
    seeds = { "127.0.0.1:7000", "127.0.0.1:7001" },

    -- How to log in at the nodes. The file's first line is the password; it is meant from
    -- this file's folder. `password = "..."` says it here instead.
    -- user = "wayside",
    -- password_file = "password",

    -- TLS to the nodes: true, or what to believe and what to show. Paths are meant from this
    -- file's folder.
    -- tls = { ca = "ca.crt", cert = "wayside.crt", key = "wayside.key" },

    -- Which zone a node is in, for policies that prefer the near ones.
    -- zones = { ["127.0.0.1:7000"] = "a", ["127.0.0.1:7001"] = "b" },

    -- Where nodes' names are looked up, where not by the system's name servers.
    -- name_servers = { "10.0.0.2", "10.0.0.3:5353" },
  },

  -- Who decides when something fails. The path is meant from this file's folder; "default"
  -- is the policy that is built in, "none" the fallback alone. Options are the policy's own.
  -- With watch = true they are loaded anew whenever the policy's files have changed; else by
  -- SIGHUP, `wayside reload` or WAYSIDE RELOAD on the console.
  policy = { file = "../policies/go_redis.lua", options = { failing_timeout = 15 } },

  -- How long each step may take. None starts while a command is queued.
  timeouts = {
    -- resolve = 1,                  -- looking up a node's name, the first step of the
    --                               -- connect phase
    -- dial = 0.5,                   -- the TCP handshake with a node
    -- tls = 1,                      -- the TLS handshake with a node
    -- hello = 0.5,                  -- AUTH, HELLO and READONLY on a new connection,
    --                               -- together
    -- write = 1,                    -- how long bytes may be queued on a connection while
    --                               -- the node takes none of them
    -- read = 1,                     -- how long the oldest unanswered command waits since
    --                               -- its last byte was sent or the reply before it
    --                               -- ended, whichever is later
    -- total = 8,                    -- one command from its arrival to its reply, with
    --                               -- every attempt, hold and redirect
    -- tcp_user = 10,                -- TCP_USER_TIMEOUT, of nodes and clients: how long
    --                               -- sent bytes may stay unacknowledged or untaken
    --                               -- before the system gives the connection up; 0
    --                               -- leaves it to the system
    -- keepalive_idle = 15,          -- how long a connection is idle before the system
    --                               -- probes it (TCP_KEEPIDLE)
    -- keepalive_interval = 5,       -- the time between two such probes (TCP_KEEPINTVL)
    -- keepalive_count = 3,          -- how many such probes may go unanswered
    --                               -- (TCP_KEEPCNT)
    -- client_idle = 0,              -- how long a client may neither send anything nor
    --                               -- wait for a reply; 0: for ever
  },

  -- What no policy exceeds.
  limits = {
    -- guard = true,                 -- whether the last node that can serve stays in use
    --                               -- on soft evidence (slowness, edges, ticks) whatever
    --                               -- the policy says
    -- failing_share = 0.5,          -- the share of all nodes that soft evidence may take
    --                               -- out of use
    -- dial_interval = 0.1,          -- the least time between two dials to one node, per
    --                               -- worker, with jitter
    -- probes_per_second = 100,      -- probes to all nodes together
    -- node_probes_per_second = 10,  -- probes to one node
    -- refresh_interval = 0.1,       -- the least time between two readings of the
    --                               -- cluster's topology
    -- refresh_period = 30,          -- the time after which the topology is read again
    --                               -- though nothing asked for it
    -- retry_share = 0.2,            -- retries as a share of requests: the rate at which
    --                               -- the retry budget fills
    -- retry_burst = 1000,           -- how many retries the budget holds when it is full
    -- attempts = 5,                 -- how often one command is tried in all, redirects
    --                               -- not counted
    -- redirects = 5,                -- how many MOVED and ASK one command follows
    -- node_inflight = 65536,        -- commands queued for and in flight to one node, per
    --                               -- worker
    -- node_bytes = 268435456,       -- bytes queued for and in flight to one node, per
    --                               -- worker
    -- client_inflight = 16384,      -- commands of one client that have no reply yet
    -- client_output_bytes = 268435456, -- replies that one client has not taken yet
    -- request_bytes = 536870912,    -- one argument of a request, and one request as a
    --                               -- whole
    -- request_args = 1048576,       -- the arguments of one request, its name included
    -- reply_bytes = 536870976,      -- one reply of a node, its framing included
    -- held_bytes = 67108864,        -- commands that are held or wait for a retry, per
    --                               -- worker; 0: none are held
    -- clients = 10000,              -- clients connected at once
    -- transaction_connections = 1024, -- connections for transactions and watching
    --                               -- clients, per worker, idle ones included
    -- transaction_commands = 16384, -- commands between MULTI and EXEC; their bytes are
    --                               -- bounded as one request's
    -- instructions = 100000,        -- Lua instructions that one call of a policy may
    --                               -- take
    -- policy_wall = 0.002,          -- the time that one call of a policy may take,
    --                               -- whatever it does
    -- policy_memory = 4194304,      -- what the Lua state of one worker's policy may hold
    -- policy_errors = 10,           -- errors of a policy in policy_window after which
    --                               -- the fallback decides until the next window
    -- policy_window = 60,           -- the window of policy_errors
    -- shadow_sample = 0.01,         -- of what only a candidate wants to hear of
    --                               -- (successes, by its `watch`), the share that it is
    --                               -- asked about
    -- probation = 30,               -- how long a policy is on probation after a reload,
    --                               -- while the one before it is kept; 0: not at all
    -- probation_errors = 5,         -- errors of a policy on probation
    -- probation_marks = 50,         -- how often a policy on probation may take a node
    --                               -- out of use
    -- probation_ratio = 3,          -- how many times as often a policy on probation may
    --                               -- take a node out of use as the one before it would
    --                               -- have; a few are always allowed
  },

  -- Share what is known of the nodes with every process that names this file. Absent: it is
  -- private to this process.
  segment = "/run/wayside/main.seg",

  admin = {
    -- Spoken to with redis-cli. Absent: there is none.
    console = "unix:/run/wayside/admin.sock",
    -- /metrics and /healthz. Absent: there is none.
    http = "127.0.0.1:6381",
  },

  -- The journal on disk, for `wayside replay`: a line of JSON for each event. Absent: in memory alone.
  journal = {
    file = "/var/log/wayside/journal.jsonl",
    -- max_bytes = 67108864,         -- then it becomes journal.jsonl.1, ...
    -- keep = 4,                     -- old files
  },

  -- "debug", "info", "warn" or "error": the least that is logged, to standard error.
  log = { level = "info" },
}
