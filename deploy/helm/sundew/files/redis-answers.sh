# Whether a server of Redis answers at this port: it asks for a password, or answers.
set -eu
answer=$(redis-cli --tls --cacert /tls/ca.crt -h "$POD_IP" -p "$1" ping 2>&1) || true
case $answer in
  PONG | *NOAUTH*) ;;
  *) echo "$answer" >&2; exit 1 ;;
esac
