#!lua flags=allow-oom
-- Leaves of a task that has ended what remains of it, and removes its tokens. KEYS: task, tokens, bindings, their order. ARGV: remains, keep until
local at = redis.call('PEXPIRETIME', KEYS[1])
if at == -2 then return 0 end
if at < 0 or at > tonumber(ARGV[2]) then at = ARGV[2] end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', at)
redis.call('UNLINK', KEYS[2])
redis.call('PEXPIREAT', KEYS[3], at)
redis.call('PEXPIREAT', KEYS[4], at)
return 1
