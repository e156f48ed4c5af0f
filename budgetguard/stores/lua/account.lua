-- What every script begins with: how an account lies in Redis, and how its leases run out.
--
-- An account is one hash. Its field `t` has the totals, in the order of the indices below;
-- `h:<id>` is the record of a hold, `r:<loop>` what an agent loop keeps back, `x:<id>` says that an
-- extension was made. Totals and records are packed integers of 8 bytes, little-endian: times in
-- milliseconds of Unix time, usd in nano-dollars. Lua counts in doubles, so all stay below 2^53.

local SIZE = 38
local EPOCH, VERSION = 1, 2
-- Before the first of the six meters of each vector.
local SETTLED, HELD, RESERVED, EXTRA, OVERSHOOT = 2, 8, 14, 20, 26
local RELEASED, LATE = 33, 34
-- How many leases there are, when the first of them may run out, when the first record of a hold
-- that is no more may be forgotten (0: never), and when the account was last given a time to live.
local LEASES, LEASE_AT, FORGET_AT, TOUCHED = 35, 36, 37, 38

local TOTALS = '<' .. string.rep('i8', SIZE)
local RECORD = '<i8i8i8i8i8i8i8i8' -- its state, until when, and the amounts
local NO_ACCOUNT = string.rep('\0', 8 * SIZE)

-- The states: it holds (so does every reserve); its lease ran out; it was settled, and a resend
-- must change nothing although nothing else tells that it is one.
local ACTIVE, EXPIRED, DONE = 1, 2, 3

local KEPT_MS = 24 * 3600 * 1000
local TOUCH_MS = 60 * 1000 -- a time to live is not set anew more often than this
local SCANNED_PER_MS = 100 -- records; a scan of many is not repeated before it has paid off

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

local freed = {} -- keys of accounts in which room may have come free

local function integers(packed)
  return {struct.unpack('<' .. string.rep('i8', #packed / 8), packed)}
end

-- Adds `sign` times six integers of `amounts`, those after `from`, to a vector of the account.
local function add(account, vector, amounts, from, sign)
  for meter = 1, 6 do
    account[vector + meter] = account[vector + meter] + sign * amounts[from + meter]
  end
end

-- A record as {state, until, six amounts}; nil for none (a field that is not there is false).
local function unpacked(record)
  return record and {struct.unpack(RECORD, record)} or nil
end

-- The earlier of two times, of which 0 is none.
local function earliest(one, other)
  if one == 0 or other == 0 then return one + other end
  return math.min(one, other)
end

local function lease(account, lease_at)
  account[LEASES] = account[LEASES] + 1
  account[LEASE_AT] = earliest(account[LEASE_AT], lease_at)
end

local function end_lease(account)
  account[LEASES] = account[LEASES] - 1
  if account[LEASES] == 0 then account[LEASE_AT] = 0 end
end

local function forget_later(account)
  account[FORGET_AT] = earliest(account[FORGET_AT], NOW + KEPT_MS)
end

-- An ended hold as it is remembered for a day.
local function remembered(state, record)
  return struct.pack(RECORD, state, NOW + KEPT_MS, unpack(record, 3, 8))
end

local function new_account()
  local account = {NOW}
  for index = 2, SIZE do account[index] = 0 end
  account.packed = NO_ACCOUNT
  return account
end

-- Writes the totals, and `...`: further fields and their values.
local function write(key, account, ...)
  account[VERSION] = account[VERSION] + 1
  account.packed = struct.pack(TOTALS, unpack(account, 1, SIZE))
  redis.call('HSET', key, 't', account.packed, ...)
end

-- The same for a command that uses the account, which lets it live for another day; `ends` is when
-- its window does.
local function use(key, account, ends, ...)
  local touch = NOW - account[TOUCHED] >= TOUCH_MS
  if touch then account[TOUCHED] = NOW end
  write(key, account, ...)
  if touch then
    redis.call('PEXPIREAT', key, string.format('%.0f', math.max(NOW, ends) + KEPT_MS))
  end
end

-- Ends a record whose time has come. Returns what it leaves behind: until when, or nil.
local function run_out(key, account, field, record)
  if record[1] ~= ACTIVE then
    redis.call('HDEL', key, field)
    return nil
  end
  end_lease(account)
  if field:sub(1, 2) == 'r:' then
    add(account, RESERVED, record, 2, -1)
    redis.call('HDEL', key, field)
    return nil
  end
  add(account, HELD, record, 2, -1)
  account[RELEASED] = account[RELEASED] + 1
  redis.call('HSET', key, field, remembered(EXPIRED, record))
  return NOW + KEPT_MS
end

-- Gives back what ran out, forgets what is old, and notes when to look again.
local function scan(key, account)
  local fields = redis.call('HGETALL', key)
  local leases, lease_at, forget_at = account[LEASES], 0, 0
  for index = 1, #fields, 2 do
    local field = fields[index]
    local record = field ~= 't' and field:sub(1, 2) ~= 'x:' and unpacked(fields[index + 1])
    if record and record[2] <= NOW then
      forget_at = earliest(forget_at, run_out(key, account, field, record) or 0)
    elseif record and record[1] == ACTIVE then
      lease_at = earliest(lease_at, record[2])
    elseif record then
      forget_at = earliest(forget_at, record[2])
    end
  end
  local soonest = NOW + math.floor(#fields / 2 / SCANNED_PER_MS)
  account[LEASE_AT] = lease_at > 0 and math.max(lease_at, soonest) or 0
  account[FORGET_AT] = forget_at
  if account[LEASES] < leases then freed[#freed + 1] = key end
  write(key, account)
end

local function is_due(at)
  return at > 0 and at <= NOW
end

-- The totals and up to two further fields.
local function fetch(key, field, other)
  if other then return redis.call('HMGET', key, 't', field, other) end
  if field then return redis.call('HMGET', key, 't', field) end
  return redis.call('HMGET', key, 't')
end

-- The account as it is once what ran out is given back, or nil; and two records of it, or nil.
local function open(key, field, other)
  local values = fetch(key, field, other)
  if not values[1] then return nil, nil, nil end
  local account = {struct.unpack(TOTALS, values[1])}
  if is_due(account[LEASE_AT]) or is_due(account[FORGET_AT]) then
    scan(key, account)
    values = fetch(key, field, other)
  end
  account.packed = values[1]
  return account, unpacked(values[2]), unpacked(values[3])
end

-- Lets a loop keep back `amounts` instead of its record `own`. Returns the field and the value to
-- write; nothing if it keeps nothing.
local function keep(key, account, field, own, amounts, lease_at)
  if own then
    add(account, RESERVED, own, 2, -1)
    end_lease(account)
  end
  for meter = 1, 6 do
    if amounts[meter] ~= 0 then
      add(account, RESERVED, amounts, 0, 1)
      lease(account, lease_at)
      return field, struct.pack(RECORD, ACTIVE, lease_at, unpack(amounts, 1, 6))
    end
  end
  if own then redis.call('HDEL', key, field) end
end

local function packed(account)
  return account and account.packed or NO_ACCOUNT
end

-- Wakes who waits for room, and answers: the time, four facts of the command, then the accounts.
local function answer(accounts, rolled, late, repeated, line, meter)
  if #freed > 0 then
    redis.call('PUBLISH', KEYS[1]:match('^{[^}]*}') .. ':room', table.concat(freed, '\n'))
  end
  return struct.pack('<i8i8i8i8i8i8', NOW, rolled, late, repeated, line, meter)
    .. table.concat(accounts)
end
