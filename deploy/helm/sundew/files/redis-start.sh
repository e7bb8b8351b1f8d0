# Starts a node of Redis, or its Sentinel: `start.sh redis` or `start.sh sentinel`.
#
# The configuration is written anew at each start. What Redis and Sentinel have changed themselves is
# taken over from the file of before: who the primary is, and what the Sentinels have agreed on. At
# the very first start, node 0 is the primary.
set -eu
umask 077
own=$POD_NAME.$DOMAIN
first=${POD_NAME%-*}-0.$DOMAIN
sentinel=$(cat /secrets/sentinel.password)

# hash FILE: the SHA-256 of the password in it, as an access control list has it.
hash() { printf %s "$(cat "$1")" | sha256sum | cut -d ' ' -f 1; }

# kept FILE PATTERN: the lines of the file of before.
kept() { if [ -e "$1" ]; then grep -E "^($2) " "$1" || true; fi; }

start_redis() {
  sed "s/#0\{64\}/#$(hash /secrets/redis.password)/" /config/redis.acl > /run/redis/users.acl
  sed "s/#SENTINEL/#$(hash /secrets/sentinel.password)/" /config/sentinel.acl >> /run/redis/users.acl
  primary=$(kept /data/redis.conf replicaof)
  if [ ! -e /data/redis.conf ] && [ "$own" != "$first" ]; then
    primary="replicaof $first 6379"
  fi
  {
    cat /config/redis.conf
    echo "bind $POD_IP"
    echo "replica-announce-ip $own"
    echo "masteruser sentinel"
    echo "masterauth \"$sentinel\""
    echo "$primary"
  } > /data/redis.conf.new
  mv /data/redis.conf.new /data/redis.conf
  exec redis-server /data/redis.conf
}

start_sentinel() {
  file=/data/sentinel.conf
  monitor=$(kept "$file" 'sentinel monitor')
  state=$(kept "$file" \
    'sentinel (myid|config-epoch|leader-epoch|current-epoch|known-replica|known-sentinel)')
  {
    cat /config/sentinel.conf
    echo "bind $POD_IP"
    echo "sentinel announce-ip $own"
    echo "${monitor:-sentinel monitor main $first 6379 2}"
    echo "sentinel auth-user main sentinel"
    echo "sentinel auth-pass main $sentinel"
    echo "sentinel down-after-milliseconds main 5000"
    echo "sentinel failover-timeout main 10000"
    echo "sentinel parallel-syncs main 2"
    echo "$state"
  } > "$file.new"
  mv "$file.new" "$file"
  # A Sentinel does not start on a name that has no address yet.
  until getent hosts "$first" > /dev/null; do sleep 1; done
  exec redis-server "$file" --sentinel
}

"start_$1"
