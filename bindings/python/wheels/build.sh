#!/bin/bash
# Makes a wheel that an index takes: for any Linux with glibc 2.28 or newer, with OpenBLAS, Jansson and their licences
# inside. Its place: $1.
#
# What ties a library to a new glibc is not its code but the versions of the symbols it was linked to. So gcc compiles as
# always, and zig links against the symbols of glibc 2.28. OpenBLAS is the build that NumPy's and SciPy's wheels stand on
# (its functions bear the prefix scipy_, so that it meets no other OpenBLAS in a process); Jansson is the distribution's.
# auditwheel copies both into the wheel, and refuses the tag where any file of it needs more than the tag promises.
set -u
out=${1:?folder}
glibc=2.28
work=$(realpath -m "${BUILD:-build}")/wheels
here=bindings/python/wheels
fail() { echo "$*" >&2; exit 1; }

mkdir -p "$work" "$out" || exit 1
if [ "$(cat "$work/venv/.made-for" 2>/dev/null)" != "$(cksum <$here/requirements.txt)" ]; then
    rm -rf "$work/venv"
    python3 -m venv "$work/venv" || fail "python3 -m venv failed"
    # Without them there is nothing to build with: status 3 is for whoever skips, aloud.
    "$work/venv/bin/pip" install -q --disable-pip-version-check -r $here/requirements.txt ||
        { echo "what $here/requirements.txt lists cannot be had" >&2; exit 3; }
    cksum <$here/requirements.txt >"$work/venv/.made-for"
fi
export PATH="$work/venv/bin:$PATH"
blas=$(python3 -c 'import scipy_openblas32 as b; print(b.get_lib_dir(), b.get_include_dir())') || exit 1
read -r libraries headers <<<"$blas"
jansson=$(pkg-config --variable=libdir jansson) || fail "pkg-config does not know jansson"

# The names that libsalf knows, and those that this OpenBLAS gives them.
nm -D --defined-only "$libraries/libscipy_openblas.so" | awk '$3 ~ /^scipy_(cblas_|openblas_)/ || $3 ~ /^scipy_[a-z0-9]*_$/ {
    print "#define " substr($3, 7) " " $3 }' >"$work/names.h"
[ -s "$work/names.h" ] || fail "$libraries/libscipy_openblas.so has no function scipy_*"

# gcc's own support library comes along: in zig's, the processor's features are all unset. -Bsymbolic-functions is what
# zig calls -Bsymbolic, all that libsalf exports being functions.
cat >"$work/link" <<EOF
#!/bin/bash
exec python3 -m ziglang cc -target $(uname -m)-linux-gnu.$glibc "\${@//-Bsymbolic-functions/-Bsymbolic}" "$(${CC:-gcc} -print-libgcc-file-name)"
EOF
chmod +x "$work/link"
make --no-print-directory -j"${JOBS:-$(nproc)}" BUILD="$work/build" CUDA=0 LINK="$work/link" DEPS_CFLAGS= \
    CFLAGS="-O3 -isystem $headers -include $work/names.h" BLAS_LIBS="$libraries/libscipy_openblas.so" \
    JSON_LIBS="$jansson/libjansson.so" lib "$work/build/bin/salf" || fail "make failed"

licences() { # name, candidates: the text of a library's licence
    local name=$1 file
    shift
    for file; do [ -s "$file" ] && cp "$file" "$work/build/licenses/$name.txt" && return; done
    fail "no text of the licence of $name in $*"
}
rm -rf "$work/build/licenses" "$work/raw" "$work/done"
mkdir -p "$work/build/licenses" "$work/raw"
licences OpenBLAS "$(dirname "$libraries")"-*.dist-info/licenses/LICENSE.txt "$libraries"/../../scipy_openblas32-*.dist-info/licenses/LICENSE.txt
licences Jansson /usr/share/doc/libjansson4/copyright /usr/share/doc/libjansson-dev/copyright /usr/share/licenses/jansson/LICENSE

SALF_BUILD="$work/build" python3 -m pip wheel -q --no-deps --no-build-isolation -w "$work/raw" bindings/python || fail "pip wheel failed"
# Left in $out only when it is whole; where OpenBLAS lies is said to the loader, which auditwheel asks.
LD_LIBRARY_PATH=$libraries python3 -m auditwheel repair --strip --plat "manylinux_${glibc//./_}_$(uname -m)" -w "$work/done" \
    "$work/raw"/*.whl || fail "auditwheel refused the wheel"
mv "$work/done"/*.whl "$out"
