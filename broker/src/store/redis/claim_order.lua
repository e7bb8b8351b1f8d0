#!lua
-- Claims an order by beginning its task, unless it is gone or was claimed: answers the claim that counts then. KEYS: order, task, tokens. ARGV: claim, keep until, record, keep until, token id, token, keep until
if redis.call('HEXISTS', KEYS[1], 'record') == 0 then return '' end
local old = redis.call('HGET', KEYS[1], 'claim')
if old then return old end
if redis.call('EXISTS', KEYS[2]) == 1 then return '' end
redis.call('HSET', KEYS[1], 'claim', ARGV[1])
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PXAT', ARGV[4])
redis.call('HSET', KEYS[3], ARGV[5], ARGV[6])
redis.call('PEXPIREAT', KEYS[3], ARGV[7])
return false
