--- Medians, intervals and tables.
local figures = {}

local function sorted(list)
  local copy = { unpack(list) }
  table.sort(copy)
  return copy
end

function figures.median(list)
  local s = sorted(list)
  local middle = #s / 2
  if #s % 2 == 1 then return s[middle + 0.5] end
  return (s[middle] + s[middle + 1]) / 2
end

function figures.range(list)
  local s = sorted(list)
  return s[1], s[#s]
end

--- Where the median lies with at least 95 percent: two order statistics, by the sign test. Nothing is assumed about the
-- distribution. Needs six values.
function figures.median_interval(list)
  local s, n = sorted(list), #list
  assert(n >= 6, "too few for an interval")
  local tail, term, k = 0, 0.5 ^ n, 0
  while tail + term <= 0.025 do
    tail = tail + term
    term = term * (n - k) / (k + 1)
    k = k + 1
  end
  return s[k], s[n + 1 - k]
end

--- 412345 as 412k, 98765 as 98.8k.
function figures.thousands(value)
  return value >= 1e5 and ("%.0fk"):format(value / 1e3) or ("%.1fk"):format(value / 1e3)
end

--- Rows of cells as a Markdown table whose columns line up; the first row is the head.
---@param rows table of tables of strings
---@param left number how many columns, from the first, are text and not figures
function figures.markdown(rows, left)
  local width, out = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do width[i] = math.max(width[i] or 3, #cell) end
  end
  for n, row in ipairs(rows) do
    local cells, rule = {}, {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(width[i] - #cell)
      cells[i] = i <= left and cell .. pad or pad .. cell
      rule[i] = i <= left and ("-"):rep(width[i]) or ("-"):rep(width[i] - 1) .. ":"
    end
    out[#out + 1] = "| " .. table.concat(cells, " | ") .. " |"
    if n == 1 then out[#out + 1] = "| " .. table.concat(rule, " | ") .. " |" end
  end
  return table.concat(out, "\n") .. "\n"
end

return figures
