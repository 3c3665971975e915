#!/bin/bash
# salf.h stands alone, without a warning, in every dialect of C and C++ that hosts are written in; and the layout of its
# structs is the committed one.
set -u
export MAKEFLAGS=
here=$(dirname "$0")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
warnings=(-Wall -Wextra -Wpedantic -Werror -Iinclude)

report() { # name, status of the compiler
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; fi
}

printf '#include <salf.h>\n#include <salf.h>\nint main(void) { return SALF_OK; }\n' >"$work/alone.c"
printf '#include <salf.h>\nint main() { return salf_version_number() == 0; }\n' >"$work/alone.cpp"
for compiler in gcc clang; do
    for dialect in c89 c99 c11 c17; do
        command -v $compiler >/dev/null || { echo "skip - $compiler is not there, $dialect"; continue; }
        $compiler -std=$dialect "${warnings[@]}" -fsyntax-only "$work/alone.c"
        report "$compiler -std=$dialect" $?
    done
done
for compiler in g++ clang++; do
    for dialect in c++98 c++11 c++17 c++20; do
        command -v $compiler >/dev/null || { echo "skip - $compiler is not there, $dialect"; continue; }
        $compiler -std=$dialect "${warnings[@]}" -fsyntax-only "$work/alone.cpp"
        report "$compiler -std=$dialect" $?
    done
done
if command -v g++ >/dev/null; then
    g++ -std=c++98 "${warnings[@]}" "$work/alone.cpp" -o "$work/alone" -L"${BUILD:-build}/lib" -lsalf &&
        LD_LIBRARY_PATH=${BUILD:-build}/lib "$work/alone"
    report "C++ links the functions by their C names" $?
fi
${CC:-gcc} -std=c11 "${warnings[@]}" "$here/layout.c" -o "$work/layout" && "$work/layout"
report "the layout of the public structs is the committed one" $?
# Padding is nobody's: a caller need not clear it, and what a later version puts there would be set by chance.
for flag in -fpack-struct -fshort-enums -funsigned-char; do
    ${CC:-gcc} -std=c11 "${warnings[@]}" $flag -fsyntax-only "$here/layout.c"
    report "no host changes it by $flag, as there is no padding" $?
done
${CC:-gcc} -std=c11 "${warnings[@]}" -DSALF_API= -include stdint.h -include stddef.h -DSALF_NO_INCLUDES -fsyntax-only \
    "$work/alone.c"
report "SALF_NO_INCLUDES leaves out nothing but the includes" $?
# In one file static names of all sources meet; what it does there is asked by tests/hosts.
make --no-print-directory BUILD="$work" CUDA=0 amalgamation >/dev/null &&
    ${CC:-gcc} -Wall -Wextra -Werror -fsyntax-only "$work/amalgamation/salf.c"
report "the library in one file compiles" $?
# A library that cannot see NaN would count zero states and bad rows as good ones: such builds are refused.
root=$(cd "$here/../.." && pwd)
for flag in -ffast-math -Ofast -ffinite-math-only -fpack-struct; do
    said=$(${CC:-gcc} -std=c11 $flag -I"$root/include" -I"$root/libsalf" -fsyntax-only "$root/libsalf/core/options.c" 2>&1)
    grep -q "libsalf cannot be built with" <<<"$said"
    report "$flag is refused by name" $?
done
said=$(gcc -std=c11 -fsingle-precision-constant -I"$root/include" -I"$root/libsalf" -fsyntax-only "$root/libsalf/core/options.c" 2>&1)
grep -q "libsalf cannot be built with -fsingle-precision-constant" <<<"$said"
report "-fsingle-precision-constant, which gcc has, is refused by name" $?
exit $status
