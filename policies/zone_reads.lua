--- zone_reads: reads near by, in one's own zone first, and elsewhere before they wait.
--
-- Situation  Nodes stand in several zones, and what crosses a zone costs time and money. `cluster.zones` in the
--            configuration names each node's. Reads may be as old as a replica is behind its master.
-- Behaviour  A read goes to a node of the shard in `zone`, master or replica: to one drawn from those whose latency is
--            within `tolerance` of the nearest, for always the strictly nearest would get all of it. Where the zone has
--            no node that is healthy, or all have `busy` commands in flight, reads spill over to the other zones by the
--            same rule, and come back as soon as one of their own takes them again. A node that has just failed the
--            command is passed over while there is another. Writes go to the master. Failures are the default's.
-- Knobs      `zone` is the one that this gateway stands in. `tolerance` should be about what nodes of one zone differ
--            by. `busy` is of all workers together; about the throughput times the latency at which a node gets slow.
-- Caveats    `route` is asked for each command: some half a microsecond of CPU (see tests/bench). A zone without a node
--            of a shard sends that shard's reads elsewhere always. Suspect nodes are left to `pick`.
local wayside = require "wayside"

-- The candidate to take, of those in the zone or of those outside of it; nil where none will do. One never measured
-- counts as near: a command will tell.
local function nearest(nodes, tried, zone, inside, busy, tolerance)
    local chosen, least, alike = nil, nil, 0
    for index = 1, #nodes do
        local node = nodes[index]
        if (node.zone == zone) == inside and index ~= tried and node.state ~= "suspect" and node.inflight < busy then
            local latency = node.latency or 0
            if not chosen or latency < least - tolerance then
                chosen, least, alike = index, latency, 1
            elseif latency <= least + tolerance then
                alike = alike + 1                                -- each is as likely as the others
                if wayside.random() * alike < 1 then chosen = index end
                if latency < least then least = latency end
            end
        end
    end
    return chosen
end

return wayside.policy {
    name = "zone-reads",
    version = "1",

    options = {
        zone      = { default = "", help = "the zone to read in, as cluster.zones names it" },
        tolerance = { default = 0.001, unit = "s", min = 0, help = "latency above the nearest node's that is as good" },
        busy      = { default = 256, unit = "commands", min = 1, help = "in flight to a node: more go elsewhere" },
    },

    -- Where nothing near or far will do: whoever answers, the less loaded of two.
    pick = function(options) return { "p2c", zone = options.zone } end,

    route = function(self, request, nodes)
        if request.write then return nil end
        local o, tried = self.options, request.tried
        return nearest(nodes, tried, o.zone, true, o.busy, o.tolerance)
            or nearest(nodes, tried, o.zone, false, o.busy, o.tolerance)
    end,
}
