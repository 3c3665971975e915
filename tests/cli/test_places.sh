#!/bin/bash
# Where results cannot be written, that is told before the work: each option that names a place, with each place that
# does not do, and a model, log or text that is not there, which a command that begins its work would complain of. And
# places that do: there the work begins.
. "$(dirname "$0")/lib/tap.sh"
tests=$(cd "$(dirname "$0")" && pwd)
SALF=$(realpath "$SALF")
DEMO=${SALF_DEMO_PROGRAM:-$SALF-demo}
chmod 755 "$work"
cd "$work" || exit 1
none=/nonexistent/none
: >journal && chmod 666 journal # a log that anybody may write

# ---- as somebody whose rights count, in a system of files of their own: each way where it is allowed
if [ "$(id -u)" -ne 0 ]; then as_other=; else as_other='setpriv --reuid=65534 --regid=65534 --clear-groups'; fi
$as_other "$SALF" --version >out 2>&1 || { echo 'skip - rights: nobody else may run the program'; as_other=none; }
mounted() { # mounted OPTIONS PLACE COMMAND...: with something mounted
    unshare -rm sh -c 'mount $1 "$2" && shift 2 && exec "$@"' sh "$@"
}
mkdir mounted
mounted '-t tmpfs none' mounted true 2>err || { echo 'skip - mounts: not allowed here'; no_mounts=1; }

# tries WORDS PLACE-OF-FILE PLACE-OF-FOLDER [BEFORE...]: all options; "" has no such place. WORDS "": the place does.
tries() {
    words=$1 file=$2 folder=$3
    shift 3
    case $file in '') ;; *)
        try_one '--output' "$file" "$@" "$SALF" basis --model $none --tokens 1 --output "$file"
        try_one '--output' "$file" "$@" "$SALF" report $none --output "$file"
        try_one '--log' "$file" "$@" "$SALF" finetune --model $none --data $none --json --log "$file"
        try_one '--log' "$file" "$@" "$SALF" advise --model $none --data $none --json --log "$file"
        try_one '--report' "$file" "$@" "$SALF" advise --model $none --data $none --log journal --report "$file"
        try_one '--output' "$file" "$@" "$DEMO" tokenizer --output "$file" $none ;;
    esac
    case $folder in '') ;; *)
        try_one '--output' "$folder" "$@" "$SALF" finetune --model $none --data $none --output "$folder"
        try_one '--checkpoint' "$folder" "$@" "$SALF" finetune --model $none --data $none --checkpoint "$folder"
        try_one '--output' "$folder" "$@" "$DEMO" pretrain --text $none --tokenizer $none --output "$folder" ;;
    esac
}
try_one() {
    option=$1 place=$2
    shift 2
    "$@" >out 2>err </dev/null
    code=$?
    if [ -z "$words" ]; then
        [ $code -eq 1 ] && ! grep -q 'cannot write' err && grep -q none err
        check $? "$option $place is a place: $*"
    else
        [ $code -eq 1 ] && grep -qF -- "$option: cannot write $place: $words" err && [ "$(wc -l <err)" -eq 1 ] && [ ! -s out ]
        check $? "$option $place: $words: $*"
    fi
    [ $passed -eq "${before:-0}" ] && sed 's/^/# /' err
    before=$passed
}

# ---- places that do not do
mkdir folder && echo old >old && ln -s circle circle && ln -s nowhere/x dangling && ln -s absent loose
long=$(printf '%0300d' 0)
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
tries 'No such file or directory' nowhere/x nowhere/x/y
tries 'No such file or directory' dangling ''
tries 'No such file or directory' '' loose
tries 'Not a directory' old/x old
tries 'Too many levels of symbolic links' circle circle
tries 'File name too long' "$long" "$long"
tries 'a folder, not a file' folder ''
tries 'a socket, not a file' socket ''
tries 'Not a directory' '' socket
if [ "$(id -u)" -eq 0 ] && mknod disk b 7 200 2>err; then tries 'a block device' disk ''; fi
if [ "$as_other" != none ]; then
    mkdir closed sticky && echo old >closed/old && echo old >sticky/old && chmod 444 closed/old && chmod 666 sticky/old
    mkfifo closed/pipe && chmod 444 closed/pipe
    chmod 555 closed && chmod 1777 sticky
    tries 'Permission denied' closed/new closed/new $as_other
    tries 'Permission denied' closed/old closed $as_other
    tries 'Permission denied' closed/pipe '' $as_other
    if [ "$(id -u)" -eq 0 ]; then # a log is written where it stands, and may be
        words='Operation not permitted'
        try_one '--output' sticky/old $as_other "$SALF" report $none --output sticky/old
    fi
    chmod 755 closed
fi
touch fixed growing
if chattr +i fixed 2>err; then
    mkdir unchanged && chattr +i unchanged && chattr +a growing
    tries 'Operation not permitted' fixed ''
    tries 'Operation not permitted' unchanged/x unchanged
    tries 'Operation not permitted' growing ''
    chattr -i fixed unchanged && chattr -a growing
else
    echo 'skip - files that may not be changed: not here'
fi
if [ -z "$no_mounts" ]; then
    readonly() { mounted '-t tmpfs -o ro none' mounted "$@"; }
    tries 'Read-only file system' mounted/x mounted readonly
    onto() { mounted "--bind old" fixed "$@"; } # as containers give a file of the host
    words='Device or resource busy'
    try_one '--output' fixed onto "$SALF" report $none --output fixed
fi
words='Bad file descriptor'
for option in /dev/stdout -; do try_one '--output' $option sh -c 'exec "$@" >&-' sh "$SALF" basis --model $none --tokens 1 --output $option; done
[ "$(cat old)" = old ] && [ "$(find . -newer old -type f ! -name out ! -name err | sort | tr '\n' ' ')" = "${as_other:+./closed/old }./fixed ./growing ${as_other:+./sticky/old }" ]
check $? 'nothing was made or changed'

# ---- places that do
ln -s folder/later leads && mkfifo pipe && ln -s "$work/folder" a_folder
tries '' begun new # begun by advise, whose log is nobody else's from here on
tries '' leads a_folder
exec 8<>pipe # advise opens its log at once, and waits for who reads it
tries '' pipe ''
exec 8>&-
tries '' /dev/null folder/
rm begun folder/later
tries '' - new/
tries '' /dev/stdout ''
cp "$SALF" program && (LD_LIBRARY_PATH=$(dirname "$SALF")/../lib exec ./program tokens --tokenizer "$tests/../../examples/demo/tokenizer.bin" <pipe >out2) &
exec 9>pipe # the program runs until this is closed
words=
try_one '--output' program "$SALF" report $none --output program
exec 9>&-
wait
try_one '--log' new/log "$SALF" finetune --model $none --data $none --checkpoint new --log new/log
[ -z "$(find . -name new -o -name begun -o -name later)" ]
check $? 'nothing was made'

# ---- what else would be found out at the end only
"$SALF" advise --model $none --data $none --log old >out 2>err
[ $? -eq 1 ] && grep -q 'old: holds something already' err && [ "$(cat old)" = old ]
check $? 'advise keeps a log that is there, before the pilot'
"$SALF" finetune --model $none --data $none --log old >out 2>err
[ $? -eq 1 ] && grep -q 'old: holds something already' err && [ "$(cat old)" = old ]
check $? 'finetune keeps a log that is there, before the model is opened'
"$SALF" advise --model $none --data $none --log fresh --report fresh >out 2>err
[ $? -eq 2 ] && grep -q 'take the place of the log' err
check $? 'advise: a report in the place of its log'
demo=$tests/../../examples/demo
tune="finetune --model $demo/model --tokenizer $demo/tokenizer.bin --data $demo/data --limit-train 8 --limit-test 4 -q"
mkdir -p many/lora-half/config.json many/lora-full
"$SALF" $tune --method 'lora[full],lora[half]' --output many --log many.log >out 2>err
[ $? -eq 1 ] && grep -q 'many/lora-half/config.json: a folder, not a file' err && ! grep -q '"step"' many.log
check $? 'the folder of the second method is tried before the first is trained'

# ---- what somebody removes in the middle of a run: a log or a checkpoint that nobody would have is told, and a folder
# of models made again
gone() { # gone CODE PLACE WORDS
    rm -rf log ck made away
    "$SALF" $tune --method 'lora[half]' --limit-train 400 --batch 1 --log log --checkpoint ck --checkpoint-every 5 \
        --output made >out 2>err </dev/null &
    until [ "$(cat log 2>/dev/null | grep -c '"step":[0-9]')" -gt 8 ] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
    mv "$2" away && rm -rf away # at once, whatever is being written in it
    wait $!
    [ $? -eq "$1" ] && grep -qE -- "$3" err out && { [ "$1" -eq 1 ] || [ -s made/model.safetensors ]; }
    check $? "$2 is removed in the middle of a run: $3"
}
gone 1 log '--log: log: No such file or directory; once that is mended'
gone 1 ck '--checkpoint: (cannot |ck is not the folder that was opened)' # in the middle of a save, or between two
gone 0 made ''

# ---- streams that are closed take up no number that a file would get
for closed in '>&-' '2>&-' '<&-' '>&- 2>&- <&-'; do
    rm -rf log made
    sh -c "exec \"\$@\" $closed" sh "$SALF" $tune --method 'lora[half]' --log log --output made >out 2>err
    [ "$(grep -vc '^{' log)" -eq 0 ] && [ "$(tail -n 1 log | cut -c 1-17)" = '{"event":"result"' ] &&
        "$SALF" doctor made >out 2>err
    check $? "log and model are whole with $closed"
done
finish
