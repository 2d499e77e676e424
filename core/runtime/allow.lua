--- allow: what a script can see. The sandbox is built from this list and luacheck reads it.
--
-- Left out, and why: pcall, xpcall (they would swallow the budget's error), coroutines, load, loadstring, dofile,
-- setfenv, getfenv (ways to other environments), setmetatable, getmetatable, raw* (ways to the string metatable and
-- around read-only tables), collectgarbage, print, os, io, debug, ffi, jit, package; math.random (not the same when
-- asked again: wayside.random is), string.dump.
-- string.* and the walking functions of table.* are the host's guarded ones: core/natives.c.

return {
    globals = {
        "assert", "error", "ipairs", "next", "pairs", "require", "select", "tonumber", "tostring", "type", "unpack",
        bit = { fields = {
            "arshift", "band", "bnot", "bor", "bswap", "bxor", "lshift", "rol", "ror", "rshift", "tobit", "tohex",
        } },
        math = { fields = {
            "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cosh", "deg", "exp", "floor", "fmod", "frexp", "huge",
            "ldexp", "log", "log10", "max", "min", "modf", "pi", "pow", "rad", "sin", "sinh", "sqrt", "tan", "tanh",
        } },
        string = { fields = {
            "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse", "sub", "upper",
        } },
        table = { fields = { "concat", "insert", "remove", "sort" } },
    },
}
