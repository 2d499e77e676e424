--- spread_reads: the default policy, with reads on all nodes of a shard and patience for a failover.
--
-- Situation  Slightly old answers are welcome, errors are not. A failover takes the cluster some seconds.
-- Behaviour  Reads go to any node of the shard. All else is the default's: what is not answered here is asked there.
-- Knobs      The default's of the same name, see policies/default.lua.
-- Caveats    A replica's answer may be old. Clients of a failed master's writes wait, so they need time-outs above `hold`.
local wayside = require "wayside"

return wayside.policy {
    name = "spread-reads",
    version = "1",
    options = {
        hold = { default = 6, unit = "s", min = 0, help = "longest wait of a command for a usable node" },
    },
    pick = "random",
}
