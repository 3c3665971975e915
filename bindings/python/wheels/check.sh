#!/bin/bash
# Tests a wheel ($1) where nothing of this machine helps it: in an empty environment, and in the root of another
# distribution that debootstrap makes ($2: its name, such as bullseye; needs root).
set -u
wheel=$(realpath "${1:?wheel}")
suite=${2:-bullseye}
work=$(realpath -m "${BUILD:-build}")/wheels
here=$(realpath bindings/python/wheels)
status=0
result() { # status, name, file with what was said
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else
        echo "not ok - $2"
        sed 's/^/    /' "$3"
        status=1
    fi
}
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

"$work/venv/bin/python" -m auditwheel show "$wheel" >"$log" 2>&1
grep -q "manylinux_2_2[0-8]_$(uname -m)" "$log"
result $? "auditwheel: nothing newer than glibc 2.28" "$log"

# 1. A plain environment of this distribution's Python.
rm -rf "$work/try"
python3 -m venv "$work/try" && env -i PATH=/usr/bin:/bin "$work/try/bin/pip" install -q --disable-pip-version-check "$wheel" >"$log" 2>&1
if [ $? -ne 0 ]; then
    echo "SKIPPED: the wheel in a plain environment: $(tail -n 1 "$log")"
else
    env -i PATH=/nonexistent "$work/try/bin/python" "$here/check_wheel.py" >"$log" 2>&1
    result $? "works in a plain environment: $(tail -n 1 "$log")" "$log"
fi

# 2. Another distribution, whose Python is another too: cffi is fetched for it here, the root needs no network.
skip() { echo "SKIPPED: the wheel in $suite: $1"; exit $status; }
command -v debootstrap >/dev/null || skip "debootstrap is not there"
[ "$(id -u)" = 0 ] || skip "debootstrap needs root"
root=$work/root-$suite
if [ ! -e "$root/.made" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase --include=python3,python3-venv "$suite" "$root" >"$log" 2>&1 || skip "$(tail -n 1 "$log")"
    touch "$root/.made"
fi
version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1
rm -rf "$root/wheels" "$root/try"
mkdir "$root/wheels"
"$work/venv/bin/pip" download -q --disable-pip-version-check --only-binary=:all: --python-version "$version" -d "$root/wheels" \
    --platform "manylinux2014_$(uname -m)" --platform "manylinux_2_28_$(uname -m)" "cffi>=1.15" >"$log" 2>&1 || skip "$(tail -n 1 "$log")"
cp "$wheel" "$here/check_wheel.py" "$root/wheels/"
# In a namespace of its own for what is mounted, so that nothing stays mounted.
unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" /usr/bin/env -i PATH=/usr/bin:/bin sh -c "$1"' "$root" \
    'python3 -m venv /try && /try/bin/pip install -q --no-index --find-links /wheels salf && PATH=/nonexistent /try/bin/python /wheels/check_wheel.py' >"$log" 2>&1
result $? "works in $suite: $(tail -n 1 "$log")" "$log"
exit $status
