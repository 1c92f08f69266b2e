#!/bin/sh
# start.sh [SERVICE NAME]: what the container runs; the name may be given as an argument, as it always could.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -gt 0 ]; then
    set -- --service-name "$1"
fi
exec "$here/venv/bin/modelmesh" serve "$@"
