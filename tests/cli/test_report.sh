#!/bin/sh
# salf report from a log written here: every part is in the page, hostile names are escaped, a cut line is left out.
. "$(dirname "$0")/lib/tap.sh"

cat >"$work/log" <<'END'
{"event":"run","model":"m<b>","data":"d","layers":2,"train":4,"test":2,"seed":42,"labels":["yes <i>","no"]}
{"event":"untrained","f1":0.25,"accuracy":0.5}
{"event":"deviations","method":"salf[half]","when":"before","metric":"cosine","rows":[[1,0.9,0.8],[1.1,null,0.6],[1,0.8,0.7]]}
{"event":"step","method":"salf[half]","step":0,"data":2,"loss":2.5}
{"event":"step","method":"salf[half]","step":1,"data":4,"loss":1.5}
{"event":"deviations","method":"salf[half]","when":"after","metric":"cosine","rows":[[1,0.5,0.2],[1.1,0.6,0.1]]}
{"event":"plan","method":"salf[half]","counts":[2,2],"matched":[1,2],"filled":[1,0],"saving":0.25}
{"event":"eof","method":"salf[half]","counts":[1,3]}
{"event":"signal","method":"salf[half]","rows":4,"most_frequent":1,"most_frequent_share":0.75,"label_share":0.5}
{"event":"result","method":"salf[half]","f1":0.75,"accuracy":0.5,"saving":0.25,"backward_s":1.5,"cpu_s":3,"memory":2097152,"confusion":[[1,0,0],[1,0,0]]}
{"event":"result","method":"cut sho
END
printf '{"event":"result","method":"cut' >"$work/tail"
sed '$d' "$work/log" >"$work/log.jsonl"
cat "$work/tail" >>"$work/log.jsonl"
run 0 report "$work/log.jsonl" -o "$work/r.html"
for text in '<td>salf[half]</td><td class="share" style="--w:100.0%">0.750</td>' 'm&lt;b&gt;' 'Training loss' \
    'cosine deviation' '<h2>Plans</h2>' '<h2>End-of-freezing layers</h2>' '25.0 %</td>' '>1.50</td>' '<h2>Which class' 'yes &lt;i&gt;' 'untrained</td>' '(n = 3)' \
    'Medians before, by space: 1 0.85 0.7.' '3 of 4 data (75 %) were matched' 'salf[half]: from 2.5 to 1.5.' '<title>Fine-tuning of m&lt;b&gt; on d</title>' \
    '75.0 % of the data probed have the most frequent layer; the class explains 50.0 %' '@media print' '@media(max-width:700px)'; do
    grep -qF -- "$text" "$work/r.html"
    check $? "page has $text"
done
# Tags that need an end have one; a chart for each of: loss, points, deviations, plan, end of freezing.
for tag in svg figure div table p h2 span; do
    [ "$(grep -o "<$tag[ >]" "$work/r.html" | wc -l)" -eq "$(grep -o "</$tag>" "$work/r.html" | wc -l)" ]
    check $? "every $tag is closed"
done
[ "$(grep -o '<svg viewBox' "$work/r.html" | wc -l)" -eq 6 ]
check $? 'page has six charts'
! grep -q 'lora\[full\]' "$work/r.html"
check $? 'no column compares with a method that is not there'
! grep -qiE 'nan|inf[^o]|<script|http' "$work/r.html"
check $? 'page has no bad numbers, scripts or links'
cat >"$work/small.jsonl" <<'END'
{"event":"result","method":"lora[full]","f1":0.5,"probe_s":0,"cpu_s":2}
{"event":"result","method":"other","f1":null,"cpu_s":1}
END
run 0 report "$work/small.jsonl" -o "$work/small.html"
grep -qF '<td>1.00</td>' "$work/small.html" && grep -qF '<td>0.50</td>' "$work/small.html"
check $? 'times are compared with lora[full]'
# Seed by seed, as the table of finetune has it: (1/2 + 9/10) / 2, where the quotient of the sums is 10/12. Figures that are
# equal have no deviation, though a third of .102 three times is more than .102.
for seed in 1 2 3; do
    echo '{"event":"result","method":"lora[full]","seed":'$seed',"f1":0.102,"cpu_s":'$((seed < 3 ? 8 * seed - 6 : 2))'}'
    [ $seed = 3 ] || echo '{"event":"result","method":"other","seed":'$seed',"f1":0.5,"cpu_s":'$((8 * seed - 7))'}'
done >"$work/seeds.jsonl"
run 0 report "$work/seeds.jsonl" -o "$work/seeds.html"
grep -qF '<td>0.70</td>' "$work/seeds.html"
check $? 'times are compared seed by seed'
grep -qF '>0.102</td>' "$work/seeds.html"
check $? 'equal figures have no deviation'
! grep -qE '<h2>(Deviation|Plans|End)' "$work/small.html"
check $? 'sections without content are left out'
printf '{"event":\n' >"$work/bad.jsonl"
run 1 report "$work/bad.jsonl" -o "$work/none.html"
tells 'bad.jsonl:1:'
[ ! -e "$work/none.html" ]
check $? 'nothing is written after an error'
run 1 report "$work/log.jsonl" -o /nonexistent/r.html
tells 'cannot write /nonexistent/r.html: No such file'

# Several logs: a row for each run, named by its file; settings that differ stand out.
sed 's/"seed":42/"seed":7/; s/"f1":0.75/"f1":0.5/' "$work/log.jsonl" >"$work/other.jsonl"
run 0 report "$work/log.jsonl" "$work/other.jsonl" -o "$work/two.html"
for text in "salf[half] ($work/log.jsonl)</td>" "salf[half] ($work/other.jsonl)</td>" 'class="differs"><td>seed (differs)' '>0.500</td>' \
    '>0.750</td>'; do
    grep -qF -- "$text" "$work/two.html"
    check $? "page of two logs has $text"
done
[ "$(grep -c 'class="differs"' "$work/two.html")" -eq 1 ]
check $? 'what is the same does not stand out'
{ cat "$work/small.jsonl"; sed "\$d" "$work/log"; } >"$work/joined.jsonl"
run 0 report "$work/log.jsonl" "$work/joined.jsonl" -o "$work/joined.html"
grep -qF "salf[half] ($work/joined.jsonl#2)" "$work/joined.html"
check $? 'a second run in a log is a part of its own'
run 2 report "$work/log.jsonl" "$work/small.jsonl" "$work/log.jsonl"
tells 'log.jsonl is given twice'
printf '{"event":"run"}\n' >"$work/empty.jsonl"
run 1 report "$work/log.jsonl" "$work/empty.jsonl" -o "$work/none.html"
tells 'empty.jsonl: no method in the log'

# Several seeds of a method are one row.
for seed in 1 2 3; do
    echo "{\"event\":\"result\",\"method\":\"lora[half]\",\"seed\":$seed,\"f1\":0.$((seed + 3)),\"cpu_s\":$seed,\"memory\":1000000}"
done >"$work/seeds.jsonl"
run 0 report "$work/seeds.jsonl" -o "$work/seeds.html"
grep -qF 'lora[half], 3 seeds</td>' "$work/seeds.html" && grep -qF '>0.500&nbsp;&plusmn;0.100</td>' "$work/seeds.html"
check $? 'seeds are one row, with mean and deviation'

# Names of points stand on the side that has room: here left of two, right of two.
for i in 1 2 3 4; do echo "{\"event\":\"result\",\"method\":\"m$i\",\"f1\":0.$i,\"cpu_s\":$i}"; done >"$work/sides.jsonl"
run 0 report "$work/sides.jsonl" -o "$work/sides.html"
sides=$(grep -o 'class="name"[^>]*>m[1-4]<' "$work/sides.html" | sed 's/.*anchor="\([a-z]*\)">\(m.\)</\2 \1/' | sort -u | tr '\n' ,)
[ "$sides" = 'm1 start,m2 start,m3 end,m4 end,' ]
check $? 'names stand on the side that has room'

# No log makes a page without end: losses that hardly differ, numbers beyond all axes, lists of any length.
endless() { # name; the log is on standard input
    cat >"$work/$1.jsonl"
    (ulimit -t 20; ulimit -f 20000; "$SALF" report "$work/$1.jsonl" -o "$work/$1.html")
    check $? "a log with $1 has an end"
    ! grep -qiE '[^a-z]nan[^a-z]|[^a-z]inf[^a-z]' "$work/$1.html"
    check $? "a page of $1 has no bad numbers"
}
losses() { # loss of each of 250 steps, data of each
    for i in $(seq 1 250); do
        echo "{\"event\":\"step\",\"method\":\"lora[full]\",\"step\":$i,\"data\":$(($2 * i)),\"loss\":$1}"
    done
}
losses 0.1 16 | endless 'constant losses of .1'
losses 0.7 16 | endless 'constant losses of .7'
losses 1.9459101490553132 16 | endless 'constant losses of log 7'
losses 1e17 16 | endless 'constant losses of 1e17'
losses -1e99 16 | endless 'constant losses of -1e99'
losses 1e308 16 | endless 'losses of 1e308'
losses 0.1 0 | endless 'no progress'
printf '{"event":"step","method":"a","data":%s,"loss":%s}\n' 1 100000000000000000 2 100000000000000016 | endless 'losses one bit apart'
printf '{"event":"step","method":"a","data":%s,"loss":1}\n' 100000000000000000 100000000000000016 | endless 'data one bit apart'
{
    printf '{"event":"eof","method":"a","counts":[0'
    yes ',1' | head -n 1000000 | tr -d '\n'
    printf ']}\n'
} | endless 'a million layers'
echo '{"event":"deviations","method":"a","when":"before","rows":[[1e308,1e308],[-1e308,1]]}' | endless 'deviations of 1e308'
echo '{"event":"result","method":"a","f1":1e300,"cpu_s":1e300,"confusion":[[1e300,"x"],[null,-1]]}' | endless 'figures of 1e300'

# What is written to stays what it is: a pipe, a link, the access rights of a file.
mkfifo "$work/pipe"
cat "$work/pipe" >"$work/from-pipe" &
run 0 report "$work/log.jsonl" -o "$work/pipe"
wait
[ -p "$work/pipe" ] && cmp "$work/from-pipe" "$work/r.html"
check $? 'a pipe is written to'
: >"$work/target" && chmod 600 "$work/target" && ln -s target "$work/link"
run 0 report "$work/log.jsonl" -o "$work/link"
[ -L "$work/link" ] && cmp "$work/target" "$work/r.html" && [ "$(stat -c %a "$work/target")" = 600 ]
check $? 'a link is followed, and access rights stay'
[ -z "$(find "$work" -name '*.tmp*')" ]
check $? 'no temporary file is left'

# Colours of lines and areas have a contrast of 3 with the page, texts 4.5, in each of the three themes.
python3 - "$work/r.html" <<'PYTHON'
import re, sys
def light(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)] if len(colour) == 7 else [int(c, 16) / 15 for c in colour[1:]]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
def contrast(a, b):
    a, b = sorted((light(a), light(b)))
    return (b + 0.05) / (a + 0.05)
themes = re.findall(r":root\{(color-scheme[^}]*|--[^}]*)\}", open(sys.argv[1]).read())
assert len(themes) == 3, themes
first = {}
for theme in themes:
    colours = dict(first, **dict(re.findall(r"--(\w+):(#\w+)", theme)))
    first = first or colours
    for name in ["plain"] + ["c%d" % i for i in range(8)]:
        assert contrast(colours[name], colours["bg"]) >= 3, (name, colours[name], contrast(colours[name], colours["bg"]))
    for name in ("fg", "soft"):
        assert contrast(colours[name], colours["bg"]) >= 4.5, name
        assert contrast(colours["fg"], colours["tint"]) >= 4.5
PYTHON
check $? 'colours have enough contrast'
finish
