#!/bin/bash
# run.sh - runs the GPU kit on the machine where it lies, in stages, the most telling first, each with a limit of time.
#
#   run.sh [--stage LETTERS] [--seconds N] [--emulated]
#
#   a  the device, versions, one probe of each metric against the cpu     30 s
#   b  the parity suite and the tests of the handles                     240 s
#   c  compute-sanitizer over a selection: memcheck, racecheck           180 s
#   d  benchmarks, each beside a floor of the same run                   180 s
#   e  PyTorch: a training step with and without libsalf; peers          180 s
#
# --stage bd runs those stages alone. --seconds bounds all of it. --emulated runs a, b and d on the device that the kit
# emulates on the host, and e on the cpu, at sizes whose times mean nothing. Results go to $OUT (gpu-kit-results in the
# working folder): summary.txt, results.json, a log for each stage, and what PyTorch's profiler saw.
#
# Needs bash, sleep, mkdir, cat and gzip; stage e Python with PyTorch. Ends with status 0 when everything that was run
# passed, 1 when something failed or was not over in time, 3 where there is no device.
set -u
kit=${BASH_SOURCE%/*}
[ "$kit" != "${BASH_SOURCE[0]}" ] || kit=.
kit=$(cd "$kit" && pwd) || exit 1
out=${OUT:-$PWD/gpu-kit-results}
stages=abcde whole=100000 emulated=
declare -A limit=([a]=30 [b]=240 [c]=180 [d]=180 [e]=180)

usage() {
    echo "use: run.sh [--stage LETTERS of abcde] [--seconds N] [--emulated]; this was: $*" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
    --stage) stages=${2-} && [[ $stages =~ ^[abcde]+$ ]] || usage "$*" ;;
    --seconds) whole=${2-} && [[ $whole =~ ^[1-9][0-9]{0,5}$ ]] || usage "$*" ;;
    --emulated) emulated=1 && set -- "$1" "$@" ;;
    *) usage "$*" ;;
    esac
    shift 2
done
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
scratch=$(mktemp -d 2>/dev/null || { mkdir -p "$out/scratch.$$" && echo "$out/scratch.$$"; }) || exit 1
trap 'rm -rf "$scratch" 2>/dev/null' EXIT
: >"$out/summary.txt"
programs=() rows=() passed=0 failed=0 skipped=0 met=0 short=0 broken=() unran=()

say() { # a line for the screen and the summary
    printf '%s\n' "$*"
    printf '%s\n' "$*" >>"$out/summary.txt"
}

text() { # as a string of JSON
    local s=${1//\\/\\\\}
    s=${s//\"/\\\"}
    s=${s//[$'\t\r\n']/ }
    printf '"%s"' "$s"
}

# ---- a program, within its time ----

# Seconds, a file for its output, a command. Gives the command's status, 124 where its time was up. What does not even
# die (a driver can hold a process for ever) is left behind: no stage waits for it.
bounded() {
    local seconds=$1 output=$2 end pid turn
    shift 2
    set -m # a process group of its own, with all that it starts
    "$@" >"$output" 2>&1 </dev/null &
    pid=$!
    set +m
    end=$((SECONDS + (seconds > 0 ? seconds : 1)))
    while kill -0 "$pid" 2>/dev/null; do
        if [ $SECONDS -ge $end ]; then
            kill -TERM -- "-$pid" 2>/dev/null
            for turn in 1 2 3 4 5 6 7 8 9 10; do
                kill -0 "$pid" 2>/dev/null || break
                [ "$turn" -ne 5 ] || kill -KILL -- "-$pid" 2>/dev/null
                sleep 0.3
            done
            disown "$pid" 2>/dev/null
            return 124
        fi
        sleep 0.1
    done
    wait "$pid" 2>/dev/null
}

# What the lines of an output say: libcheck's ("100%: Checks: 3, Failures: 0, Errors: 0"), "ok", "not ok", "SKIPPED:",
# and rows of figures. Sets p, f, s, and adds to rows.
count() {
    local line checked=0
    p=0 f=0 s=0 last=
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
        [0-9]*"%: Checks: "*)
            [[ $line =~ Checks:\ ([0-9]+),\ Failures:\ ([0-9]+),\ Errors:\ ([0-9]+) ]] || continue
            checked=$((checked + BASH_REMATCH[1] - BASH_REMATCH[2] - BASH_REMATCH[3])) f=$((f + BASH_REMATCH[2] + BASH_REMATCH[3]))
            ;;
        "ok "*) p=$((p + 1)) ;;
        "not ok "*) f=$((f + 1)) last=$line ;;
        "SKIPPED: "*) s=$((s + 1)) ;;
        *:[0-9]*:[FE]:*) last=$line ;;
        "ROW {"*)
            rows+=("{\"stage\": \"$stage\", ${line#ROW \{}")
            [ -n "$emulated" ] || [[ $line != *'"met": true'* ]] || met=$((met + 1))
            [ -n "$emulated" ] || [[ $line != *'"met": false'* ]] || short=$((short + 1))
            ;;
        esac
    done <"$1"
    [ $s -gt $checked ] || checked=$((checked - s)) # a test that is skipped counts as passed with libcheck
    p=$((p + checked))
}

# program NAME SECONDS COMMAND...: runs it within what is left of its stage and of the whole, and tells in one line.
program() {
    local name=$1 seconds=$2 left=$((stage_end - SECONDS)) start=$SECONDS status p f s last note=
    shift 2
    [ $((whole - SECONDS)) -ge $left ] || left=$((whole - SECONDS))
    [ $seconds -le $left ] || seconds=$left
    if [ $seconds -le 0 ]; then
        unran+=("$stage: $name")
        say "$(printf '%s  %-34s not run: no time is left' "$stage" "$name")"
        programs+=("{\"stage\": \"$stage\", \"name\": $(text "$name"), \"status\": \"not run\"}")
        return 0
    fi
    printf '==== %s\n' "$name: $*" >>"$out/$stage.log"
    bounded "$seconds" "$scratch/output" "$@" 2>/dev/null # of the shell itself, which tells what was killed
    status=$?
    cat "$scratch/output" >>"$out/$stage.log"
    count "$scratch/output"
    if [ $status -eq 124 ]; then
        f=$((f + 1)) note=", stopped after $seconds s"
    elif [ $status -ne 0 ] && [ $f -eq 0 ]; then
        f=1 note=", ended with status $status"
    elif [ $((p + f + s)) -eq 0 ]; then
        f=1 note=", told nothing"
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    say "$(printf '%s  %-34s %4d passed %3d failed %3d skipped  %4d s%s' "$stage" "$name" $p $f $s $((SECONDS - start)) "$note")"
    if [ $f -gt 0 ]; then
        broken+=("$stage: $name$note")
        [ -z "$last" ] || say "     $last"
    fi
    programs+=("{\"stage\": \"$stage\", \"name\": $(text "$name"), \"status\": $status, \"passed\": $p, \"failed\": $f, \"skipped\": $s, \"seconds\": $((SECONDS - start))}")
    return $((f > 0))
}

# A test program on a device runs unforked, because a forked child cannot use a device that its parent has opened. Where
# one test ends the whole program, the others run once more, each in a process of its own.
tests() {
    local name=$1 seconds=$2 before
    shift 2
    before=$failed
    CK_FORK=no program "$name" "$seconds" "$@" && return
    [[ ${broken[-1]} == *"ended with status"* ]] || return
    failed=$before # its tests are counted now
    CK_FORK=yes program "$name (each test by itself)" "$seconds" "$@"
}

# ---- what the machine has ----

# The folder of a library's file, where CUDA toolkits and PyTorch's wheels keep it.
folder_of() {
    local name=$1 folder python packages
    local -a folders
    IFS=: read -ra folders <<<"${LD_LIBRARY_PATH-}"
    folders+=(${CUDA_HOME:+"$CUDA_HOME/lib64"} ${CUDA_PATH:+"$CUDA_PATH/lib64"})
    for folder in "${folders[@]}" /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/local/cuda/targets/*/lib /opt/cuda/lib64 \
        /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64; do
        [ -n "$folder" ] && [ -e "$folder/$name" ] && echo "$folder" && return
    done
    python=$(find_python) || return 1
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null) || return 1
    for folder in "$packages"/nvidia/*/lib; do
        [ -e "$folder/$name" ] && echo "$folder" && return
    done
    return 1
}

# A Python with PyTorch, else any.
find_python() {
    local python any=
    for python in ${PYTHON:-} python3 /opt/*/bin/python3 /opt/*/.venv/bin/python3 /usr/bin/python3; do
        command -v "$python" >/dev/null 2>&1 || continue
        any=${any:-$python}
        "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null && echo "$python" && return
    done
    [ -n "$any" ] && echo "$any"
}

find_sanitizer() {
    local path
    command -v compute-sanitizer 2>/dev/null && return
    for path in ${CUDA_HOME:+"$CUDA_HOME/bin/compute-sanitizer"} /usr/local/cuda*/bin/compute-sanitizer \
        /usr/local/cuda*/compute-sanitizer/compute-sanitizer; do
        [ -x "$path" ] && echo "$path" && return
    done
    return 1
}

version= needs= glibc= commit=
while read -r key value; do
    [[ $key =~ ^(version|needs|glibc|commit)$ ]] && printf -v "$key" '%s' "$value"
done <"$kit/kit.txt"
for packed in "$kit"/lib/*.gz; do
    unpacked=${packed%.gz}
    [ -e "$unpacked" ] || [ ! -e "$packed" ] && continue
    gzip -dc "$packed" >"$unpacked.part" && mv "$unpacked.part" "$unpacked" || {
        say "the kit's $packed could not be unpacked"
        exit 1
    }
done

bin=$kit/bin plugin=$kit/lib/libsalf-cuda.so
[ -z "$emulated" ] || { bin=$kit/emulated/bin plugin=$kit/emulated/lib/libsalf-cuda.so; }
say "GPU kit of libsalf $version (commit $commit, $glibc)${emulated:+, on the emulated device: no figure of it is a measurement}"
search=
for name in $needs; do
    [ -n "$emulated" ] && break
    if folder=$(folder_of "$name"); then
        say "$name: $folder"
        [[ :$search: == *:"$folder":* ]] || search=${search:+$search:}$folder
    else
        say "$name: not found in any toolkit, nor among PyTorch's packages"
    fi
done
plain_path=${LD_LIBRARY_PATH-}
[ -z "$search" ] || export LD_LIBRARY_PATH=${plain_path:+$plain_path:}$search

# ---- stages ----

stage_a() { program "one probe against the cpu" 30 "$bin/look" "$plugin"; }

stage_b() {
    local t
    export SALF_TEST_PLUGIN=$plugin
    for t in gpu gpu_errors; do tests "test_$t" 90 "$bin/test_$t"; done
    for t in "$kit"/bin/test_backend*; do
        tests "${t##*/}" 120 env ${emulated:+SALF_TEST_QUICK=1} "$t"
    done
    for t in "$kit"/bin/test_*; do
        case ${t##*/} in
        test_backend* | test_gpu*) ;;
        *) tests "${t##*/}" 60 env SALF_TEST_CPU_IS_PLUGIN=1 "$t" ;;
        esac
    done
}

stage_c() {
    local sanitizer tool
    if ! sanitizer=$(find_sanitizer); then
        say "c  compute-sanitizer is not there: nothing was run under it"
        unran+=("c: compute-sanitizer is absent")
        return
    fi
    export SALF_TEST_PLUGIN=$plugin SALF_TEST_QUICK=1 CK_FORK=no
    # Errors of the API are what test_gpu_errors provokes: those are not looked for here.
    under() { # tool, seconds, program, case (empty: all)
        CK_RUN_CASE=$4 program "$1: ${3##*/} $4" "$2" env ${4:+CK_RUN_CASE="$4"} "$sanitizer" "--tool=$1" --error-exitcode=9 \
            --report-api-errors=no "$3"
    }
    unset CK_RUN_CASE
    under memcheck 60 "$bin/test_gpu" ""
    under racecheck 60 "$bin/test_gpu" decisions_are_those_of_the_cpu
    under memcheck 60 "$kit/bin/test_backend_score" ""
    under racecheck 60 "$kit/bin/test_backend_score" ""
    for tool in synccheck initcheck; do under $tool 30 "$bin/test_gpu" results_repeat; done
    unset SALF_TEST_QUICK CK_FORK
}

stage_d() { # each group by itself, so that one that hangs leaves the others
    local group
    for group in host cosine score basis; do
        program "benchmark: $group" 60 "$bin/bench_gpu" "$plugin" $group ${emulated:+--small}
    done
}

stage_e() {
    local python name
    if ! python=$(find_python) || ! "$python" -c 'import torch' 2>/dev/null; then
        say "e  there is no Python with PyTorch: nothing of it was run"
        unran+=("e: no Python with PyTorch")
        return
    fi
    name=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    export PYTHONPATH=$kit/python SALF_LIBRARY=$kit/lib/libsalf.so.1 PYTHONUNBUFFERED=1
    if ! "$python" -c 'import cffi' 2>/dev/null; then
        if [ ! -d "$kit/python/vendor/$name" ]; then
            say "e  the Python with PyTorch has no cffi, and the kit has none for $name"
            unran+=("e: no cffi for $name")
            return
        fi
        PYTHONPATH=$PYTHONPATH:$kit/python/vendor/$name
    fi
    # As a user's process has it: PyTorch's own libraries, no path to a toolkit's.
    export LD_LIBRARY_PATH=$plain_path
    program "PyTorch: training steps" 110 "$python" "$kit/python/step_torch.py" --trace "$out/trace.json.gz" \
        ${emulated:+--device cpu --small}
    program "PyTorch: peers" 120 "$python" "$kit/python/peer_torch_gpu.py" --seconds 110 ${emulated:+--device cpu --small}
}

# ---- a run ----

[ -x "$bin/look" ] || {
    say "VERDICT: this kit was made without nvcc and holds nothing for a real device; --emulated runs what it has"
    exit 3
}
stage=a
bounded 30 "$scratch/device" "$bin/look" --device 2>/dev/null
status=$? device=
while IFS= read -r line; do
    say "$line"
    case $line in DEVICE\ *) device=${line#DEVICE } ;; esac
done <"$scratch/device"
[ -n "$device" ] || [ $status -eq 3 ] || broken+=("the device could not be asked: status $status")

if [ -n "$device" ]; then
    for ((k = 0; k < ${#stages}; k++)); do
        stage=${stages:k:1}
        if [ -n "$emulated" ] && [ "$stage" = c ]; then continue; fi
        : >"$out/$stage.log"
        stage_end=$((SECONDS + limit[$stage]))
        [ -z "$emulated" ] || stage_end=$((SECONDS + 3600)) # a host is slow, and nobody waits for a device
        stage_$stage
    done
fi

# ---- verdict ----

joined() { local IFS=,; echo "$*"; }
if [ -z "$device" ] && [ ${#broken[@]} -eq 0 ]; then
    verdict="THERE IS NO CUDA DEVICE: nothing was tested and nothing was measured" status=3
elif [ ${#broken[@]} -gt 0 ]; then
    verdict="FAILED: $(printf '%s; ' "${broken[@]}")"
    verdict=${verdict%; } status=1
else
    verdict="passed" status=0
fi
[ -z "$emulated" ] || verdict="$verdict (emulated device)"
say "$passed passed, $failed failed, $skipped skipped; $met figures within reach, $short short of it"
for line in ${unran[@]+"${unran[@]}"}; do say "not run: $line"; done
say "VERDICT: $verdict"
{
    printf '{"kit": %s, "commit": %s, "device": %s, "emulated": %s, "stages": %s, "verdict": %s,\n' "$(text "$version")" \
        "$(text "$commit")" "$(text "$device")" "$([ -n "$emulated" ] && echo true || echo false)" "$(text "$stages")" "$(text "$verdict")"
    printf '"passed": %d, "failed": %d, "skipped": %d,\n' $passed $failed $skipped
    printf '"programs": [%s],\n' "$(joined ${programs[@]+"${programs[@]}"})"
    printf '"rows": [%s]}\n' "$(joined ${rows[@]+"${rows[@]}"})"
} >"$out/results.json"
exit $status
