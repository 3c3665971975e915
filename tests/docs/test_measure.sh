#!/bin/bash
# The figures of the sources (tests/measure.py): counted right in a small tree whose figures are known, and within their
# limits in this one.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
python=${PYTHON:-python3}
mkdir -p "$work"/{include,libsalf/backend/cpu,libsalf/io}
printf 'SALF_API int salf_a(void);\nSALF_API int salf_b(int x);\n' >"$work/include/salf.h"
printf 'all:\n\ttrue\n' >"$work/Makefile"
cat >"$work/libsalf/backend/backend.h" <<'END'
#define SLOTS(X) X(one, (int a, int b)) X(two, (void))
#define MEMBER(name, arguments) int(*name) arguments;
typedef struct slf_backend {
    int size;
    SLOTS(MEMBER)
    void (*three)(int a, int b,
                  int c);
} slf_backend;
END
cat >"$work/libsalf/a.c" <<'END'
/* a.c - two lines of comment { that open no brace,
 * if (x) { } */
#include "b.h"
static int twice(int x);

static int once(int x) { /* a comment behind code is no line of comment */
    return x + 1;
}

static int twice(int x) {
    const char *text = "static int fake(void) { once(twice(x)); }";
    return text[x];
}

static const int numbers[] = {1, 2};

int slf_a(int x) {
    return once(twice(x)) + twice(numbers[0]) + slf_b(2);
}
END
printf '#include "b.h"\nint slf_b(int x) {\n    return x;\n}\n' >"$work/libsalf/b.c"
printf 'int slf_a(int x);\nint slf_b(int x);\n' >"$work/libsalf/b.h"
printf 'int slf_io(void) {\n    return 0;\n}\n' >"$work/libsalf/io/file.c"

"$python" tests/measure.py "$work" >"$work/output" 2>&1
shows() { # what, value
    if grep -qE -- "^ *$1 +$2( |$)" "$work/output"; then echo "ok - $1: $2"; else
        echo "not ok - $1: $2"
        sed 's/^/    /' "$work/output"
        status=1
    fi
}
shows 'static functions called exactly once, libsalf/, %' '50\.0'
shows 'of how many' '1 of 2'
shows 'comment lines per code line, libsalf/' '0\.07' # 2 of 30
shows 'longest' 4
shows 'function slots in the table of a backend' 3
shows 'most arguments of one' 3
shows 'lines of libsalf/ without io and backends' 25
shows 'functions in it' 2
shows 'circles between files of libsalf/' 0
printf '#include "b.h"\nint slf_b(int x) {\n    return slf_a(x);\n}\n' >"$work/libsalf/b.c"
"$python" tests/measure.py "$work" >"$work/output" 2>&1
shows 'circles between files of libsalf/' 1
shows 'a circle' 'libsalf/a.c -> libsalf/b.c, libsalf/b.c -> libsalf/a.c'
"$python" tests/measure.py --check "$work" >"$work/output" 2>&1
if [ $? -eq 1 ] && grep -q '^not ok - circles' "$work/output" && grep -q '^ok - longest' "$work/output"; then
    echo "ok - a figure over its limit is found"
else
    echo "not ok - a figure over its limit is found"
    status=1
fi
"$python" tests/measure.py --check || status=1
exit $status
