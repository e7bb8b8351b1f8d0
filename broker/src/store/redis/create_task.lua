#!lua
-- Writes a task and its first token, unless the task is there. KEYS: task, tokens. ARGV: record, keep until, token id, token, keep until
local old = redis.call('GET', KEYS[1])
if old then return old end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PEXPIREAT', KEYS[2], ARGV[5])
return false
