#!/bin/bash
# The plugin as it was built for real devices: one symbol, no more libraries than it needs, the functions that it looks
# for are in CUDA's libraries, and without a driver it says so while "auto" goes on with the cpu.
set -u
plugin=${PLUGIN:-}
status=0
check() { # name, command...: ok when the command succeeds
    local name=$1
    shift
    if "$@"; then echo "ok - $name"; else
        echo "not ok - $name"
        status=1
    fi
}
if [ -z "$plugin" ]; then
    echo "SKIPPED: the plugin is not built, there is no nvcc"
    exit 0
fi

exported=$(nm -D --defined-only "$plugin" | awk '{ print $3 }')
check "one symbol is exported" [ "$exported" = salf_backend_plugin ]
needed=$(readelf -d "$plugin" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux-x86-64|ld-linux-aarch64)\.so')
check "nothing is needed but the C library (found: ${needed:-none})" [ -z "$needed" ]
check "libsalf.so needs no CUDA" sh -c "! readelf -d '${BUILD:-build}/lib/libsalf.so' | grep -qiE 'cuda|cublas|cusolver'"

# Each function of libraries.h is in the library whose soname it is looked for in.
libraries_header=libsalf/backend/cuda/libraries.h
for kind in cublas cusolver; do
    library=$(ls "${CUDA_HOME:-/usr/local/cuda}"/lib64/lib$kind.so.[0-9]* 2>/dev/null | head -n 1)
    wanted=$(grep -oE "X\(${kind}[A-Za-z0-9_]+\)" $libraries_header | sed 's/X(\(.*\))/\1/')
    if [ -z "$library" ]; then
        echo "SKIPPED: functions of $kind, the library is not there"
        continue
    fi
    missing=$(comm -23 <(sort <<<"$wanted") <(nm -D --defined-only "$library" | awk '{ sub(/@.*/, "", $3); print $3 }' | sort))
    check "$kind has the functions that are looked for ($(wc -w <<<"$wanted"); missing: ${missing:-none})" [ -z "$missing" ]
    check "$kind's soname is the one that is looked for" grep -q "$(basename "$library")" <(strings "$plugin")
done

# Without a driver.
if [ -e /dev/nvidiactl ] || [ -e /proc/driver/nvidia/version ]; then
    echo "SKIPPED: what is said without a driver, there is one"
else
    output=$("${BUILD:-build}/tests/cuda/open_without_driver" "$(realpath "$plugin")" 2>&1)
    check "without a driver the plugin says so, and auto takes the cpu ($output)" [ $? -eq 0 ]
fi
exit $status
