#!/bin/bash
# The packages for Debian: they are built, lintian has nothing to say against them, and what they hold serves a host in C,
# the program and Python, unpacked into an empty folder.
set -u
export LC_ALL=C MAKEFLAGS=""
status=0
report() { # name, exit status of what was tried
    if [ "$2" -eq 0 ]; then echo "ok - $1"; else echo "not ok - $1"; status=1; sed 's/^/    /' "$work/output" | tail -20; fi
}
quietly() { "$@" >"$work/output" 2>&1; }
for tool in dpkg-buildpackage dh pybuild lintian; do
    command -v $tool >/dev/null || { echo "skip - $tool is not there: apt install dpkg-dev debhelper dh-python pybuild-plugin-pyproject lintian"; exit 0; }
done
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export DEBFULLNAME=${DEBFULLNAME-"The libsalf developers"} DEBEMAIL=${DEBEMAIL-libsalf@example.org} \
    DEB_BUILD_OPTIONS=${DEB_BUILD_OPTIONS-nocheck}
quietly env -u MAKEFLAGS VERSION="$VERSION" SOVERSION="$SOVERSION" BUILD="$work" packaging/make_deb.sh
report "the packages are built" $?
# The root of a container is no reason for lintian to refuse.
quietly env PATH=/usr/sbin:/usr/bin:/sbin:/bin lintian --allow-root --fail-on error,warning "$work"/deb/*.changes
report "lintian finds neither errors nor warnings" $?
cat "$work/output"
for package in "$work"/deb/*.deb; do dpkg -x "$package" "$work/root" || status=1; done

triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
export LD_LIBRARY_PATH=$work/root/usr/lib/$triplet PKG_CONFIG_SYSROOT_DIR=$work/root PKG_CONFIG_LIBDIR=$work/root/usr/lib/$triplet/pkgconfig
quietly eval 'gcc examples/04_host_loop.c -o "$work/host" $(pkg-config --cflags --libs salf) -lm && "$work/host"'
grep -qF '48 layer backwards instead of 72' "$work/output"
report "a host is built with libsalf-dev, and runs" $?
quietly "$work/root/usr/bin/salf" --version
grep -qF "$VERSION" "$work/output"
report "the program runs" $?
quietly eval 'cd "$work" && root/usr/bin/salf finetune --method ramp --limit-train 16 --limit-test 6'
report "it finds its demonstration" $?
[ -s "$work/root/usr/share/man/man1/salf.1.gz" ] && [ -s "$work/root/usr/share/bash-completion/completions/salf" ]
report "it has a manual page and completions" $?
quietly eval 'cd "$work" && SALF_LIBRARY=$LD_LIBRARY_PATH/$SONAME PYTHONPATH=root/usr/lib/python3/dist-packages \
    /usr/bin/python3 -c "import salf; print(salf.__version__, salf.__file__)"'
grep -qF "$VERSION root/usr" "$work/output" || grep -qF "$VERSION $work/root/usr" "$work/output"
report "Python finds its package" $?
[ "$(dpkg-deb -f "$work"/deb/libsalf"$SOVERSION"_*.deb Version)" = "$VERSION-0local1" ]
report "the version is that of salf.h, in a package named after the soname" $?
exit $status
