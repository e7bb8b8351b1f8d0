#!lua
-- Writes a token of a task that is there. KEYS: task, tokens. ARGV: token id, token, keep until, now, limit
-- A token begins with the time until which it is kept, 8 bytes big-endian, so that a long task does not hoard dead ones.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local old = redis.call('HGET', KEYS[2], ARGV[1])
if old then return old end
local count = redis.call('HLEN', KEYS[2])
if count >= 128 and count % 32 == 0 then
  local some = redis.call('HRANDFIELD', KEYS[2], 64, 'WITHVALUES')
  for i = 1, #some, 2 do
    if struct.unpack('>I8', some[i + 1]) < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[2], some[i]) end
  end
end
if count >= tonumber(ARGV[5]) then
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    if struct.unpack('>I8', all[i + 1]) < tonumber(ARGV[4]) then redis.call('HDEL', KEYS[2], all[i]) end
  end
  if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[5]) then return 2 end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if redis.call('PEXPIRETIME', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIREAT', KEYS[2], ARGV[3]) end
return 1
