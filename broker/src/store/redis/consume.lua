#!lua
-- Takes a name that is good once. ARGV: until
if redis.call('SET', KEYS[1], '1', 'NX', 'PXAT', ARGV[1]) then return 1 end
return 0
