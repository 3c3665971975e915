#!/bin/sh
# salf advise on a small model: a verdict in words and as JSON, a report, and refusals that name what is wrong.
. "$(dirname "$0")/lib/tap.sh"
export OPENBLAS_NUM_THREADS=1
if [ -f "$SALF_SHARED/models/stories260k/model.safetensors" ]; then
    model=$SALF_SHARED/models/stories260k tokenizer=$SALF_SHARED/models/stories260k/tok512.bin data=$SALF_SHARED/data/trec
elif [ -d examples/demo/model ]; then
    model=examples/demo/model tokenizer=examples/demo/tokenizer.bin data=examples/demo/data
else
    echo "skip advise: neither the shared models nor the demonstration's are here"
    exit 0
fi
run 2 advise --data "$data"
tells '--model is missing'
run 2 advise --model "$model" --data "$data" --report x.html
tells '--report needs --log'
run 2 advise --model "$model" --data "$data" --log - --report "$work/x.html"
tells '--log: - is where the table goes'
run 2 advise --model "$model" --data "$data" --log - --json --report "$work/x.html"
tells '--report: --log - is no file'
run 2 advise --model "$model" --data "$data" --lr 'lisa=0.1'
tells "--lr: 'lisa' is not among the methods"
run 2 advise --model "$model" --data "$data" --template nothing
tells '{text}'
run 1 advise --model "$work/none" --tokenizer "$tokenizer" --data "$data"
tells "advise: --model: "
run 1 advise --model "$model" --tokenizer "$tokenizer" --data "$data" --minutes 0.01
tells '--minutes 0.01: too short for 4 updates of each method with 2 seeds; about'
run 1 advise --model "$model" --tokenizer "$tokenizer" --data "$data" --batch 8000
tells 'training data, fewer than 4 updates of 8000'

# A model whose first layer reads states 1e22 times as large by weights 1e-22 times as large: what LoRA adds there after
# its first update is infinite, whatever the rate. None of those tried is the best then.
if [ "$model" = "$SALF_SHARED/models/stories260k" ]; then
    python3 - "$model" "$work/diverging" <<'END'
import json, os, struct, sys
source, copy = sys.argv[1:]
os.mkdir(copy)
for name in os.listdir(source):
    if name.endswith(".json"): open(copy + "/" + name, "wb").write(open(source + "/" + name, "rb").read())
data = open(source + "/model.safetensors", "rb").read()
n = 8 + struct.unpack("<Q", data[:8])[0]
header, body = json.loads(data[8:n]), bytearray(data[n:])
for name, factor in [("input_layernorm", 1e22)] + [("self_attn." + p, 1e-22) for p in ("q_proj", "k_proj", "v_proj")]:
    first, end = header["model.layers.0." + name + ".weight"]["data_offsets"]
    numbers = struct.unpack("<%df" % ((end - first) // 4), body[first:end])
    body[first:end] = struct.pack("<%df" % len(numbers), *(factor * x for x in numbers))
open(copy + "/model.safetensors", "wb").write(data[:n] + body)
END
    run 1 advise --model "$work/diverging" --tokenizer "$tokenizer" --data "$data" --minutes 4 --batch 4
    tells 'training diverges at each learning rate tried, 0.001 ... 0.004; give another with --lr'
fi

# The machine may be busy: where a quarter of a minute is too short, a longer pilot is tried.
for minutes in 0.25 1 4 16; do
    "$SALF" advise --model "$model" --tokenizer "$tokenizer" --data "$data" --minutes $minutes --batch 8 --log "$work/log.jsonl" \
        --report "$work/r.html" >"$work/out" 2>"$work/err" && break
done
check $? 'a pilot ends'
says 'A pilot of '
says 'salf[half][stream]'
says 'What would change this:'
says 'salf finetune --model '
tr '\n' ' ' <"$work/out" | grep -qE 'at the learning rate 0\.00[124], the best of those tried'
check $? 'the learning rate is one that was tried'
grep -qE '^(Freeze: |Freezing saves, |Freezing does not pay here: |The pilot cannot say: )' "$work/out"
check $? 'there is a verdict'
grep -q 'Macro F1 against the whole cost' "$work/r.html"
check $? 'the report has the chart of whole costs'
"$SALF" advise --model "$model" --tokenizer "$tokenizer" --data "$data" --minutes $minutes --seeds 1 --batch 8 --lr 0.003 --json >"$work/out" \
    2>"$work/err" && python3 - "$work/out" <<'END'
import json, sys
all = json.load(open(sys.argv[1]))
assert all["verdict"] in ("cannot_say", "freeze", "trade", "full"), all["verdict"]
assert [m["method"] for m in all["methods"]][:2] == ["lora[full]", "lora[half]"] and len(all["methods"]) == 6
assert all["rate"] == 0.003 and not all["rate_chosen"] and " --lr 0.003 " in all["command"]
assert all["methods"][0]["difference"] == 0 and 0 < all["methods"][1]["memory_ratio"] < 1 and all["command"].startswith("salf finetune")
END
check $? 'the same as JSON'
finish
