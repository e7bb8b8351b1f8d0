#!lua
-- Writes an order, unless it is there. KEYS: order. ARGV: record, keep until
local old = redis.call('HGET', KEYS[1], 'record')
if old then return old end
redis.call('HSET', KEYS[1], 'record', ARGV[1])
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return false
