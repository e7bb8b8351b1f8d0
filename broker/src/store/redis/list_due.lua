-- Puts a task on the list of due tasks, if it is not there. KEYS: due. ARGV: task, time
return redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
