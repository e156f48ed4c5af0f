-- Tells the balances; makes no account, and is no use of one.
--
-- ARGV[1]: packed integers: for each key the start and the end of its window in milliseconds (0 and
-- 0: whatever the time is).

local numbers = integers(ARGV[1])
for index = 1, #KEYS do
  local starts, ends = numbers[2 * index - 1], numbers[2 * index]
  if ends > 0 and (NOW < starts or NOW >= ends) then return answer({}, 1, 0, 0, -1, -1) end
end

local blobs = {}
for index, key in ipairs(KEYS) do
  blobs[index] = packed((open(key)))
end
return answer(blobs, 0, 0, 0, -1, -1)
