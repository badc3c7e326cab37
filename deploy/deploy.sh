#!/usr/bin/env bash
# Builds the image and brings the composition up, waiting until the gateway is healthy.
# usage: deploy/deploy.sh [up|scale N|roll|down|status|logs] [docker compose options, e.g. --profile nginx]
#   scale N   N gateways behind nginx, on one Redis
#   roll      replaces them by the newest image, one after the other; running streams end before their node does
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-up}
[ $# -gt 0 ] && shift
command -v docker >/dev/null || { echo "docker is not installed" >&2; exit 1; }
docker compose version >/dev/null 2>&1 || { echo "docker has no compose plugin" >&2; exit 1; }
stop_seconds=330    # server.drain_timeout and a little, as in docker-compose.yml

nginx_reads_addresses_again() {
  if [ -n "$(docker compose --profile nginx ps --quiet nginx)" ]; then
    docker compose --profile nginx exec -T nginx nginx -s reload
  fi
}

case $action in
  up)
    [ -f .env ] || echo "no .env: starting with the demo backend (see .env.example)"
    docker compose "$@" config --quiet
    docker compose "$@" up --build --detach --wait --wait-timeout 120
    echo "Headgate is healthy: $(docker compose "$@" port gateway 8080)"
    ;;
  scale)
    count=${1:?how many gateways?}
    shift
    export PORT= ADMIN_PORT=    # one port of this machine cannot be that of several containers: each takes a free one
    docker compose --profile nginx "$@" up --build --detach --wait --wait-timeout 120 --scale "gateway=$count"
    nginx_reads_addresses_again
    echo "$count gateways behind $(docker compose --profile nginx "$@" port nginx 8000)"
    ;;
  roll)
    mapfile -t nodes < <(docker compose "$@" ps --quiet gateway)
    [ "${#nodes[@]}" -gt 1 ] || { echo "one gateway cannot be replaced unnoticed: deploy/deploy.sh scale 2" >&2; exit 1; }
    export PORT= ADMIN_PORT=
    docker compose "$@" build gateway
    for node in "${nodes[@]}"; do
      docker stop --time "$stop_seconds" "$node"    # SIGTERM: new streams go elsewhere, running ones end
      docker rm "$node"
      docker compose "$@" up --detach --wait --wait-timeout 120 --no-deps --no-recreate --scale "gateway=${#nodes[@]}" gateway
      nginx_reads_addresses_again
    done
    ;;
  down) docker compose --profile nginx "$@" down ;;
  status) docker compose "$@" ps ;;
  logs) docker compose "$@" logs --follow --tail 100 ;;
  *) sed -n 3p "$0" >&2; exit 2 ;;
esac
