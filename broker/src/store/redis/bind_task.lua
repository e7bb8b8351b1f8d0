#!lua
-- Adds a certificate to those that may act for a task, of which the newest stay. KEYS: task, bindings, their order. ARGV: binding, now, limit
local at = redis.call('PEXPIRETIME', KEYS[1])
if at <= 0 then return 0 end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
local surplus = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[3])
if surplus > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[3], 0, surplus - 1)) do
    redis.call('ZREM', KEYS[3], old)
    redis.call('SREM', KEYS[2], old)
  end
end
redis.call('PEXPIREAT', KEYS[2], at)
redis.call('PEXPIREAT', KEYS[3], at)
return 1
