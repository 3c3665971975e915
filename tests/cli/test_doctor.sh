#!/bin/sh
# salf doctor: what is found on the machine and in a model, as text and as JSON; faults end it with 1.
. "$(dirname "$0")/lib/tap.sh"

# names TEXT: as says, however many blanks stand between a name and its value
names() { tr -s ' ' <"$work/out" | grep -qF -- "$1"; check $? "output has '$1'"; }

run 0 doctor
for name in program abi backend kernels blas core threads; do says "$name"; done
names "version 0.2"
says "Nothing is wrong; name a model"
run 0 doctor --backend reference
names "why --backend names it"
export SALF_BACKEND=cpu
run 0 doctor
says "the environment variable SALF_BACKEND names it"
export SALF_BACKEND=abacus
run 1 doctor
tells "SALF_BACKEND is 'abacus'"
unset SALF_BACKEND
run 0 doctor --help
says "Usage: salf doctor [OPTION...] [MODEL]"

# what cannot be examined
run 2 doctor one two
tells "'two' is a second model"
run 2 doctor --valid-vocab 9
tells '--valid-vocab is for a MODEL'
run 2 doctor --json --accept some_key
tells '--accept is for a MODEL'
run 1 doctor "$work/nothing"
tells "$work/nothing"
[ -s "$work/out" ] && not_ok "a model that is missing prints nothing" || ok "a model that is missing prints nothing"

model=$SALF_SHARED/models/stories656k
if [ -r "$model/config.json" ]; then
    run 0 doctor "$model"
    names "model type llama"
    names "would train yes"
    names "passed yes"
    says "Nothing is wrong."
    awk 'length > 80 && $0 !~ /path|\// { bad = 1 } END { exit bad }' "$work/out"
    check $? "lines have at most 80 columns"
    run 0 doctor --json "$model"
    python3 - "$work/out" "$model/config.json" <<'PYTHON'
import json, sys
says, config = (json.load(open(path)) for path in sys.argv[1:])
model, basis, check = says["model"], says["basis"], says["self_check"]
assert says["wrong"] == [] and says["finetune"] == {"would_train": True}
assert model["layers"] == config["num_hidden_layers"] and model["hidden"] == config["hidden_size"]
assert model["vocabulary"] == config["vocab_size"] and model["norm_eps"] == config["rms_norm_eps"]
assert basis["rank"] == basis["of"] == config["hidden_size"] and 1 <= basis["condition"] < 1e6
assert check["passed"] and 0 <= check["largest_difference"] <= check["tolerance"] == 1e-5
assert check["deviations"] == check["labels"] * (model["layers"] + 1) > 0
assert says["tokenizer"]["size"] == config["vocab_size"] and says["tensors"]["no_parameter"] == []
PYTHON
    check $? "the JSON agrees with config.json"

    # a copy whose configuration is changed: sed's expression, exit code, text
    mkdir "$work/copy"
    cp "$model/model.safetensors" "$model/tokenizer.json" "$work/copy"
    changed() { sed "$2" "$model/config.json" >"$work/copy/config.json"; run "$1" doctor "$work/copy"; }
    changed 1 's/{/{"made_up_key": 3,/'
    tells "made_up_key"
    run 0 doctor --accept made_up_key "$work/copy"
    says "Nothing is wrong."
    changed 0 's/"silu"/"quick_gelu"/'
    names "would train no"
    names "unsupported hidden_act"
    grep -q "^  activation" "$work/out" && not_ok "unsupported layers are not described" || ok "unsupported layers are not described"
    # fewer rows than ids is a fault
    changed 0 's/^{/{/'
    python3 - "$work/copy/tokenizer.json" <<'PYTHON'
import json, sys
t = json.load(open(sys.argv[1]))
t["model"]["vocab"]["<beyond>"] = 4000
json.dump(t, open(sys.argv[1], "w"))
PYTHON
    run 1 doctor --valid-vocab 2048 "$work/copy"
    says "Wrong: the tokenizer has 4001 ids, the head only 2048 rows"
    # a head of zeros has no basis: all else is printed, and the fault
    python3 - "$work/copy/model.safetensors" <<'PYTHON'
import json, sys
path = sys.argv[1]
data = bytearray(open(path, "rb").read())
n = int.from_bytes(data[:8], "little")
for name, t in json.loads(data[8:8 + n]).items():
    if "embed_tokens" in name or "lm_head" in name:
        first, last = t["data_offsets"]
        data[8 + n + first:8 + n + last] = bytes(last - first)
open(path, "wb").write(data)
PYTHON
    cp "$model/tokenizer.json" "$work/copy"
    run 1 doctor "$work/copy"
    says "Wrong: basis:"
    run 1 doctor --json "$work/copy"
    python3 -c 'import json, sys; assert len(json.load(open(sys.argv[1]))["wrong"]) >= 1' "$work/out"
    check $? "the JSON lists what is wrong"
else
    echo "skip - no model in $SALF_SHARED"
fi
finish
