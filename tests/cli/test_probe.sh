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
    # a token without numbers, in the second batch of prompts: a copy of the model with a head of its own has one
    python3 - "$SALF_SHARED/models/stories260k" "$work/untied" <<'END'
import json, os, struct, sys
source, copy = sys.argv[1:]
os.mkdir(copy)
config = json.load(open(source + "/config.json"))
json.dump({**config, "tie_word_embeddings": False}, open(copy + "/config.json", "w"))
data = open(source + "/model.safetensors", "rb").read()
n = 8 + struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:n])
embedding = header["model.embed_tokens.weight"]
(first, end), width = embedding["data_offsets"], embedding["shape"][1] * 4
body = bytearray(data[n:])
header["lm_head.weight"] = {**embedding, "data_offsets": [len(body), len(body) + end - first]}
body += body[first:end]
body[first + 7 * width : first + 7 * width + 4] = struct.pack("<f", float("nan"))
text = json.dumps(header).encode()
open(copy + "/model.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + body)
END
    { yes "1$(printf '\t')3,4" | head -n 65; printf '1\t7\n'; } >"$work/second"
    run 1 probe --model "$work/untied" --prompts "$work/second"
    tells 'prompts 65 ... 66: the deviation of row 1 in space 0 is nan'
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
