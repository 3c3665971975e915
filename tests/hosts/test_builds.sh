#!/bin/bash
# Hosts that are built with CMake or Meson find libsalf: installed, by find_package; as a checkout, by FetchContent and as
# a subproject. Each builds a numbered example and runs it.
set -u
export LC_ALL=C MAKEFLAGS=""
CC=${CC:-gcc}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
report() { # name, exit status of what was tried
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; sed 's/^/    /' "$work/output" | tail -20; fi
}
quietly() { "$@" >"$work/output" 2>&1; }
runs() { # name, program, emulator or nothing: the loop of a trainer without a model
    quietly ${3-} "$2"
    grep -qF '48 layer backwards instead of 72' "$work/output"
    report "$1" $?
}
here=$PWD
VERSION=${VERSION:-$(libsalf/version.sh)}
make=(make --no-print-directory BUILD="${BUILD:-build}" CC="$CC" CUDA=0)
export CC=${CC##* } # without ccache: CMake and Meson want one word
host() { # folder, the lines of CMakeLists.txt between project and link, target
    mkdir -p "$1"
    printf 'cmake_minimum_required(VERSION 3.14)\nproject(host C)\n%s\nadd_executable(host %s/examples/04_host_loop.c)\ntarget_link_libraries(host PRIVATE %s m)\n' \
        "$2" "$here" "$3" >"$1/CMakeLists.txt"
}
configure_and_build() { # folder, folder to build in, flags of CMake...
    quietly cmake -S "$1" -B "$1/$2" "${@:3}" && quietly cmake --build "$1/$2" -j2
}

if command -v cmake >/dev/null; then
    # Installed: a tree that is moved afterwards.
    quietly "${make[@]}" install-headers install-shared install-static install-pc prefix="$work/first" libdir="$work/first/lib"
    report "install, with what find_package reads" $?
    mv "$work/first" "$work/second"
    for target in salf::salf salf::static; do
        host "$work/${target#*::}" 'find_package(salf 0.2 REQUIRED)' "$target"
        configure_and_build "$work/${target#*::}" build -DCMAKE_PREFIX_PATH="$work/second"
        report "a host finds $target where it was moved to" $?
        runs "it runs with $target" "$work/${target#*::}/build/host"
    done
    host "$work/older" 'find_package(salf 0.1 REQUIRED)' salf::salf
    ! configure_and_build "$work/older" build -DCMAKE_PREFIX_PATH="$work/second" &&
        grep -q 'requested version "0.1"' "$work/output"
    report "a host that wants 0.1 is told what there is" $?

    # From a checkout, without BLAS and without files.
    host "$work/fetched" "include(FetchContent)
set(SALF_BLAS plain CACHE STRING \"\")
set(SALF_FILES OFF CACHE BOOL \"\")
FetchContent_Declare(salf SOURCE_DIR $here)
FetchContent_MakeAvailable(salf)" salf::salf
    configure_and_build "$work/fetched" build
    report "a host fetches a checkout and builds it" $?
    runs "it runs with what it fetched" "$work/fetched/build/host"
    quietly eval "ldd '$work/fetched/build/host' | grep -E 'blas|jansson|lapack'"
    report "and needs neither BLAS nor jansson" $((!$?))

    # Installed by CMake, and moved.
    quietly cmake -S . -B "$work/cmake" -DSALF_BLAS=plain -DCMAKE_INSTALL_PREFIX="$work/third" &&
        quietly cmake --build "$work/cmake" -j2 && quietly cmake --install "$work/cmake"
    report "a checkout is built and installed with CMake" $?
    mv "$work/third" "$work/a place with spaces"
    host "$work/installed" 'find_package(salf 0.2 REQUIRED)' salf::salf
    configure_and_build "$work/installed" build -DCMAKE_PREFIX_PATH="$work/a place with spaces"
    report "a host finds that where it was moved to" $?
    runs "it runs with it" "$work/installed/build/host"
    [ "$(PKG_CONFIG_LIBDIR=$(dirname "$work/a place with spaces"/lib*/pkgconfig/salf.pc) pkg-config --modversion salf)" = "$VERSION" ]
    report "pkg-config knows it too" $?

    # For Windows, as a DLL.
    . tests/hosts/stand_in/wine.sh
    if command -v x86_64-w64-mingw32-gcc >/dev/null; then
        configure_and_build "$work/fetched" windows -DCMAKE_SYSTEM_NAME=Windows -DBUILD_SHARED_LIBS=ON \
            -DCMAKE_C_COMPILER=x86_64-w64-mingw32-gcc -DCMAKE_RUNTIME_OUTPUT_DIRECTORY="$work/fetched/windows" \
            -DCMAKE_EXE_LINKER_FLAGS=-static -DCMAKE_SHARED_LINKER_FLAGS=-static
        report "a host for Windows is built with libsalf.dll" $?
        if command -v wine >/dev/null; then
            runs "it runs under Wine" "$work/fetched/windows/host.exe" wine
        else
            echo "skip - it is not run: wine is not there"
        fi
    else
        echo "skip - x86_64-w64-mingw32-gcc is not there"
    fi
else
    echo "skip - cmake is not there"
fi

if command -v meson >/dev/null && command -v ninja >/dev/null; then
    mkdir -p "$work/meson/subprojects"
    ln -s "$here" "$work/meson/subprojects/salf"
    cp examples/04_host_loop.c "$work/meson/"
    cat >"$work/meson/meson.build" <<'END'
project('host', 'c')
executable('host', '04_host_loop.c', dependencies : dependency('salf', fallback : ['salf', 'salf_dep']))
END
    quietly meson setup "$work/meson/build" "$work/meson" --buildtype=plain -Dsalf:blas=plain -Dsalf:files=false &&
        quietly ninja -C "$work/meson/build"
    report "a host of Meson builds a checkout as a subproject" $?
    runs "it runs with its subproject" "$work/meson/build/host"
else
    echo "skip - meson or ninja is not there"
fi
exit $status
