#!lua flags=allow-oom
-- Drops entries that cannot matter any more from the oldest 2000; the last entry stays. ARGV: now
local entries = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2000)
local dropped = 0
for n = 1, #entries - 1 do
  for i = 1, #entries[n][2], 2 do
    if entries[n][2][i] == 't' and tonumber(entries[n][2][i + 1]) <= tonumber(ARGV[1]) then
      redis.call('XDEL', KEYS[1], entries[n][1])
      dropped = dropped + 1
    end
  end
end
return dropped
