-- Raises the limits of one account, once for each id.
--
-- ARGV[1]: id of the extension. ARGV[2]: packed integers: the end of the account's window in
-- milliseconds (0: none), and six amounts.

local key, field = KEYS[1], 'x:' .. ARGV[1]
local numbers = integers(ARGV[2])

local account = open(key) or new_account()
if redis.call('HEXISTS', key, field) == 0 then
  whole(account)
  add(account, EXTRA, numbers, 1, 1)
  use(key, account, numbers[1], field, '1')
  freed[#freed + 1] = key
end
return answer({packed(account)}, 0, 0, 0, -1, -1)
