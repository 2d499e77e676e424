-- Policies see what the sandbox gives them and nothing else: both read the same list.
local allow = dofile "core/runtime/allow.lua"
stds.sandbox = { read_globals = allow.globals }
-- What a policy is to return is known to the host by name; methods need not use their self.
self = false
max_line_length = 144

std = "luajit"
files["policies"] = { std = "sandbox" }
files["examples/*_spec.lua"] = { std = "luajit+busted" }
files["tests"] = { std = "luajit+busted" }
files["tests/bench/gateway_floor.lua"] = { read_globals = { "ngx" } }
files["core/runtime/resty"] = { read_globals = { "ngx" } }
