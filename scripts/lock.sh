#!/bin/sh
# Writes requirements.lock: what pip chooses today for Hedgerow with all its extras, in a fresh virtual environment.
# Called by `make lock`, with the interpreter in PYTHON and the pinned torch in TORCH.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check ".[examples,dev]" "${TORCH:-torch}"
{
    echo "# Exact versions of everything that Hedgerow's examples, tests and tools use. Made by 'make lock'; do not edit."
    # torch brings the GPU packages that fit itself, where it has any; a build suffix such as +cpu is a choice of the machine.
    "$work/venv/bin/python" -m pip freeze --exclude hedgerow |
        grep -Ev '^(nvidia|cuda|triton)' | sed 's/^\(torch==[^+]*\)+.*/\1/'
} >"$work/requirements.lock"
cp "$work/requirements.lock" requirements.lock
echo "requirements.lock names $(grep -c == requirements.lock) packages."
