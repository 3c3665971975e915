#!/bin/bash
# Writes layout.c, suppressions.ini and baseline.abi from salf.h and the library just built. For a change of the ABI that
# is meant; what the difference is belongs into CHANGELOG.md.
set -eu
here=$(dirname "$0")
"${PYTHON:-python3}" "$here/write_layout.py" >"$here/layout.c.new"
mv "$here/layout.c.new" "$here/layout.c"
{
    echo "# Structs that begin with struct_size may grow at their end: old callers pass the size they know."
    sed -n '/^typedef struct salf_[a-z_]* {$/{N;/uint32_t struct_size/s/^typedef struct \([a-z_]*\).*/\1/p}' include/salf.h |
        while read -r name; do
            printf '\n[suppress_type]\n  name = %s\n  type_kind = struct\n  has_data_member_inserted_at = end\n  has_size_change = yes\n' "$name"
        done
} >"$here/suppressions.ini"
[ "$(uname -m)" = x86_64 ] || { echo "the baseline is that of x86_64" >&2; exit 1; }
abidw --headers-dir include --no-corpus-path --no-comp-dir-path --drop-private-types \
    --out-file "$here/baseline.abi" "${BUILD:-build}/lib/$SONAME"
wc -c "$here/baseline.abi"
