#!lua flags=allow-oom
-- Writes an agreement if the one that is there has the version expected. KEYS: agreement. ARGV: expected, version, value
if (redis.call('HGET', KEYS[1], 'v') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'd', ARGV[3])
return 1
