--- What a policy's function may do wrong: a list of { what it does, the body, causes that may end it }. A body that
-- names `node` is for functions that have one.
local ANY = { budget = true, deadline = true, memory = true, error = true }
local SPENT = { budget = true, deadline = true }
local MEMORY, ERROR, ANSWER = { memory = true, deadline = true }, { error = true }, { answer = true }
local misdeeds = {
  ANY = ANY, SPENT = SPENT, MEMORY = MEMORY, ERROR = ERROR, ANSWER = ANSWER,
  { "an error", "local x = nil; x()", ERROR },
  { "an error that is no text", "error({})", ERROR },
  { "an endless loop", "while true do end", SPENT },
  { "endless recursion", "local function f() return 1 + f() end f()", MEMORY },
  { "endless tail calls", "local function f() return f() end f()", SPENT },
  { "recursion through sort", "local f f = function() table.sort({ 2, 1 }, f) end f()", ERROR },
  { "endless allocation", "local t = {} while true do t[#t + 1] = { #t } end", MEMORY },
  { "a huge string", "local s = 'x' while true do s = s .. s end", MEMORY },
  { "a huge string by rep", "return ('x'):rep(1e9)", ERROR },
  { "a catastrophic pattern", "local s = ('-'):rep(40) while true do s:find('.-.-.-.-.-.-.-.-x') end", ANY },
  { "a pattern with a long set", "local s = ('a'):rep(4096) while true do s:find('[' .. ('b'):rep(4000) .. ']') end", ANY },
  { "reverse in a loop", "local s = ('x'):rep(4096) while true do s:reverse() end", SPENT },
  { "plain find in a loop", "local s = ('x'):rep(4096) while true do s:find('y', 1, true) end", SPENT },
  { "comparison of long strings in a loop", "local a = ('x'):rep(4096) for _ = 1, 3 do a = a .. a end "
    .. "local b, n = a .. 'y', 0 while true do if a < b then n = n + 1 end end", SPENT },
  { "arithmetic on strings in a loop", "local s, n = '1e-308' while true do n = s + s end", SPENT },
  { "sorting long strings", "local s, t = ('x'):rep(4096), {} for i = 1, 1000 do t[i] = i % 2 == 0 and s or s .. 1 end "
    .. "table.sort(t)", SPENT },
  { "insertion at the front of a long table", "local t = {} for i = 1, 3000 do t[i] = i end while true do table.insert(t, 1, 0) end",
    ANY },
  { "a hundred thousand short strings", "local t = {} for i = 1, 1e5 do t[i % 2000 + 1] = 'k' .. i end", MEMORY },
  { "writing to the node", "node.state = 'failing'", ERROR },
  { "asking for what is not there", "return node.no_such_field", ERROR },
  { "a global", "seen = true", ERROR },
}
return misdeeds
