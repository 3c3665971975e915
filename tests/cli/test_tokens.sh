#!/bin/sh
# `salf tokens`, and ids of tokenizer.json files against those of the package tokenizers, where a Python has it.
. "$(dirname "$0")/lib/tap.sh"
demo=examples/demo/tokenizer.bin
ids_of() { # standard input, CODE, ARGUMENT...: as run
    input=$1 exit_code=$2
    shift 2
    code=0
    printf "$input" | "$SALF" tokens "$@" >"$work/out" 2>"$work/err" || code=$?
    [ "$code" -eq "$exit_code" ]
    check $? "salf tokens $* ends with $exit_code"
}

ids_of 'the cat\n' 0 --tokenizer "$demo"
grep -qE '^1(,[0-9]+)+$' "$work/out"
check $? 'a line is ids with commas'
the_cat=$(cat "$work/out")
ids_of 'cat\tthe cat\n' 0 --tokenizer examples/demo --words
grep -qE "^[0-9]+	$the_cat\$" "$work/out"
check $? 'a word and a prompt are a line of prompts'
ids_of 'the cat\nthe cat' 0 --tokenizer "$demo"
[ "$(sort -u "$work/out")" = "$the_cat" ]
check $? 'the last line needs no end'
ids_of 'the cat\000\n\000' 0 --tokenizer "$demo" -0
[ "$(head -n 1 "$work/out")" = "$the_cat" ] && [ "$(wc -l <"$work/out")" -eq 2 ]
check $? 'texts may end with a byte 0'
ids_of 'the cat\n' 1 --tokenizer "$demo" --words
tells 'line 1: there is no tab'
ids_of 'a\000b\n' 1 --tokenizer "$demo"
tells 'line 1: a byte is zero'
ids_of '' 1 --tokenizer "$work/nothing"
tells 'nothing: No such file'
ids_of '' 1 --tokenizer "$work"
tells 'neither tokenizer.json nor tokenizer.bin'
run 2 tokens
tells '--tokenizer is missing'

run 2 basis --model examples/demo/model
tells 'either --tokens or --words'
run 0 basis --model examples/demo/model --words cat,dog --tokenizer "$demo"
[ "$(wc -l <"$work/out")" -eq 2 ]
check $? 'a row for each word'
run 2 basis --model examples/demo/model --words cat, --tokenizer "$demo"
tells 'an empty word'
run 1 basis --model examples/demo/model --words cat
tells 'neither tokenizer.json nor tokenizer.bin'

for python in "${BUILD:-build}/venv/bin/python" python3 none; do
    [ "$python" != none ] && "$python" -c 'import tokenizers' 2>"$work/err" && break
done
if [ "$python" = none ]; then
    echo "SKIPPED: ids of tokenizer.json files: no Python with the package tokenizers"
elif [ ! -d "$SALF_SHARED/data" ]; then
    echo "SKIPPED: ids of tokenizer.json files: no data sets in $SALF_SHARED"
else
    PYTHONDONTWRITEBYTECODE=1 "$python" tests/tokenizers/compare.py "$SALF" "$SALF_SHARED/data" >"$work/compared" 2>&1
    check $? 'ids of tokenizer.json files are those of the package'
    cat "$work/compared"
fi
finish
