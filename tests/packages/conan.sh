#!/bin/bash
# The recipe for Conan: the package is made, static and shared, and the host of its test_package is built and runs.
set -u
export LC_ALL=C MAKEFLAGS=""
CONAN=${CONAN:-conan}
command -v "$CONAN" >/dev/null && command -v cmake >/dev/null || { echo "skip - conan or cmake is not there: pip install conan, or CONAN=PATH"; exit 0; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
export CONAN_HOME=$work/home CC=${CC##* } CXX=${CXX##* }
"$CONAN" profile detect >"$work/output" 2>&1
mkdir -p "$work/up/packaging" && cp -r packaging/conan "$work/up/packaging/" # what a test builds goes beside it
for name in CMakeLists.txt LICENSE include libsalf pkgconfig bindings examples; do cp -r "$name" "$work/up/$name"; done # Conan follows no links
for shared in False True; do
    "$CONAN" create "$work/up/packaging/conan" -o "&:shared=$shared" >"$work/output" 2>&1 &&
        grep -qF '48 layer backwards instead of 72' "$work/output" && grep -qF "libsalf/$VERSION" "$work/output"
    if [ $? -eq 0 ]; then echo "ok - conan create, shared=$shared"; else echo "not ok - conan create, shared=$shared"; status=1; tail -20 "$work/output"; fi
done
"$CONAN" create "$work/up/packaging/conan" -o '&:blas=system' >"$work/output" 2>&1
if [ $? -ne 0 ] && grep -qF 'blas=system needs shared=True' "$work/output"; then echo "ok - a static library with a BLAS of the system is refused in words"; else
    echo "not ok - a static library with a BLAS of the system is refused in words"; status=1; tail "$work/output"; fi
exit $status
