#!/bin/bash
# Every function of salf.h is reached through the binding: the tests of the binding call them all, none of them
# directly.
set -u
programs=${BUILD:-build}/tests/cpp
status=0
same() { # name, what stands there, what should
    if [ "$2" = "$3" ]; then echo "ok - $1"; else
        echo "not ok - $1"
        diff <(echo "$3") <(echo "$2") | sed 's/^/    /'
        status=1
    fi
}

declared=$("${PYTHON:-python3}" -c "import sys; sys.path.insert(0, 'tests/abi'); import header
print('\n'.join(sorted(header.functions(header.preprocessed()))))")
same "the header declares functions" "$([ "$(wc -w <<<"$declared")" -gt 50 ] && echo many)" many
same "the test calls nothing of salf.h itself" "$(grep -nE '(^|[^:])\bsalf_[a-z_]+ *\(' tests/cpp/test_calls.cpp)" ""
for kind in throwing plain; do
    same "the binding reaches all of them ($kind)" \
        "$(nm -D --undefined-only "$programs/$kind/test_calls" | awk '{ sub(/@.*/, "", $2); print $2 }' | grep '^salf_' | sort)" "$declared"
done
exit $status
