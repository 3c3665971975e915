#!/bin/bash
# examples/trainer computes what `salf finetune` computes: the same data in the same order, the same cuts and losses.
# It takes every method by its name, names what is wrong, leaks nothing, and stays a program that can be read.
set -u
SALF=${SALF:-build/bin/salf}
TRAINER=${TRAINER:-build/examples/trainer}
export OPENBLAS_NUM_THREADS=1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
report() { # report STATUS NAME
    if [ "$1" -eq 0 ]; then echo "ok $2"; else echo "not ok $2"; failed=1; fi
}
[ -d examples/demo/model ] || { echo "skip trainer: the demonstration's model is not here"; exit 0; }

# ---- the same steps: number, data, loss to 1e-5 of its size (both sum float32 in their own order), cut, saving
same_steps() { # same_steps METHOD LIMIT OPTION...
    local run=(--method "$1" --limit-train "$2" --limit-test 8 "${@:3}")
    "$SALF" finetune "${run[@]}" --log "$work/log" >/dev/null 2>"$work/err"
    "$TRAINER" "${run[@]}" >"$work/steps" 2>>"$work/err"
    sed -n 's/.*"event":"step".*"step":\([0-9]*\),"data":\([0-9]*\),"loss":\([^,]*\),"cut":\([0-9]*\),"saving":\([^,]*\),.*/\1 \2 \3 \4 \5/p' \
        "$work/log" >"$work/expected"
    sed -n 's/^step *\([0-9]*\)  data *\([0-9]*\)  loss \([0-9.]*\)  cut \([0-9]*\)  saving \([0-9.]*\)$/\1 \2 \3 \4 \5/p' \
        "$work/steps" >"$work/got"
    [ -s "$work/got" ] && [ "$(wc -l <"$work/got")" -eq "$(wc -l <"$work/expected")" ] &&
        paste -d ' ' "$work/expected" "$work/got" | awk '
            function far(a, b, most) { return a - b > most || b - a > most }
            $1 != $6 || $2 != $7 || $4 != $9 || far($3, $8, 1e-5 * $3) || far($5, $10, 1e-6) {
                print "# differs: " $0; wrong = 1
            }
            END { exit wrong }'
    report $? "$* trains as salf finetune does"
    rm -f "$work/log"
}
same_steps salf 160
same_steps 'lora[full]' 48
same_steps 'salf[half]' 64
same_steps 'salf[arith][df][ce]' 64
same_steps 'lift*[geom][bf]' 48
same_steps 'salf[half][stream]' 80 --batch 7 --epochs 2
same_steps 'random[arith][df][stream]' 48
same_steps salf 48 --batch 5 --epochs 2 --lr 0.001 --rank 3 --alpha 6 --seed 7 --clip 0.5 --warmup 0.2
same_steps autofreeze 96 --clip 0.2
same_steps rgn 48 --clip 0.2
same_steps block 48
model=${SALF_SHARED:-../shared}/models/stories260k
if [ -e "$model/model.safetensors" ]; then
    same_steps salf 32 --model "$model" --tokenizer "$model/tok512.bin" --data examples/demo/data
else
    echo "skip trainer: the shared model is not here"
fi

# ---- methods by their names: the paper's and the words of policies
for method in 'lift*[half]' 'salf[rank]' 'lift*[half][stream]' lisa autofreeze rgn ramp; do
    "$TRAINER" --method "$method" --limit-train 32 --limit-test 8 >"$work/out" 2>"$work/err" &&
        grep -q 'data *32 ' "$work/out" && grep -qF "$method: accuracy" "$work/out"
    report $? "method $method trains on all data"
done

# ---- with --checkpoint a run that is killed again and again ends as one that was not: each file of the folder is the
# same, bit for bit, and so are the losses. The moments are random, each behind one to four saves more, so that a busy
# machine gets to the end as well.
for method in salf 'salf[half]' 'salf[geom][df][stream]' autofreeze rgn lisa; do
    run=(--method "$method" --limit-train 60 --limit-test 8 --batch 4)
    rm -rf "$work/whole" "$work/killed"
    "$TRAINER" "${run[@]}" >"$work/plain" && "$TRAINER" "${run[@]}" --checkpoint "$work/whole" >"$work/steps" &&
        diff <(grep ^step "$work/plain") <(grep ^step "$work/steps")
    report $? "$method: a checkpoint changes nothing"
    for try in {1..30}; do
        "$TRAINER" "${run[@]}" --checkpoint "$work/killed" >"$work/steps" 2>"$work/err" &
        pid=$!
        for ((more = RANDOM % 4; more >= 0; more--)); do
            saved=$(ls -i "$work/killed" 2>/dev/null)
            while [ "$(ls -i "$work/killed" 2>/dev/null)" = "$saved" ] && kill -0 $pid 2>/dev/null; do :; done
        done
        sleep "0.0$((RANDOM % 30 + 10))"
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null && break
    done
    diff -r -x lock "$work/whole" "$work/killed" && ! [ -s "$work/err" ] && tail -n 1 "$work/steps" | grep -qF "$method: accuracy" &&
        diff <(grep ^step "$work/plain" | tail -n "$(grep -c ^step "$work/steps")") <(grep ^step "$work/steps") && [ $try -gt 2 ]
    report $? "$method: killed $((try - 1)) times"
done

# ---- what is wrong is named
refuses() { # refuses WORDS ARGUMENT...
    local words=$1
    shift
    ! "$TRAINER" "$@" >"$work/out" 2>"$work/err" && grep -qF -- "$words" "$work/err"
    report $? "trainer $* is refused: $words"
}
refuses "'nonsense'" --method nonsense
refuses "'--speed'" --speed 3
refuses "'many'" --batch many
refuses "$work/none" --data "$work/none"
data() { # data NAME FILE SCRIPT: the demonstration's data with a file that sed changes
    cp -r examples/demo/data "$work/$1" && sed "$3" "examples/demo/data/$2" >"$work/$1/$2"
}
data doubled train.tsv '2s/$/\tand this/' && refuses "train.tsv:2 has a second text, the template '{text} It is about' no {text2}" --data "$work/doubled"
data tripled test.tsv '3s/$/\tand\tthis/' && refuses "test.tsv:3 is not label<TAB>text" --data "$work/tripled"
data spaced template.txt 's/$/ /' && refuses "ends in a space" --data "$work/spaced"
kept=(--method lisa --limit-train 60 --limit-test 8 --batch 4 --checkpoint "$work/killed")
cp -r examples/demo/model "$work/other" && printf '\1' | dd of="$work/other/model.safetensors" bs=1 seek=9000 conv=notrunc 2>"$work/err"
refuses "was made with options lisa" "${kept[@]}" --lr 0.001
refuses "was made with another --model" "${kept[@]}" --model "$work/other"
cp examples/demo/model/model.safetensors "$work/other"
sed -i 's/heads": 4/heads": 8/; s/heads": 2/heads": 4/; s/dim": 32/dim": 16/' "$work/other/config.json" # the same shapes
refuses "was made with another --model" "${kept[@]}" --model "$work/other"
refuses "was made with another --data" "${kept[@]}" --limit-train 59
"$TRAINER" "${kept[@]}" >"$work/steps" && ! grep -q ^step "$work/steps"
report $? "a run that has ended is not begun again"

# ---- nothing leaks, nothing is read or written outside its bounds
flags="-std=c11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -Iinclude"
lib=$(cd "$(dirname "$TRAINER")/../lib" && pwd)
# shellcheck disable=SC2086
if ${CC:-cc} $flags -o "$work/trainer" examples/trainer/*.c -L"$lib" -lsalf -Wl,-rpath,"$lib" -lm 2>"$work/err" &&
    "$work/trainer" --limit-train 1 --limit-test 1 >/dev/null 2>&1; then
    for method in salf 'salf[half]' 'salf[geom][df][stream]' lisa autofreeze; do
        "$work/trainer" --method "$method" --limit-train 16 --limit-test 4 >/dev/null 2>"$work/err"
        report $? "$method under the sanitizers"
    done
else
    echo "skip trainer: the sanitizers do not run here"
fi

# ---- it can be read, and is built as at a user's
[ "$(cat examples/trainer/*.[ch] | wc -l)" -le 1550 ]
report $? "at most 1,550 lines"
! grep -h '#include' examples/trainer/*.[ch] |
    grep -vE '"(salf|trainer)\.h"|<(math|stdarg|stdint|stdio|stdlib|string|time)\.h>' | grep -q .
report $? "includes salf.h and the C library alone"
missing=$(for n in {1..10}; do grep -q "salf $n\b" examples/trainer/trainer.c || echo "$n"; done)
[ -z "$missing" ]
report $? "the ten lines are marked"
exit $failed
