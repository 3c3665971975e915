#!/bin/bash
# README's commands in bare systems, as somebody meets them who has just cloned the repository. Not part of `make test`:
# it needs root, debootstrap, a network, and minutes for each system.
#
#   tests/distributions.sh [-c COMMAND] [-f FOLDER] [NAME...]
#
# NAME: debian-12, debian-13, ubuntu-22.04, ubuntu-24.04 (default: all). COMMAND: default "make demo". FOLDER keeps the
# bare systems between runs (default build/distributions). Prints a line for each: name, result, seconds by the clock and
# of processors (which say more on a busy machine), versions.
set -u
command='make demo'
folder=${BUILD:-build}/distributions
while getopts c:f: option; do
    case $option in
    c) command=$OPTARG ;;
    f) folder=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- debian-12 debian-13 ubuntu-22.04 ubuntu-24.04
[ "$(id -u)" = 0 ] || { echo "distributions: root is needed for chroot" >&2; exit 2; }
command -v debootstrap >/dev/null || { echo "distributions: debootstrap is missing: apt install debootstrap" >&2; exit 2; }

bare() { # name, root: a system with what every installation has, and git and make as README says
    local suite mirror components=main
    case $1 in
    debian-12) suite=bookworm mirror=http://deb.debian.org/debian ;;
    debian-13) suite=trixie mirror=http://deb.debian.org/debian ;;
    ubuntu-22.04) suite=jammy mirror=http://archive.ubuntu.com/ubuntu components=main,universe ;;
    ubuntu-24.04) suite=noble mirror=http://archive.ubuntu.com/ubuntu components=main,universe ;;
    *) echo "distributions: '$1' is none of debian-12 debian-13 ubuntu-22.04 ubuntu-24.04" >&2; return 2 ;;
    esac
    [ -e "$2/ready" ] && return
    rm -rf "$2" && mkdir -p "$2" || return
    # shellcheck disable=SC2086
    debootstrap ${DEBOOTSTRAP_FLAGS-} --variant=minbase --components=$components --include=ca-certificates,git,make,sudo \
        "$suite" "$2" "$mirror" >"$2.log" 2>&1 && touch "$2/ready"
}

mkdir -p "$folder"
failed=0
for name; do
    root=$folder/$name
    if ! bare "$name" "$root"; then
        echo "$name: no bare system (${DEBOOTSTRAP_FLAGS-}): $(tail -n 1 "$root.log" 2>/dev/null)"
        failed=1
        continue
    fi
    rm -rf "$root/home/libsalf" && mkdir -p "$root/home/libsalf" && git archive HEAD | tar -x -C "$root/home/libsalf"
    mount --bind /proc "$root/proc" && mount --bind /dev "$root/dev" || exit 1
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    begin=$SECONDS
    chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb http_proxy="${http_proxy-}" \
        https_proxy="${https_proxy-}" bash -c "cd /home/libsalf && git init -q && TIMEFORMAT='processors: %0U + %0S s'; time { $command; }" >"$root.log" 2>&1
    code=$?
    versions=$(chroot "$root" sh -c 'gcc -dumpfullversion; dpkg-query -W -f "\${Version}" libopenblas-dev' 2>/dev/null | tr '\n' ' ')
    umount "$root/dev" "$root/proc"
    [ $code -eq 0 ] || failed=1
    echo "$name: $([ $code -eq 0 ] && echo passed || echo "failed ($code), see $root.log"), $((SECONDS - begin)) s, $(grep -a '^processors: ' "$root.log" | tail -n 1), gcc and OpenBLAS $versions"
done
exit $failed
