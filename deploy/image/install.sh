#!/bin/sh
# Lays out what an image holds. install.sh instance|runtime|adapter WHEELS PREFIX
# BUILD_ID: what the file build-version says; default: the version of the wheel.
set -eu
kind=$1 wheels=$2 prefix=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$prefix"
"${PYTHON:-python3}" -m venv "$prefix/venv"
pip() { "$prefix/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
pip install --require-hashes --only-binary :all: -r "$here/../../requirements/$kind.lock"
pip install --no-deps "$wheels"/pymodelmesh-*.whl
if [ "$kind" = instance ]; then
    mkdir -p "$prefix/run"
    cp "$here/start.sh" "$here/stop.sh" "$prefix/"
    version=$("$prefix/venv/bin/modelmesh" --version | cut -d' ' -f2)
    echo "buildId=${BUILD_ID:-$version}" > "$prefix/build-version"
fi
if [ "$kind" = adapter ]; then
    "$here/commands.sh" "$prefix" "$prefix/venv/bin/modelmesh"
fi
