#!/bin/sh
# Help, version, errors and exit codes of every subcommand, of salf and of salf-demo.
. "$(dirname "$0")/lib/tap.sh"

subcommands() { # program's name, subcommands
    program=$1
    shift
    for s in "$@"; do
        run 0 "$s" --help
        says "Usage: $program $s"
        run 0 "$s" --version
        says "$program 0."
        run 2 "$s" --no-such-option
        tells "$program $s: unknown option --no-such-option"
    done
}

run 0 --version
says 'salf 0.'
run 0 --help
says 'Subcommands:'
run 2
run 2 pln
tells "did you mean 'plan'?"
run 2 help pln
tells "'pln' is not a subcommand"
for word in help --help -h; do
    run 0 $word plan
    says 'Usage: salf plan'
done
run 0 man --help
says 'Subcommands:'
run 0 completion -h
says 'Subcommands:'
for more in "--version x" "man x" "completion bash x" "help plan x"; do
    # shellcheck disable=SC2086
    run 2 $more
    tells "unexpected argument 'x'"
done
if [ -c /dev/full ]; then
    for words in --version --help "help plan" man "completion fish" "plan --layers 4 --data 8" "plan --layers 9999 --data 8 --json"; do
        # shellcheck disable=SC2086
        "$SALF" $words >/dev/full 2>"$work/err"
        [ $? -eq 1 ] && grep -q 'cannot write to standard output' "$work/err"
        check $? "a full disk is told: salf $words"
    done
fi
run 2 frobnicate
tells 'is not a subcommand'
subcommands salf plan basis tokens probe finetune advise report
run 2 pretrain
tells 'is not a subcommand'
salf=$SALF
SALF=$(dirname "$salf")/salf-demo
subcommands salf-demo pretrain tokenizer corpus
SALF=$salf

# What an option takes is what the library knows.
run 0 probe --help
says '--metric cosine|ce|rank'
run 0 finetune --help
says '--reduction mean_gain|smallest|median|mode|prefix'
says '--backend auto|reference|cpu|cuda'
says '--targets q,k,v,o,gate,up,down,all'
run 2 finetune --targets q,w
tells "--targets: 'w' is none of q|k|v|o|gate|up|down|all"
run 2 finetune --reduction mean
tells "'mean' is none of mean_gain|smallest|median|mode|prefix"

run 2 plan --layers x --data 5
tells "salf plan: --layers: 'x' is not a positive integer"
run 2 plan --layers 0 --data 5
tells "'0' is not a positive integer"
run 0 plan --layers 1 --data 1
run 2 plan --layers 4
tells 'salf plan: --data is missing'
run 2 plan --layers 4 --dta 5
tells 'did you mean --data?'
run 2 plan --layers 4 --data
tells '--data needs a value'
run 2 plan --layers 4 --data 5 --growth cubic
tells "'cubic' is none of uniform|geometric|arithmetic|custom"
run 2 plan --layers 4 --data 5 --json=1
tells '--json takes no value'
run 2 plan --layers 4 --data 5 extra
tells "unexpected argument 'extra'"
run 2 finetune --seed 9223372036854775808
tells "--seed: '9223372036854775808' is not an integer of 0 ... 2^63-1"
run 2 plan --layers 99999999999 --data 5
tells '99999999999 is too large'
run 2 basis --model x --tokens 1,,2
tells "--tokens: '' is not an integer"
run 2 basis --model x --tokens 1 --exact --ridge 1
tells 'exclude each other'
run 2 basis --model x --tokens 1 --rtol 1
tells '--rtol: 1 is not below 1'
run 2 probe --model x --prompts y --rtol 1
tells '--rtol: 1 is not below 1'
run 1 basis --model /nonexistent --tokens 1
tells 'nonexistent'
run 2 basis --model x --tokens 1 --valid-vocab 0
tells "--valid-vocab: '0'"
run 1 basis --model examples/demo/model --tokens 5 --valid-vocab 5
tells 'label 5'
run 0 basis --model examples/demo/model --tokens 4 --valid-vocab 5
: >"$work/empty"
run 1 probe --model examples/demo/model --prompts "$work/empty" --valid-vocab 999999999
tells 'valid_vocab is 999999999'
run 1 basis --model examples/demo/model --tokens 4 --accept '*'
tells "accept is '*'"
run 1 finetune --model examples/demo/model --tokenizer examples/demo/tokenizer.bin --data examples/demo/data --valid-vocab 999999999
tells 'valid_vocab is 999999999'
: >"$work/empty"
run 1 probe --model examples/demo/model --prompts "$work/empty"
tells 'empty holds no prompt'
run 2 plan --layers 3 --data 9 --ratio 3
tells '--ratio is for --growth geometric'
[ -f "$SALF_SHARED/models/stories3m/config.json" ] && {
    run 1 finetune --model "$SALF_SHARED/models/stories3m" --tokenizer "$SALF_SHARED/models/stories260k/tok512.bin" \
        --data "$SALF_SHARED/data/trec" --method 'lora[full]'
    tells "has 512 pieces, the model's vocabulary 4096: it is another model's"
}
# a token more than the model has rows: harmless, until a text has it
[ -f "$SALF_SHARED/models/stories656k/tokenizer.json" ] && command -v python3 >/dev/null && {
    mkdir "$work/beyond" "$work/beyond/data"
    cp "$SALF_SHARED/models/stories656k/model.safetensors" "$SALF_SHARED/models/stories656k/config.json" "$work/beyond"
    python3 - "$SALF_SHARED/models/stories656k/tokenizer.json" "$work/beyond" <<'PYTHON'
import json, sys
t = json.load(open(sys.argv[1]))
t["added_tokens"].append({"id": 2048, "content": "[PAD]", "special": True})
json.dump(t, open(sys.argv[2] + "/tokenizer.json", "w"))
open(sys.argv[2] + "/data/labels.txt", "w").write("boy\ngirl\n")
for part in ("train", "test"):
    open(f"{sys.argv[2]}/data/{part}.tsv", "w").write("0\the ran\n1\tshe sat\n".replace("0", "boy").replace("1", "girl"))
PYTHON
    run 0 finetune --model "$work/beyond" --data "$work/beyond/data" --method 'lora[full]' --epochs 1 --template '{text} It is a '
    run 0 doctor "$work/beyond"
    says 'tokens without row    1'
    printf 'boy\the [PAD] ran\n' >>"$work/beyond/data/test.tsv"
    run 1 finetune --model "$work/beyond" --data "$work/beyond/data" --method 'lora[full]' --epochs 1 --template '{text} It is a '
    tells "token '[PAD]' is in a text or stands for a class, and the model has no row for it"
}
# ---- the manual page and completions come from the tables
run 0 man
says '.TH salf 1'
says '.B \-\-eof\-from probe|class|chance'
grep -qE "^[.'](SS|TP|B|SH|TH|PP)?" "$work/out" && ! grep -qE "^'" "$work/out"
check $? "every line of the page that begins with a dot is a request"
for shell in bash zsh fish; do
    run 0 completion $shell
    says 'metric'
done
# every option that a subcommand's help names
missing=
for command in plan basis tokens probe finetune advise doctor report; do
    "$SALF" $command --help | grep -oE '^ +(-., +)?--[a-z-]+' | grep -oE '[a-z-]+$' | sed 's/^--//' >"$work/options"
    while read -r option; do
        "$SALF" man | sed -n "/^.SS salf $command\$/,/^.SS/p" | tr -d '\\' | grep -qE -- "^.B (-., )?--$option( |\$)" || missing+=" man:$command:$option"
        "$SALF" completion fish | grep -qE "_from $command' -l $option( |\$)" || missing+=" fish:$command:$option"
        for shell in bash zsh; do
            "$SALF" completion $shell | sed -n "/^    $command)\$/,/esac/p" | grep -qE -- "--$option[ ']" || missing+=" $shell:$command:$option"
        done
    done <"$work/options"
done
[ -s "$work/options" ] && [ -z "$missing" ]
check $? "the page and the completions have every option of every subcommand$missing"
run 2 completion tcsh
tells "'tcsh' is none of bash|zsh|fish"
run 2 plan --help=html
"$SALF" completion bash >"$work/complete"
# shellcheck disable=SC2016
bash -c '. "$1"; COMP_WORDS=(salf probe --metric c) COMP_CWORD=3; _salf; echo "${COMPREPLY[*]}"
    COMP_WORDS=(salf pr) COMP_CWORD=1; _salf; echo "${COMPREPLY[*]}"
    COMP_WORDS=(salf plan --as) COMP_CWORD=2; _salf; echo "${COMPREPLY[*]}"
    COMP_WORDS=(salf plan --v) COMP_CWORD=2; _salf; echo "${COMPREPLY[*]}"' - "$work/complete" >"$work/out" 2>&1
[ "$(tr '\n' ';' <"$work/out")" = 'cosine ce;probe;--as-published;--version;' ]
check $? "words, subcommands and options are completed"
# ---- the bar: as wide as the terminal, none where lines cannot be redrawn, none on request
if command -v script >/dev/null; then
    bar() { # bar TERM COLUMNS OPTION...: what the program writes to a terminal
        TERM=$1 script -qec "stty cols $2; '$SALF' finetune --model examples/demo/model --tokenizer examples/demo/tokenizer.bin \
            --data examples/demo/data --method ramp --limit-train 32 --limit-test 32 $3" /dev/null </dev/null 2>&1 | tr '\r' '\n'
    }
    bar xterm 30 >"$work/out"
    grep -q '\[####' "$work/out" && ! sed 's/\x1b\[K//' "$work/out" | grep '\[[#.]' | grep -qE '.{30}'
    check $? "a bar ends before the last column"
    for quiet in "dumb 80" "xterm 80 --quiet"; do
        # shellcheck disable=SC2086
        ! bar $quiet | grep -q '\[[#.]'
        check $? "no bar: $quiet"
    done
fi
run 2 report
tells 'LOG... is missing'
run 1 report /nonexistent.jsonl -o "$work/r.html"
tells '/nonexistent.jsonl'
finish
