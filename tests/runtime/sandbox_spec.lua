--- What a script can see is what the list says, and none of it can be changed.
describe("the sandbox", function()
    local list = dofile("core/runtime/allow.lua").globals
    local strings, kept = getmetatable(""), {}
    local guarded = function() return "guarded" end
    local sandbox

    -- The state that builds a sandbox gives its string metatable to it: here it is given back.
    setup(function()
        kept.index, kept.metatable = strings.__index, rawget(strings, "__metatable")
        sandbox = assert(loadfile("core/runtime/sandbox.lua"))({ allow = { globals = list }, natives = { string = { rep = guarded } } })
        strings.__index, strings.__metatable = kept.index, kept.metatable
    end)

    local function run(text)
        return setfenv(assert(loadstring(text)), sandbox.environment)()
    end

    it("has the whole list but require, which the policy's loader adds", function()
        for key, value in pairs(list) do
            if value ~= "require" then
                local name = type(key) == "number" and value or key
                assert.is_not_nil(run("return " .. name), name)
                for _, field in ipairs(type(value) == "table" and value.fields or {}) do
                    assert.is_not_nil(run("return " .. name .. "." .. field), name .. "." .. field)
                end
            end
        end
    end)

    it("has nothing else", function()
        for name in pairs(_G) do
            local listed = list[name] ~= nil
            for _, plain in ipairs(list) do listed = listed or plain == name end
            if not listed then assert.error_matches(function() run("return " .. name) end, "there is no '" .. name .. "'") end
        end
        for _, library in ipairs { "string", "math", "table", "bit" } do
            local fields = {}
            for _, field in ipairs(list[library].fields) do fields[field] = true end
            for field in pairs(require(library)) do
                assert.equal(fields[field] or false, run("return " .. library .. "." .. field .. " ~= nil"), library .. "." .. field)
            end
        end
    end)

    it("prefers the guarded function to the real one", function()
        assert.equal("guarded", run("return string.rep('x', 3)"))
        assert.equal("c", run("return string.char(99)"))
    end)

    it("can't be written to", function()
        assert.error_matches(function() run("x = 1") end, "globals can't be set: make 'x' local")
        assert.error_matches(function() run("string.rep = nil") end, "string is read%-only")
        assert.error_matches(function() run("math.pi = 3") end, "math is read%-only")
    end)

    it("shows no metatables", function()
        assert.is_false(getmetatable(sandbox.environment))
        assert.is_false(getmetatable(run("return string")))
    end)
end)
