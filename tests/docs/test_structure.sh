#!/bin/bash
# The arrows and limits that docs/structure.md states hold in the sources.
set -u
build=${BUILD:-build}
status=0
none() { # name, what was found where nothing should be
    if [ -z "$2" ]; then echo "ok - $1"; else
        echo "not ok - $1"
        printf '%s\n' "$2" | head -n 20 | sed 's/^/    /'
        status=1
    fi
}
search() { # pattern, files...: matching lines
    local pattern=$1
    shift
    grep -nE -- "$pattern" "$@"
}
mapfile -t library < <(find libsalf -name '*.[ch]' | sort)
mapfile -t outside_cpu < <(printf '%s\n' "${library[@]}" | grep -v '^libsalf/backend/cpu/')
mapfile -t outside_io < <(printf '%s\n' "${library[@]}" | grep -v '^libsalf/io/')
mapfile -t host < <(find examples bindings -name '*.[ch]' -o -name '*.[ch]pp' | sort)

blas='#include *<(cblas|lapacke|openblas)|\b(cblas_[a-z]+|[sd](potrf|potri|potrs|pocon|syevd|stev|gemm|syrk)_) *\('
none "BLAS and LAPACK are known under libsalf/backend/cpu only" "$(search "$blas" "${outside_cpu[@]}")"
none "JSON is known under libsalf/io only" "$(search 'jansson|\bjson_[a-z_]+\(' "${outside_io[@]}")"
none "policies, planner, cost and random know no backend and no basis" \
    "$(search 'backend|basis/|probe/|slf_device|slf_upload|slf_download|salf_tensor\b' \
        libsalf/policy/*.[ch] libsalf/plan/*.[ch] libsalf/core/random.c | grep -vE ':[0-9]+: ?(/\*| \*)')"
none "examples and the program include nothing of the library but salf.h" \
    "$(search '#include.*(["/](core|backend)\.h|libsalf/)' "${host[@]}" |
        grep -vE '"(decoder|tokenizer)_internal\.h"')"
none "examples and the program use public names only" "$(search '\bslf_[a-z]' "${host[@]}")"
none "the files of the library and its hosts have at most 600 lines" \
    "$(wc -l "${library[@]}" "${host[@]}" | awk '$1 > 600 && $2 != "total"')"
none "no line of theirs is longer than 120 columns" "$(search '^.{121,}' "${library[@]}" "${host[@]}")"
none "every file of theirs opens with a comment" \
    "$(for file in "${library[@]}" "${host[@]}"; do [ "$(head -c 2 "$file")" = '/*' ] || echo "$file"; done)"
if [ -e "$build/lib/libsalf.a" ]; then
    none "the library calls nothing that prints, ends the process or changes its state" \
        "$(nm -u "$build/lib/libsalf.a" 2>/dev/null | awk '$1 == "U" { print $2 }' | sort -u |
            grep -xE '_*(printf|fprintf|vprintf|vfprintf|puts|putchar|fputs|perror|exit|_exit|quick_exit|abort|raise|kill|signal|sigaction|setenv|putenv|unsetenv|setlocale|chdir|umask|srand|rand|random|atexit)(_chk)?')"
else
    echo "SKIPPED: calls of the library, $build/lib/libsalf.a is not built"
fi
# The patterns do find what they are for.
found=$(printf '#include <cblas.h>\n    dpotrf_(upper, n);\n    cblas_dgemm(a);\n    slf_gemm(a);\n' | grep -cE "$blas")
none "BLAS is recognised" "$([ "$found" -eq 3 ] || echo "$found of 3 lines")"
exit $status
