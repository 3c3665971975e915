#!/bin/sh
# salf basis and salf probe against reference values computed in double precision elsewhere.
. "$(dirname "$0")/lib/tap.sh"

near() { # file of got, file of expected, tolerance: columns of numbers agree
    paste "$1" "$2" | awk -v t="$3" '{ n = NF / 2; for (i = 1; i <= n; i++) { d = $i - $(i + n); if (d < 0) d = -d
        m = $(i + n) < 0 ? -$(i + n) : $(i + n); if (d > t * (m > 1 ? m : 1)) { print "# line " NR ", column " i ": " $i " " $(i + n); bad = 1 } } }
        END { exit bad || NR == 0 }'
}
for model in stories260k stories3m; do
    reference=$SALF_SHARED/reference/deviations_${model}_trec.tsv
    if [ ! -r "$reference" ]; then
        echo "skip - no reference values of $model"
        continue
    fi
    for lens in hf normed; do
        for metric in cosine ce rank; do
            grep -v '^#' "$reference" | awk -F '\t' -v l=$lens -v m=$metric '$4 == l && $5 == m' >"$work/lines"
            cut -f 2,3 "$work/lines" >"$work/prompts"
            cut -f 6- "$work/lines" >"$work/expected"
            run 0 probe --model "$SALF_SHARED/models/$model" --prompts "$work/prompts" --metric $metric --lens $lens --exact
            tolerance=3e-5
            [ $metric = rank ] && tolerance=0.01
            near "$work/out" "$work/expected" $tolerance
            check $? "$model $lens $metric"
        done
    done
    for r in 0 0.1; do
        expected=$SALF_SHARED/reference/basis_${model}_rtol$r.tsv
        tokens=$(grep -v '^#' "$expected" | cut -f 1 | paste -sd, -)
        grep -v '^#' "$expected" >"$work/expected"
        run 0 basis --model "$SALF_SHARED/models/$model" --tokens "$tokens" --rtol $r
        near "$work/out" "$work/expected" 2e-6
        check $? "basis of $model, rtol $r"
        tells 'rank'
    done
done
[ "$((passed + failed))" -gt 0 ] && {
    printf '1\t1,x\n' >"$work/bad"
    run 1 probe --model "$SALF_SHARED/models/stories260k" --prompts "$work/bad"
    tells "bad:1: 'x' is not an integer"
    printf '1\t1\n1,2\t3\n' >"$work/bad"
    run 1 probe --model "$SALF_SHARED/models/stories260k" --prompts "$work/bad"
    tells 'bad:2: there is more than one label'
    printf '1\t1\r\n1\t2\r,3\r\n' >"$work/bad" # a line end of Windows, and something else
    run 1 probe --model "$SALF_SHARED/models/stories260k" --prompts "$work/bad"
    tells 'bad:2:'
    { printf '1\t1'; yes ,1 | head -n 9000 | tr -d '\n'; echo; } >"$work/long" # more than a batch has room for
    run 1 probe --model "$SALF_SHARED/models/stories260k" --prompts "$work/long"
    tells '9001'
    # an option that changes nothing, or that another one overrules
    for options in '--temperature 2' '--candidates 1,2' '--scores logits' '--metric rank --temperature 2' '--exact --rtol 0.1' \
        '--metric ce --scores logits --exact' '--metric rank --scores logits --rtol 0.1'; do
        # shellcheck disable=SC2086
        run 2 probe --model "$SALF_SHARED/models/stories260k" --prompts "$work/long" $options
    done
    for options in '--tokenizer x' '--input-side --rtol 0.1' '--input-side --exact'; do
        # shellcheck disable=SC2086
        run 2 basis --model "$SALF_SHARED/models/stories260k" --tokens 1 $options
    done
}
finish
