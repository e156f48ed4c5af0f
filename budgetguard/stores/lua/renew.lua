-- Renews the leases of holds and reserves in one account; what is not there any more is skipped.
--
-- ARGV[1]: packed integers: the length of a lease and the end of the account's window (0: none), in
-- milliseconds. Each further argument: the field of a record.

local key = KEYS[1]
local numbers = integers(ARGV[1])
local lease_at = NOW + numbers[1]

local account = open(key)
local renewed = false
for index = 2, #ARGV do
  local record = account and unpacked(redis.call('HGET', key, ARGV[index]))
  if record and record[1] == ACTIVE then
    renewed = true
    local value = struct.pack(RECORD, ACTIVE, lease_at, unpack(record, 3, 8))
    redis.call('HSET', key, ARGV[index], value)
  end
end
-- The time of the first lease stays: it says when to look, and looking finds the new one.
if renewed then use(key, account, numbers[2]) end
return answer({packed(account)}, 0, 0, 0, -1, -1)
