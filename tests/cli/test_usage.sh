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
run 2 plan --layers 99999999999 --data 5
tells '99999999999 is too large'
run 2 basis --model x --tokens 1,,2
tells "--tokens: '' is not an integer"
run 2 basis --model x --tokens 1 --exact --ridge 1
tells 'exclude each other'
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
run 2 report
tells 'LOG... is missing'
run 1 report /nonexistent.jsonl -o "$work/r.html"
tells '/nonexistent.jsonl'
finish
