--- policies: makes `require "wayside.test"` work in specs that run in a checkout: `make tools` builds it.
---
---     require "tests.support.policies"
---     local test = require "wayside.test"

local build = os.getenv("BUILD_ROOT") or "build"
package.path = build .. "/lua/?.lua;" .. package.path
package.cpath = build .. "/lua/?.so;" .. package.cpath
