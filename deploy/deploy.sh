#!/usr/bin/env bash
# Builds the image and brings the composition up, waiting until the gateway is healthy.
# usage: deploy/deploy.sh [up|down|status|logs] [docker compose options, e.g. --profile nginx]
set -euo pipefail
cd "$(dirname "$0")/.."

action=${1:-up}
[ $# -gt 0 ] && shift
command -v docker >/dev/null || { echo "docker is not installed" >&2; exit 1; }
docker compose version >/dev/null 2>&1 || { echo "docker has no compose plugin" >&2; exit 1; }

case $action in
  up)
    [ -f .env ] || echo "no .env: starting with the demo backend (see .env.example)"
    docker compose "$@" config --quiet
    docker compose "$@" up --build --detach --wait --wait-timeout 120
    echo "Headgate is healthy: $(docker compose "$@" port gateway 8080)"
    ;;
  down) docker compose "$@" down ;;
  status) docker compose "$@" ps ;;
  logs) docker compose "$@" logs --follow --tail 100 ;;
  *) sed -n 3p "$0" >&2; exit 2 ;;
esac
