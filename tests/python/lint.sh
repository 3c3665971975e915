#!/bin/bash
# Types (mypy --strict) and style (ruff) of the Python package, its tests and examples.
set -u
venv=$(realpath -m "${BUILD:-build}")/venv
if ! reason=$(tests/python/venv.sh "$venv"); then
    echo "SKIPPED: mypy and ruff: $reason"
    exit 0
fi
status=0
cache=$(realpath "${BUILD:-build}")
check() { # name, command...
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then echo "ok - $name"; else
        echo "not ok - $name"
        sed 's/^/    /' <<<"$output"
        status=1
    fi
}
files=(bindings/python/src bindings/python/tests bindings/python/setup.py bindings/python/wheels tests/python)
[ ! -d examples/python ] || files+=(examples/python)
config=bindings/python/pyproject.toml
export RUFF_NO_CACHE=true
check "ruff check" "$venv/bin/ruff" check -q --config $config "${files[@]}"
check "ruff format" "$venv/bin/ruff" format --check --config $config "${files[@]}"
check "mypy --strict" "$venv/bin/mypy" --config-file $config --cache-dir "$cache/mypy" bindings/python/src/salf
# They do find what they are for.
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
printf 'def f(x):\n    return x\n' >"$work/untyped.py"
! "$venv/bin/mypy" --config-file $config --cache-dir "$cache/mypy" "$work/untyped.py" >"$work/output" 2>&1
found=$?
grep -q no-untyped-def "$work/output" && [ $found -eq 0 ] && echo "ok - mypy is strict" || { echo "not ok - mypy is strict"; status=1; }
exit $status
