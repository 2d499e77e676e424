--- policies: makes `require "wayside.test"` work in specs that run under plain LuaJIT.
---
---     require "tests.support.policies"
---     local test = require "wayside.test"

local build = os.getenv("BUILD_ROOT") or "build"
package.cpath = build .. "/support/?.so;" .. package.cpath
package.preload["wayside.test"] = function()
    return assert(loadfile("core/runtime/test.lua"))(require "policy_host")
end
