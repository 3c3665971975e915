#!/bin/bash
# Puts into the kit what is not linked for it: the libraries that its programs need beyond the C library and GCC's own
# ones, run.sh, the Python package with its declarations, cffi for several versions of Python, and kit.txt, which says
# what the kit was made of. Started by kit.mk with KIT, SCRIPT_ENV and the programs of the kit.
set -eu
here=${BASH_SOURCE%/*}
mkdir -p "$KIT/lib" "$KIT/python"
cp "$here/run.sh" "$KIT/run.sh"
rm -rf "$KIT/python/salf"
cp -r bindings/python/src/salf "$KIT/python/salf"
find "$KIT/python" -name __pycache__ -prune -exec rm -rf {} +
cp "$here"/step_torch.py "$here"/host_waits.py "$here"/small_qwen.py tests/bench/peer_torch_gpu.py "$KIT/python/"

# Libraries by what the linker finds for the programs, also for those of them in turn. OpenBLAS travels packed: it is
# four times as large as all else, and run.sh opens it once; what an earlier run opened here would travel in vain.
rm -f "$KIT"/lib/libopenblas*.so*[0-9]
base='linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+'
for program in "$@"; do ldd "$program" 2>/dev/null || true; done |
    awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u | grep -vE "^($base)[-.]" | while read -r name path; do
    case $name in
    libsalf* | libcuda-emulated*) ;;
    libopenblas*)
        [ "$KIT/lib/$name.gz" -nt "$path" ] || gzip -9nc "$path" >"$KIT/lib/$name.gz"
        ;;
    *) cmp -s "$path" "$KIT/lib/$name" || cp "$path" "$KIT/lib/$name" ;;
    esac
done

"$PYTHON" -c "
import importlib.util, sys
spec = importlib.util.spec_from_file_location('header', 'bindings/python/src/salf/_header.py')
header = importlib.util.module_from_spec(spec)
spec.loader.exec_module(header)
sys.stdout.write(header.python_source('include/salf.h'))" >"$KIT/python/salf/_declarations.py"

# cffi as pip gives it, unpacked: a wheel with a shared object cannot be imported from the archive. Where there is no
# network the cffi of this Python alone is taken along, and the kit says at its run what it lacks.
machine=$(uname -m)
for version in $KIT_PYTHONS; do
    tag=cp${version//./} && to=$KIT/python/vendor/$tag
    [ -d "$to" ] && continue
    wheel=$(ls "$KIT_WHEELS"/cffi-*-"$tag"-"$tag"-*.whl 2>/dev/null | head -n 1)
    if [ -z "$wheel" ]; then
        "$PYTHON" -m pip --disable-pip-version-check -q download --no-deps --only-binary=:all: --python-version "$version" \
            --implementation cp --abi "$tag" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
            -d "$KIT_WHEELS" cffi >/dev/null 2>&1 || true
        wheel=$(ls "$KIT_WHEELS"/cffi-*-"$tag"-"$tag"-*.whl 2>/dev/null | head -n 1)
    fi
    if [ -n "$wheel" ]; then
        "$PYTHON" -m zipfile -e "$wheel" "$to"
    else
        echo "the kit has no cffi for Python $version: pip gives no wheel" >&2
    fi
done
own=$KIT/python/vendor/$("$PYTHON" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
if [ ! -d "$own" ]; then
    mkdir -p "$own"
    "$PYTHON" -c "
import cffi, os, shutil, sys, _cffi_backend
shutil.copytree(os.path.dirname(cffi.__file__), sys.argv[1] + '/cffi', ignore=shutil.ignore_patterns('__pycache__'))
shutil.copy(_cffi_backend.__file__, sys.argv[1])" "$own" || rm -rf "$own"
fi

# The names under which the plugin looks for CUDA's libraries, and the newest glibc that anything in the kit asks for.
{
    echo "version $VERSION"
    if [ -f "$KIT/lib/libsalf-cuda.so" ]; then
        echo "needs $(strings -a "$KIT/lib/libsalf-cuda.so" | grep -oE '^lib(cublas|cusolver)\.so\.[0-9]+$' | sort -u | tr '\n' ' ')"
    else
        echo "needs"
    fi
    echo "glibc $(find "$KIT" -type f \( -perm -u+x -o -name '*.so*' \) -exec objdump -T {} + 2>/dev/null |
        grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1)"
    echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
} >"$KIT/kit.txt"
