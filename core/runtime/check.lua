--- check: a policy's table, field by field, before anybody relies on it.
--
-- Gets what the file returned; gives the plan that C reads: resolved options, memory with its first values, rows of
-- classes as bit masks, functions. What is wrong is refused with path, what was expected and what came; the host puts
-- file and line before it. Runs with the real globals; a policy's own functions run in their sandbox.

local host = ... -- refuse(path, text), distance(a, b), words, limits

local check = {}

local huge = math.huge

local function shown(value)
    local kind = type(value)
    if kind == "string" then return #value > 40 and "a long string" or '"' .. value .. '"' end
    if kind == "number" or kind == "boolean" or kind == "nil" then return tostring(value) end
    return "a " .. kind
end

local function refuse(path, expected, got)
    host.refuse(path, "expected " .. expected .. ", got " .. shown(got))
end

--- The string keys of a table, in order.
local function sorted(set)
    local names = {}
    for name in pairs(set) do
        if type(name) == "string" then names[#names + 1] = name end
    end
    table.sort(names)
    return names
end

--- ", did you mean 'x'?" for the nearest of the names, or nothing where none is near.
---@param name string
---@param names string[]
---@return string
local function suggestion(name, names)
    local best, least = nil, 3
    for _, known in ipairs(names) do
        local distance = host.distance(name, known)
        if distance < least and distance < #known then best, least = known, distance end
    end
    return best and ", did you mean '" .. best .. "'?" or ""
end

local function join(path, key)
    if type(key) == "number" then return path .. "[" .. key .. "]" end
    if not key:find("^[%a_][%w_]*$") then return path .. '["' .. key .. '"]' end
    return path == "" and key or path .. "." .. key
end

--- Refuses what is not a table, and keys that are not in `known`.
local function fields(path, value, known, what)
    if type(value) ~= "table" then refuse(path, what or "a table", value) end
    for key in pairs(value) do
        if type(key) ~= "string" then
            host.refuse(path, "expected only named fields, got the entry [" .. tostring(key) .. "]")
        elseif not known[key] then
            local names = sorted(known)
            host.refuse(join(path, key), "no such field" .. suggestion(key, names) .. "; there are " .. table.concat(names, ", "))
        end
    end
end

local function finite(value)
    return type(value) == "number" and value == value and value > -huge and value < huge
end

local function name_of(path, value, most)
    if type(value) ~= "string" or value == "" or #value > most then
        refuse(path, "a string of 1 to " .. most .. " bytes", value)
    end
    if value:find("[^%w%._%-]") then refuse(path, "letters, digits, '.', '_' and '-' only", value) end
    return value
end

local function optional(path, value, kind)
    if value ~= nil and type(value) ~= kind then refuse(path, "a " .. kind, value) end
    return value
end

-- A list of the words as a bit mask of their values; one word is a list of one.
local function mask(path, value, words)
    local list, bits = type(value) == "table" and value or { value }, 0
    for index, word in ipairs(list) do
        local at = type(value) == "table" and join(path, index) or path
        local bit_index = type(word) == "string" and words[word]
        if not bit_index then
            local names = sorted(words)
            if type(word) ~= "string" then refuse(at, "one of " .. table.concat(names, ", "), word) end
            host.refuse(at, "expected one of " .. table.concat(names, ", ") .. ", got " .. shown(word) .. suggestion(word, names))
        end
        bits = bit.bor(bits, bit.lshift(1, bit_index))
    end
    if bits == 0 then refuse(path, "a word or a list of words", value) end
    return bits
end

-- ---- options ----

local option_fields = { default = true, unit = true, min = true, max = true, one_of = true, help = true }

local function expected_of(option)
    local text = "a " .. type(option.default)
    if option.unit then text = text .. " of " .. option.unit end
    if option.min and option.max then
        text = text .. " from " .. option.min .. " to " .. option.max
    elseif option.min then
        text = text .. " of at least " .. option.min
    elseif option.max then
        text = text .. " of at most " .. option.max
    end
    if option.one_of then
        local names = {}
        for index, each in ipairs(option.one_of) do names[index] = tostring(each) end
        text = "one of " .. table.concat(names, ", ")
    end
    return text
end

local function option_fits(option, value)
    if type(value) ~= type(option.default) then return false end
    if type(value) == "number" then
        if not finite(value) then return false end
        if option.min and value < option.min or option.max and value > option.max then return false end
    end
    if not option.one_of then return true end
    for _, each in ipairs(option.one_of) do
        if each == value then return true end
    end
    return false
end

local function check_option(path, option)
    fields(path, option, option_fields, "a table with a default, { default = ... }")
    local kind = type(option.default)
    if kind ~= "number" and kind ~= "string" and kind ~= "boolean" then
        refuse(join(path, "default"), "a number, a string or a boolean", option.default)
    end
    optional(join(path, "unit"), option.unit, "string")
    optional(join(path, "help"), option.help, "string")
    optional(join(path, "one_of"), option.one_of, "table")
    for _, bound in ipairs { "min", "max" } do
        if option[bound] ~= nil and (kind ~= "number" or not finite(option[bound])) then
            refuse(join(path, bound), kind == "number" and "a number" or "nothing: only numbers have bounds", option[bound])
        end
    end
    if not option_fits(option, option.default) then refuse(join(path, "default"), expected_of(option), option.default) end
end

--- A value given by configuration, or as a word on the command line, in the option's type.
local function converted(option, given)
    if not given.word then return given.value end
    local kind = type(option.default)
    if kind == "number" then return tonumber(given.value) or given.value end
    if kind == "boolean" then
        if given.value == "true" then return true elseif given.value == "false" then return false end
    end
    return given.value
end

--- The value of each option: what was given, else its default.
local function options(declared, given)
    local values = {}
    if declared ~= nil and type(declared) ~= "table" then refuse("options", "a table", declared) end
    for name, option in pairs(declared or {}) do
        if type(name) ~= "string" then host.refuse("options", "expected names, got the entry [" .. tostring(name) .. "]") end
        check_option(join("options", name), option)
        values[name] = option.default
    end
    for name, each in pairs(given) do
        local option = declared and declared[name]
        if not option then
            local names = sorted(values)
            local has = #names > 0 and "; it has " .. table.concat(names, ", ") or "; it has none"
            host.refuse(nil, "option " .. name .. ": the policy has no such option" .. suggestion(name, names) .. has)
        end
        local value = converted(option, each)
        if not option_fits(option, value) then
            host.refuse(nil, "option " .. name .. ": expected " .. expected_of(option) .. ", got " .. shown(value))
        end
        values[name] = value
    end
    return values
end

--- The options as one text, the same for the same values.
local function canonical(values)
    local lines = {}
    for index, name in ipairs(sorted(values)) do
        local value = values[name]
        lines[index] = name .. "=" .. (type(value) == "number" and string.format("%.17g", value) or tostring(value))
    end
    return table.concat(lines, "\n")
end

--- The value, or what the function gives for the options.
local function resolved(value, values)
    if type(value) == "function" then return value(values) end
    return value
end

-- ---- memory ----

local function memory(declared, room)
    local plan = {}
    if declared ~= nil then fields("memory", declared, room) end
    for scope, most in pairs(room) do
        local names, first = {}, {}
        local list = declared and declared[scope] or {}
        if type(list) ~= "table" then refuse(join("memory", scope), "a table of names with their first numbers", list) end
        for name, value in pairs(list) do
            if type(name) ~= "string" then
                host.refuse(join("memory", scope), "expected names, got the entry [" .. tostring(name) .. "]")
            elseif not finite(value) then
                refuse(join(join("memory", scope), name), "a finite number", value)
            end
            names[#names + 1] = name
        end
        if #names > most then host.refuse(join("memory", scope), "expected at most " .. most .. " numbers, got " .. #names) end
        table.sort(names)
        for index, name in ipairs(names) do first[index] = list[name] end
        plan[scope] = { names = names, first = first }
    end
    return plan
end

-- ---- classes ----

local row_words = { kind = "kind", phase = "phase", step = "step", error = "error" }
local row_numbers = { errno = true, n = true, replies_read = true, bytes_written = true, attempt = true }
local row_texts = { message = true, reply = true }
local row_fields = { class = true, blame = true, temporary = true, reused = true, trial = true }
for _, set in ipairs { row_words, row_numbers, row_texts } do
    for name in pairs(set) do row_fields[name] = true end
end

local function alternatives(path, value, fits, expected)
    local list = type(value) == "table" and value or { value }
    if #list == 0 or #list > 16 then refuse(path, "1 to 16 alternatives", value) end
    for index, each in ipairs(list) do
        if not fits(each) then refuse(type(value) == "table" and join(path, index) or path, expected, each) end
    end
    return list
end

local function is_text(value)
    return type(value) == "string" and value ~= "" and #value <= 127
end

--- The row's class; one not known yet is added with the row's blame. known[1] is the next free number.
local function class_of(path, row, known)
    local name = row.class
    if type(name) ~= "string" then refuse(join(path, "class"), "a class's name", name) end
    local class = known[name]
    if class and row.blame ~= nil and row.blame ~= class.blame then
        host.refuse(join(path, "blame"), "class '" .. name .. "' blames " .. class.blame .. "; another blame needs a class of its own")
    elseif not class then
        local names = sorted(known)
        if row.blame == nil then
            host.refuse(join(path, "class"), "no such class '" .. name .. "'" .. suggestion(name, names)
                .. " (a new class names its blame)")
        end
        mask(join(path, "blame"), row.blame, host.words.blame)
        name_of(join(path, "class"), name, 23)
        if known[1] >= host.limits.classes then host.refuse(join(path, "class"), "more than " .. known[1] .. " classes") end
        class = { index = known[1], blame = row.blame, permanent = row.blame == "config" or row.blame == "caller" }
        known[1], known[name] = known[1] + 1, class
    end
    return class
end

local function compile_row(path, row, known)
    fields(path, row, row_fields, "a row, { error = ..., class = ... }")
    local class = class_of(path, row, known)
    local out = { class = class.index, permanent = class.permanent, numbers = {}, texts = {} }
    if optional(join(path, "temporary"), row.temporary, "boolean") ~= nil then out.permanent = not row.temporary end
    out.reused = optional(join(path, "reused"), row.reused, "boolean")
    out.trial = optional(join(path, "trial"), row.trial, "boolean")
    for name, words in pairs(row_words) do
        if row[name] ~= nil then out[name] = mask(join(path, name), row[name], host.words[words]) end
    end
    for name in pairs(row_numbers) do
        if row[name] ~= nil then out.numbers[name] = alternatives(join(path, name), row[name], finite, "a finite number") end
    end
    for name in pairs(row_texts) do
        if row[name] ~= nil then
            out.texts[name] = alternatives(join(path, name), row[name], is_text, "a string of 1 to 127 bytes")
        end
    end
    return out
end

local function flatten(path, list, rows, known, depth)
    if type(list) ~= "table" then refuse(path, "a list of rows", list) end
    if depth > 8 then host.refuse(path, "lists nest too deep") end
    if list.class ~= nil then
        if #rows >= host.limits.rows then host.refuse(path, "more than " .. host.limits.rows .. " rows") end
        rows[#rows + 1] = compile_row(path, list, known)
        return
    end
    for key in pairs(list) do
        if type(key) ~= "number" then host.refuse(path, "expected a class, got a row without one") end
    end
    for index, each in ipairs(list) do flatten(join(path, index), each, rows, known, depth + 1) end
end

local function classes(list)
    local known, rows = { 0 }, {}
    for index, class in ipairs(host.words.classes) do
        known[class.name] = { index = index - 1, blame = class.blame, permanent = class.permanent }
        known[1] = index
    end
    if list ~= nil then flatten("classes", list, rows, known, 0) end
    local own = {}
    for name, class in pairs(known) do
        if type(class) == "table" and class.index >= #host.words.classes then
            own[class.index - #host.words.classes + 1] = { name = name, blame = host.words.blame[class.blame] }
        end
    end
    return rows, own, known
end

-- ---- counters ----

-- What each kind may have besides its kind and scope.
local of_results = { "edge", "classes", "phases", "slower", "count" }
local counter_fields = {}
for kind, names in pairs {
    consecutive = { "strict" }, window = { "seconds", "buckets", "of" }, ring = { "size" },
    ewma = { "tau", "results", "of", "peak", "start" }, samples = { "size" },
    tokens = { "capacity", "start", "per_second", "request", "success", "failure", "retry" },
} do
    local known = { kind = true, scope = true }
    for _, name in ipairs(names) do known[name] = true end
    for _, name in ipairs(kind == "samples" and {} or of_results) do known[name] = true end
    counter_fields[kind] = known
end

local function word_of(path, value, words, standard)
    if value == nil then value = standard end
    if type(value) ~= "string" or not words[value] then
        local names = sorted(words)
        host.refuse(path, "expected one of " .. table.concat(names, ", ") .. ", got " .. shown(value)
            .. (type(value) == "string" and suggestion(value, names) or ""))
    end
    return words[value]
end

-- bounds: min, max, above (more than that), whole, standard (nil: it must be there).
local function number_of(path, value, bounds)
    if value == nil then value = bounds.standard end
    local min, max = bounds.min or bounds.above or -1e9, bounds.max or 1e9
    local fits = finite(value) and value >= min and value <= max and value ~= bounds.above
    if not fits or bounds.whole and value % 1 ~= 0 then
        refuse(path, (bounds.whole and "a whole number " or "a number ")
            .. (bounds.above and "above " .. bounds.above .. " and at most " .. max or "from " .. min .. " to " .. max), value)
    end
    return value
end

local edge_fields = { at_least = true, above = true, below = true, min_volume = true }

local function edge_of(path, edge, has_volume)
    fields(path, edge, edge_fields, "a table, { at_least = ..., min_volume = ... }")
    local out
    for _, name in ipairs { "at_least", "above", "below" } do
        if edge[name] ~= nil then
            if out then host.refuse(join(path, name), "expected one of at_least, above and below, got two") end
            out = { kind = host.words.edge[name], at = number_of(join(path, name), edge[name], {}) }
        end
    end
    if not out then host.refuse(path, "expected at_least, above or below, got none of them") end
    if edge.min_volume ~= nil and not has_volume then refuse(join(path, "min_volume"), "nothing: this kind has no volume", edge.min_volume) end
    out.min_volume = number_of(join(path, "min_volume"), edge.min_volume, { min = 0, standard = 0 })
    return out
end

local function classes_of(path, names, known)
    local list, out = type(names) == "table" and names or { names }, {}
    if #list == 0 then refuse(path, "a class's name or a list of them", names) end
    for index, name in ipairs(list) do
        local at = type(names) == "table" and join(path, index) or path
        if type(name) ~= "string" or not known[name] then
            if type(name) ~= "string" then refuse(at, "a class's name", name) end
            host.refuse(at, "no such class '" .. name .. "'" .. suggestion(name, sorted(known)))
        elseif name == "answer" or name == "ignore" then
            host.refuse(at, name == "answer" and "an answer is a success: it counts as 'ok'" or "what is ignored counts nowhere")
        end
        out[index] = known[name].index
    end
    return out
end

-- What the kinds have of their own. counter is as declared, out the plan's.
local of_kind = {}

function of_kind.consecutive(path, counter, out)
    out.strict = optional(join(path, "strict"), counter.strict, "boolean")
end

function of_kind.window(path, counter, out)
    local limits = host.limits
    out.size = number_of(join(path, "buckets"), counter.buckets, { min = 1, max = limits.buckets, whole = true, standard = 1 })
    out.seconds = number_of(join(path, "seconds"), counter.seconds, { min = 0.01, max = 1e6 }) / out.size
    out.of = word_of(join(path, "of"), counter.of, host.words.window_of, "results")
    return out.of == host.words.window_of.results
end

function of_kind.ring(path, counter, out)
    out.size = number_of(join(path, "size"), counter.size, { min = 1, max = host.limits.ring, whole = true })
    return true
end

function of_kind.ewma(path, counter, out)
    if (counter.tau == nil) == (counter.results == nil) then host.refuse(path, "expected either tau or results") end
    out.seconds = counter.tau and number_of(join(path, "tau"), counter.tau, { above = 0, max = 1e6 })
    out.results = counter.results and number_of(join(path, "results"), counter.results, { above = 0, max = 1e9 })
    out.of = word_of(join(path, "of"), counter.of, host.words.ewma_of, "failed")
    out.peak = optional(join(path, "peak"), counter.peak, "boolean")
    out.start = counter.start and number_of(join(path, "start"), counter.start, { min = 0 })
    return true
end

function of_kind.tokens(path, counter, out)
    out.capacity = number_of(join(path, "capacity"), counter.capacity, { above = 0 })
    out.start = number_of(join(path, "start"), counter.start, { min = 0, max = out.capacity, standard = out.capacity })
    out.per_second = number_of(join(path, "per_second"), counter.per_second, { min = 0, standard = 0 })
    for _, name in ipairs { "request", "success", "failure", "retry" } do
        out[name] = number_of(join(path, name), counter[name], { standard = 0 })
    end
end

function of_kind.samples(path, counter, out)
    out.size = number_of(join(path, "size"), counter.size, { min = 1, max = host.limits.samples, whole = true })
end

-- What is a result, and a failure, to this counter.
local function compile_results(path, counter, out, known, has_volume)
    local words = host.words
    if out.of == words.window_of.requests or out.of == words.window_of.retries or out.of == words.ewma_of.latency then
        for _, name in ipairs { "classes", "phases", "slower" } do
            if counter[name] ~= nil then
                refuse(join(path, name), "nothing: it counts no failures, with of = \"" .. counter.of .. "\"", counter[name])
            end
        end
        if counter.edge ~= nil and out.of ~= words.ewma_of.latency then
            refuse(join(path, "edge"), "nothing: it has no share of failures, with of = \"" .. counter.of .. "\"", counter.edge)
        end
    end
    if counter.classes ~= nil then out.classes = classes_of(join(path, "classes"), counter.classes, known) end
    if counter.phases ~= nil then out.phases = mask(join(path, "phases"), counter.phases, words.phase) end
    if counter.slower ~= nil then out.slower = number_of(join(path, "slower"), counter.slower, { above = 0 }) end
    out.events = word_of(join(path, "count"), counter.count, words.count, "commands") == words.count.events
    if counter.edge ~= nil then out.edge = edge_of(join(path, "edge"), counter.edge, has_volume) end
end

local function compile_counter(name, counter, known)
    local path, words = join("counters", name), host.words
    if type(name) ~= "string" or not name:find("^[%a_][%w_]*$") or #name > 23 then
        refuse("counters", "names of 1 to 23 letters, digits and '_'", name)
    end
    if type(counter) ~= "table" then refuse(path, "a counter, such as wayside.ring { size = 100 }", counter) end
    local kind = word_of(join(path, "kind"), counter.kind, words.counter)
    fields(path, counter, counter_fields[counter.kind])
    local out = { name = name, kind = kind, scope = word_of(join(path, "scope"), counter.scope, words.scope, "node") }
    local has_volume = of_kind[counter.kind](path, counter, out)
    compile_results(path, counter, out, known, has_volume)
    return out
end

--- The plans of the counters, by name in order, and each one's place among those of its scope.
local function counters(declared, known)
    local list, place, used = {}, {}, {}
    if declared ~= nil and type(declared) ~= "table" then refuse("counters", "a table of names with counters", declared) end
    for name in pairs(declared or {}) do
        if type(name) ~= "string" then host.refuse("counters", "expected names, got the entry [" .. tostring(name) .. "]") end
    end
    for index, name in ipairs(sorted(declared or {})) do
        local counter = compile_counter(name, declared[name], known)
        list[index] = counter
        used[counter.scope] = (used[counter.scope] or 0) + 1
        if counter.scope == host.words.scope.node then place[name] = used[counter.scope] end
    end
    return list, place
end

-- ---- the rest ----

local pick_fields = { [1] = true, zone = true, tolerance = true, load = true }

--- counters: of the node's, name -> place.
local function pick(value, counters_of_node)
    local out = { word = value, zone = "", tolerance = 0, load = 0 }
    if type(value) == "table" then
        for key in pairs(value) do
            if not pick_fields[key] then
                host.refuse(type(key) == "string" and join("pick", key) or "pick", "no such knob; there are load, tolerance, zone")
            end
        end
        out.word = value[1]
        if value.load ~= nil then
            local names = sorted(counters_of_node)
            if type(value.load) ~= "string" then refuse("pick.load", "the name of a counter of nodes", value.load) end
            if value[1] ~= "p2c" then refuse("pick.load", 'nothing but with "p2c"', value.load) end
            out.load = counters_of_node[value.load] or host.refuse("pick.load", "no counter of nodes is called '" .. value.load
                .. "'" .. suggestion(value.load, names))
        end
        if value.zone ~= nil then
            if type(value.zone) ~= "string" or #value.zone > 31 then refuse("pick.zone", "a string of at most 31 bytes", value.zone) end
            out.zone = value.zone
        end
        if value.tolerance ~= nil then
            if not finite(value.tolerance) or value.tolerance < 0 then refuse("pick.tolerance", "a number of at least 0", value.tolerance) end
            out.tolerance = value.tolerance
        end
    end
    if value == nil then out.word = "master" end
    local bits = mask("pick", out.word, host.words.pick)
    out.word = host.words.pick[out.word]
    return bits and out
end

--- How often tick is asked, in seconds; 0: never, there is none.
local function every(value, tick)
    if value == nil then
        if tick then host.refuse("tick", "expected every = seconds beside it") end
        return 0
    end
    if not tick then host.refuse("every", "expected a function tick beside it") end
    if not finite(value) or value < 0.01 or value > 86400 then refuse("every", "a number of seconds from 0.01 to 86400", value) end
    return value
end

local questions = { "classify", "mark", "backoff", "probe", "reconnect", "route", "tick" }
local proofs = { "migrate", "selftest" }
local policy_fields = {
    name = true, version = true, options = true, classes = true, memory = true, counters = true, pick = true, watch = true,
    every = true,
}
for _, name in ipairs(questions) do policy_fields[name] = true end
for _, name in ipairs(proofs) do policy_fields[name] = true end

--- The plan of a policy.
---@param policy any what the file returned
---@param given table name -> { value =, word = true if it came as a word }
---@param room table how many numbers of memory are left: { node =, shard =, cluster = }
---@param standard table|nil the default's classes
---@return table
function check.policy(policy, given, room, standard)
    fields("", policy, policy_fields, "one table, as wayside.policy { ... } gives it")
    local plan = { name = name_of("name", policy.name, 63), version = "", functions = {} }
    if policy.version ~= nil then plan.version = name_of("version", policy.version, 31) end
    plan.options = options(policy.options, given)
    plan.canonical = canonical(plan.options)
    for _, name in ipairs(questions) do plan.functions[name] = optional(name, policy[name], "function") end
    plan.every = every(resolved(policy.every, plan.options), plan.functions.tick)
    for _, name in ipairs(proofs) do plan.functions[name] = optional(name, policy[name], "function") end
    plan.memory = memory(resolved(policy.memory, plan.options), room)
    local list = resolved(policy.classes, plan.options)
    local known, place
    if list == nil and not plan.functions.classify then list = standard end
    plan.rows, plan.classes, known = classes(list)
    plan.counters, place = counters(resolved(policy.counters, plan.options), known)
    plan.pick = pick(resolved(policy.pick, plan.options), place)
    if policy.watch ~= nil then
        fields("watch", policy.watch, { success = true })
        plan.watch = optional("watch.success", policy.watch.success, "boolean")
    end
    return plan
end

--- The default's option values, with those of the same name that the policy declares.
---@param declared table the default's options
---@param own table the policy's values
---@return table
function check.default_options(declared, own)
    local given = {}
    for name in pairs(declared or {}) do
        local value = rawget(own, name)
        if value ~= nil then given[name] = { value = value } end
    end
    return options(declared, given)
end

return check
