-- Holds on every account, if every line fits.
--
-- ARGV[1]: id of the hold. ARGV[2]: the agent loop, or empty. ARGV[3]: packed integers: the length
-- of a lease in milliseconds, six amounts needed, then for each key: start and end of its window in
-- milliseconds (0 and 0: never renewed), six amounts to reserve, the number of limits, and for each
-- a meter, counted from 1, and an amount.

local hold_field = 'h:' .. ARGV[1]
local loop_field = ARGV[2] ~= '' and 'r:' .. ARGV[2] or nil
local numbers = integers(ARGV[3])
local lease_at = NOW + numbers[1]
local NEED, RESERVE, COUNT = 1, 1, 8 -- NEED in numbers; the others from the first of a line

local record = struct.pack(RECORD, ACTIVE, lease_at, unpack(numbers, NEED + 1, NEED + 6))

-- The first meter (counted from 0) in which the line at `at` does not fit, or nil.
local function short_meter(account, own, at)
  for limit = at + COUNT + 1, at + COUNT + 2 * numbers[at + COUNT], 2 do
    local meter = numbers[limit]
    local taken = account[SETTLED + meter] + account[HELD + meter] + numbers[NEED + meter]
      + rare(account, RESERVED + meter) - (own and own[2 + meter] or 0)
    if loop_field then taken = taken + numbers[at + RESERVE + meter] end
    if taken > numbers[limit + 1] + rare(account, EXTRA + meter) then return meter - 1 end
  end
end

-- Holds in one account; its loop keeps back what the line at `at` says, instead of `own`.
local function hold(key, account, own, at)
  add(account, HELD, numbers, NEED, 1)
  lease(account, lease_at)
  local ends = numbers[at + 1]
  if not loop_field then return use(key, account, ends, hold_field, record) end
  local reserve = {unpack(numbers, at + RESERVE + 1, at + RESERVE + 6)}
  use(key, account, ends, hold_field, record,
    keep(key, account, loop_field, own, reserve, lease_at))
end

-- Where each line begins in `numbers`, and whether all windows are current.
local starts, at = {}, 8
for index = 1, #KEYS do
  starts[index] = at
  if numbers[at + 1] > 0 and (NOW < numbers[at] or NOW >= numbers[at + 1]) then
    return answer({}, 1, 0, 0, -1, -1)
  end
  at = at + COUNT + 1 + 2 * numbers[at + COUNT]
end

local accounts, owns, blobs = {}, {}, {}
local line, meter = -1, -1
for index, key in ipairs(KEYS) do
  local account, known, own = open(key, hold_field, loop_field)
  account = account or new_account()
  -- Held already, or even settled: this is a resend.
  account.known = known and known[1] ~= EXPIRED
  if line < 0 and not account.known then
    meter = short_meter(account, own, starts[index]) or -1
    if meter >= 0 then line = index - 1 end
  end
  accounts[index], owns[index] = account, own
end

for index, key in ipairs(KEYS) do
  local account = accounts[index]
  if line < 0 and not account.known then hold(key, account, owns[index], starts[index]) end
  blobs[index] = packed(account)
end
return answer(blobs, 0, 0, 0, line, meter)
