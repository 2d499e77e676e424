--- retry_budget: the default, but with no more retries than a share of the traffic.
--
-- Situation  Many clients that all try again make an overload worse. limits.retry_share bounds each worker; this one
--            counts over all workers, by the rule of Finagle or by that of gRPC.
-- Behaviour  "window" (Finagle): in the last `ttl` seconds no more retries than `share` of the requests and `per_second` for
--            each second besides. "tokens" (gRPC): a failed command costs a token of `most`, an answered one gives `ratio` of
--            one, and there are retries only while more than half of them are left. Everything else, and what waits
--            instead of going again (retry = "hold"), is the default's.
-- Knobs      `budget` chooses the rule.
-- Caveats    A retry counts when it is decided, and all commands of a broken connection that go again together are asked
--            about once: a budget can be overdrawn by as many. Finagle counts in ten slots that leak, as `ttl` has here.
--            gRPC keeps its tokens per server name; here they are the cluster's. Envoy's budget, a share of what is in
--            flight at the moment, can't be had: the host does not count retries in flight.
local wayside = require "wayside"

return wayside.policy {
    name = "retry-budget",
    version = "1",

    options = {
        budget     = { default = "window", one_of = { "window", "tokens" }, help = "the rule" },
        ttl        = { default = 10, unit = "s", min = 0.1, help = "window: how long requests and retries count" },
        share      = { default = 0.2, min = 0, max = 1000, help = "window: retries for each request" },
        per_second = { default = 10, min = 0, help = "window: retries a second besides" },
        most       = { default = 10, min = 1, help = "tokens: at most" },
        ratio      = { default = 0.1, min = 0, help = "tokens: for each answered command" },
    },

    counters = function(o)
        if o.budget == "tokens" then
            return { tokens = wayside.tokens { scope = "cluster", capacity = o.most, success = o.ratio, failure = -1 } }
        end
        return {
            requests = wayside.window { scope = "cluster", seconds = o.ttl, buckets = 10, of = "requests" },
            retries = wayside.window { scope = "cluster", seconds = o.ttl, buckets = 10, of = "retries" },
        }
    end,

    backoff = function(self, node, event)
        local o, counters = self.options, self.cluster.counters
        local answer = wayside.default.backoff(self, node, event)
        if not answer or answer.retry == "hold" then return answer end
        if o.budget == "tokens" then
            return counters.tokens.value > o.most / 2 and answer or nil
        end
        local most = o.share * counters.requests.volume + o.per_second * o.ttl
        return counters.retries.volume + event.n <= most and answer or nil
    end,
}
