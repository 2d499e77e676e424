--- bounded_staleness: no answer that is older than it may be, and no mark for being old.
require "tests.support.policies"
local test = require "wayside.test"

--- A master and two replicas whose INFO tells what the table `of` says.
local function start(options)
    local t = test.start("policies/bounded_staleness.lua", options or {})
    local of = {}
    local function node(wanted)
        local made = t:node(wanted)
        of[made] = { link_up = true, last_io = 1, behind = 0 }
        made.reply = function(command)
            if command ~= "data" then
                t:replication(made, of[made])
                local text = "role:" .. (made.role == "master" and "master" or "slave") .. "\r\n"
                return ("$%d\r\n%s\r\n"):format(#text, text)
            end
            return "$-1\r\n"
        end
        return made
    end
    local master = node {}
    return t, of, master, node { role = "replica", shard = master }, node { role = "replica", shard = master }
end

local function readers(t, request)
    local seen = {}
    for slot = 1, 100 do
        local node = t:route { slot = slot, write = request and request.write, tried = request and request.tried }
        seen[node or "pick"] = true
    end
    return seen
end

describe("bounded_staleness", function()
    it("reads from replicas once they have told that they are fresh, not before", function()
        local t, _, _, one, two = start()
        assert.same({ pick = true }, readers(t))
        t:advance(1.5)
        assert.same({ [one] = true, [two] = true }, readers(t))
    end)

    it("asks every node each second, the master too, for lag is measured against it", function()
        local t, _, master, one = start { every = 0.5 }
        t:advance(2)
        for _, node in ipairs { master, one } do
            assert.same({ "INFO", "replication" }, node.pending.answer.command)
            assert.equal(0.5, node.pending.answer.after)
            assert.equal("pooled", node.pending.answer.connection)
        end
    end)

    it("takes none that is too far behind, and takes it again when it is not, without a mark", function()
        local t, of, _, one, two = start { behind = 100 }
        of[one].behind = 101
        t:advance(1.5)
        assert.same({ [two] = true }, readers(t))
        assert.equal("healthy", one.state)
        of[one].behind = 100
        t:advance(1)
        assert.same({ [one] = true, [two] = true }, readers(t))
    end)

    for what, told in pairs {
        ["whose link is down"] = { link_up = false, last_io = 1, behind = 0 },
        ["that has not heard of its master"] = { link_up = true, last_io = 13, behind = 0 },
        ["of which nobody can tell"] = { link_up = true, last_io = 1, behind = -1 },
    } do
        it("takes none " .. what, function()
            local t, of, _, one, two = start()
            of[one] = told
            t:advance(1.5)
            assert.same({ [two] = true }, readers(t))
            of[two] = told
            t:advance(1)
            assert.same({ pick = true }, readers(t))
            assert.equal(0, t.nodes[1].failures)
            assert.same({ "healthy", "healthy" }, { one.state, two.state })
        end)
    end

    it("takes none that fails, and none that came back before it has told again", function()
        local t, _, _, one, two = start()
        t:advance(1.5)
        t:fail(one, { error = "refused" })
        assert.equal("failing", one.state)
        assert.same({ [two] = true }, readers(t))
        t:advance(1.3)
        assert.equal("healthy", one.state)
        assert.same({ [two] = true }, readers(t))
        t:advance(1.1)
        assert.same({ [one] = true, [two] = true }, readers(t))
    end)

    it("leaves writes to the master, and passes over who failed the command", function()
        local t, _, _, _, two = start()
        t:advance(1.5)
        assert.same({ pick = true }, readers(t, { write = true }))
        assert.same({ [two] = true }, readers(t, { tried = 2 }))
    end)
end)
