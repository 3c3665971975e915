#!/bin/bash
# Runs tests, counts what they say, and keeps the totals of several suites in $RESULTS.
#
#   run.sh --start                  forget earlier totals
#   run.sh SUITE COMMAND...         run each command (a shell command line), then print and add up the suite's counts
#   run.sh --broken SUITE           a suite could not be built or run; counts once as failed unless it is counted already
#   run.sh --total                  name what failed, and print the closing line "N passed, N failed, N skipped"
#
# $TEST_JOBS commands run at a time (1); what they say is printed and counted in their order.
#
# A command's results are the lines of libcheck ("100%: Checks: 3, Failures: 0, Errors: 0"), lines that begin with
# "ok", "not ok" or "skip", and lines that begin with "SKIPPED:", each of which takes one from what libcheck counts as
# passed. A command that ends with an error none of these lines reports, or reports nothing at all, has failed.
#
# No clock on the wall fails a test that works: on a busy machine it would. A test that loops is ended by the processor
# time of its process, $TEST_CPU seconds (900; the slowest process needs about 60), and one that sleeps for ever by
# $TEST_TIMEOUT seconds (an hour). $WRAP stands before each command (valgrind).
set -u
RESULTS=${RESULTS:-build/results}
WRAP=${WRAP:-}
TEST_JOBS=${TEST_JOBS:-1}
TEST_CPU=${TEST_CPU:-900}
TEST_TIMEOUT=${TEST_TIMEOUT:-3600}
export CK_DEFAULT_TIMEOUT=0 # libcheck's own limit, which is a clock on the wall

closing_line() { # sums the lines "suite passed failed skipped" of a file; status 1 when any failed
    awk '{ p += $2; f += $3; s += $4 } END { printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' "$1"
}

count() { # prints "passed failed skipped" for the output $1 of a command that ended with status $2
    awk -v status="$2" '
        match($0, /^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+/) {
            split($0, part, /[^0-9]+/); seen = 1
            p += part[2] - part[3] - part[4]; f += part[3] + part[4]
        }
        /^SKIPPED:/ { s++; q++ }
        /^ok( |$)/ && !/# SKIP/ { p++; seen = 1 }
        /^not ok( |$)/ { f++; seen = 1 }
        /^skip( |:|$)/ || /^ok .*# SKIP/ { s++; seen = 1 }
        END {
            p -= q < p ? q : p
            if (!f && (status != 0 || !(seen || q))) f = 1
            print p + 0, f + 0, s + 0
        }' "$1"
}

failures() { # the lines of the output $1 that report a failure, each with the indented lines that explain it
    awk '/^not ok( |$)/ || /^[^ ].*:[0-9]+:[FE]:/ { found = 1; print; next } /^[ \t]/ && found { print; next } { found = 0 }' "$1"
}

show() { # what is worth reading of an output: after a failure its end and all that explains it, else the skipped tests
    if [ "$2" -gt 0 ]; then
        tail -n 200 "$1"
        [ "$(wc -l <"$1")" -le 200 ] || failures "$1"
    else
        grep -aE '^SKIPPED:|^skip( |:)|# SKIP' "$1" | sort | uniq -c
    fi
}

case ${1:?suite} in
--start)
    mkdir -p "$(dirname "$RESULTS")" && : >"$RESULTS" && : >"$RESULTS.failed"
    exit ;;
--broken)
    grep -qE "^$2 [0-9]+ [1-9]" "$RESULTS" || { echo "$2 0 1 0" >>"$RESULTS" && echo "$2: not built" >>"$RESULTS.failed"; }
    echo "$2: failed"
    exit ;;
--total)
    [ ! -s "$RESULTS.failed" ] || cat "$RESULTS.failed"
    awk '{ printf "%-16s %5d passed %3d failed %3d skipped\n", $1, $2, $3, $4 }' "$RESULTS"
    closing_line "$RESULTS"
    exit ;;
esac

suite=$1
shift
mkdir -p "$(dirname "$RESULTS")"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
: >"$work/counts"

run() { # number and text of a command: leaves its output, its status and the seconds it took
    local start=$SECONDS
    (ulimit -S -t "$TEST_CPU" && exec timeout -k 10 "$TEST_TIMEOUT" bash -c "$WRAP $2") >"$work/$1.output" 2>&1 </dev/null
    echo "$? $((SECONDS - start))" >"$work/$1.status"
}

tell() { # number and text of a command that has ended
    local status=137 seconds=0 passed failed skipped lines # where the runner itself was killed
    [ ! -s "$work/$1.status" ] || read -r status seconds <"$work/$1.status"
    read -r passed failed skipped < <(count "$work/$1.output" "$status")
    show "$work/$1.output" "$failed"
    if [ "$failed" -gt 0 ]; then
        [ "$status" -eq 0 ] || echo "$2: exit status $status"
        lines=$(failures "$work/$1.output" | grep -v '^[[:space:]]' | head -n 20)
        sed "s|^|$suite: |" <<<"${lines:-$2: exit status $status}" >>"$RESULTS.failed"
    fi
    echo "$suite: $2: $passed passed, $failed failed, $skipped skipped ($seconds s)"
    echo "$suite $passed $failed $skipped" >>"$work/counts"
}

started=0 told=0
while [ $told -lt $# ]; do
    while [ $started -lt $# ] && [ "$(jobs -rp | wc -l)" -lt "$TEST_JOBS" ]; do
        started=$((started + 1))
        run $started "${!started}" &
    done
    wait -n
    [ -n "$(jobs -rp)" ] || wait
    while [ $told -lt $started ] && { [ -s "$work/$((told + 1)).status" ] || [ -z "$(jobs -rp)" ]; }; do
        told=$((told + 1))
        tell $told "${!told}"
    done
done
[ $# -eq 0 ] && echo "$suite 0 0 1" >>"$work/counts" && echo "$suite: skipped, there is nothing to run"
awk -v suite="$suite" '{ p += $2; f += $3; s += $4 } END { print suite, p + 0, f + 0, s + 0 }' "$work/counts" >>"$RESULTS"
echo "$suite: $(closing_line "$work/counts")"
! awk '$3 > 0 { found = 1 } END { exit !found }' "$work/counts"
