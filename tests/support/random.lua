--- Seeded randomness: the seed is printed once, and SEED in the environment sets it.
local random = {}

local seed = tonumber(os.getenv "SEED") or os.time() % 1000000
math.randomseed(seed)
io.stdout:write(("SEED=%d\n"):format(seed))
io.stdout:flush()

random.seed = seed

--- A whole number from low to high.
function random.int(low, high) return math.random(low, high) end

--- One of a list.
function random.one(list) return list[math.random(#list)] end

--- n bytes, any of them.
function random.bytes(n)
  local out = {}
  for i = 1, n do out[i] = string.char(math.random(0, 255)) end
  return table.concat(out)
end

--- The list in another order, in place.
function random.shuffle(list)
  for i = #list, 2, -1 do
    local j = math.random(i)
    list[i], list[j] = list[j], list[i]
  end
  return list
end

return random
