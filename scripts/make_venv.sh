#!/bin/sh
# Make .venv with a Python 3.11 to 3.13 and the locked packages; uv does it in seconds, pip is the way where uv cannot be had.
set -eu

usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON is no Python 3.11, 3.12 or 3.13 with venv and pip." >&2
        exit 1
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11, 3.12 or 3.13 with venv and pip was found. Install one (Debian: apt install python3 python3-venv)" >&2
    echo "or name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
}

if [ ! -x .venv/bin/python ] || ! usable .venv/bin/python; then
    python=$(find_python)
    echo "Making the virtual environment (.venv) with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv
fi

echo "Installing the locked packages" >&2
export UV_SYSTEM_CERTS=1 # like pip: trust what the machine trusts, a company's proxy for example
if .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9" 2>/dev/null &&
    .venv/bin/python -m uv pip install --quiet --python .venv/bin/python --compile-bytecode --require-hashes -r requirements-dev.lock; then
    exit 0
fi
echo "uv is not available here; pip takes about a minute" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
