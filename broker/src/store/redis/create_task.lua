#!lua
-- Writes a task and its first token, unless the task is there. ARGV: record, keep until, token record, keep until
local old = redis.call('GET', KEYS[1])
if old then return old end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PXAT', ARGV[4])
return false
