#!/bin/bash
# Where a plugin is opened from: beside the file of libsalf, or of the program that contains it, links followed, or an
# absolute path that the host gives. Not from where argv[0], the working directory or the environment point, and from
# nowhere in a process with more rights than its caller. A plugin that is opened says so before anything is asked of it.
set -u
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
status=0
report() { # name, status
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; sed 's/^/    /' "$work/output"; fi
}

# host [FOLDER]: changes into FOLDER and asks for the backend (SALF_HOST_PATH: by this plugin_path).
cat >"$work/host.c" <<'C'
#include <salf.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    salf_context_options o = {.struct_size = sizeof o, .backend = SALF_BACKEND_CUDA};
    o.plugin_path = getenv("SALF_HOST_PATH");
    salf_context *context;
    if (argc > 1 && chdir(argv[1]) != 0) return 2;
    if (salf_context_create(&context, &o) != SALF_OK) printf("%s\n", salf_last_error());
    salf_context_destroy(context);
    o.backend = SALF_BACKEND_AUTO;
    o.plugin_path = NULL;
    if (salf_context_create(&context, &o) != SALF_OK) printf("auto: %s\n", salf_last_error());
    salf_context_destroy(context);
    return 0;
}
C
cat >"$work/plugin.c" <<'C'
#include <stdio.h>
__attribute__((constructor)) static void opened(void) { puts("OPENED"); }
C
: >"$work/output"
mkdir "$work"/{real,trap,links,shared,path,set}
libs="$(pkg-config --libs openblas jansson) -lm -lpthread -ldl"
cc="${CC:-gcc} -std=c11 -D_DEFAULT_SOURCE -Iinclude $work/host.c"
${CC:-gcc} -fPIC -shared "$work/plugin.c" -o "$work/plugin.so" &&
    $cc -o "$work/real/static" "$build/lib/libsalf.a" $libs && $cc -o "$work/real/shared" -L"$build/lib" -lsalf
report "a host with libsalf.a and one with libsalf.so build" $?
cp "$build"/lib/libsalf.so.[0-9] "$work/shared" && cp "$build"/lib/libsalf.so.[0-9] "$work/path"
ln -s "$work/real/static" "$work/links/static"
for folder in trap links path; do cp "$work/plugin.so" "$work/$folder/libsalf-cuda.so"; done

opens() { # name, yes or no, what a refusal says; the command that follows
    local name=$1 expected=$2 words=$3 found=no
    shift 3
    (cd "$work" && "$@") >"$work/output" 2>&1
    local code=$?
    grep -q OPENED "$work/output" && found=yes
    [ $code -eq 0 ] && [ $found = "$expected" ] && grep -q -- "$words" "$work/output"
    report "$name" $?
}
own() { exec -a "$work/trap/anything" "$@"; }
opens "argv[0] names a folder with a plugin" no real/libsalf-cuda.so own real/static
opens "the working directory has a plugin" no real/libsalf-cuda.so real/static "$work/trap"
opens "a link to the program lies beside a plugin" no real/libsalf-cuda.so links/static
opens "the library was found by a relative path" no "not absolute" env LD_LIBRARY_PATH=path real/shared "$work/trap"
opens "and is not searched for where that points later" no "not absolute" \
    env LD_LIBRARY_PATH=. bash -c 'cd path && ../real/shared ../trap'
opens "no plugin is beside the library" no shared/libsalf-cuda.so \
    env LD_LIBRARY_PATH="$work/shared" real/shared "$work/trap"
opens "a plugin is beside the library" yes "salf_backend_plugin" env LD_LIBRARY_PATH="$work/path" real/shared
opens "a path that is not absolute" no "not absolute" env SALF_HOST_PATH=trap/libsalf-cuda.so real/static
opens "a path from the working directory" no "not absolute" \
    env SALF_HOST_PATH=./libsalf-cuda.so real/static "$work/trap"
opens "a name" no "not absolute" env SALF_HOST_PATH=libsalf-cuda.so LD_LIBRARY_PATH="$work/trap" real/static
opens "an absolute path" yes "salf_backend_plugin" env SALF_HOST_PATH="$work/trap/libsalf-cuda.so" real/static
cp "$work/plugin.so" "$work/real/libsalf-cuda.so"
opens "a plugin is beside the program" yes "salf_backend_plugin" real/static "$work/set"

# The owner of a setuid program decides what runs in it, not who makes a link to it beside a plugin.
cp "$work/plugin.so" "$work/set/libsalf-cuda.so"
cp "$work/real/static" "$work/set/static"
if [ "$(id -u)" -eq 0 ] && chown 65534 "$work/set/static" && chmod 4755 "$work/set/static" &&
    [ "$("$work/set/static" | grep -c "more rights")" -gt 0 ]; then
    opens "a setuid program" no "more rights" set/static
    opens "a setuid program reads no environment" no "more rights" \
        env SALF_BACKEND=nonsense SALF_KERNELS=nonsense set/static
    grep -q nonsense "$work/output"
    report "nor speaks of it" $((1 - $?))
    opens "a setuid program that gives a path" yes "salf_backend_plugin" \
        env SALF_HOST_PATH="$work/trap/libsalf-cuda.so" set/static
else
    echo "skip - setuid programs: not root, or a file system without them"
fi

# What needs no backend opens none, whatever the machine has: a plugin beside the library, and a driver as AUTO sees it.
${CC:-gcc} -fPIC -shared -Wl,-soname,libcuda.so.1 -x c /dev/null -o "$work/libcuda.so.1"
salf="env LD_LIBRARY_PATH=$work/path LD_PRELOAD=$work/libcuda.so.1 $build/bin/salf"
if [ -x "$build/bin/salf" ] && $salf --version >/dev/null 2>&1; then
    printf '{"event":"run"}\n' >"$work/log.jsonl"
    opens "the program sees the plugin" yes "" $salf doctor
    opens "salf plan opens none" no saving $salf plan --layers 4 --data 100
    opens "salf --help opens none" no Usage $salf --help
else
    echo "skip - the program: it is not built"
fi
exit $status
