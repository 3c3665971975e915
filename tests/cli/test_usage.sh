#!/bin/sh
# Help, version, errors and exit codes of every subcommand.
. "$(dirname "$0")/lib/tap.sh"

run 0 --version
says 'salf 0.'
run 0 --help
says 'Subcommands:'
run 2
run 2 pln
tells "did you mean 'plan'?"
run 2 frobnicate
tells 'is not a subcommand'
for s in plan basis probe finetune report pretrain tokenizer corpus; do
    run 0 "$s" --help
    says "Usage: salf $s"
    run 0 "$s" --version
    run 2 "$s" --no-such-option
    tells "salf $s: unknown option --no-such-option"
done
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
run 2 report
tells 'LOG... is missing'
run 1 report /nonexistent.jsonl -o "$work/r.html"
tells '/nonexistent.jsonl'
finish
