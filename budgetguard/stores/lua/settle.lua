-- Replaces a hold by what was used, on every account.
--
-- ARGV[1]: id of the hold. ARGV[2]: the agent loop that is over, or empty. ARGV[3]: packed
-- integers: 1 if the call was admitted while the store was out of reach, six amounts used, then for
-- each key: the epoch of the account when it held, and the end of its window (0: none), in
-- milliseconds.

local hold_field = 'h:' .. ARGV[1]
local loop_field = ARGV[2] ~= '' and 'r:' .. ARGV[2] or nil
local numbers = integers(ARGV[3])
local unheld = numbers[1] == 1
local USED = 1 -- in numbers

local any_late, any_new = 0, false

-- Replaces what is held, if it still is, by what was used.
local function settle(account, record)
  add(account, SETTLED, numbers, USED, 1)
  if not record then return end
  if record[1] == EXPIRED then
    whole(account)
    account[LATE] = account[LATE] + 1
    any_late = 1
    return
  end
  add(account, HELD, record, 2, -1)
  end_lease(account)
  for meter = 1, 6 do
    local over = numbers[USED + meter] - record[2 + meter]
    if over > 0 then
      whole(account)
      account[OVERSHOOT + meter] = account[OVERSHOOT + meter] + over
    end
  end
end

-- Whether a settlement without a record would be taken for one that is not there yet.
local function seems_new(account, index)
  return unheld or account[EPOCH] ~= numbers[2 * index + 6]
end

local blobs = {}
for index, key in ipairs(KEYS) do
  local account, record, own = open(key, hold_field, loop_field)
  account = account or new_account()
  local unknown = seems_new(account, index)
  local done = record and record[1] == DONE or not record and not unknown
  if own then
    keep(key, account, loop_field, own, NOTHING)
  end
  if not done then
    any_new = true
    settle(account, record)
    if not unknown then redis.call('HDEL', key, hold_field) end
  end
  local ends = numbers[2 * index + 7]
  if not done and unknown then
    local used = {0, 0, unpack(numbers, USED + 1, USED + 6)}
    use(key, account, ends, hold_field, remembered(account, DONE, used))
  elseif not done or own then
    use(key, account, ends)
  end
  if not done or own then freed[#freed + 1] = key end
  blobs[index] = packed(account)
end
return answer(blobs, 0, any_late, any_new and 0 or 1, -1, -1)
