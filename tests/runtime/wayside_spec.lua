--- The module that policies require, on its own: what needs C is stood in for.
local drawn, logged

local function module()
    local host = {
        random = function() return drawn end,
        log = function(level, text) logged = level .. ": " .. text end,
        info = function() return {} end,
    }
    return assert(loadfile("core/runtime/wayside.lua"))(host)
end

describe("wayside.backoff", function()
    local wayside = module()
    local function series(settings, from, to)
        local wait, list = wayside.backoff(settings), {}
        for attempt = from, to do list[#list + 1] = wait(attempt) end
        return list
    end

    it("grows by the factor up to the cap", function()
        assert.same({ 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000 }, series({ base = 5, cap = 2000 }, 1, 11))
    end)

    it("gives gRPC's series: the cap comes before the jitter", function()
        drawn = 1
        local list = series({ base = 1, factor = 1.6, cap = 120, jitter = 0.2 }, 1, 12)
        assert.is_true(math.abs(list[2] - 1.92) < 1e-9)
        assert.is_true(math.abs(list[12] - 144) < 1e-9)
        drawn = 0
        assert.is_true(math.abs(series({ base = 1, factor = 1.6, cap = 120, jitter = 0.2 }, 12, 12)[1] - 96) < 1e-9)
    end)

    it("draws full jitter from nothing to the wait, equal jitter from its half", function()
        for draw, wanted in pairs { [0] = { 0, 20 }, [0.5] = { 20, 30 }, [1] = { 40, 40 } } do
            drawn = draw
            assert.equal(wanted[1], wayside.backoff { base = 5, cap = 2000, jitter = "full" }(4))
            assert.equal(wanted[2], wayside.backoff { base = 5, cap = 2000, jitter = "equal" }(4))
        end
    end)

    it("walks decorrelated from the last wait", function()
        drawn = 1
        local wait, last, list = wayside.backoff { base = 5, cap = 2000, jitter = "decorrelated" }, 5, {}
        for attempt = 1, 6 do
            last = wait(attempt, last)
            list[attempt] = last
        end
        assert.same({ 15, 45, 135, 405, 1215, 2000 }, list)
    end)

    it("tells bad settings when the policy is loaded", function()
        for settings, said in pairs {
            [{}] = "base: expected a number above 0, got nil", [{ base = 0 }] = "base: expected a number above 0",
            [{ base = 1, factor = "x" }] = "factor: expected a number", [{ base = 1, jitter = 2 }] = "jitter: expected full",
            [{ base = 1, jiter = 1 }] = "no setting 'jiter'",
        } do
            assert.error_matches(function() wayside.backoff(settings) end, said)
        end
        assert.error_matches(function() wayside.backoff(5) end, "expected a table, got number")
    end)
end)

describe("wayside.compose", function()
    local wayside = module()

    it("gives the first answer that is not nil", function()
        local asked = {}
        local function answers(name, answer)
            return function(self, node, event)
                assert.same({ 1, 2, 3 }, { self, node, event })
                asked[#asked + 1] = name
                return answer
            end
        end
        assert.is_false(wayside.compose(answers("a", nil), answers("b", false), answers("c", {}))(1, 2, 3))
        assert.same({ "a", "b" }, asked)
        assert.is_nil(wayside.compose(answers("d", nil))(1, 2, 3))
    end)

    it("takes functions only", function()
        assert.error_matches(function() wayside.compose() end, "expected functions, got none")
        assert.error_matches(function() wayside.compose(print, nil, print) end, "got nil as number 2")
    end)
end)

describe("wayside.policy and the rest", function()
    local wayside = module()

    it("hands the policy back for the host to check", function()
        local policy = { name = "p" }
        assert.equal(policy, wayside.policy(policy))
        assert.error_matches(function() wayside.policy("p") end, "expected a table, got string")
    end)

    it("describes counters, and leaves it to the host to check them", function()
        local settings = { size = 5 }
        for _, kind in ipairs { "consecutive", "window", "ring", "ewma", "tokens", "samples" } do
            assert.same({ kind = kind, size = 5 }, wayside[kind](settings))
            assert.error_matches(function() wayside[kind](5) end, "wayside." .. kind .. ": expected a table, got number")
            assert.error_matches(function() wayside[kind] { kind = "x" } end, "wayside." .. kind .. ": no setting 'kind'")
        end
        assert.same({ size = 5 }, settings)
    end)

    it("passes logging on", function()
        wayside.log("info", "hello")
        assert.equal("info: hello", logged)
    end)
end)
