#!/bin/sh
# salf-demo pretrain: the same command gives the same bytes, outputs appear whole or not at all, what is wrong is named.
. "$(dirname "$0")/lib/tap.sh"
SALF=$(dirname "$SALF")/salf-demo

awk 'BEGIN { for (i = 0; i < 60; i++) printf "the %s %s on the %s mat\n", i % 2 ? "cat" : "dog", i % 3 ? "sat" : "ran", i % 5 ? "red" : "old" }' >"$work/text"
run 0 tokenizer --size 360 -o "$work/tok.bin" "$work/text"
run 0 tokenizer --size 400 -o "$work/other.bin" "$work/text"

# pretrain CODE OUTPUT OPTION...: a model of a few thousand parameters
pretrain() {
    code_wanted=$1 output=$2
    shift 2
    run "$code_wanted" pretrain --text "$work/text" --tokenizer "$work/tok.bin" --output "$output" --layers 2 --hidden 16 \
        --ffn 24 --heads 2 --batch 4 --context 12 --steps 12 "$@"
}
same() { cmp -s "$1" "$2"; check $? "$3"; }
files() { ls -A "$1" | tr '\n' ' '; }

pretrain 0 "$work/a"
tells 'loss'
[ "$(files "$work/a")" = 'config.json model.safetensors ' ]
check $? 'the folder holds the checkpoint and nothing else'
pretrain 0 "$work/b"
same "$work/a/model.safetensors" "$work/b/model.safetensors" 'the same command gives the same weights'
same "$work/a/config.json" "$work/b/config.json" 'and the same configuration'
pretrain 0 "$work/c" --seed 43
! cmp -s "$work/a/model.safetensors" "$work/c/model.safetensors"
check $? 'another seed gives other weights'
sed 's/$/\r/' "$work/text" >"$work/crlf"
pretrain 0 "$work/d" --text "$work/crlf"
same "$work/a/model.safetensors" "$work/d/model.safetensors" 'line ends of either kind are the same text'

# A run that is killed leaves the earlier checkpoint; the next one replaces it.
"$SALF" pretrain --text "$work/text" --tokenizer "$work/tok.bin" --output "$work/c" --hidden 64 --steps 100000000 \
    >"$work/out" 2>"$work/err" </dev/null &
victim=$!
cp -r "$work/c" "$work/before"
sleep 1
kill -9 "$victim"
wait "$victim" 2>/dev/null
same "$work/before/model.safetensors" "$work/c/model.safetensors" 'a killed run leaves the checkpoint that was there'
pretrain 0 "$work/c"
same "$work/a/model.safetensors" "$work/c/model.safetensors" 'and can be run again'

# Files cannot grow beyond 4 or 8 KiB: as on a full disk, nothing is left behind and the old checkpoint stays.
code=0
(
    trap '' XFSZ
    ulimit -f 8
    exec "$SALF" pretrain --text "$work/text" --tokenizer "$work/tok.bin" --output "$work/b" --hidden 32 --steps 2 \
        >/dev/null 2>"$work/err"
) || code=$?
[ "$code" -eq 1 ]
check $? 'a full disk ends with 1'
tells 'model.safetensors'
same "$work/a/model.safetensors" "$work/b/model.safetensors" 'a full disk leaves the checkpoint that was there'
[ "$(files "$work/b")" = 'config.json model.safetensors ' ]
check $? 'and nothing else'

pretrain 1 "$work/e" --text "$work/absent"
tells 'absent: No such file'
pretrain 1 "$work/e" --text "$work"
tells 'a folder, not a file'
printf 'a\0b\n' >"$work/binary"
pretrain 1 "$work/e" --text "$work/binary"
tells 'byte 2 is zero'
printf '\n\r\n\n' >"$work/blank"
pretrain 1 "$work/e" --text "$work/blank"
tells 'no text'
pretrain 1 "$work/e" --tokenizer "$work/absent.bin"
tells 'absent.bin'
head -c 99 "$work/tok.bin" >"$work/short.bin"
pretrain 1 "$work/e" --tokenizer "$work/short.bin"
tells 'short.bin'
pretrain 1 "$work/text"
tells 'text: Not a directory'
pretrain 1 "$work/absent/folder"
tells 'absent/folder'
[ ! -e "$work/e" ]
check $? 'what is refused makes no folder'
pretrain 2 "$work/e" --heads 3
tells '16 is not an even multiple of 3'
pretrain 1 "$work/e" --heads 4 --kv-heads 3
tells '4 heads cannot share 3 kv heads'
pretrain 1 "$work/e" --lr 1000 --steps 400
tells 'diverged at step'
[ ! -e "$work/e/model.safetensors" ]
check $? 'a model that diverged is not written'
finish
