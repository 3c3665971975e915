#!/bin/bash
# Makes the virtual environment of the Python tests: the distribution's python3, whose packages are seen in it (NumPy,
# PyTorch, cffi), and what requirements-test.txt pins. Kept until that file changes. When it cannot be made, the reason
# is printed and the status is 1.
set -u
venv=${1:?folder}
requirements=bindings/python/requirements-test.txt
python=/usr/bin/python3
[ -x $python ] || python=$(command -v python3) || { echo "there is no python3"; exit 1; }
hosts=bindings/python/requirements-hosts.txt
stamp="$($python -V 2>&1) $(cat "$requirements" "$hosts" | cksum)"
[ "$(cat "$venv/.made-for" 2>/dev/null)" = "$stamp" ] && exit 0

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
# Two suites may want it at the same time: the second waits, and finds it made.
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
[ "$(cat "$venv/.made-for" 2>/dev/null)" = "$stamp" ] && exit 0
rm -rf "$venv"
$python -m venv --system-site-packages "$venv" >"$log" 2>&1 || { echo "python3 -m venv: $(tail -n 1 "$log")"; exit 1; }
"$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements" >"$log" 2>&1 ||
    { echo "pip install -r $requirements: $(grep -m 1 -i error "$log" || tail -n 1 "$log")"; exit 1; }
# Only of use beside PyTorch, and the tests that want them say when they are missing.
! $python -c 'import torch' 2>"$log" || "$venv/bin/pip" install -q --no-deps --disable-pip-version-check -r "$hosts" >"$log" 2>&1 ||
    exit 0 # not marked as made: tried again next time
echo "$stamp" >"$venv/.made-for"
