-- Gives a hold back on every account: nothing was sent.
--
-- ARGV[1]: id of the hold. ARGV[2]: the agent loop that keeps its reserve again, or empty. ARGV[3]:
-- packed integers: the length of a lease in milliseconds, then for each key: the end of its window
-- in milliseconds (0: none), and six amounts to reserve.

local hold_field = 'h:' .. ARGV[1]
local loop_field = ARGV[2] ~= '' and 'r:' .. ARGV[2] or nil
local numbers = integers(ARGV[3])
local lease_at = NOW + numbers[1]

local any_there = false
local blobs = {}
for index, key in ipairs(KEYS) do
  local account, record, own = open(key, hold_field, loop_field)
  local at = 7 * index - 5
  if record and record[1] == ACTIVE then
    any_there = true
    whole(account)
    add(account, HELD, record, 2, -1)
    account[RELEASED] = account[RELEASED] + 1
    end_lease(account)
    redis.call('HDEL', key, hold_field)
    if loop_field then
      local reserve = {unpack(numbers, at + 1, at + 6)}
      use(key, account, numbers[at], keep(key, account, loop_field, own, reserve, lease_at))
    else
      use(key, account, numbers[at])
    end
    freed[#freed + 1] = key
  elseif record and record[1] == EXPIRED then
    -- Given back already; the loop's reserve is not, as others may have taken the room since.
    any_there = true
    redis.call('HDEL', key, hold_field)
  end
  blobs[index] = packed(account)
end
return answer(blobs, 0, 0, any_there and 0 or 1, -1, -1)
