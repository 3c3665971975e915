#!/bin/bash
# What the built libraries show to the outside: exactly the functions of salf.h; nothing CUDA; the right soname; no
# executable stack; no variable that could be process-wide state and is not on the list beside this file.
set -u
here=$(dirname "$0")
build=${BUILD:-build}
shared=$build/lib/$SONAME
static=$build/lib/libsalf.a
export LC_ALL=C
status=0

same() { # name, what stands there, what should
    if [ "$2" = "$3" ]; then
        echo "ok - $1"
    else
        echo "not ok - $1"
        diff <(echo "$3") <(echo "$2") | sed 's/^/    /'
        status=1
    fi
}

declared=$("${PYTHON:-python3}" -c "import sys; sys.path.insert(0, '$here'); import header
print('\n'.join(sorted(header.functions(header.preprocessed()))))")
same "the header declares functions" "$([ "$(wc -w <<<"$declared")" -gt 50 ] && echo many)" many
same "libsalf.so exports the functions of salf.h and nothing else" \
    "$(nm -D --defined-only "$shared" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)" "$declared"
same "all of them bear the version of the soname" \
    "$(nm -D --defined-only "$shared" | awk '$2 != "A" { sub(/.*@@/, "", $3); print $3 }' | sort -u)" "SALF_${SONAME##*.}"
same "it calls none of them through a table that another library could fill" "$(readelf -rW "$shared" | grep salf_)" ""
same "the members of libsalf.a have names of their own" "$(ar t "$static" | sort | uniq -d)" ""
same "libsalf.a has no external name without the prefix salf_ or slf_" \
    "$(nm -g --defined-only "$static" 2>/dev/null | awk 'NF == 3 { print $3 }' | grep -vE '^(salf|slf)_' | sort -u)" ""

dynamic=$(readelf -dW "$shared")
same "soname" "$(sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p' <<<"$dynamic")" "$SONAME"
same "needs no library beyond BLAS and C" \
    "$(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' <<<"$dynamic" |
        grep -vE '^(libopenblas|libm|libc|libpthread|libdl|ld-linux[-a-z0-9_]*)\.so' | sort)" ""
same "has no search path of its own" "$(grep -E '\((RPATH|RUNPATH)\)' <<<"$dynamic")" ""
same "needs no text relocations" "$(grep -E '\(TEXTREL\)' <<<"$dynamic")" ""
same "stack is not executable" "$(readelf -lW "$shared" | awk '/GNU_STACK/ { print $7 }')" "RW"

# Objects (not thread-local ones) in writable sections; the compiler's own are left out.
sections=$(readelf -SW "$shared" | sed -n 's/^ *\[ *\([0-9]*\)\] \.\(data\|bss\) .*/\1/p' | paste -sd'|')
same "writable variables are those listed in globals.txt" \
    "$(readelf -sW "$shared" | awk -v s="^($sections)$" '$4 == "OBJECT" && $7 ~ s { print $8 }' |
        sed 's/\.[0-9]*$//' | grep -vE '^(completed|__dso_handle|__TMC_END__|__cpu_model|__cpu_features2)$' | sort -u)" \
    "$(grep -v '^#' "$here/globals.txt" | sort -u)"
exit $status
