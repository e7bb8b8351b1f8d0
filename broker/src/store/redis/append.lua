#!lua flags=allow-oom
-- Appends an entry that names the one before it. A full Redis still takes endings. KEYS: log, agreement.
-- ARGV: id, entry, until, floor, version of the agreement. Answers 0 if the agreement is another one.
-- The first entry on another primary than that of the entry before stands far above it: brokers may have stamped
-- tokens with positions that only the former primary gave, and every ending of this one must be above those stamps.
-- The number is beyond what a primary ever appends that no replica has, and leaves room for two million failovers
-- below 2^53, up to which Lua counts.
if (redis.call('HGET', KEYS[2], 'v') or '0') ~= ARGV[5] then return 0 end
local position, previous = 0, ''
local tip = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if tip then
  position = tonumber(string.match(tip[1], '^(%d+)'))
  for i = 1, #tip[2], 2 do
    if tip[2][i] == 'u' then previous = tip[2][i + 1] end
  end
  if previous == ARGV[1] then return position end
end
if position < tonumber(ARGV[4]) then position = tonumber(ARGV[4]) end
local primary = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
local former = redis.call('HGET', KEYS[2], 'p')
if former ~= primary then
  redis.call('HSET', KEYS[2], 'p', primary)
  if former or tip then position = position + 4294967296 end
end
position = position + 1
redis.call('XADD', KEYS[1], string.format('%.0f-0', position), 'u', ARGV[1], 'p', previous, 'd', ARGV[2], 't', ARGV[3])
return position
