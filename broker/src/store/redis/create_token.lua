#!lua
-- Writes a token of a task that is there. ARGV: record, keep until
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local old = redis.call('GET', KEYS[2])
if old then return old end
redis.call('SET', KEYS[2], ARGV[1], 'PXAT', ARGV[2])
return 1
