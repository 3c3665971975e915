#!/bin/bash
# Two libsalf of different layout and version in one process do not call each other: a host's own, and that of a plugin
# or of a Python package. The second is built from a copy of the tree whose handles are padded in front, once with the
# same soname and once with the next.
set -u
export MAKEFLAGS=""
here=$(dirname "$0")
own=${BUILD:-build}/lib
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
report() { # name, status; what went wrong is in $work/output
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; sed 's/^/    /' "$work/output"; fi
}

cp -r --parents Makefile include libsalf "$work"
padded=0
for handle in context model basis basis_builder probe; do
    file=$(grep -rl "^struct salf_$handle {" libsalf) && sed -i "s/^struct salf_$handle {/& double padding[16];/" "$work/$file" &&
        padded=$((padded + 1))
done
sed -i 's/^\(#define SALF_VERSION_MINOR\) .*/\1 77/' "$work/include/salf.h"
: >"$work/output"
[ $padded -eq 5 ]
report "five handles are padded in the second copy" $?

build() { # soversion, folder of the build
    sed -i "s/^\(#define SALF_SOVERSION\) .*/\1     $1/" "$work/include/salf.h"
    make -C "$work" BUILD="$2" CC="${CC:-gcc}" CFLAGS='-O0' CUDA=0 -j2 "$2/lib/$3" >"$work/output" 2>&1
}
version=${VERSION%%.*}.77.${VERSION##*.}
soversion=${SONAME##*.}
next=$((soversion + 1))
build $next next "libsalf.so.$version" && build "$soversion" same "libsalf.so.$version"
report "the second copy builds, with this soname and the next" $?

compile() { ${CC:-gcc} -std=c99 -D_DEFAULT_SOURCE -Iinclude "$@" >"$work/output" 2>&1; }
compile -DHOST "$here/two_copies.c" -o "$work/host" -L"$own" -lsalf -Wl,-rpath,"$(realpath "$own")" -ldl &&
    compile -fPIC -shared "$here/two_copies.c" -o "$work/plugin.so" -L"$work/next/lib" -lsalf -Wl,-rpath,"$work/next/lib"
report "a host of the first and a plugin of the second build" $?

both() { # name, library or plugin
    { "$work/host" "$2" >"$work/output"; } 2>/dev/null
    local code=$?
    [ $code -eq 0 ] && [ "$(cut -d' ' -f1 "$work/output" | paste -sd' ')" = "$VERSION $version $VERSION" ] &&
        [ "$(cut -d' ' -f2- "$work/output" | sort -u | wc -l)" -eq 1 ]
    code=$?
    [ "$1" = quietly ] && return $code
    report "$1" $code
}
both "a second library of the same soname, opened by its path" "library:$work/same/lib/libsalf.so.$version"
both "a second library of the next soname, opened by its path" "library:$work/next/lib/libsalf.so.$version"
both "a plugin that is linked to the next soname" "plugin:$work/plugin.so"

# The test can fail: without the version script and the binding of its own calls the second library uses the first.
${CC:-gcc} -shared -o "$work/open.so" $(find "$work/same/obj" -path '*/libsalf/*.o') $(pkg-config --libs openblas jansson) -lm \
    >"$work/output" 2>&1 && ! both quietly "library:$work/open.so"
report "a second library whose calls are open to others is found" $?
exit $status
