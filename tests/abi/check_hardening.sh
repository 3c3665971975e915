#!/bin/bash
# What libsalf/build.mk promises of the built library and program: bound and read-only tables, checked stacks and
# buffers, CET where the compiler has it; and the same bytes from whatever folder they are built in.
set -u
export LC_ALL=C MAKEFLAGS=""
build=${BUILD:-build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
report() { # name, status
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; fi
}

for file in "$build/lib/$SONAME" "$build/bin/salf"; do
    [ -e "$file" ] || { echo "skip - $file is not built"; continue; }
    readelf -dW "$file" | grep -q 'BIND_NOW' && readelf -lW "$file" | grep -q GNU_RELRO
    report "$file: symbols are bound at the start, and their table is read-only then" $?
    nm -D "$file" | grep -q __stack_chk_fail
    report "$file: stacks are checked" $?
    nm -D "$file" | grep -q '_chk@'
    report "$file: buffers are checked" $?
    ! grep -qF "$PWD/" "$file"
    report "$file: no path of the folder it was built in" $?
done
readelf -hW "$build/bin/salf" 2>/dev/null | grep -q 'DYN'
report "the program may lie anywhere in memory" $?

# In objects: whether a whole file has it depends on the C library's own parts as well.
if echo 'int x;' | ${CC:-gcc} -fcf-protection -x c -S - -o - >/dev/null 2>&1 && [ "$(uname -m)" = x86_64 ]; then
    ar p "$build/lib/libsalf.a" libsalf.core.memory.o >"$work/memory.o" && readelf -n "$work/memory.o" | grep -q 'IBT, SHSTK'
    report "indirect jumps end where they may (CET)" $?
else
    echo "skip - CET: the compiler or the machine has none"
fi

# Two folders of other lengths, one with a space in its name; parts that name files (assertions of none, debug information, the generated table).
parts='libsalf/core/constants.o libsalf/core/context.o libsalf/backend/cpu/cpu.o'
for folder in one "another/much longer/one"; do
    mkdir -p "$work/$folder" && cp -r --parents Makefile include libsalf "$work/$folder"
    (cd "$work/$folder" && object=$(make -s CUDA=0 -pn CC="${CC:-gcc}" 2>/dev/null | sed -n 's/^OBJ := //p') &&
        make CC="${CC:-gcc}" CUDA=0 -j2 $(printf "$object/%s " $parts) && mv "$object" built) >"$work/output" 2>&1
    report "a copy in $folder compiles" $?
done
for part in $parts; do
    cmp -s "$work/one/built/$part" "$work/another/much longer/one/built/$part"
    report "$part: the same bytes in both" $?
done
exit $status
