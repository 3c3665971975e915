#!/bin/bash
# Writes layout.c, suppressions.ini, baseline.abi and the lists of constants and prototypes from salf.h, for a change of
# the ABI that is meant; what the difference is belongs into CHANGELOG.md. The baseline describes a library of empty
# functions, so that it holds nothing but what the header says.
set -euo pipefail
here=$(dirname "$0")
"${PYTHON:-python3}" "$here/write_layout.py" >"$here/layout.c.new"
mv "$here/layout.c.new" "$here/layout.c"
"${PYTHON:-python3}" "$here/check_lists.py" --write
{
    echo "# Structs that begin with struct_size may grow at their end: old callers pass the size they know."
    sed -n '/^typedef struct salf_[a-z_]* {$/{N;/uint32_t struct_size/s/^typedef struct \([a-z_]*\).*/\1/p}' include/salf.h |
        while read -r name; do
            printf '\n[suppress_type]\n  name = %s\n  type_kind = struct\n  has_data_member_inserted_at = end\n  has_size_change = yes\n' "$name"
        done
} >"$here/suppressions.ini"
[ "$(uname -m)" = x86_64 ] || { echo "the baseline is that of x86_64" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" "$here/write_stubs.py" include/salf.h >"$work/stubs.c"
${CC:-gcc} -std=c11 -g -w -fPIC -shared -Iinclude -Wl,-soname,"$SONAME" \
    -Wl,--version-script="$VERSION_SCRIPT" "$work/stubs.c" -o "$work/$SONAME"
abidw --headers-dir include --no-corpus-path --no-comp-dir-path --drop-private-types "$work/$SONAME" |
    sed -e "s| path='[^']*'| path='salf.h'|" -e "s| filepath='[^']*stubs.c'| filepath='stubs.c'|" >"$here/baseline.abi.new"
mv "$here/baseline.abi.new" "$here/baseline.abi"
