# tap.sh - sourced by the tests of the program: runs it, checks exit code and output, counts.
SALF=${SALF:-build/bin/salf}
SALF_SHARED=${SALF_SHARED:-../shared}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

ok() { passed=$((passed + 1)); echo "ok - $1"; }
not_ok() { failed=$((failed + 1)); echo "not ok - $1"; }
check() { if [ "$1" -eq 0 ]; then ok "$2"; else not_ok "$2"; fi; } # status, name

# run CODE ARGUMENT...: runs the program, output in $work/out and $work/err, and checks the exit code.
run() {
    exit_code=$1
    shift
    code=0
    "$SALF" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
    if [ "$code" -eq "$exit_code" ]; then ok "salf $* ends with $exit_code"; else
        not_ok "salf $* ends with $code, not $exit_code"
        sed 's/^/# /' "$work/err"
    fi
}

# says TEXT, tells TEXT: standard output or standard error contains it.
says() { grep -qF -- "$1" "$work/out"; check $? "output has '$1'"; }
tells() { grep -qF -- "$1" "$work/err"; check $? "error has '$1'"; }

finish() {
    echo "# $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
