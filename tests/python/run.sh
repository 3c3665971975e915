#!/bin/bash
# Tests of the Python package, run in place against the library in $BUILD. Arguments go to pytest; all tests without.
set -u
venv=$(realpath -m "${BUILD:-build}")/venv
if ! reason=$(tests/python/venv.sh "$venv"); then
    echo "SKIPPED: the Python package: $reason"
    exit 0
fi
SALF_BUILD=$(realpath "${BUILD:-build}")
SALF_SHARED=$(realpath -m "${SALF_SHARED:-../shared}")
export SALF_BUILD SALF_SHARED SALF_LIBRARY=$SALF_BUILD/lib/libsalf.so SALF_PROGRAM=$SALF_BUILD/bin/salf
# Freed memory is overwritten, so that its use shows.
export PYTHONMALLOC=debug MALLOC_PERTURB_=165
export PYTHONPATH=$PWD/bindings/python/src:$PWD/tests/python PYTHONDONTWRITEBYTECODE=1
exec "$venv/bin/python" -m pytest -c bindings/python/pyproject.toml -p no:cacheprovider -p lines \
    "${@:-bindings/python/tests}"
