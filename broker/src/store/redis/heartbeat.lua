#!lua flags=allow-oom
-- Reports what a broker has applied; answers time, epoch, tip, all brokers' reports, which primary this is, and how many
-- replicas it has.
-- With a report goes the reporter's own freshness bound: after ten of them a broker that does not report is taken off
-- the list, by whoever notices. Answers the longest bound too, and what brokers ask that have arrived.
-- A report counts only if this log has the entry that the broker applied last. The epoch is kept with the list of
-- brokers, so that who has lost it notices. KEYS: brokers, log, bounds, agreement, what brokers say of themselves,
-- what brokers ask with that have arrived.
-- ARGV: broker, applied, freshness bound (ms), epoch if there is none, last entry applied, what the broker says of itself
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local position, id = 0, ''
local tip = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local last = tip
if tip then
  position = tonumber(string.match(tip[1], '^(%d+)'))
  for i = 1, #tip[2], 2 do
    if tip[2][i] == 'u' then id = tip[2][i + 1] end
  end
end
-- Who has applied everything, as most have, names the tip.
if not tip or tip[1] ~= ARGV[2] .. '-0' then
  last = redis.call('XRANGE', KEYS[2], ARGV[2] .. '-0', ARGV[2] .. '-0')[1]
end
local applied = '0'
if last then
  for i = 1, #last[2], 2 do
    if last[2][i] == 'u' and last[2][i + 1] == ARGV[5] then applied = ARGV[2] end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], applied .. ' ' .. string.format('%.0f', now))
-- Written once, not with each heartbeat: a write costs a replica and the append-only file.
local bounds = {}
local stored = redis.call('HGETALL', KEYS[3])
for i = 1, #stored, 2 do
  -- No broker may have a longer bound than a minute, whatever stands here.
  bounds[stored[i]] = math.min(tonumber(stored[i + 1]) or 60000, 60000)
  if stored[i] == ARGV[1] and stored[i + 1] ~= ARGV[3] then bounds[stored[i]] = nil end
end
if not bounds[ARGV[1]] then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  bounds[ARGV[1]] = tonumber(ARGV[3])
end
if redis.call('HGET', KEYS[5], ARGV[1]) ~= ARGV[6] then
  redis.call('HSET', KEYS[5], ARGV[1], ARGV[6])
end
local epoch = nil
local longest = 0
local peers = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local applied, at = string.match(all[i + 1], '^(%d+) (%d+)$')
  if all[i] == '=epoch' then
    epoch = all[i + 1]
  elseif not at or math.abs(now - tonumber(at)) > 10 * (bounds[all[i]] or tonumber(ARGV[3])) then
    redis.call('HDEL', KEYS[1], all[i])
    redis.call('HDEL', KEYS[3], all[i])
    redis.call('HDEL', KEYS[5], all[i])
    redis.call('HDEL', KEYS[6], all[i])
  else
    longest = math.max(longest, bounds[all[i]] or tonumber(ARGV[3]))
    peers[#peers + 1] = { all[i], tonumber(applied) }
  end
end
if not epoch then
  epoch = ARGV[4]
  redis.call('HSET', KEYS[1], '=epoch', epoch)
end
local replication = redis.call('INFO', 'replication')
local primary = string.match(replication, 'master_replid:(%x+)') or ''
local replicas = tonumber(string.match(replication, 'connected_slaves:(%d+)') or '0')
local agreement = tonumber(redis.call('HGET', KEYS[4], 'v') or '0')
local arrivals = {}
local arrived = redis.call('HGETALL', KEYS[6])
for i = 1, #arrived, 2 do
  arrivals[#arrivals + 1] = { arrived[i], arrived[i + 1] }
end
return { now, epoch, position, id, peers, primary, longest, agreement, replicas, arrivals }
