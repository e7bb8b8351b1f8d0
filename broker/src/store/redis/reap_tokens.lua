#!lua
-- Removes the tokens of a dead task; answers how many there were. KEYS: tokens
local count = redis.call('HLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
return count
