#!/bin/bash
# A run that cannot be lost or mixed up: killed in a container, stopped by signals, with damaged checkpoints, on a full
# disk, by two processes at once, and with other data, model or tokenizer under the same names.
. "$(dirname "$0")/lib/tap.sh"
export OPENBLAS_NUM_THREADS=1
here=$PWD
case $SALF in /*) ;; *) SALF=$here/$SALF ;; esac
cp -r examples/demo/model "$work/m" && cp -r examples/demo/data "$work/d" && cp examples/demo/tokenizer.bin "$work/t.bin"
cd "$work" || exit 1
options=(--model m --tokenizer t.bin --data d --limit-train 64 --limit-test 8 --batch 8 --method 'salf[half],lora[half]'
    --checkpoint-every 1)
tune() { # tune NAME OPTION...: output, checkpoint and log are called by the name
    "$SALF" finetune "${options[@]}" --checkpoint "$1.ck" --log "$1.jsonl" --output "$1" "${@:2}" >"$1.out" 2>err
}
ends() { # ends CODE WORDS NAME COMMAND...
    local code=$1 words=$2 name=$3
    shift 3
    "$@"
    local got=$?
    [ $got -eq "$code" ] && grep -qF -- "$words" err
    check $? "$name"
    [ $got -eq "$code" ] || sed "s/^/# $got: /" err
}
# What a log says but for what is of one process: seconds, the memory that it held, what its own probes were worth.
lines() { sed '/"event":"signal"/d; s/"[a-z]*_s":[^,}]*//g; s/"memory":[0-9]*//' "$1"; }
same() { # same NAME: weights and lines as those of the run that nothing happened to
    cmp "whole/salf-half/model.safetensors" "$1/salf-half/model.safetensors" &&
        cmp "whole/lora-half/model.safetensors" "$1/lora-half/model.safetensors" &&
        diff <(lines whole.jsonl) <(lines "$1.jsonl")
}
tune whole
check $? 'a run that nothing happens to'

# ---- nothing is overwritten, and nothing is begun in the wrong place
cp -r whole.ck kept.ck && cp whole.jsonl kept.jsonl && cp whole.out first.out
ends 1 'whole.ck holds a run already: go on with it by --resume' 'a checkpoint is not overwritten' tune whole
ends 1 'whole.jsonl: holds something already' 'a log is not overwritten' tune typo --log whole.jsonl
rm -r typo.ck
ends 1 'whole.jsonl: holds something already' 'a wrong folder with --resume does not empty the log' tune typo --log whole.jsonl --resume
cmp whole.jsonl kept.jsonl && diff -r -x lock whole.ck kept.ck
check $? 'and all is as it was'
tune whole --resume && cmp whole.out first.out
check $? 'a run that is done prints its table again'
: >empty.jsonl
tune other --log empty.jsonl --stop-after 3
[ -s empty.jsonl ]
check $? 'an empty file may be a log'
sed 's/"loss":[0-9]/"loss":9/' empty.jsonl >forged.jsonl
ends 1 'forged.jsonl: is not the log that this run has written' 'another log of the same length' tune other --log forged.jsonl --resume
head -c 100 empty.jsonl >short.jsonl
ends 1 'short.jsonl: has fewer bytes' 'a log cut short' tune other --log short.jsonl --resume

# ---- what the run is made of
tune part --stop-after 5
another() { # another NAME WORDS COMMAND: changes something, which is then refused, and changes it back
    cp -r m m.kept && cp -r d d.kept && cp t.bin t.kept
    eval "$3"
    ends 1 "$2" "another $1" tune part --resume
    rm -r m d && mv m.kept m && mv d.kept d && mv t.kept t.bin
}
another 'order of the data' 'another --data: the content of d is not' 'tac d/train.tsv >x && mv x d/train.tsv'
another 'number of data' 'another --data' 'head -n 300 d/train.tsv >x && mv x d/train.tsv'
another 'test' 'another --data' 'tac d/test.tsv >x && mv x d/test.tsv'
another 'template' 'another --template' 'echo "{text} So it is about a" >d/template.txt'
another 'word of a label' 'another --label-words' 'sed "1s/\t.*/\tsea/" d/words.txt >x && mv x d/words.txt'
another 'tokenizer' 'another --tokenizer: the content of t.bin' 'printf "\1" | dd of=t.bin bs=1 seek=4 conv=notrunc 2>dd'
another 'weight' 'another --model: the content of m is not' 'printf "\1" | dd of=m/model.safetensors bs=1 seek=9000 conv=notrunc 2>dd'
python3 -c 'import json; print(json.dumps({"model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(1000)}, "merges": []}}))' >fewer.json
another 'number of tokens' 'another --model' 'cp fewer.json m/tokenizer.json'
another 'configuration' 'another --model' 'sed "s/\"rope_theta\": *[0-9.]*/\"rope_theta\": 500.0/" m/config.json >x && ! cmp -s x m/config.json && mv x m/config.json'
for option in "--batch 4" "--seed 7" "--loss cosine" "--lens normed" "--weight-decay 0.1" "--rank 4" "--targets q,v" "--epochs 2" \
    "--whole-vocabulary" "--schedule cosine" "--backend reference" "--threads 1" "--lr 0.001" "--limit-test 7"; do
    read -r name value <<<"$option"
    # shellcheck disable=SC2086
    ends 1 "this run has $name ${value:-yes}" "resume with $option" tune part --resume $option
done
mkdir elsewhere && mv m d t.bin elsewhere
"$SALF" finetune "${options[@]}" --model ./elsewhere/m --tokenizer elsewhere/./t.bin --data elsewhere/d --checkpoint part.ck \
    --log part.jsonl --output part --resume >part.out 2>err && mv elsewhere/* . && cmp whole/salf-half/model.safetensors part/salf-half/model.safetensors
check $? 'model, tokenizer and data may be moved'

# ---- what cannot be made good later is told, and what may change the last digits
"$SALF" finetune "${options[@]}" --checkpoint bare.ck >bare.out 2>err
ends 1 'bare/salf-half/model.safetensors is not there, and its run is done' 'a model of a run that is done' tune bare --resume
[ ! -e bare.jsonl ] && ! ls bare/* 2>/dev/null
check $? 'and nothing was begun'
"$SALF" finetune "${options[@]}" --checkpoint half.ck --stop-after 10 >half.out 2>err
ends 0 'half.jsonl begins where the checkpoint was made' 'a log that was not there before' tune half --resume
grep -q 'half/salf-half/model.safetensors is not there' err && cmp half/lora-half/model.safetensors whole/lora-half/model.safetensors
check $? 'the model of a method that was done before is missing, and said so; the other is made'
tune turned --stop-after 5
SALF_BACKEND=reference tune turned --resume --lr 2e-3 &&
    grep -q 'turned.ck was made on backend cpu .* 1 thread, .*; going on with backend reference .* which rounds otherwise' err
check $? 'another backend by the environment is told, and the same rate in other words is the same'
rm -rf turned turned.*

# ---- what a method adds up over a turn
freeze() { # freeze NAME OPTION...
    "$SALF" finetune --model m --tokenizer t.bin --data d --limit-train 64 --limit-test 8 --batch 8 --method autofreeze \
        --checkpoint "$1.ck" --checkpoint-every 1 --output "$1" "${@:2}" >"$1.out" 2>err
}
freeze turned
freeze turns --stop-after 5
grep -qa '"turn":' turns.ck/checkpoint-?.safetensors && freeze turns --resume &&
    cmp turned/model.safetensors turns/model.safetensors
check $? 'sums of a turn are kept: the same weights'

# ---- damage: the older save is used and the user told; forged numbers are refused
tune hurt --stop-after 6
cp -r hurt.ck good.ck && cp hurt.jsonl good.jsonl
newest=$(ls -t hurt.ck/checkpoint-?.safetensors | head -n 1)
for bit in 3 700 30001 70007; do
    rm -rf hurt.ck hurt hurt.jsonl && cp -rp good.ck hurt.ck && cp good.jsonl hurt.jsonl
    python3 - "$newest" $bit <<'END'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
bit = int(sys.argv[2]) * 97 % (8 * len(data))
data[bit // 8] ^= 1 << bit % 8
open(sys.argv[1], "wb").write(data)
END
    ends 0 "$newest is damaged" "bit $bit turned: said" tune hurt --resume
    same hurt
    check $? "bit $bit turned: the same weights and log"
done
python3 - good.ck <<'END'
# Writes forged.N.ck, each with one number of the state changed and the hash made right.
import json, os, shutil, struct, sys
M, FULL = 0xD6E8FEB86659FD93, (1 << 64) - 1
def mix(x):
    for _ in range(2):
        x ^= x >> 32
        x = x * M & FULL
    return x ^ x >> 32
def salf_hash(data):
    h = 0
    whole = len(data) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        h = mix(h ^ word)
    h = mix(h ^ int.from_bytes(data[whole:], "little"))
    return mix(h ^ len(data))
paths = [f"{sys.argv[1]}/checkpoint-{k}.safetensors" for k in (0, 1)]
def read(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    return data, json.loads(data[8 : 8 + n]), 8 + n
newest = max(paths, key=lambda p: int(read(p)[1]["__metadata__"]["salf.saves"]))
data, header, start = read(newest)
assert salf_hash(data[:-8]) == struct.unpack("<Q", data[-8:])[0]
big = 2**63 - 1
changes = [("run", k, v, "q") for k, v in [(0, -1), (0, 99), (1, 2), (1, -1), (2, -1), (2, big), (4, -1), (4, big), (5, -3),
           (5, 1000), (5, big), (6, 2)]]
changes += [("tally", 0, float("nan"), "d"), ("tally", 1, -5.0, "d"), ("tallies", 0, 2.0**54, "d"), ("eof_counts", 0, -1, "q"),
            ("optimizer.steps", 1, -1, "q"), ("optimizer.steps", 2, big, "q"), ("eof_counts", 1, big, "q")]
for i, (name, place, value, form) in enumerate(changes):
    forged = bytearray(data)
    struct.pack_into("<" + form, forged, start + header[name]["data_offsets"][0] + 8 * place, value)
    forged[-8:] = struct.pack("<Q", salf_hash(forged[:-8]))
    os.mkdir(f"forged.{i}.ck")
    open(f"forged.{i}.ck/{os.path.basename(newest)}", "wb").write(forged)
END
[ "$(find . -maxdepth 1 -name 'forged.*.ck' | wc -l)" -eq 19 ]
check $? 'the hash is as the document says'
for folder in forged.*.ck; do
    cp good.jsonl "${folder%.ck}.jsonl"
    if [ "$folder" = forged.5.ck ] || [ "$folder" = forged.4.ck ]; then words='length of the log'; else words='which no run has'; fi
    ends 1 "$words" "numbers that no run has: $folder" tune "${folder%.ck}" --resume
done
mkdir old.ck && cp m/model.safetensors old.ck/checkpoint.safetensors
ends 1 'older version' 'a checkpoint of an older version' tune old --resume

# ---- signals: the status is the signal's, and the run goes on where it was
for signal in TERM INT HUP; do
    name=by$signal
    # a shell that is no terminal's starts what is in the background with SIGINT ignored; python does not
    python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); os.execv(sys.argv[1], sys.argv[1:])' \
        "$SALF" finetune "${options[@]}" --checkpoint $name.ck --log $name.jsonl --output $name >$name.out 2>err &
    pid=$!
    until [ "$(grep -c '"event":"step"' $name.jsonl 2>/dev/null)" -ge 3 ] 2>/dev/null; do sleep 0.01; done
    kill -$signal $pid
    wait $pid
    code=$?
    if [ $code -eq 0 ]; then echo "SKIPPED: the run ended before SIG$signal came"; continue; fi
    [ $code -eq $((128 + $(kill -l $signal))) ] && grep -q "ended by SIG$signal; the same command with --resume goes on" err
    check $? "SIG$signal: ends by it and says how to go on"
    tune $name --resume && same $name
    check $? "SIG$signal: the same weights and log"
done

# ---- one asking may come as several signals: a terminal that is closed sends SIGHUP twice, `timeout` SIGTERM
cat >ask.py <<'END'
# ask.py LOG WORD SIGNAL...: starts a run, waits for a word in its log, sends signals two milliseconds apart.
import os, signal, subprocess, sys, time
run = subprocess.Popen(sys.argv[4:], stdout=subprocess.DEVNULL, stderr=open("err", "w"),
                       preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGHUP)])
while run.poll() is None and not (os.path.exists(sys.argv[1]) and sys.argv[2] in open(sys.argv[1]).read()):
    time.sleep(0.005)
for number in sys.argv[3].split(","):
    run.send_signal(int(number))
    time.sleep(0.002)
sys.exit(-run.wait())
END
for signals in 1,1 15,15,15 2,15; do
    rm -rf again again.*
    python3 ask.py again.jsonl '"step"' $signals "$SALF" finetune "${options[@]}" --batch 64 --epochs 20 --checkpoint again.ck \
        --checkpoint-every 1000 --log again.jsonl --limit-train 400
    [ $? -eq "${signals%%,*}" ] && grep -q 'the same command with --resume goes on' err && [ -e again.ck/checkpoint-0.safetensors ]
    check $? "signals $signals at once: ends by the first, with a checkpoint"
done
rm -rf again again.*
for _ in 1 2 3 4 5 6 7 8 9 10; do cat d/train.tsv; done >many.tsv && cp -r d many && for _ in 1 2 3 4 5 6; do cat many.tsv; done >many/train.tsv
start=$(date +%s)
python3 ask.py again.jsonl before 15 "$SALF" finetune --model m --tokenizer t.bin --data many --limit-test 8 --method 'salf[half]' \
    --matching offline --checkpoint again.ck --log again.jsonl
[ $? -eq 15 ] && grep -q 'ended by SIGTERM' err && ! grep -q '"step"' again.jsonl
check $? "the probing before a training ends when it is asked to, after $(($(date +%s) - start)) s"

# ---- a model that is another when its configuration is to be written beside what was trained
cat >swap.py <<'END'
# swap.py COMMAND...: a run whose model is another once it is in the middle.
import os, subprocess, sys, time
run = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=open("err", "w"))
while run.poll() is None and not (os.path.exists("mixed.jsonl") and '"step"' in open("mixed.jsonl").read()):
    time.sleep(0.002)
if not os.path.exists("mixed/config.json"):
    os.rename("mine", "was")
    os.rename("theirs", "mine")
sys.exit(run.wait())
END
mixed=("$SALF" finetune --model mine --tokenizer t.bin --data d --limit-train 64 --limit-test 8 --batch 8 --method 'lora[half]'
    --log mixed.jsonl --output mixed)
cp -r m mine && cp -r m theirs && sed -i 's/"rope_theta": *[0-9.]*/"rope_theta": 500.0/' theirs/config.json
for kept in "" "--checkpoint mixed.ck"; do
    rm -rf mixed mixed.jsonl
    # shellcheck disable=SC2086
    python3 swap.py "${mixed[@]}" $kept
    code=$?
    if [ -d theirs ]; then echo "SKIPPED: the run had ended before its model was another"; continue; fi
    [ $code -eq 1 ] && grep -q 'mine is not what it was when this run began' err && [ ! -e mixed/config.json ] && [ ! -e mixed/model.safetensors ]
    check $? "a model that is another by now: none is made of both${kept:+, with a checkpoint}"
    if [ -z "$kept" ]; then
        grep -q 'the weights are in mixed/weights-alone.safetensors, without configuration' err && [ -s mixed/weights-alone.safetensors ]
        check $? 'and the weights are kept'
    fi
    mv mine theirs && mv was mine
done
"${mixed[@]}" --checkpoint mixed.ck --resume >mixed.out 2>err && cmp whole/lora-half/model.safetensors mixed/model.safetensors
check $? 'once it is back the run goes on'

# ---- a full disk under the log is said at once, and nothing is lost
ends 1 'No space left on device' 'a log on a full device' tune full --log /dev/full
if unshare -m true 2>/dev/null || unshare -rm true 2>/dev/null; then
    mkdir small
    flag=$(unshare -m true 2>/dev/null && echo -m || echo -rm)
    export SALF here
    unshare $flag bash -c 'mount -t tmpfs -o size=8k tmpfs small
        "$SALF" finetune "$@" --checkpoint disk.ck --log small/l.jsonl --output disk >disk.out 2>err; echo $? >code
        cp small/l.jsonl disk.jsonl' - "${options[@]}"
    [ "$(cat code)" -eq 1 ] && grep -q 'small/l.jsonl: No space left on device; once that is mended, --resume' err &&
        [ "$(grep -c . disk.jsonl)" -lt "$(grep -c . whole.jsonl)" ]
    code=$?
    [ $code -eq 0 ] || sed 's/^/# /' err code
    check $code 'a full disk under the log ends the run'
    tune disk --resume && same disk
    check $? 'and it goes on when there is room'
else
    echo "SKIPPED: a full disk under the log, no file system can be mounted here"
fi

# ---- two processes, and a container whose processes always have the same number
"$SALF" finetune "${options[@]}" --limit-test 400 --checkpoint both.ck >both.out 2>both.err &
pid=$!
until [ -s both.ck/lock ]; do sleep 0.01; done
if tune both --resume; then echo "SKIPPED: the first of two runs was over"; else
    grep -q "both.ck is in use by process $pid on host" err
    check $? 'a second process is told who has the folder'
fi
kill $pid 2>/dev/null
wait $pid
if unshare --pid --fork --kill-child true 2>/dev/null; then
    for delay in 1 2 3 4 5 6 7 8; do
        unshare --pid --fork --kill-child "$SALF" finetune "${options[@]}" --checkpoint box.ck --log box.jsonl --output box --resume >box.out 2>err &
        pid=$!
        sleep 0.$((delay * 7 % 10))
        kill -9 $pid 2>/dev/null
        wait $pid 2>/dev/null
        # the kill reaches the program a moment after its parent
        until flock -n box.ck/lock true 2>/dev/null || [ ! -e box.ck/lock ]; do sleep 0.01; done
        : >"box.ck/checkpoint-0.safetensors.tmp.$delay"; : >"box.ck/checkpoint-1.safetensors.tmp.1.$delay"
    done
    unshare --pid --fork "$SALF" finetune "${options[@]}" --checkpoint box.ck --log box.jsonl --output box --resume >box.out 2>err && same box
    check $? 'killed again and again with one process number: the same weights and log'
    [ -z "$(find box.ck -name '*.tmp*')" ]
    check $? 'and nothing is left behind'
else
    echo "SKIPPED: processes of one number, unshare is not allowed here"
fi
finish
