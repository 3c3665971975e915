#!/bin/sh
# What the program reads and writes where paths lead to something else than a file: nothing waits, nothing is endless,
# no device, pipe or link is replaced.
. "$(dirname "$0")/lib/tap.sh"
demo=examples/demo
# Devices of this test's own: a fault would take those of the machine.
if [ "$(id -u)" -eq 0 ] && mknod "$work/null" c 1 3 2>"$work/err"; then null=$work/null; else null=; fi
mkfifo "$work/pipe"
cat >"$work/log.jsonl" <<'END'
{"event":"result","method":"lora[full]","f1":0.5,"cpu_s":2}
END

# ---- reading: each place where a file is named, with each thing that is none
finetune="finetune --model $demo/model --limit-train 8 --limit-test 4"
refused() { # refused WORDS PATH COMMAND...
    expected="$2: $1"
    shift 2
    (ulimit -v 4000000 && exec "$SALF" "$@") >"$work/out" 2>"$work/err" </dev/null
    code=$?
    [ $code -eq 1 ] && grep -qF -- "$expected" "$work/err"
    check $? "$1 refuses $expected"
    [ $code -eq 1 ] || sed "s/^/# $code: /" "$work/err"
}
mkdir "$work/data"
for what in pipe folder device; do
    case $what in
    pipe) path=$work/pipe words='a pipe, not a file' ;;
    folder) path=$work/data words='a folder, not a file' ;;
    device) path=/dev/zero words='a device, not a file' ;;
    esac
    refused "$words" "$path" report "$path" -o "$work/none.html"
    refused "$words" "$path" probe --model $demo/model --prompts "$path"
    [ $what = folder ] || refused "$words" "$path" $finetune --tokenizer "$path" --data $demo/data
    [ $what = folder ] || refused "$words" "$path" tokens --tokenizer "$path"
    for part in labels.txt train.tsv test.tsv words.txt template.txt; do
        rm -rf "$work/bad" && cp -r $demo/data "$work/bad" && rm -f "$work/bad/$part" && ln -s "$path" "$work/bad/$part"
        refused "$words" "$work/bad/$part" $finetune --tokenizer $demo/tokenizer.bin --data "$work/bad"
    done
    refused "$words" "$path" $finetune --tokenizer $demo/tokenizer.bin --data $demo/data --label-words "$path"
done
truncate -s 3G "$work/hole"
refused 'larger than 2 GiB' "$work/hole" report "$work/hole"
refused 'larger than 2 GiB' "$work/hole" tokens --tokenizer "$work/hole"
# A file of the kernel's says 4096 bytes and has fewer, as one that is cut while it is read.
short=/sys/kernel/mm/transparent_hugepage/enabled
[ "$(stat -c %s $short 2>/dev/null)" != 4096 ] || refused 'became shorter while it was read' $short report $short
[ ! -e "$work/none.html" ]
check $? 'nothing was written'

# ---- "-" is standard input and standard output
"$SALF" report "$work/log.jsonl" -o "$work/page" && "$SALF" report - -o - <"$work/log.jsonl" >"$work/out"
sed "s|$work/log.jsonl|-|g" "$work/page" | cmp - "$work/out"
check $? 'report reads and writes -'
echo before >"$work/both" && cat "$work/log.jsonl" | "$SALF" report - -o - >>"$work/both"
[ "$(head -n 1 "$work/both")" = before ] && sed 1d "$work/both" | cmp - "$work/out"
check $? 'a pipe is read as -, and >> keeps what was there'
[ ! -e ./- ]
check $? 'no file is called -'
"$SALF" basis --model $demo/model --tokens 5,7 -o "$work/basis" 2>"$work/err" &&
    "$SALF" basis --model $demo/model --tokens 5,7 -o - 2>"$work/err" | cmp - "$work/basis"
check $? 'basis writes to -'
echo 'the cat	the cat' | "$SALF" tokens --tokenizer $demo/tokenizer.bin --words >"$work/prompts"
"$SALF" probe --model $demo/model --prompts "$work/prompts" >"$work/out" &&
    "$SALF" probe --model $demo/model --prompts - <"$work/prompts" | cmp - "$work/out"
check $? 'probe reads prompts from -'

# ---- writing: what is no file stays
if [ -n "$null" ]; then
    run 0 basis --model $demo/model --tokens 1 -o "$null"
    run 0 report "$work/log.jsonl" -o "$null"
    [ -c "$null" ]
    check $? 'a device stays a device'
fi
cat "$work/pipe" >"$work/from" &
run 0 basis --model $demo/model --tokens 5,7 -o "$work/pipe"
wait
[ -p "$work/pipe" ] && cmp "$work/from" "$work/basis"
check $? 'basis is written through a pipe'
mkdir "$work/real" && echo old >"$work/real/basis" && chmod 600 "$work/real/basis" && ln -s real/basis "$work/link"
run 0 basis --model $demo/model --tokens 5,7 -o "$work/link"
[ -L "$work/link" ] && cmp "$work/real/basis" "$work/basis" && [ "$(stat -c %a "$work/real/basis")" = 600 ]
check $? 'a link is followed, and access rights stay'
# A name that somebody has laid in the way is not followed, and six writers of one path all succeed.
ln -s victim "$work/r.html.tmp"
for i in 1 2 3 4 5 6; do "$SALF" report "$work/log.jsonl" -o "$work/r.html" & done
for i in 1 2 3 4 5 6; do wait || echo "$i" >>"$work/lost"; done
[ ! -e "$work/victim" ] && [ ! -e "$work/lost" ] && cmp "$work/r.html" "$work/page"
check $? 'six writers of one path, and a link laid in the way'
# ---- no option takes the place of what another one names
cp -r $demo/model "$work/model" && ln "$work/model/model.safetensors" "$work/blob" && ln -s model/config.json "$work/linked"
instead() { # instead CODE WORDS FILE COMMAND...: the file stays as it is
    expected=$1 words=$2 file=$3
    shift 3
    before=$(cksum "$file" 2>/dev/null)
    run "$expected" "$@"
    grep -qF -- "$words" "$work/err" && [ "$(cksum "$file" 2>/dev/null)" = "$before" ]
    check $? "$file stays: $words"
}
for log in "$work/log.jsonl" "$work/../$(basename "$work")/log.jsonl"; do
    instead 2 'would take the place of the log' "$work/log.jsonl" report "$work/log.jsonl" -o "$log"
done
for file in model/model.safetensors model/config.json blob linked; do
    instead 2 'is a file of the model' "$work/$file" basis --model "$work/model" --tokens 1 -o "$work/$file"
done
echo '{}' >"$work/model/vocab.json"
instead 2 'is a file of the model' "$work/model/vocab.json" basis --model "$work/model" --tokens 1 -o "$work/model/vocab.json"
for part in 1 2; do : >"$work/m-0000$part-of-00002.gguf"; done
instead 2 'is a file of the model' "$work/m-00002-of-00002.gguf" \
    basis --model "$work/m-00001-of-00002.gguf" --tokens 1 -o "$work/m-00002-of-00002.gguf"
cp $demo/tokenizer.bin "$work/t.bin"
instead 2 'is a file of the tokenizer' "$work/t.bin" \
    basis --model "$work/model" --words a --tokenizer "$work/t.bin" -o "$work/t.bin"
cp -r $demo/data "$work/set" && printf 'animals\tcat\n' >"$work/words.txt"
for file in t.bin set/train.tsv words.txt; do
    instead 2 'is a file of the' "$work/$file" advise --model "$work/model" --tokenizer "$work/t.bin" --data "$work/set" \
        --label-words "$work/words.txt" --log "$work/new.jsonl" --report "$work/$file"
    rm -f "$work/new.jsonl"
done
"$SALF" report - -o "$work/log.jsonl" <"$work/log.jsonl" 2>"$work/err"
grep -q 'would take the place of the log' "$work/err" && grep -q event "$work/log.jsonl"
check $? 'nor does a page take the place of a log that standard input is'
if [ -x "$SALF-demo" ]; then
    "$SALF-demo" tokenizer --size 360 -o "$work/words.txt" "$work/words.txt" 2>"$work/err"
    [ $? -eq 2 ] && grep -q animals "$work/words.txt"
    check $? 'nor a tokenizer that of its text'
fi
for i in 1 2; do run 0 basis --model "$work/model" --tokens 1 -o "$work/model/basis.safetensors"; done
mkdir "$work/made" "$work/made/lora-half" "$work/ck"
tune="$finetune --tokenizer $demo/tokenizer.bin --data $demo/data --method lora[half]"
for log in made/model.safetensors made/lora-half/model.safetensors made/config.json ck/checkpoint-0.safetensors ck/lock.process; do
    instead 1 'is a name of the files of' "$work/$log" $tune --output "$work/made" --checkpoint "$work/ck" --log "$work/$log"
done
rm -r "$work/ck"
# A model takes the files along that lie beside its weights: not over those that are read, by a link neither.
cp $demo/tokenizer.bin "$work/made/tok.bin" && cp $demo/tokenizer.bin "$work/model/tok.bin" && echo >>"$work/model/tok.bin"
instead 1 'is read by this run' "$work/made/tok.bin" $tune --model "$work/model" --tokenizer "$work/made/tok.bin" --output "$work/made"
ln -s "$work/model/model.safetensors" "$work/made/model.safetensors"
instead 1 'is read by this run' "$work/model/model.safetensors" $tune --model "$work/model" --output "$work/made"
rm -f "$work/made/model.safetensors" "$work/model/tok.bin" && echo notes >"$work/model/notes.txt"
run 1 $tune --model "$work/model" --output "$work/made" --log "$work/made/notes.txt"
tells 'notes.txt is read by this run'
rm -f "$work/made/notes.txt" "$work/made/tok.bin"
run 0 $tune --output "$work/made" --checkpoint "$work/ck" --log "$work/made/log.jsonl"
for option in output checkpoint; do
    instead 2 'a folder is needed' "$work/page" $tune --$option -
    instead 2 'the text is empty' "$work/page" $tune --$option ''
    instead 1 'Not a directory' "$work/page" $tune --$option "$work/page"
    instead 1 'Not a directory' "$work/page" $tune --$option "$work/page/in"
done
instead 2 'the text is empty' "$work/page" report "$work/log.jsonl" -o ''
[ ! -e ./- ]
check $? 'no folder is called -'

# ---- messages are one line, whatever a path is called
name=$(printf 'a\nb\033[31mc')
printf 'no log\n' >"$work/$name"
run 1 report "$work/$name"
[ "$(wc -l <"$work/err")" -eq 1 ] && grep -qF 'a?b?[31mc:1: ' "$work/err"
check $? 'line ends and escapes in names are not printed'
run 0 basis --model "$work/model" --tokens 5,7 -o "$work/$name.safetensors"
cmp "$work/$name.safetensors" "$work/basis"
check $? 'such names can be written to'

# ---- a file that may not grow is told, and the process is not ended by its signal
limited() { # limited FILE COMMAND...
    file=$1
    shift
    (ulimit -f 8 && exec "$SALF" "$@") >"$work/out.txt" 2>"$work/err"
    [ $? -eq 1 ] && grep -q 'File too large' "$work/err" && [ ! -e "$file" ]
    check $? "$1: a limit of the size of files"
}
limited "$work/big" basis --model "$work/model" --tokens "$(seq -s , 1 60)" -o "$work/big"
limited "$work/big/model.safetensors" $tune --output "$work/big"
limited "$work/big.ck/checkpoint-0.safetensors" $tune --batch 4 --checkpoint "$work/big.ck" --checkpoint-every 1
[ -z "$(find "$work" -name '*.tmp.*')" ]
check $? 'no temporary file is left'
finish
