#!/bin/bash
# salf finetune: every method trains and lands in the table and the log; options are checked; and a run that is killed
# at any moment and resumed ends with the same weights, bit for bit, and the same plan.
set -u
SALF=${SALF:-build/bin/salf}
SALF_SHARED=${SALF_SHARED:-../shared}
export OPENBLAS_NUM_THREADS=1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

report() { # report STATUS NAME
    if [ "$1" -eq 0 ]; then echo "ok $2"; else echo "not ok $2"; failed=1; fi
}

expect() { # expect CODE WORDS NAME COMMAND...: exit code and words on standard error
    local code=$1 words=$2 name=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err"
    local got=$?
    if [ $got -ne "$code" ] || ! grep -qF -- "$words" "$work/err"; then
        echo "# exit code $got instead of $code, or '$words' is not in:"
        sed 's/^/# /' "$work/err"
        report 1 "$name"
    else
        report 0 "$name"
    fi
}

if [ -f "$SALF_SHARED/models/stories260k/model.safetensors" ]; then
    model=(--model "$SALF_SHARED/models/stories260k" --tokenizer "$SALF_SHARED/models/stories260k/tok512.bin"
        --data "$SALF_SHARED/data/trec")
elif [ -d examples/demo/model ]; then
    model=(--model examples/demo/model --tokenizer examples/demo/tokenizer.bin --data examples/demo/data)
else
    echo "skip finetune: neither the shared models nor the demonstration's are here"
    exit 0
fi
small=(--limit-train 96 --limit-test 40 --batch 8)

# ---- options
"$SALF" finetune --help >"$work/help" 2>&1 && grep -q -- '--method' "$work/help" && grep -qF 'lift*[arith][df]' "$work/help"
report $? "help lists options and methods"
expect 2 "'salf[third]'" "unknown method" "$SALF" finetune "${model[@]}" --method 'lora[full],salf[third]'
for word in scripted callback; do
    expect 2 "--method: '$word' takes its cuts from a host's own code" "method $word" "$SALF" finetune "${model[@]}" --method "lora[half],$word"
done
expect 2 "--resume needs --checkpoint" "resume without checkpoint" "$SALF" finetune "${model[@]}" --resume
expect 2 "'w'" "unknown target matrix" "$SALF" finetune "${model[@]}" --targets q,w
expect 2 "{text}" "template without text" "$SALF" finetune "${model[@]}" --template 'nothing'
expect 2 "has {label}" "a field that templates do not have" "$SALF" finetune "${model[@]}" --template '{text} {label}'
# An option that changes nothing in the run is not passed over.
idle() { # idle OPTION WORDS ARGUMENT...
    expect 2 "--$1: $2" "an idle --$1" "$SALF" finetune "${model[@]}" "${@:3}"
}
idle reduction "no method is salf" --method 'salf[half]' --reduction median
idle matching "no method is a budget of salf" --method 'salf,lift*[half],salf[half][stream]' --matching none
idle assignment "no method is a stream of salf" --method 'random[half][stream]' --assignment gain
idle stream-order "no method is a stream" --method 'salf[half]' --stream-order mixed
for few in "salf" "lora[half]" "salf[half] --matching offline" "salf[half][stream] --stream-order mixed"; do
    # shellcheck disable=SC2086
    idle probe-limit "no method is a budget that probes" --probe-limit 1 --method $few
done
idle first-layer "no method is suffix" --first-layer 1
idle as-published "no method is a budget [arith][bf]" --as-published --method 'salf[arith][df]'
for few in "salf[half],random[half][stream] --matching none" "salf --reduction mean_gain" "salf[half][stream] --assignment gain"; do
    # shellcheck disable=SC2086
    idle eof-from "no method decides by the eof of its probes" --eof-from class --method $few
done
for few in "lora[half]" "salf[half] --matching none" "salf[half][stream] --assignment random" "salf[half] --eof-from class"; do
    # shellcheck disable=SC2086
    idle lens "no method looks at deviations" --lens raw --method $few
done
idle temperature "neither loss nor a method has ce" --temperature 2 --method 'salf[half][ce]' --matching none
idle temperature "neither loss nor a method has ce" --temperature 2
idle rank "--dense trains without LoRA" --dense --rank 4
idle alpha "--dense trains without LoRA" --dense --alpha 4
idle targets "--dense trains all matrices" --dense --targets q
idle cache "states are kept for further --epochs" --cache 1M
idle cache "no method comes to layers" --cache 1M --epochs 2 --method 'lora[full],salf,lisa,random[half][stream]'
idle eval-every "its results go to the --log" --eval-every 3
idle checkpoint-every "there is no --checkpoint" --checkpoint-every 3

expect 2 "--log: - is where the table goes" "a log in the table" "$SALF" finetune "${model[@]}" --log -
"$SALF" finetune "${model[@]}" "${small[@]}" --method 'lora[half]' --quiet --json --log - >"$work/lines" 2>"$work/err" &&
    python3 -c 'import json, sys; lines = [json.loads(line) for line in open(sys.argv[1])]; assert "methods" in lines[-1]' "$work/lines"
report $? "a log on standard output is lines of JSON, with --json to the last"

first=$(head -n 1 "${model[5]}/labels.txt")
expect 1 "class '$first' has two words" "two words for a class" "$SALF" finetune "${model[@]}" --label-words "$first=one,$first=two"

# Layers that cannot be run are told before the data are read.
mkdir -p "$work/ntk" && cp "${model[1]}/model.safetensors" "$work/ntk" &&
    sed 's/^{/{"rope_scaling": {"type": "dynamic", "factor": 2.0},/' "${model[1]}/config.json" >"$work/ntk/config.json"
expect 1 "--model: this decoder cannot run the checkpoint's layers: rope_scaling" "layers that cannot be run" "$SALF" finetune \
    --model "$work/ntk" --tokenizer "$work/none" --data "$work/none"

# ---- data that are not what they seem
odd=$work/odd
odd() { # odd TRAIN TEST ARGUMENT...: a folder with these lines
    mkdir -p "$odd" && printf 'one\ntwo\nsix\n' >"$odd/labels.txt" && printf "$1" >"$odd/train.tsv" && printf "$2" >"$odd/test.tsv" &&
        "$SALF" finetune "${model[@]:0:4}" --data "$odd" --method 'lora[half]' --quiet "${@:3}" >"$work/out" 2>"$work/err"
}
! odd 'one\tit is\tyes\ntwo\tso\n' 'six\tso\n' --template '{text} is' && grep -qF "has no {text2}, but 1 of the data have a second text" "$work/err"
report $? "a second text is not dropped"
! odd 'one\tit is \ntwo\tso\n' 'six\tso\n' --template 'So {text}' && grep -qF "the prompt of 'it is ' ends in a space" "$work/err"
report $? "words behind a space of a text are not taken for those behind the template"
odd 'one\tit is\ntwo\tso\n' 'six\tso\n' --template 'So {text}' && odd 'one\tit is \ntwo\tso\n' 'six\tso\n'
report $? "texts end as they like where the template goes on"
odd 'one\tso long\none\tit was\none\tno\n' 'six\tso long\none\tno\ntwo\tyes\n' &&
    grep -qF "2 of 3 classes have no training data, 'two' among them" "$work/err" &&
    grep -qF "2 of 3 test texts are training texts as well" "$work/err" && [ "$(wc -l <"$work/err")" -eq 2 ]
report $? "classes without training data, and test data that were trained, are told"
odd 'one\tso\ntwo\tso\nsix\tno\n' 'one\tyes\n' && grep -qF "2 of 3 classes have no test data, 'two' among them" "$work/err" &&
    grep -qF "1 of 3 training texts are there under two classes" "$work/err"
report $? "classes without test data, and texts of two classes, are told"
long=$(printf 'no %.0s' $(seq 1 600))
! odd 'one\tso\ntwo\tno\n' 'one\tyes\ntwo\tso\n' --template "{text} $long." && grep -q 'has [0-9]* tokens of its own, which leaves no room' "$work/err"
report $? "a template without room for a text is refused"
# A weight that is no number: nothing is trained of it, and no class is read out of NaN.
mkdir -p "$work/nan" && cp "${model[1]}"/* "$work/nan" 2>/dev/null
python3 - "$work/nan/model.safetensors" <<'EOF'
import json, struct, sys
with open(sys.argv[1], "r+b") as file:
    (n,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(n))
    name = next(name for name in sorted(header) if "down_proj" in name)
    file.seek(8 + n + header[name]["data_offsets"][0])
    file.write({"F32": b"\0\0\xc0\x7f", "BF16": b"\xc0\x7f"}[header[name]["dtype"]])
EOF
expect 1 "40 of 40 test texts have logits that are not finite" "a model of NaN" "$SALF" finetune "${model[@]}" "${small[@]}" \
    --model "$work/nan" --method 'lora[half]' --output "$work/nan.out"
[ ! -e "$work/nan.out/model.safetensors" ]
report $? "and nothing is written"
expect 1 "$work/none" "missing model" "$SALF" finetune --model "$work/none" --tokenizer x --data y
expect 1 "$work/none" "missing data" "$SALF" finetune "${model[@]}" --data "$work/none"

# ---- all methods in one table
all='lora[full],lora[half],lift[half],lift*[half],lift*[geom][bf],lift*[geom][df],lift*[arith][bf],lift*[arith][df]'
all="$all,salf,salf[half],salf[geom][bf],salf[geom][df],salf[arith][bf],salf[arith][df],salf[ce],salf[half][rank]"
"$SALF" finetune "${model[@]}" "${small[@]}" --method "$all" --quiet --log "$work/all.jsonl" >"$work/table" 2>"$work/err"
report $? "all methods run"
[ "$(wc -l <"$work/table")" -eq 19 ] && grep -q '^untrained ' "$work/table" && grep -q '^salf\[half\]\[rank\] ' "$work/table" && [ ! -s "$work/err" ]
report $? "one line a method and one for the model as it came, nothing on standard error with --quiet"
awk '{ gsub("±", "+"); if (length($0) > 80) wide = 1 } END { exit wide }' "$work/table"
report $? "the table fits 80 columns"
[ "$(grep -c '"event":"result"' "$work/all.jsonl")" -eq 16 ] && [ "$(grep -c '"event":"plan"' "$work/all.jsonl")" -eq 10 ]
report $? "log has results and plans"
[ "$(grep -c '"event":"signal".*"rows":[1-9].*"label_share":[01]' "$work/all.jsonl")" -eq 8 ]
report $? "log says what the probes were worth"
python3 - "$work/all.jsonl" <<'EOF'
import json, sys
log = [json.loads(line) for line in open(sys.argv[1])]
plans = [e for e in log if e["event"] == "plan"]
assert any(sum(e["filled"]) > 0 for e in plans)
assert all(n == m + f for e in plans for n, m, f in zip(e["counts"], e["matched"], e["filled"])), plans
probed = [e["method"] for e in log if e["event"] == "eof"]
assert len(probed) == 8 and all(method.startswith("salf") for method in probed), probed
EOF
report $? "what was matched and filled adds up to the plan, and those that probe tell their data's eof"
awk '$1 == "lora[full]" { full = $6 } $1 == "lora[half]" { half = $6 } $1 == "salf[arith][df]" { deep = $6 }
     END { exit !(full == 0 && half > 0.3 && deep > half) }' "$work/table"
report $? "depth savings are in order"
[ "$(grep '"event":"result"' "$work/all.jsonl" | grep -c '"steps":12,')" -eq 16 ]
report $? "every method makes the same number of updates"
"$SALF" finetune "${model[@]}" --limit-train 48 --limit-test 20 --batch 8 --epochs 3 --matching offline --log "$work/offline.jsonl" \
    --method 'salf[half]' >"$work/table" 2>"$work/err" && grep -q '"trained":144,"probed":48,' "$work/offline.jsonl"
report $? "offline matching probes each datum once, whatever the epochs"

# ---- losses, dense training, reductions, matching
for extra in "--loss cosine" "--loss semantic-ce" "--dense --lr 0.0005" "--matching offline" "--whole-vocabulary" \
    "--reduction median --method salf,salf[ce]" "--backend reference --lens normed" "--epochs 2 --schedule cosine --weight-decay 0.1"; do
    # shellcheck disable=SC2086
    "$SALF" finetune "${model[@]}" --method 'salf[half]' --limit-train 48 --limit-test 20 $extra >"$work/table" 2>"$work/err"
    report $? "finetune $extra"
done

# Where no logits are taken none are booked: what a cut saves of the layers is a larger part of the step.
for loss in lm cosine; do
    "$SALF" finetune "${model[@]}" --method 'lora[half]' --limit-train 16 --limit-test 8 --batch 8 --loss $loss --json >"$work/json.$loss" 2>"$work/err"
done
python3 -c 'import json, sys
lm, cosine = (json.load(open(sys.argv[i]))["methods"][0]["predicted_saving"] for i in (1, 2))
sys.exit(not lm + 1e-4 < cosine < 0.3)' "$work/json.lm" "$work/json.cosine"
report $? "the predicted cost of a loss without logits"

# ---- seeds, rates of single methods, JSON
tiny=(--limit-train 32 --limit-test 20 --batch 8)
expect 2 "'lora[third]' is not among" "a rate for a method that is not there" "$SALF" finetune "${model[@]}" --lr 'lora[third]=0.1'
expect 2 "'lora[half]' is there twice" "two rates for a method" "$SALF" finetune "${model[@]}" --lr 'lora[half]=0.1,lora[half]=0.2'
for rate in x 0.1x lora[half]= 0.1,11 -1 nan; do
    expect 2 "is not a rate" "a rate '$rate'" "$SALF" finetune "${model[@]}" --lr "$rate"
done
expect 2 "no seeds left" "seeds beyond 63 bits" "$SALF" finetune "${model[@]}" --seed 9223372036854775807 --seeds 2
seeds() { # seeds NAME OPTION...
    "$SALF" finetune "${model[@]}" "${tiny[@]}" --method 'lora[full],lora[half]' --lr '0.001,lora[half]=0.004' --seeds 3 --seed 7 \
        --checkpoint "$work/$1.ck" --log "$work/$1.jsonl" --output "$work/$1" "${@:2}" >"$work/$1.table" 2>"$work/err"
}
seeds three && grep -qE '^lora\[half\] +0\.[0-9]{3} ±\.[0-9]{3} ' "$work/three.table"
report $? "three seeds give mean and deviation"
[ "$(grep -c '"event":"result","method":"lora\[half\]","seed":[789],.*"rate":0.004,' "$work/three.jsonl")" -eq 3 ] &&
    [ "$(grep -c '"event":"result","method":"lora\[full\]","seed":[789],.*"rate":0.001,' "$work/three.jsonl")" -eq 3 ]
report $? "each method has its rate, each run its seed"
code=137
for stop in 5 9 20 20; do
    [ $code -ne 137 ] || { seeds parts --resume --stop-after $stop --checkpoint-every 3; code=$?; }
done
[ $code -eq 0 ] && cmp "$work/three/lora-half-seed9/model.safetensors" "$work/parts/lora-half-seed9/model.safetensors" &&
    diff <(awk '{ $5 = $6 = ""; print }' "$work/three.table") <(awk '{ $5 = $6 = ""; print }' "$work/parts.table")
report $? "seeds that are stopped and resumed: the same weights and scores"
"$SALF" finetune "${model[@]}" "${tiny[@]}" --threads 1 --json >"$work/json" 2>"$work/err" && python3 - "$work/json" <<'END'
import json, sys
all = json.load(open(sys.argv[1]))
names = [m["method"] for m in all["methods"]]
assert names[:3] == ["lora[full]", "lora[half]", "lift*[half]"] and names[3].startswith("salf[half]"), names
assert all["seeds"] == 1 and 0 <= all["untrained"]["f1"] <= 1
full, half = all["methods"][:2]
assert full.get("time", 1) == 1 and half["saving"] > full["saving"] == 0 and half["updates"] == full["updates"] == 4, all
assert half["cpu_s"] >= 0 and half["wall_s"] > 0 and half["memory"] < full["memory"] and half["forwards"] == 1, all
END
report $? "JSON of the methods that are compared by default"
[ "$(grep -c 'backend [a-z]* (.*), 1 thread, 1 for small products; ' "$work/err")" -eq 1 ]
report $? "one line says what it runs on"

# ---- kill and resume
command_of() { # command_of NAME: the command whose results lie under $work/NAME
    command=("$SALF" finetune "${model[@]}" "${small[@]}" --method 'salf[half]' --method 'lift*[half],salf'
        --checkpoint "$work/$1.ck" --checkpoint-every 3 --output "$work/$1" --log "$work/$1.jsonl")
}

run() { # run NAME OPTION...
    command_of "$1"
    "${command[@]}" "${@:2}" >"$work/$1.table" 2>"$work/err"
}

same() { # same A B: weights of every method, and plan
    cmp "$work/$1/salf-half/model.safetensors" "$work/$2/salf-half/model.safetensors" &&
        cmp "$work/$1/lift-star-half/model.safetensors" "$work/$2/lift-star-half/model.safetensors" &&
        cmp "$work/$1/salf/model.safetensors" "$work/$2/salf/model.safetensors" &&
        diff <(grep '"event":"\(plan\|eof\)"' "$work/$1.jsonl") <(grep '"event":"\(plan\|eof\)"' "$work/$2.jsonl") &&
        diff <(grep -o '"step":[0-9]*,"data":[0-9]*,"loss":[^,]*' "$work/$1.jsonl") \
            <(grep -o '"step":[0-9]*,"data":[0-9]*,"loss":[^,]*' "$work/$2.jsonl")
}

run whole
report $? "uninterrupted run"
for stop in 1 4 7; do
    run "stop$stop" --stop-after "$stop"
    code=$?
    turns=0
    while [ $code -eq 137 ] && [ $turns -lt 60 ]; do
        turns=$((turns + 1))
        run "stop$stop" --resume --stop-after $((stop + 3))
        code=$?
    done
    [ $code -eq 0 ] && [ $turns -gt 0 ] && same whole "stop$stop"
    report $? "ended after $stop updates and resumed $turns times: the same weights, plan and losses"
done

command_of killed
"${command[@]}" >/dev/null 2>&1 &
pid=$!
for delay in 0.15 0.2 0.25 0.3; do
    sleep $delay
    kill -KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    "${command[@]}" --resume >/dev/null 2>&1 &
    pid=$!
done
wait $pid && same whole killed
report $? "kill -9 at several moments and resume: the same weights, plan and losses"

# Policies by their word, with what they need: norms of the gradients, moments that start afresh.
policies() { # policies NAME OPTION...
    "$SALF" finetune "${model[@]}" "${small[@]}" --method lisa,block,autofreeze,rgn,freezeout --log "$work/$1.jsonl" \
        --checkpoint "$work/$1.ck" --checkpoint-every 3 --output "$work/$1" "${@:2}" >"$work/$1.table" 2>"$work/err"
}
policies straight && [ "$(wc -l <"$work/straight.table")" -eq 8 ]
report $? "policies by their word run"
python3 -c 'import json, sys
held = {e["method"]: e["memory"] for e in map(json.loads, open(sys.argv[1])) if e["event"] == "result"}
sys.exit(held["autofreeze"] < held["rgn"] + 100000)' "$work/straight.jsonl"
report $? "memory counts the sums of a turn of autofreeze"
code=137
for stop in 5 12 12 12 12 12; do
    [ $code -ne 137 ] || { policies broken --resume --stop-after $stop; code=$?; }
done
[ $code -eq 0 ] && for name in lisa block autofreeze rgn freezeout; do
    cmp "$work/straight/$name/model.safetensors" "$work/broken/$name/model.safetensors" || code=1
done
report $code "policies that are stopped and resumed: the same weights"
expect 2 "'scripted' takes its cuts from a host's own code" "a policy that needs a host says so" "$SALF" finetune "${model[@]}" --method scripted

expect 2 "--stream-order: no method is a stream" "an order of streams without one" "$SALF" finetune "${model[@]}" --method salf \
    --stream-order mixed
expect 2 "needs --first-layer" "a suffix from nowhere" "$SALF" finetune "${model[@]}" --method suffix
expect 2 "no method is suffix" "the lowest layer of no suffix" "$SALF" finetune "${model[@]}" --first-layer 1
expect 1 "first_layer" "a suffix from above all layers" "$SALF" finetune "${model[@]}" "${tiny[@]}" --method suffix --first-layer 99
half=$(($(sed -n 's/.*"num_hidden_layers": *\([0-9]*\).*/\1/p' "${model[1]}/config.json") / 2))
"$SALF" finetune "${model[@]}" "${tiny[@]}" --method 'suffix,lora[half]' --first-layer $half --output "$work/suffix" >/dev/null 2>"$work/err" &&
    cmp "$work/suffix/suffix/model.safetensors" "$work/suffix/lora-half/model.safetensors"
report $? "half of the layers by their number"
"$SALF" finetune "${model[@]}" "${tiny[@]}" --method 'salf[half][stream],lift*[half][stream],random[arith][df][stream],ramp' >"$work/table" \
    2>"$work/err" && awk 'NR > 3 && ($7 != "1.00" || ($1 != "ramp" && $6 < 0.3)) { wrong = 1 } END { exit NR != 7 || wrong }' "$work/table"
report $? "streams and the ramp by their names"
# ---- streams: one forward a datum, the plan met exactly, each class at all depths
stream() { # stream NAME OPTION...
    "$SALF" finetune "${model[@]}" "${small[@]}" --matching stream --method 'salf[half],salf[geom][df]' --log "$work/$1.jsonl" \
        --output "$work/$1" "${@:2}" >"$work/$1.table" 2>"$work/err"
}
for kind in eof random gain; do
    for order in staged mixed; do
        stream "$kind-$order" --assignment $kind --stream-order $order --checkpoint "$work/$kind-$order.ck" &&
            awk 'NR > 3 && $7 != "1.00" { lost = 1 } END { exit NR != 5 || lost }' "$work/$kind-$order.table"
        report $? "stream $kind, $order: one forward a datum"
        diff <(sed -n 's/.*"plan".*"seed":42,"counts":\([^]]*\]\).*/\1/p' "$work/$kind-$order.jsonl") \
            <(for growth in uniform "geometric --infill depth"; do
                # shellcheck disable=SC2086
                "$SALF" plan --layers "$(sed -n '1s/.*"layers":\([0-9]*\).*/\1/p' "$work/$kind-$order.jsonl")" --data 96 --json \
                    --growth $growth | sed 's/.*"counts":\([^]]*\]\).*/\1/'
            done)
        report $? "stream $kind, $order: counts of the plan"
        code=137
        for stop in 4 8 8 8 8 8 8; do
            [ $code -ne 137 ] || { stream again --assignment $kind --stream-order $order --resume --checkpoint "$work/again.ck" \
                --checkpoint-every 3 --stop-after $stop; code=$?; }
        done
        [ $code -eq 0 ] && diff -r "$work/$kind-$order" "$work/again"
        report $? "stream $kind, $order: stopped and resumed, the same bits"
        rm -rf "$work/again" "$work/again.ck" "$work/again.jsonl"
    done
done
# ---- controls: an eof that the class or chance decides; what is matched follows it
for from in probe class chance; do
    "$SALF" finetune "${model[@]}" "${small[@]}" --method 'salf[half][stream]' --eof-from $from --log "$work/$from.jsonl" >/dev/null 2>"$work/err" ||
        report 1 "the control $from runs"
done
python3 - "$work" "${model[5]}" <<'EOF'
import collections, json, sys
def event(name, word): return next(e for e in map(json.loads, open(f"{sys.argv[1]}/{name}.jsonl")) if e["event"] == word)
lines = [line.split("\t")[0] for line in open(f"{sys.argv[2]}/train.tsv", encoding="utf8")]
labels = [line.strip() for line in open(f"{sys.argv[2]}/labels.txt")]
m, wanted = event("probe", "run")["layers"], collections.Counter()
for i in range(96):
    wanted[labels.index(lines[i * len(lines) // 96]) * m // len(labels)] += 1
counts = {name: event(name, "eof")["counts"] for name in ("probe", "class", "chance")}
assert counts["class"] == [wanted[k] for k in range(m)], counts
assert len({tuple(c) for c in counts.values()}) == 3 and all(sum(c) == 96 for c in counts.values()), counts
assert min(counts["chance"]) > 0 and event("class", "run")["eof_from"] == "class", counts
EOF
report $? "controls: the class, or chance, in place of the probe"
# A seed whose first draw is the largest there is: (2^53 - 1/2) / 2^53, which no double holds, is not rounded to 1.
"$SALF" finetune "${model[@]}" "${small[@]}" --method 'salf[half]' --eof-from chance --seed 2295574122455614247 \
    >"$work/out" 2>&1
report $? "a draw of chance is never layer m"

"$SALF" finetune "${model[@]}" --limit-train 64 --limit-test 20 --batch 64 --method 'lora[full],salf[half]' --matching stream \
    --assignment random --stream-order mixed --json >"$work/json" && python3 -c 'import json, sys
full, half = json.load(open(sys.argv[1]))["methods"]
sys.exit(half["memory"] > 0.75 * full["memory"])' "$work/json"
report $? "rows of a stream keep nothing below their cuts"

# ---- less memory, and states kept from epoch to epoch
"$SALF" finetune "${model[@]}" --limit-train 64 --limit-test 20 --batch 64 --method 'lora[full],lora[half]' --json >"$work/json" &&
    python3 -c 'import json, sys
full, half = json.load(open(sys.argv[1]))["methods"]
sys.exit(half["memory"] > 0.62 * full["memory"])' "$work/json"
report $? "half of the layers need three fifths of the memory"
expect 2 "--cache: '2X'" "a size that is none" "$SALF" finetune "${model[@]}" --cache 2X
expect 2 "--cache: '1G,f16'" "a type that is none" "$SALF" finetune "${model[@]}" --cache 1G,f16
expect 2 "--cache-folder needs --cache" "a folder without a size" "$SALF" finetune "${model[@]}" --cache-folder .
kept='lora[half],lift*[half],lift[half],linear,lift*[geom][df]'
keep() { # keep NAME OPTION...
    "$SALF" finetune "${model[@]}" --limit-train 40 --limit-test 20 --batch 8 --epochs 3 --method "$kept" --quiet \
        --output "$work/$1" "${@:2}" >"$work/$1.table" 2>"$work/$1.err"
}
alike() { # alike A B: the same weights but for roundings, and the same scores
    python3 - "$work/$1" "$work/$2" <<'END'
import array, glob, json, os, struct, sys
def values(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    return array.array("f", data[8 + n:])
for path in glob.glob(sys.argv[1] + "/*/model.safetensors"):
    a, b = values(path), values(path.replace(sys.argv[1], sys.argv[2]))
    worst = max(abs(x - y) for x, y in zip(a, b))
    assert len(a) == len(b) and worst < float(os.environ.get("WORST", "2e-4")), (path, worst)
END
}
keep without && keep with --cache 1G --checkpoint "$work/with.ck" && [ ! -s "$work/with.err" ] && alike without with
report $? "states kept or not: the same weights to rounding"
awk 'NR > 3 && $1 != "linear" && $7 > 0.95 { few = 1 } END { exit few }' "$work/with.table" &&
    awk 'NR > 3 && $7 != "1.00" { few = 1 } END { exit few }' "$work/without.table"
report $? "forwards begin where nothing trains any more"
keep filed --cache 1G --cache-folder "$work" && diff -r "$work/with" "$work/filed"
report $? "in a file or in memory: the same weights"
keep nowhere --cache 1G --cache-folder "$work/none" && diff -r "$work/with" "$work/nowhere" >/dev/null; alike without nowhere &&
    [ "$(grep -c -- '--cache' "$work/nowhere.err")" -eq 1 ] && grep -q 'No such file' "$work/nowhere.err"
report $? "a folder that is not there: training goes on without, said once"
for size in 150K 30K; do
    keep scarce --cache $size && alike without scarce && [ "$(grep -c 'there is room for the states of [0-9]* of 40' "$work/scarce.err")" -eq 1 ]
    report $? "room for $size: the same weights, said once"
done
keep scarce --cache 150K
code=137
for stop in 4 13 13 13 13 13 13 13; do
    [ $code -ne 137 ] || { keep sewn --cache 150K --resume --checkpoint "$work/sewn.ck" --checkpoint-every 3 --stop-after $stop; code=$?; }
done
[ $code -eq 0 ] && diff -r "$work/scarce" "$work/sewn"
report $? "stopped and resumed with room for some: the same bits"
code=137
for stop in 4 13 13 13 13 13 13 13; do
    [ $code -ne 137 ] || { keep mended --cache 1G --resume --checkpoint "$work/mended.ck" --checkpoint-every 3 --stop-after $stop; code=$?; }
done
[ $code -eq 0 ] && diff -r "$work/with" "$work/mended"
report $? "stopped and resumed with states kept: the same bits"
kept='lora[half],lift*[half]'
keep half --cache 1G,bf16 && grep -q "lift\*\[half\]: its boundary moves" "$work/half.err" && WORST=0.01 alike half without &&
    keep cut --cache 1G,bf16 --resume --checkpoint "$work/cut.ck" --checkpoint-every 2 --stop-after 7
keep cut --cache 1G,bf16 --resume --checkpoint "$work/cut.ck" && diff -r "$work/half" "$work/cut"
report $? "bfloat16: close, named where it is not used, and the same bits after a stop"

run whole --resume && [ "$(wc -l <"$work/whole.table")" -eq 6 ]
report $? "resuming a finished run prints its table again"
expect 1 "--batch 8" "resume with another batch size names the option" "$SALF" finetune "${model[@]}" "${small[@]}" \
    --method 'salf[half],lift*[half],salf' --checkpoint "$work/whole.ck" --resume --batch 4
expect 1 "--method" "resume with other methods names the option" "$SALF" finetune "${model[@]}" "${small[@]}" \
    --method 'salf' --checkpoint "$work/whole.ck" --resume
for k in 0 1; do truncate -s 300 "$work/whole.ck/checkpoint-$k.safetensors"; done
expect 1 "checkpoint-1.safetensors is damaged" "a checkpoint cut short is an error" "$SALF" finetune "${model[@]}" "${small[@]}" \
    --method 'salf[half],lift*[half],salf' --checkpoint "$work/whole.ck" --resume
# ---- the demonstration has something to learn
if [ -d examples/demo/model ]; then
    "$SALF" finetune --model examples/demo/model --tokenizer examples/demo/tokenizer.bin --data examples/demo/data --limit-train 16 \
        --limit-test 200 --method 'lora[full]' --json >"$work/json" 2>"$work/err" &&
        python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["untrained"]["f1"] > 0.25)' "$work/json"
    report $? "the untrained model knows next to nothing of the demonstration"
fi
exit $failed
