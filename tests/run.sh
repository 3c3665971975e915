#!/bin/bash
# Runs tests, counts what they say, and keeps the totals of several suites in $RESULTS.
#
#   run.sh --start                  forget earlier totals
#   run.sh SUITE COMMAND...         run each command (a shell command line), then print and add up the suite's counts
#   run.sh --broken SUITE           a suite could not be built or run; counts once as failed unless it is counted already
#   run.sh --total                  name what failed, and print the closing line "N passed, N failed, N skipped"
#
# A command's results are the lines of libcheck ("100%: Checks: 3, Failures: 0, Errors: 0"), lines that begin with
# "ok", "not ok" or "skip", and lines that begin with "SKIPPED:", each of which takes one from what libcheck counts as
# passed. A command that ends with an error none of these lines reports, or reports nothing at all, has failed.
# $WRAP stands before each command (valgrind), $TEST_TIMEOUT is the most seconds one may take.
set -u
RESULTS=${RESULTS:-build/results}
WRAP=${WRAP:-}
TEST_TIMEOUT=${TEST_TIMEOUT:-600}

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
for command in "$@"; do
    start=$SECONDS
    timeout -k 10 "$TEST_TIMEOUT" bash -c "$WRAP $command" >"$work/output" 2>&1 </dev/null
    status=$?
    read -r passed failed skipped < <(count "$work/output" "$status")
    show "$work/output" "$failed"
    if [ "$failed" -gt 0 ]; then
        [ "$status" -eq 0 ] || echo "$command: exit status $status"
        lines=$(failures "$work/output" | grep -v '^[[:space:]]' | head -n 20)
        sed "s|^|$suite: |" <<<"${lines:-$command: exit status $status}" >>"$RESULTS.failed"
    fi
    echo "$suite: $command: $passed passed, $failed failed, $skipped skipped ($((SECONDS - start)) s)"
    echo "$suite $passed $failed $skipped" >>"$work/counts"
done
[ $# -eq 0 ] && echo "$suite 0 0 1" >>"$work/counts" && echo "$suite: skipped, there is nothing to run"
awk -v suite="$suite" '{ p += $2; f += $3; s += $4 } END { print suite, p + 0, f + 0, s + 0 }' "$work/counts" >>"$RESULTS"
echo "$suite: $(closing_line "$work/counts")"
! awk '$3 > 0 { found = 1 } END { exit !found }' "$work/counts"
