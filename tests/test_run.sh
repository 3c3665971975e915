#!/bin/bash
# The runner's own test: what it must count, and that nothing that goes wrong is counted as passed.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0

counts() { # name of the check, counts that must come out, exit status, commands...
    local name=$1 expected=$2 code=$3 got
    shift 3
    RESULTS=$work/results tests/run.sh --start
    env -u WRAP RESULTS="$work/results" TEST_JOBS=2 TEST_CPU=1 TEST_TIMEOUT=2 tests/run.sh suite "$@" >"$work/output" 2>&1
    got=$?
    if [ "$(cat "$work/results")" = "suite $expected" ] && [ $got -eq "$code" ]; then
        echo "ok - $name"
    else
        echo "not ok - $name: $(cat "$work/results"), status $got"
        status=1
    fi
}

counts "libcheck's line" "5 0 0" 0 'echo "100%: Checks: 5, Failures: 0, Errors: 0"'
counts "failures and errors" "2 3 0" 1 'echo "40%: Checks: 5, Failures: 1, Errors: 2"; false'
counts "a skipped test is not a passed one" "4 0 1" 0 'echo "100%: Checks: 5, Failures: 0, Errors: 0"; echo "SKIPPED: x"'
counts "lines of scripts" "2 1 2" 1 'printf "ok\nok - a\nnot ok - b\nskip - c\nok - d # SKIP why\n"; false'
counts "words that only begin alike" "1 0 0" 0 'printf "ok - a\nokay\nskipper\nnot okay\n"'
counts "a crash after good lines" "1 1 0" 1 'echo "ok - a"; kill -SEGV $$'
counts "a crash without a word" "0 1 0" 1 'kill -ABRT $$'
counts "a command that is not there" "0 1 0" 1 './no-such-test'
counts "silence" "0 1 0" 1 true
counts "a test that sleeps for ever" "0 1 0" 1 'sleep 30'
counts "a test that loops for ever" "0 1 0" 1 'while :; do :; done'
counts "libcheck's clock is off" "1 0 0" 0 '[ "$CK_DEFAULT_TIMEOUT" = 0 ] && echo "ok - off"'
counts "as many as there are, some at a time" "7 0 0" 0 'sleep 0.3; echo "ok - a"' {,,,,,}'echo "ok - b"'
counts "a good command does not hide a bad one" "2 1 0" 1 'echo "ok - a"' false 'echo "ok - b"'
counts "nothing to run" "0 0 1" 0

RESULTS=$work/results
export RESULTS
says() { # name of the check, the line that must be in $work/output
    if grep -qxF -- "$2" "$work/output"; then
        echo "ok - $1"
    else
        echo "not ok - $1: $(cat "$work/output")"
        status=1
    fi
}
tests/run.sh --start
TEST_JOBS=2 tests/run.sh suite 'sleep 0.5; echo "skip - 1"' 'echo "skip - 2"' 'echo "skip - 3"' >"$work/output" 2>&1
sed -n 's/^ *1 skip - //p' "$work/output" | paste -sd' ' >"$work/order" && mv "$work/order" "$work/output"
says "results stand in the order of the commands" "1 2 3"
tests/run.sh --start
tests/run.sh suite 'echo "not ok - early"; echo "    why"; for i in {1..300}; do echo "ok - $i"; done; exit 1' >"$work/output" 2>&1
says "a failure before many good lines is shown" "not ok - early"
says "and what explains it" "    why"
tests/run.sh suite 'echo "a/test.c:12:F:core:test_x:0: no"; echo "0%: Checks: 1, Failures: 1, Errors: 0"; exit 1' >/dev/null 2>&1
tests/run.sh suite 'exit 3' >/dev/null 2>&1
tests/run.sh --broken other >/dev/null
tests/run.sh --total >"$work/output"
says "the total names what failed" "suite: not ok - early"
says "the total names a failure of libcheck" "suite: a/test.c:12:F:core:test_x:0: no"
says "the total names a command that failed without a word" "suite: exit 3: exit status 3"
says "the total names a suite that was not built" "other: not built"

printf 'one 3 0 1\ntwo 4 2 0\n' >"$RESULTS"
tests/run.sh --broken two >/dev/null
tests/run.sh --broken three >/dev/null
if last=$(tests/run.sh --total); then code=0; else code=1; fi
last=$(tail -n 1 <<<"$last")
if [ "$last" = "7 passed, 3 failed, 1 skipped" ] && [ $code -eq 1 ]; then
    echo "ok - the closing line adds up"
else
    echo "not ok - the closing line adds up: $last, status $code"
    status=1
fi
exit $status
