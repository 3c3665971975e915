#!/bin/bash
# Source and binary packages for Debian and its descendants, from the files that git tracks, as they are now.
#
#   make deb            in build/deb/; DEB_BUILD_OPTIONS=nocheck leaves the unit tests out
#
# The maintainer is who builds: DEBFULLNAME and DEBEMAIL, else git's user. The version is that of salf.h.
set -u
: "${VERSION:?}" "${SOVERSION:?}" "${BUILD:=build}"
missing=()
for tool in dpkg-buildpackage:dpkg-dev dh:debhelper pybuild:dh-python git:git; do
    command -v "${tool%:*}" >/dev/null || missing+=("${tool#*:}")
done
[ ${#missing[@]} -eq 0 ] || { echo "make deb: missing: ${missing[*]}; 'apt install ${missing[*]}' installs that" >&2; exit 1; }
name=${DEBFULLNAME:-$(git config user.name)} email=${DEBEMAIL:-$(git config user.email)}
[ -n "$name" ] && [ -n "$email" ] || { echo "make deb: DEBFULLNAME and DEBEMAIL are not set, and git has no user" >&2; exit 1; }
date=$(git log -1 --format=%cD) && [ -n "$date" ] || { echo "make deb: not in a checkout of git" >&2; exit 1; }

top=libsalf-$VERSION
mkdir -p "$BUILD" && out=$(realpath "$BUILD")/deb && rm -rf "$out" && mkdir -p "$out" || exit 1
# The same bytes each time from the same files.
git ls-files -z | tar --null --files-from=- --transform="s|^|$top/|S" --sort=name --mtime="$date" --owner=0 --group=0 \
    --numeric-owner --mode=go-w -c | gzip -n >"$out/libsalf_$VERSION.orig.tar.gz" || exit 1
tar -x -C "$out" -f "$out/libsalf_$VERSION.orig.tar.gz" || exit 1
cd "$out/$top" || exit 1
cp -r packaging/debian debian && mv debian/libsalf.install "debian/libsalf$SOVERSION.install" || exit 1
for file in debian/*.in; do
    text=$(<"$file")
    text=${text//@version@/"$VERSION"} text=${text//@soversion@/"$SOVERSION"} text=${text//@date@/"$date"}
    printf '%s\n' "${text//@maintainer@/"$name <$email>"}" >"${file%.in}" && rm "$file" || exit 1
done
# What a make above has set is not for the package's own, and its tools are those of the system.
unset MAKEFLAGS MAKELEVEL MFLAGS BUILD VERSION SOVERSION PYTHON CC CXX
PATH=${CCACHE_DIR:+/usr/lib/ccache:}/usr/sbin:/usr/bin:/sbin:/bin
dpkg-buildpackage -us -uc || exit 1
ls "$out"/*.deb
