-- What every script begins with: how an account lies in Redis, and how its leases run out.
--
-- An account is one hash. Its fields `t` and `u` have the totals, in the order of the indices
-- below: `t` what every call changes, `u` the rest (missing: all zero). `h:<id>` is the record of a
-- hold, `r:<loop>` of what an agent loop keeps back, `x:<id>` says that an extension was made.
-- Totals and records are packed integers of 8 bytes, little-endian: times in milliseconds of Unix
-- time, usd in nano-dollars. Lua counts in doubles, so all stay below 2^53.

local OFTEN, SIZE = 18, 38
-- LEASES is how many there are, LEASE_AT when the first of them may run out, FORGET_AT when the
-- first record of a hold that is no more may be forgotten (0: never), and TOUCHED when the account
-- was last given a time to live.
local EPOCH, VERSION, TOUCHED, LEASES, LEASE_AT, FORGET_AT = 1, 2, 3, 4, 5, 6
-- Each before the first of its six meters.
local SETTLED, HELD = 6, 12
local RESERVED, EXTRA, OVERSHOOT = 18, 24, 30
local RELEASED, LATE = 37, 38

local SIX = 'i8i8i8i8i8i8'
local TOTALS_T = '<' .. SIX .. SIX .. SIX
local TOTALS_U = '<' .. SIX .. SIX .. SIX .. 'i8i8'
local NO_U = string.rep('\0', 8 * (SIZE - OFTEN))
local RECORD = '<i8i8' .. SIX -- its state, until when, and the amounts
local NOTHING = {0, 0, 0, 0, 0, 0}

-- The states: it holds (so does every reserve); its lease ran out; it was settled, and a resend
-- must change nothing although nothing else tells that it is one.
local ACTIVE, EXPIRED, DONE = 1, 2, 3

local KEPT_MS = 24 * 3600 * 1000
local TOUCH_MS = 60 * 1000 -- a time to live is not set anew more often than this
local SCANNED_PER_MS = 25 -- records, of some 3 us each: scans take no more than a tenth of the time

local clock = redis.call('TIME')
local NOW = clock[1] * 1000 + math.floor(clock[2] / 1000)

local freed = {} -- keys of accounts in which room may have come free

local function integers(packed)
  return {struct.unpack('<' .. string.rep('i8', #packed / 8), packed)}
end

-- One of the totals of `u`, to look at.
local function rare(account, index)
  if account[SIZE] then return account[index] end
  if not account.u then return 0 end
  return (struct.unpack('<i8', account.u, 8 * (index - OFTEN) - 7))
end

-- All totals, to change those of `u` too.
local function whole(account)
  if account[SIZE] then return end
  local totals = {struct.unpack(TOTALS_U, account.u or NO_U)}
  for index = 1, SIZE - OFTEN do account[OFTEN + index] = totals[index] end
end

-- Adds `sign` times six integers of `amounts`, those after `from`, to a vector of the account.
local function add(account, vector, amounts, from, sign)
  for meter = 1, 6 do
    account[vector + meter] = account[vector + meter] + sign * amounts[from + meter]
  end
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

-- A hold that ended as it is remembered for a day; `record` has amounts from its third item.
local function remembered(account, state, record)
  account[FORGET_AT] = earliest(account[FORGET_AT], NOW + KEPT_MS)
  return struct.pack(RECORD, state, NOW + KEPT_MS, unpack(record, 3, 8))
end

local function new_account()
  return {NOW, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
end

-- Writes the totals, and `...`: further fields and their values.
local function write(key, account, ...)
  account[VERSION] = account[VERSION] + 1
  account.t = struct.pack(TOTALS_T, unpack(account, 1, OFTEN))
  if not account[SIZE] then return redis.call('HSET', key, 't', account.t, ...) end
  account.u = struct.pack(TOTALS_U, unpack(account, OFTEN + 1, SIZE))
  redis.call('HSET', key, 't', account.t, 'u', account.u, ...)
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

-- Gives back what ran out, forgets what is old, and notes when to look again.
local function scan(key, account)
  local fields = redis.call('HGETALL', key)
  local lease_at, leases = 0, account[LEASES]

  local function run_out(field, record)
    if record[1] ~= ACTIVE then return redis.call('HDEL', key, field) end
    end_lease(account)
    if field:sub(1, 2) == 'r:' then
      add(account, RESERVED, record, 2, -1)
      return redis.call('HDEL', key, field)
    end
    add(account, HELD, record, 2, -1)
    account[RELEASED] = account[RELEASED] + 1
    redis.call('HSET', key, field, remembered(account, EXPIRED, record))
  end

  whole(account)
  account[FORGET_AT] = 0
  for index = 1, #fields, 2 do
    local kind = fields[index]:sub(1, 2)
    if kind == 'h:' or kind == 'r:' then
      local record = {struct.unpack(RECORD, fields[index + 1])}
      if record[2] <= NOW then
        run_out(fields[index], record)
      elseif record[1] == ACTIVE then
        lease_at = earliest(lease_at, record[2])
      else
        account[FORGET_AT] = earliest(account[FORGET_AT], record[2])
      end
    end
  end
  local soonest = NOW + math.floor(#fields / 2 / SCANNED_PER_MS)
  account[LEASE_AT] = lease_at > 0 and math.max(lease_at, soonest) or 0
  if account[FORGET_AT] > 0 then account[FORGET_AT] = math.max(account[FORGET_AT], soonest) end
  if account[LEASES] < leases then freed[#freed + 1] = key end
  write(key, account)
end

local function is_due(account)
  local lease_at, forget_at = account[LEASE_AT], account[FORGET_AT]
  return lease_at > 0 and lease_at <= NOW or forget_at > 0 and forget_at <= NOW
end

-- The totals and up to two further fields.
local function fetch(key, field, other)
  if other then return redis.call('HMGET', key, 't', 'u', field, other) end
  if field then return redis.call('HMGET', key, 't', 'u', field) end
  return redis.call('HMGET', key, 't', 'u')
end

local function unpacked(record)
  return record and {struct.unpack(RECORD, record)} or nil
end

-- The account as it is once what ran out is given back, or nil; and the records {state, until, six
-- amounts} of two fields, or nil.
local function open(key, field, other)
  local values = fetch(key, field, other)
  if not values[1] then return nil, nil, nil end
  local account = {struct.unpack(TOTALS_T, values[1])}
  account[OFTEN + 1] = nil -- where unpacking ended
  account.u = values[2]
  if is_due(account) then
    scan(key, account)
    values = fetch(key, field, other)
  end
  account.t, account.u = values[1], values[2]
  return account, unpacked(values[3]), unpacked(values[4])
end

-- Lets a loop keep back `amounts` instead of its record `own`. Returns the field and the value to
-- write; nothing if it keeps nothing.
local function keep(key, account, field, own, amounts, lease_at)
  if own then
    whole(account)
    add(account, RESERVED, own, 2, -1)
    end_lease(account)
  end
  for meter = 1, 6 do
    if amounts[meter] ~= 0 then
      whole(account)
      add(account, RESERVED, amounts, 0, 1)
      lease(account, lease_at)
      return field, struct.pack(RECORD, ACTIVE, lease_at, unpack(amounts, 1, 6))
    end
  end
  if own then redis.call('HDEL', key, field) end
end

-- All totals of an account, or of one that is not there, as they were read or written last.
local function packed(account)
  if not account or not account.t then return string.rep('\0', 8 * SIZE) end
  return account.t .. (account.u or NO_U)
end

-- Wakes who waits for room, and answers: the time, five facts of the command, then the accounts.
local function answer(accounts, rolled, late, repeated, line, meter)
  if #freed > 0 then
    redis.call('PUBLISH', KEYS[1]:match('^{[^}]*}') .. ':room', table.concat(freed, '\n'))
  end
  return struct.pack('<i8i8i8i8i8i8', NOW, rolled, late, repeated, line, meter)
    .. table.concat(accounts)
end
