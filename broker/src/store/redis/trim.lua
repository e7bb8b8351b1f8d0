#!lua flags=allow-oom
-- Drops entries that cannot matter any more from 2000 of them, and those at the places named; the last entry stays.
-- Answers how many were looked at, and the last of them. ARGV: now, from, places
-- Nobody's clock makes the log forget more than this server's.
local time = redis.call('TIME')
local now = math.min(tonumber(ARGV[1]), time[1] * 1000 + math.floor(time[2] / 1000))
local tip = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
for i = 3, #ARGV do
  if tip and tip[1] ~= ARGV[i] then redis.call('XDEL', KEYS[1], ARGV[i]) end
end
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', 2000)
for n = 1, #entries do
  for i = 1, #entries[n][2], 2 do
    if entries[n][2][i] == 't' and tonumber(entries[n][2][i + 1]) <= now and entries[n][1] ~= tip[1] then
      redis.call('XDEL', KEYS[1], entries[n][1])
    end
  end
end
return { #entries, #entries > 0 and entries[#entries][1] or '' }
