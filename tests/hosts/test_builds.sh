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

as_built_by_make() { # shared library, what built it: soname, versions of symbols and binding are those of the Makefile's
    local major
    major=$(sed -n 's/^#define SALF_SOVERSION *\([0-9]*\).*/\1/p' include/salf.h)
    readelf -dW "$1" >"$work/output" && grep -qF "[libsalf.so.$major]" "$work/output"
    report "$2: the soname is that of the ABI" $?
    nm -D --defined-only "$1" | awk '$2 != "A" { print $3 }' >"$work/output"
    [ -s "$work/output" ] && ! grep -vqE "^salf_[a-z0-9_]+@@SALF_$major$" "$work/output"
    report "$2: it shows the functions of salf.h, with the version of the soname" $?
    quietly eval "readelf -rW '$1' | grep ' salf_'"
    report "$2: it calls none of them through a table that another library could fill" $((!$?))
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

    # A host that has one libsalf as a part of it finds another.
    host "$work/both" "set(SALF_BLAS plain)
add_subdirectory($here salf)
find_package(salf 0.2 REQUIRED)" salf::salf
    quietly cmake -S "$work/both" -B "$work/both/build" -DCMAKE_PREFIX_PATH="$work/second"
    report "a host that builds a checkout may find an installed one too" $?

    # From a checkout, without BLAS and without files; by a host that has a LAPACK of its own, and had it used at first.
    host "$work/fetched" "include(FetchContent)
find_package(LAPACK)
FetchContent_Declare(salf SOURCE_DIR $here)
FetchContent_MakeAvailable(salf)
add_library(plugin SHARED $here/examples/04_host_loop.c)
target_link_libraries(plugin PRIVATE salf::salf m)" salf::salf
    without=(-DSALF_BLAS=plain -DSALF_FILES=OFF)
    for files in ON OFF; do
        quietly cmake -S . -B "$work/listed" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DSALF_FILES=$files
        sed -n 's|.*"file": ".*/\(libsalf/.*\)".*|\1|p' "$work/listed/compile_commands.json" | sort >"$work/sources"
        sh libsalf/sources.sh "$([ $files = ON ] && echo 1 || echo 0)" | sort | quietly diff - "$work/sources"
        report "with SALF_FILES=$files CMake has the sources of the Makefile" $?
    done
    quietly cmake -S "$work/fetched" -B "$work/fetched/build" &&
        configure_and_build "$work/fetched" build "${without[@]}" -DCMAKE_UNITY_BUILD=ON
    report "a host fetches a checkout and builds it, its own sources joined" $?
    runs "it runs with what it fetched" "$work/fetched/build/host"
    quietly eval "ldd '$work/fetched/build/host' | grep -E 'blas|jansson|lapack'"
    report "and needs neither BLAS nor jansson" $((!$?))
    quietly eval "nm -D --defined-only '$work/fetched/build/libplugin.so' | grep -E 'salf_|slf_'"
    report "a shared library with libsalf in it shows none of it" $((!$?))

    # Installed by CMake to a place that it is told last, and moved; for C++.
    quietly cmake -S . -B "$work/cmake" -DSALF_BLAS=plain -DBUILD_SHARED_LIBS=ON &&
        quietly cmake --build "$work/cmake" -j2 && quietly cmake --install "$work/cmake" --prefix "$work/third"
    report "a checkout is built and installed with CMake" $?
    as_built_by_make "$(ls "$work"/third/lib*/libsalf.so)" CMake
    grep -qx "prefix=$work/third" "$work"/third/lib*/pkgconfig/salf.pc
    report "salf.pc knows the place" $?
    mv "$work/third" "$work/a place with spaces"
    host "$work/installed" 'find_package(salf 0.2 REQUIRED)' salf::salf
    if command -v g++ >/dev/null; then
        sed -i 's/(host C)/(host CXX)\nset(CMAKE_CXX_STANDARD 17)/; s/04_host_loop.c/cpp\/host_loop.cpp/' "$work/installed/CMakeLists.txt"
    fi
    configure_and_build "$work/installed" build -DCMAKE_PREFIX_PATH="$work/a place with spaces"
    report "a host of C++ finds that where it was moved to" $?
    runs "it runs with it" "$work/installed/build/host"
    [ "$(PKG_CONFIG_LIBDIR=$(dirname "$work/a place with spaces"/lib*/pkgconfig/salf.pc) pkg-config --modversion salf)" = "$VERSION" ]
    report "pkg-config knows it too" $?

    # For Windows, as a DLL.
    . tests/hosts/stand_in/wine.sh
    if command -v x86_64-w64-mingw32-gcc >/dev/null; then
        configure_and_build "$work/fetched" windows "${without[@]}" -DCMAKE_SYSTEM_NAME=Windows -DBUILD_SHARED_LIBS=ON \
            -DCMAKE_C_COMPILER=x86_64-w64-mingw32-gcc -DCMAKE_RUNTIME_OUTPUT_DIRECTORY="$work/fetched/windows" \
            -DCMAKE_EXE_LINKER_FLAGS=-static -DCMAKE_SHARED_LINKER_FLAGS=-static
        report "a host for Windows is built with libsalf.dll" $?
        x86_64-w64-mingw32-objdump -p "$work/fetched/windows/libsalf.dll" |
            sed -n 's/^\t\[ *[0-9]*\] \([^ +]*\)$/\1/p' >"$work/output"
        [ "$(grep -c '^salf_' "$work/output")" -gt 50 ] && ! grep -vq '^salf_' "$work/output"
        report "the DLL shows the functions of salf.h and nothing else" $?
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
salf = dependency('salf', fallback : ['salf', 'salf_dep'])
executable('host', '04_host_loop.c', dependencies : salf)
if add_languages('cpp', required : false)
  executable('cpp', 'host_loop.cpp', dependencies : salf, override_options : ['cpp_std=c++17'])
endif
END
    cp examples/cpp/host_loop.cpp "$work/meson/"
    quietly meson setup "$work/meson/build" "$work/meson" --buildtype=plain --unity=on -Dsalf:blas=plain -Dsalf:files=false &&
        quietly ninja -C "$work/meson/build"
    report "a host of Meson builds a checkout as a subproject" $?
    runs "it runs with its subproject" "$work/meson/build/host"
    as_built_by_make "$work/meson/build/subprojects/salf/libsalf.so" Meson
    quietly env DESTDIR="$work/placed" meson install -C "$work/meson/build" &&
        [ "$(PKG_CONFIG_LIBDIR=$(dirname "$(find "$work/placed" -name salf.pc)") pkg-config --modversion salf)" = "$VERSION" ]
    report "Meson installs what pkg-config reads" $?
else
    echo "skip - meson or ninja is not there"
fi
exit $status
