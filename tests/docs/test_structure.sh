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
none "CUDA is known under libsalf/backend/cuda only" \
    "$(search '#include *[<"](cuda|cublas|cusolver)|\b(cuda|cublas|cusolverDn)[A-Z][A-Za-z]+ *\(' \
        $(find libsalf -name '*.[ch]*' -not -path 'libsalf/backend/cuda/*'))"
none "policies, planner, cost and random know no backend, no tensors and no basis" \
    "$(search 'backend|basis/|probe/|slf_device|slf_upload|slf_download|salf_tensor\b' \
        libsalf/policy/*.[ch] libsalf/plan/*.[ch] libsalf/core/random.c | grep -vE ':[0-9]+: ?(/\*| \*)')"

# What the files of a room include: room, then patterns of what they may. Headers of the own room go without saying.
arrows='core            backend/backend.h
backend         core/* backend/*
backend/reference core/* backend/*.h
backend/cpu     core/* backend/*.h backend/reference/*
backend/cuda    backend/*.h core/dtypes.h core/fingerprint.h
io              core/*
model           core/* backend/*.h io/*
basis           core/* backend/*.h io/* model/*
probe           core/* backend/*.h model/* basis/*
plan            core/*
policy          core/* plan/*
checkpoint      core/* io/*'
wrong_arrows() { # root of a tree: what its files include against the arrows
    local file room name allowed pattern good
    (cd "$1" && grep -rnE '^ *# *include *"' --include='*.[ch]' --include='*.cu' --include='*.cpp' libsalf) |
        sed -E 's/^libsalf\/([^:]*):([0-9]+): *# *include *"([^"]*)".*/\1 \2 \3/' | while read -r file line name; do
        room=$(dirname "$file")
        [ -e "$1/libsalf/$name" ] || name=$(realpath -m --relative-to=. "$room/$name") # beside it, or made, or salf.h
        [ -e "$1/libsalf/$name" ] && [ "$(dirname "$name")" != "$room" ] || continue
        good=
        set -f
        allowed=$(sed -n "s|^$room  *||p" <<<"$arrows")
        for pattern in $allowed; do [[ $name == $pattern ]] && good=yes; done
        set +f
        [ -n "$good" ] || echo "libsalf/$file:$line: $name"
    done
}
none "the rooms of the library include what their arrows allow" "$(wrong_arrows .)"
none "there is no circle between its files" \
    "$("${PYTHON:-python3}" tests/measure.py | sed -n 's/^  a circle  *//p')"
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
none "no test gives up by a clock on the wall in less than an hour" \
    "$(grep -rnE 'tcase_set_timeout\([^;]*, *[1-9]|\b(timeout=|join\(|wait\()[0-9]{1,3}[,) ]|\btimeout [0-9-]' tests bindings/python/tests \
        --include='*.[ch]' --include='*.py' --include='*.sh' | grep -vE '^tests/(docs/test_structure|run)\.sh')"
# The patterns do find what they are for.
found=$(printf '#include <cblas.h>\n    dpotrf_(upper, n);\n    cblas_dgemm(a);\n    slf_gemm(a);\n' | grep -cE "$blas")
none "BLAS is recognised" "$([ "$found" -eq 3 ] || echo "$found of 3 lines")"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/libsalf/{plan,core,basis}
printf '#include "basis/basis.h"\n#include "core/core.h"\n#include "plan.h"\n' >"$work/libsalf/plan/plan.c"
touch "$work"/libsalf/{plan/plan,core/core,basis/basis}.h
none "an arrow that points back is recognised" \
    "$([ "$(wrong_arrows "$work")" = 'libsalf/plan/plan.c:1: basis/basis.h' ] || wrong_arrows "$work")"
exit $status
