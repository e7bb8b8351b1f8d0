#!lua flags=allow-oom
-- Puts off when tasks are due. Only tasks that are on the list; so this needs no memory, and a full Redis must not end
-- tasks that are attended. KEYS: due. ARGV: time, task, time, task, …
for i = 1, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], 'XX', ARGV[i], ARGV[i + 1])
end
return 0
