#!/bin/sh
# The sources of the library, one a line; $1 is 1 with files (checkpoints, tensors), 0 with what stands in for them.
cd "$(dirname "$0")/.." || exit 1
for file in libsalf/*/*.c libsalf/backend/*/*.c; do
    case $1:$file in
    1:libsalf/*/none.c) ;;
    0:libsalf/*/none.c | 0:libsalf/io/hash.c) echo "$file" ;;
    0:libsalf/io/* | 0:libsalf/checkpoint/*) ;;
    0:libsalf/model/open*.c | 0:libsalf/model/scaled.c) ;;
    *) echo "$file" ;;
    esac
done
