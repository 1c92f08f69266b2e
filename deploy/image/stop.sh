#!/bin/sh
# stop.sh [wait]: stops the instance of this container, and with `wait` returns when it has ended: a preStop hook.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${MM_ANCHOR_FILE:=$here/run/model-mesh.anchor}"
export MM_ANCHOR_FILE
case "${1:-}" in
    wait) exec "$here/venv/bin/modelmesh" stop --wait ;;
    "") exec "$here/venv/bin/modelmesh" stop ;;
    *) echo "usage: stop.sh [wait]" >&2; exit 1 ;;
esac
