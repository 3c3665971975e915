#!/bin/bash
# Installs the library as a distribution does, builds every numbered example as a user does (pkg-config tells all), runs
# them, and uninstalls. Once staged with DESTDIR and linked to the shared library, once in place with the static one.
set -u
export MAKEFLAGS="" LC_ALL=C
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
CC=${CC:-gcc}
CXX=${CXX:-g++}
make=(make --no-print-directory BUILD="${BUILD:-build}" CC="$CC")

report() { # name, exit status of what was tried
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; sed 's/^/    /' "$work/output" | tail -20; fi
}

quietly() { "$@" >"$work/output" 2>&1; }

# What an example must print, so that one that runs and says nothing true does not pass.
declare -A words=([01_plan]='saving 0.644' [02_basis]='rank 4 of 4' [03_probe]='datum 3: freeze below layer 7'
    [04_host_loop]='48 layer backwards instead of 72' [05_row_blocks]='3 ranks, 100 rows each: the basis is the same')

build_and_run() { # folder for programs, what kind of linking, arguments of pkg-config
    local out=$1 kind=$2 source name flags
    shift 2
    mkdir -p "$out"
    flags=$(pkg-config --cflags --libs "$@" 2>"$work/output")
    report "$kind: pkg-config --libs $*" $?
    for source in examples/[0-9]*.c; do
        grep -q '<mpi.h>' "$source" && continue # tests/mpi builds it
        name=$(basename "$source" .c)
        # shellcheck disable=SC2086
        quietly $CC -std=c11 -Wall -Wextra -Werror "$source" $flags -lm -pthread -o "$out/$name"
        report "$kind: $name builds" $?
        quietly "$out/$name"
        report "$kind: $name runs" $?
        grep -qF -- "${words[$name]-no words are set for this example}" "$work/output"
        report "$kind: $name prints '${words[$name]-}'" $?
    done
    command -v "$CXX" >/dev/null || { echo "skip - $kind: the C++ example, $CXX is not there"; return; }
    # shellcheck disable=SC2086
    quietly $CXX -std=c++17 -Wall -Wextra -Werror examples/cpp/host_loop.cpp $flags -o "$out/host_loop"
    report "$kind: the C++ example builds" $?
    quietly "$out/host_loop"
    grep -qF '48 layer backwards instead of 72' "$work/output"
    report "$kind: the C++ example decides as the C one" $?
}

# Staged: below DESTDIR lies what will be at /opt/salf.
stage=$work/stage
(umask 077 && quietly "${make[@]}" install DESTDIR="$stage" prefix=/opt/salf)
report "install with DESTDIR" $?
[ -z "$(find "$stage/opt/salf" ! -type l ! -perm -o=r | tee "$work/output")" ]
report "everybody can read it, whatever the umask was" $?
(cd "$stage/opt/salf" && find . ! -type d | sort) >"$work/found"
[ ! -e "${BUILD:-build}/lib/libsalf-cuda.so" ] || plugin=./lib/libsalf-cuda.so # where nvcc is
sort >"$work/expected" <<END
${plugin:+$plugin
}./bin/salf
./include/salf.h
./include/salf.hpp
./include/salf_checkpoint.hpp
./include/salf_core.hpp
./lib/cmake/salf/salf-config.cmake
./lib/cmake/salf/salf-config-version.cmake
./lib/libsalf.a
./lib/libsalf.so
./lib/$SONAME
./lib/libsalf.so.$VERSION
./lib/pkgconfig/salf.pc
./share/bash-completion/completions/salf
./share/doc/salf/CHANGELOG.md
./share/doc/salf/LICENSE
./share/doc/salf/README.md
./share/fish/vendor_completions.d/salf.fish
./share/man/man1/salf.1
$(cd examples/demo && find model data tokenizer.bin -type f | sed 's|^|./share/salf/demo/|')
END
quietly diff "$work/expected" "$work/found"
report "it puts there what it should" $?
quietly grep -rIl -e "$work" -e "$PWD" "$stage/opt/salf/lib/pkgconfig" "$stage/opt/salf/lib/cmake" "$stage/opt/salf/include"
report "no path of the build is left in text files" $((!$?))

export PKG_CONFIG_PATH=$stage/opt/salf/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$stage
export LD_LIBRARY_PATH=$stage/opt/salf/lib
quietly pkg-config --exists --print-errors "salf = $VERSION"
report "pkg-config finds this version" $?
quietly env PKG_CONFIG_PATH= PKG_CONFIG_LIBDIR="$stage/opt/salf/lib/pkgconfig" pkg-config --cflags --libs salf
report "pkg-config tells all without the packages of OpenBLAS and Jansson" $?
[ "$(PKG_CONFIG_SYSROOT_DIR= pkg-config --cflags salf | xargs)" = -I/opt/salf/include ]
report "no folder of theirs is among a host's includes" $?
quietly pkg-config --exists 'salf >= 99'
report "pkg-config refuses a version that is not there" $((!$?))
build_and_run "$work/shared" shared salf
quietly readelf -dW "$work/shared/01_plan"
grep -qF "[$SONAME]" "$work/output"
report "examples need $SONAME" $?
quietly env -u LD_LIBRARY_PATH "$stage/opt/salf/bin/salf" --version
grep -qF "$VERSION" "$work/output"
report "the installed program finds its library and tells its version" $?

(cd "$work" && env -u LD_LIBRARY_PATH OPENBLAS_NUM_THREADS=1 "$stage/opt/salf/bin/salf" finetune --method ramp \
    --limit-train 16 --limit-test 6) >"$work/output" 2>&1
report "the installed program finds its demonstration" $?

if [ -r "${SALF_SHARED:-../shared}/models/stories260k/config.json" ]; then
    quietly "$work/shared/02_basis" "${SALF_SHARED:-../shared}/models/stories260k"
    grep -qE '^rank [0-9]+ of 64' "$work/output"
    report "02_basis reads a checkpoint" $?
else
    echo "skip - 02_basis reads a checkpoint: ${SALF_SHARED:-../shared}/models/stories260k is not there"
fi
quietly "$work/shared/02_basis" "$work/no-such-folder"
[ $? -eq 1 ] && grep -q 'SALF_E_NOT_FOUND.*no-such-folder' "$work/output"
report "02_basis names a folder that is not there" $?

touch "$stage/opt/salf/lib/not-ours"
quietly "${make[@]}" uninstall DESTDIR="$stage" prefix=/opt/salf
report "uninstall" $?
[ "$(cd "$stage/opt/salf" && find . ! -type d)" = ./lib/not-ours ]
report "it leaves nothing behind, and what others put there" $?
[ -z "$(find "$stage/opt/salf" -mindepth 1 -type d -name salf | tee "$work/output")" ]
report "nor a folder of its own" $?

# In place, headers, static library and salf.pc only.
unset PKG_CONFIG_SYSROOT_DIR LD_LIBRARY_PATH
prefix=$work/prefix
quietly "${make[@]}" install-headers install-static install-pc prefix="$prefix" libdir="$prefix/lib64"
report "install into a prefix with another libdir, without the shared library" $?
export PKG_CONFIG_PATH=$prefix/lib64/pkgconfig
quietly pkg-config --variable=libdir salf
grep -qx "$prefix/lib64" "$work/output"
report "salf.pc names that libdir" $?
quietly grep -x 'libdir=${prefix}/lib64' "$prefix/lib64/pkgconfig/salf.pc"
report "salf.pc is relative to its prefix" $?
for place in prefix libdir includedir bindir datadir; do
    ! quietly "${make[@]}" install-pc DESTDIR="$stage/" prefix="$prefix" $place=somewhere/else &&
        grep -qF "$place is 'somewhere/else', which is no absolute path" "$work/output"
    report "a $place that is not absolute is refused by name" $?
done
quietly "${make[@]}" -pn CPPFLAGS=-DSEEN nothing-to-make
grep -q '^COMMON_FLAGS := .*-DSEEN' "$work/output"
report "CPPFLAGS are heard" $?

# A prefix with spaces.
spaced="$work/a place/of its own"
quietly "${make[@]}" install-headers install-shared install-pc prefix="$spaced"
report "install into a prefix with spaces" $?
quietly grep -x 'libdir=${prefix}/lib' "$spaced/lib/pkgconfig/salf.pc"
report "its salf.pc is relative to it" $?
quietly eval "$CC examples/01_plan.c $(PKG_CONFIG_PATH=$spaced/lib/pkgconfig pkg-config --cflags --libs salf) -o '$work/spaced'" &&
    quietly env LD_LIBRARY_PATH="$spaced/lib" "$work/spaced"
report "a host builds and runs by what pkg-config says" $?

# The archive's dependencies by name, as a host has them that links the shared OpenBLAS.
build_and_run "$work/static" static salf openblas jansson
quietly readelf -dW "$work/static/01_plan"
! grep -q libsalf "$work/output"
report "statically linked examples do not need libsalf.so" $?

# --static also names what OpenBLAS itself needs when it is linked statically, the Fortran run-time library.
if echo 'int main(void) { return 0; }' | quietly $CC -x c - -lgfortran -o "$work/fortran"; then
    build_and_run "$work/all-static" all-static --static salf
else
    echo "skip - all-static: there is no libgfortran to link"
fi
exit $status
