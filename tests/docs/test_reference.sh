#!/bin/bash
# The API reference made from salf.h covers everything public, and the check that says so can fail.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
generate=("${PYTHON:-python3}" docs/generate_reference.py)
build=${BUILD:-build}

"${generate[@]}" --check include/salf.h "$build/docs" || status=1
lacking=$(grep -oE '\bsalf_[a-z0-9_]+\(' include/salf.h | sort -u |
    while read -r name; do grep -qF -- "$name" "$build/docs/reference.md" || echo "$name"; done)
if [ -z "$lacking" ]; then echo "ok - every function is in reference.md"; else echo "not ok - lacking: $lacking"; status=1; fi

fails() { # name, declaration put into a copy of the header, words of the complaint
    sed "s|^/\* ---- 2\. Tensors.*|\n$2\n\n&|" include/salf.h >"$work/salf.h"
    if "${generate[@]}" --check "$work/salf.h" "$work" >"$work/output" || ! grep -qE "^not ok .*$3" "$work/output"; then
        echo "not ok - $1"
        status=1
    else
        echo "ok - $1"
    fi
}
fails "a function without a comment is found" 'SALF_API void salf_bare(void);' salf_bare
fails "a struct without a comment is found" 'typedef struct salf_bare {\n    int32_t a;\n} salf_bare;' salf_bare
fails "an enum without a comment is found" 'enum { SALF_BARE = 1 };' SALF_BARE
fails "a callback without a comment is found" 'typedef void (*salf_bare_fn)(void *user);' salf_bare_fn
exit $status
