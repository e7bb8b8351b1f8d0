#!lua
-- Writes a lease; one that is there keeps its time if that is earlier. KEYS: records, due. ARGV: id, record, due
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 'LT', ARGV[3], ARGV[1])
return 1
