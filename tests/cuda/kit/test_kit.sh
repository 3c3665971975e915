#!/bin/bash
# The GPU kit without a device: it is small enough, stands on its own where nothing of this project is, says aloud what
# is missing, ends what hangs, tells what breaks, and gives the results that it promises. KIT, CUDA: from kit.mk.
set -u
status=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export OUT=$work/out
check() { # name, command...
    local name=$1
    shift
    if "$@"; then echo "ok - $name"; else
        echo "not ok - $name"
        [ ! -f "$work/said" ] || sed 's/^/    /' "$work/said"
        status=1
    fi
}
said() { grep -qE -- "$1" "$work/said"; }
kit=$(cd "$KIT" && pwd) || exit 1

size=$(du -sm "$kit" | cut -f1)
check "the kit is at most 40 MB ($size)" [ "$size" -le 40 ]
cp -r "$kit" "$work/kit"
kit=$work/kit

for wrong in '--stage x' '--stage' '--seconds 0' '--seconds a' '--elsewhere'; do
    "$kit/run.sh" $wrong >"$work/said" 2>&1
    check "run.sh $wrong is refused" [ $? -eq 2 ]
    check "the message of it names what was wrong" said "use: run.sh.*$wrong"
done

# ---- on this machine ----
if [ "$CUDA" != 1 ]; then
    "$kit/run.sh" >"$work/said" 2>&1
    check "a kit without a plugin says so" [ $? -eq 3 ]
    check "and that it was made without nvcc" said "made without nvcc"
elif [ -e /dev/nvidiactl ] || [ -e /proc/driver/nvidia/version ]; then
    echo "SKIPPED: what the kit says without a device, there is one"
else
    "$kit/run.sh" >"$work/said" 2>&1
    check "without a device the status is 3" [ $? -eq 3 ]
    check "and the verdict says so" said "^VERDICT: THERE IS NO CUDA DEVICE"
    check "the results are JSON that says so" \
        sh -c "'$PYTHON' -c 'import json,sys; r = json.load(open(sys.argv[1])); assert r[\"device\"] == \"\" and \"NO CUDA DEVICE\" in r[\"verdict\"]' '$OUT/results.json'"
    "$kit/bin/bench_gpu" >"$work/said" 2>&1
    check "the benchmark says so too" said "SKIPPED: there is no CUDA device"
fi

# ---- where nothing of this project is ----
# A root of a shell, five tools and the libraries of these; libgcc_s, which every system has, for the kit's libgfortran.
root=$work/root
mkdir -p "$root"/{dev,tmp,bin,kit,proc/self}
# The loader learns from /proc where a program lies. No /proc is mounted here, which not every user may do: the one link
# in it says where the one program lies that asks.
exe() { ln -sfn "$1" "$root/proc/self/exe"; }
for tool in bash sleep mkdir cat gzip mv rm; do
    path=$(readlink -f "$(command -v $tool)")
    cp "$path" "$root/bin/$tool"
    ldd "$path"
done | grep -oE '/[^ ]+' | sort -u >"$work/libraries"
gcc_s=$(ldconfig -p 2>/dev/null | sed -n 's/.*libgcc_s\.so\.1 .*=> //p' | head -n 1)
libc=$(ldconfig -p 2>/dev/null | sed -n 's/.*libc\.so\.6 .*=> //p' | head -n 1)
# gzip may be a script of the shell's; the parts of the C library that the kit's programs name are there on every system
for path in $(cat "$work/libraries") $gcc_s "${libc%/*}"/lib{m.so.6,dl.so.2,rt.so.1,pthread.so.0}; do
    [ -e "$path" ] && mkdir -p "$root/${path%/*}" && cp -L "$path" "$root/$path"
done
: >"$root/dev/null"
cp -r "$kit/." "$root/kit"
if chroot "$root" /bin/bash -c true 2>/dev/null; then
    enter=(chroot "$root")
elif unshare -r chroot "$root" /bin/bash -c true 2>/dev/null; then
    enter=(unshare -r chroot "$root")
else
    enter=()
    echo "SKIPPED: the kit in an empty root, which this user may not enter"
fi
if [ ${#enter[@]} -gt 0 ]; then
    exe /kit/bin/look
    env -i PATH=/bin:/usr/bin:/usr/sbin:/sbin OUT=/tmp/out "${enter[@]}" /bin/bash /kit/run.sh >"$work/said" 2>&1
    check "in an empty root the kit starts, and ends with status 3" [ $? -eq 3 ]
    check "its verdict is there" said "^VERDICT: (THERE IS NO CUDA DEVICE|this kit was made without nvcc)"
    check "no library is missing" sh -c "! grep -q 'error while loading shared' '$work/said'"
    rm "$root"/kit/lib/libopenblas*
    env -i PATH=/bin:/usr/bin:/usr/sbin:/sbin OUT=/tmp/out "${enter[@]}" /bin/bash /kit/run.sh >"$work/said" 2>&1
    check "a kit that lost a library is broken, which is not the same as no device" [ $? -eq $((CUDA == 1 ? 1 : 3)) ]
    cp "$kit"/lib/libopenblas*.gz "$root/kit/lib"
    exe /kit/emulated/bin/look
    env -i PATH=/bin:/usr/bin:/usr/sbin:/sbin OUT=/tmp/out "${enter[@]}" /bin/bash /kit/run.sh --emulated --stage a >"$work/said" 2>&1
    check "there the emulated device gives what the cpu gives" [ $? -eq 0 ]
    check "by a probe of each metric" said "^a  one probe against the cpu +4 passed +0 failed"
fi

# ---- on the emulated device ----
"$kit/run.sh" --emulated --stage ad >"$work/said" 2>&1
check "benchmarks run on the emulated device" [ $? -eq 0 ]
check "none of their figures counts" said "0 figures within reach, 0 short"
check "at most 8 files come out, and no folder" [ "$(find "$OUT" -type f | wc -l)" -le 8 -a "$(find "$OUT" -mindepth 1 -type d | wc -l)" = 0 ]
rows() {
    "$PYTHON" - "$OUT/results.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["emulated"] and r["failed"] == 0, r
assert len(r["rows"]) >= 10 and all(row["stage"] == "d" and row["seconds"] > 0 for row in r["rows"]), r["rows"]
PY
}
check "the results are JSON with a row for each figure" rows

# ---- what breaks, and what hangs ----
fake() { printf '#!/bin/bash\n%s\n' "$2" >"$kit/emulated/bin/$1" && chmod +x "$kit/emulated/bin/$1"; }
rm -f "$kit"/bin/test_*
fake test_gpu 'trap "" TERM; echo "ok - the first"; sleep 600 & while :; do sleep 1; done'
fake test_gpu_errors 'echo "100%: Checks: 3, Failures: 1, Errors: 0"; echo "test.c:12:F:case:name:0: seven is not eight"; exit 1'
fake bench_gpu '[ "$2" != cosine ] || kill -SEGV $$; echo "ok - a row"'
start=$SECONDS
"$kit/run.sh" --emulated --stage bda --seconds 8 >"$work/said" 2>&1
check "a run with failures ends with status 1" [ $? -eq 1 ]
check "a program that hangs does not hang the kit" [ $((SECONDS - start)) -lt 30 ]
check "it is said to have been stopped" said "^b  test_gpu .* 1 passed +1 failed.*stopped after"
check "what no time was left for is named" said "not run: a: one probe|not run: d: benchmark"
check "no process of it is left" sh -c '! ps -eo args 2>/dev/null | grep -q "[e]mulated/bin/test_gpu$"'
"$kit/run.sh" --emulated --stage d >"$work/said" 2>&1
check "a program that crashes leaves the next ones" said "^d  benchmark: basis +1 passed"
check "and is told with its status" said "^d  benchmark: cosine +0 passed +1 failed.*ended with status 139"
fake test_gpu '[ "$CK_FORK" = yes ] && echo "66%: Checks: 3, Failures: 0, Errors: 1" || kill -SEGV $$'
"$kit/run.sh" --emulated --stage b >"$work/said" 2>&1
check "tests after one that crashes run by themselves" said "^b  test_gpu \(each test by itself\) +2 passed +1 failed"
check "what failed is told" said "seven is not eight"
check "the verdict names the programs" said "^VERDICT: FAILED: .*b: test_gpu_errors"
exit $status
