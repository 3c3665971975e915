#!/bin/bash
# salf.c, the library in one file: every compiler that is there takes it without a warning, it has the whole API and no
# dependency, and passes the unit tests; what it cannot do it refuses in words.
set -u
CC=${CC:-gcc}
export LC_ALL=C MAKEFLAGS=""
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
report() { # name, exit status of what was tried
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; sed 's/^/    /' "$work/output" | tail -20; fi
}
quietly() { "$@" >"$work/output" 2>&1; }
here=$PWD
quietly make --no-print-directory BUILD="$work" CUDA=0 amalgamation
report "make amalgamation" $?
cd "$work/amalgamation" || exit 1
[ "$(ls | xargs)" = 'salf.c salf.h' ]
report "it writes two files" $?

warnings=(-Wall -Wextra -Wshadow -Werror)
level=-O2
unit=$here/tests/unit
stand_in=$here/tests/hosts/stand_in
build_tests() { # compiler, folder, flags...: unit tests of the stand-in for libcheck, in the folder
    local compiler=$1 out=$2 system=() test
    shift 2
    [ -e "$stand_in/${out##*/}.h" ] && system=(-include "$stand_in/${out##*/}.h")
    mkdir -p "$out"
    quietly "$compiler" -std=gnu11 $level "${warnings[@]}" "$@" -c salf.c -o "$out/salf.o" || return
    for test in ${tests[*]}; do
        quietly "$compiler" -std=gnu11 -O0 -w "$@" "${system[@]}" -I"$stand_in" -I. -I"$here/libsalf" -I"$here/tests" -I"$unit" \
            "$unit/test_$test.c" "$unit/harness.c" "$unit/oracle.c" "$out/salf.o" -lm -pthread -o "$out/test_$test" || return
    done
}
run_tests() { # folder, emulator or nothing
    local out=$1 suffix= test
    [ "$out" = windows ] && suffix=.exe
    shift
    for test in ${tests[*]}; do
        quietly "$@" "$work/$out/test_$test$suffix"
        report "$out: test_$test of the amalgamation" $?
    done
}

tests=(core probe planner policy basis blas)
quietly build_tests "${CC##* }" "$work/native"
report "${CC:-gcc} takes salf.c without a warning" $?
run_tests native
nm -g --defined-only "$work/native/salf.o" | awk '$3 ~ /^salf_/ { print $3 }' | sort >"$work/there"
grep -E 'SALF_API' -A1 salf.h | grep -oE '\bsalf_[a-z0-9_]+\(' | tr -d '(' | sort -u >"$work/declared"
quietly diff "$work/declared" "$work/there"
report "it has every function of salf.h" $?
quietly eval "nm -u '$work/native/salf.o' | awk '{ print \$2 }' | grep -E 'blas|^d(potr|syev)|json|^dl|mmap|^open'"
report "it needs nothing but the C library and its mathematics" $((!$?))

tests=(core probe planner)
level=-O1
. "$here/tests/hosts/stand_in/wine.sh"
# compiler, folder, emulator and what starts programs of it, flags
others='musl-gcc musl - -static
aarch64-linux-gnu-gcc aarch64 qemu-aarch64 -static
clang clang - -
x86_64-w64-mingw32-gcc windows wine -static'
while read -r compiler folder emulator flag; do
    command -v "$compiler" >/dev/null || { echo "skip - $compiler is not there"; continue; }
    [ "$flag" = - ] && flag=
    if [ "$emulator" != - ] && ! command -v "$emulator" >/dev/null; then
        mkdir -p "$work/$folder"
        quietly "$compiler" $level "${warnings[@]}" -c salf.c -o "$work/$folder/salf.o"
        report "$compiler takes salf.c without a warning" $?
        echo "skip - $folder: what it made is not run, $emulator is not there"
        continue
    fi
    quietly build_tests "$compiler" "$work/$folder" $flag
    report "$compiler takes salf.c without a warning" $?
    [ "$emulator" = - ] && emulator=
    run_tests "$folder" $emulator
done <<<"$others"

# Without threads: no function of the library of threads, and a context that asks for some is refused.
cat >one.c <<'END'
#include "salf.h"
#include <stdio.h>
int main(void) {
    salf_context_options o = {.struct_size = sizeof o, .threads = THREADS, .backend = BACKEND};
    salf_context *context = NULL;
    const salf_status status = salf_context_create(&context, &o);
    salf_model *model = NULL;
    if (status == SALF_OK) salf_model_open(&model, context, "somewhere", NULL);
    printf("%s %s\n", salf_status_name(status), salf_last_error());
    salf_context_destroy(context);
    return 0;
}
END
quietly "${CC##* }" -O0 -DSALF_NO_THREADS -c salf.c -o none.o
says() { # words, threads, backend
    "${CC##* }" -DTHREADS="$2" -DBACKEND="$3" one.c none.o -lm -o one && ./one >"$work/output" 2>&1 && grep -qF "$1" "$work/output"
}
says "SALF_E_UNSUPPORTED threads is 3" 3 SALF_BACKEND_CPU
report "built without threads, it says so where some are asked for" $?
says "SALF_OK salf_model_open: somewhere: this libsalf was built without files" 1 SALF_BACKEND_AUTO
report "a checkpoint is refused by name" $?
says "SALF_E_PLUGIN" 0 SALF_BACKEND_CUDA
report "a device is refused" $?
quietly eval "nm -u none.o | grep -E 'pthread'"
report "it calls nothing of the library of threads then" $((!$?))

refused() { # name, words, what to call
    quietly "${@:3}"
    [ $? -ne 0 ] && grep -qF "$2" "$work/output"
    report "$1 is refused in words" $?
}
for flags in -ffast-math "-Ofast -fno-finite-math-only" -funsafe-math-optimizations; do
    # shellcheck disable=SC2086
    "${CC##* }" $flags -dM -E -x c /dev/null | grep -qE '__(FAST|ASSOCIATIVE)_MATH__' || continue # clang tells the first only
    # shellcheck disable=SC2086
    refused "$flags" "cannot be built with -ffast-math" "${CC##* }" -O0 $flags -fsyntax-only salf.c
done
command -v g++ >/dev/null && refused "C++" "salf.c is C11" g++ -fsyntax-only -x c++ salf.c
mkdir gnu && : >gnu/stubs-32.h # glibc's, which is not installed for this processor
command -v clang >/dev/null && refused "a system of 32 bits" "needs a system of 64 bits" clang --target=i686-linux-gnu -fsyntax-only -I. \
    -I"/usr/include/$("${CC##* }" -print-multiarch)" salf.c
exit $status
