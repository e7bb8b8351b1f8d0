#!lua
-- Takes leases that are due until a time. KEYS: records, due. ARGV: now, until, limit
local out = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local record = redis.call('HGET', KEYS[1], id)
  if record then
    redis.call('ZADD', KEYS[2], ARGV[2], id)
    out[#out + 1] = { id, record }
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
return out
