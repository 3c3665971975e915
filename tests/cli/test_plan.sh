#!/bin/sh
# salf plan: Figure 4 and Table 5 of the paper, output forms, custom weights.
. "$(dirname "$0")/lib/tap.sh"

plan() { # expected text, then arguments
    text=$1
    shift
    run 0 plan "$@"
    [ "$(cat "$work/out")" = "$text" ]
    check $? "plan $*"
}
plan "$(printf '0\t1\n1\t2\n2\t4\n3\t1\nsaving\t0.406250')" --layers 4 --data 8 --growth geometric
plan "$(printf '0\t1\n1\t2\n2\t3\n3\t2\nsaving\t0.437500')" --layers 4 --data=8 --growth geometric --infill depth
plan "$(printf '0\t1\n1\t3\nsaving\t0.375000')" --layers 2 --data 4 --weights 1,3
plan '{"layers":2,"data":4,"growth":"uniform","infill":"breadth","counts":[2,2],"saving":0.25}' --layers 2 --data 4 --json

table() { # saving to three decimals, then arguments
    expected=$1
    shift
    run 0 plan --layers 32 "$@"
    awk -F '\t' -v e="$expected" '$1 == "saving" { d = $2 - e; exit !(d < 0.00051 && d > -0.00051) }' "$work/out"
    check $? "Table 5: $* saves $expected"
}
table .484 --data 16000
table .374 --data 16000 --growth geometric
table .583 --data 4076 --growth geometric --infill depth
table .609 --data 5452 --growth arithmetic --as-published
table .637 --data 5452 --growth arithmetic
table .645 --data 10060 --growth arithmetic --infill depth

run 2 plan --layers 3 --data 4 --weights 1,2
tells '2 numbers for 3 layers'
run 2 plan --layers 3 --data 4 --growth custom
tells 'needs --weights'
run 2 plan --layers 3 --data 4 --as-published
tells '--as-published is for --growth arithmetic, breadth-first'
run 2 plan --layers 3 --data 4 --growth arithmetic --infill depth --as-published
tells '--as-published is for --growth arithmetic, breadth-first'
for growth in "" "--growth uniform" "--weights 1,2,3"; do
    # shellcheck disable=SC2086
    run 2 plan --layers 3 --data 4 $growth --infill breadth
    tells '--infill is for --growth geometric or arithmetic'
done
for ratio in 0 1 -2; do
    run 2 plan --layers 3 --data 4 --growth geometric --ratio $ratio
    tells "--ratio: $ratio is not above 1"
done
plan "$(printf '0\t3\n1\t2\n2\t2\nsaving\t0.285714')" --layers 3 --data 7 --growth arithmetic --as-published
run 2 plan --layers 3 --data 4 --growth geometric --ratio 0.5
tells '0.5'
finish
