#!lua
-- Writes or removes a field if it is still what the caller saw. ARGV: name, expected?, expected, value?, value
local old = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '1' then
  if old ~= ARGV[3] then return 0 end
elseif old then
  return 0
end
if ARGV[4] == '1' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[5])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
