#!/bin/sh
# Builds the wheel of this project from the folder it stands in. build.sh FOLDER
set -eu
out=$1
cd "$(dirname "$0")/../.."
"${PYTHON:-python3}" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$out" .
