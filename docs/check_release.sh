#!/bin/bash
# What has to be true before a version is tagged. Prints a line for each point, and fails when one is open.
# Version and soname come from include/salf.h through the Makefile.
set -u
failed=0
point() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok   - $2"; else echo "open - $2"; failed=1; fi
}
: "${VERSION:?}" "${SOVERSION:?}" "${BUILD:=build}"
[ -z "$(git status --porcelain)" ]
point $? "the tree is committed"
grep -qE "^## $VERSION - [0-9]{4}-[0-9]{2}-[0-9]{2}\$" CHANGELOG.md
point $? "CHANGELOG.md has $VERSION with its date"
! git rev-parse -q --verify "refs/tags/v$VERSION" >/dev/null
point $? "v$VERSION is not tagged yet"
last=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null)
if [ -n "$last" ]; then
    old=$(git show "$last:include/salf.h" | sed -n 's/^#define SALF_SOVERSION *//p')
    if [ "$old" = "$SOVERSION" ]; then
        ! git diff "$last" -- tests/abi/{constants,globals,prototypes}.txt | grep -q "^-[^-]"
        point $? "the ABI only grew since $last"
    else
        grep -q "SALF_SOVERSION. is $SOVERSION" CHANGELOG.md
        point $? "CHANGELOG.md says that SALF_SOVERSION is $SOVERSION"
    fi
fi
grep -q "^version: $VERSION\$" CITATION.cff
point $? "CITATION.cff has version $VERSION"
make -s BUILD="$BUILD" check >"$BUILD/release-check.txt" 2>&1
point $? "make check passes ($BUILD/release-check.txt)"
mkdir -p "$BUILD/release"
git archive --prefix="libsalf-$VERSION/" -o "$BUILD/release/libsalf-$VERSION.tar.gz" HEAD
point $? "the tarball is made: $BUILD/release/libsalf-$VERSION.tar.gz"
for target in amalgamation wheels; do
    if make -n "$target" >/dev/null 2>&1; then
        make -s BUILD="$BUILD" "$target" >"$BUILD/release/$target.txt" 2>&1
        point $? "make $target ($BUILD/release/$target.txt)"
    fi
done
[ $failed -eq 0 ] && echo "Next: make test on a fresh clone, then git tag -s v$VERSION, and upload what is in $BUILD/release."
exit $failed
