#!/bin/bash
# Compares libsalf.so with the committed baseline: what programs built against it rely on must still be there. Added
# functions and fields added at the end of options structs are no difference (suppressions.ini). A change that is meant
# needs a new SALF_SOVERSION, and `make abi-baseline`.
set -u
here=$(dirname "$0")
command -v abidiff >/dev/null || { echo "skip - abidiff (abigail-tools) is not there"; exit 0; }
[ "$(uname -m)" = x86_64 ] || { echo "skip - the baseline is that of x86_64, not $(uname -m)"; exit 0; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0

compare() { # library, expected (same or differs), name of the check, folder of its header
    abidiff --no-added-syms --headers-dir1 include --headers-dir2 "$4" --suppressions "$here/suppressions.ini" \
        "$here/baseline.abi" "$1" >"$work/difference" 2>&1
    local code=$? # bits: 1 and 2 error, 4 differs, 8 incompatible; beyond: killed
    if { [ $code -eq 0 ] && [ "$2" = same ]; } || { [ $code -lt 16 ] && [ $((code & 4)) -ne 0 ] && [ "$2" = differs ]; }; then
        echo "ok - $3"
    else
        echo "not ok - $3 (abidiff ended with $code)"
        sed 's/^/    /' "$work/difference"
        status=1
    fi
}

# The comparison itself: a library of empty functions, made from the header with one change, is told apart or not.
changed() { # change as a sed expression, name of the check, expected
    mkdir -p "$work/include"
    sed "$1" include/salf.h >"$work/include/salf.h"
    cmp -s include/salf.h "$work/include/salf.h" && { echo "not ok - $2: the header was not changed"; status=1; return; }
    "${PYTHON:-python3}" "$here/write_stubs.py" "$work/include/salf.h" >"$work/stubs.c" &&
        ${CC:-gcc} -std=c11 -g -w -fPIC -shared -I"$work/include" -Wl,-soname,"$SONAME" \
            -Wl,--version-script="$VERSION_SCRIPT" "$work/stubs.c" \
            -o "$work/libsalf.so" || { echo "not ok - $2: does not compile"; status=1; return; }
    compare "$work/libsalf.so" "$3" "$2" "$work/include"
}

compare "${BUILD:-build}/lib/$SONAME" same "libsalf.so is compatible with the baseline" include
changed 's/^} salf_context_options;/    int64_t added_at_the_end;\n&/' \
    "a field added at the end of an options struct is allowed" same
changed 's/^    int32_t device; .*ordinal.*/    int64_t added_inside;\n&/' \
    "a field added inside an options struct is found" differs
changed 's/^    int64_t row_stride;/    int64_t added;\n&/' "a change of salf_tensor is found" differs
changed 's/SALF_API int32_t salf_version_number(void);//' "a removed function is found" differs
changed 's/salf_planner_done(salf_planner \*planner)/salf_planner_done(salf_planner *planner, int32_t added)/' \
    "a changed parameter list is found" differs
exit $status
