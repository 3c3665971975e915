#!/bin/sh
# salf report from a log written here: every part is in the page, hostile names are escaped, a cut line is left out.
. "$(dirname "$0")/lib/tap.sh"

cat >"$work/log" <<'END'
{"event":"run","model":"m<b>","data":"d","layers":2,"train":4,"test":2,"seed":42}
{"event":"deviations","method":"salf[half]","when":"before","metric":"cosine","rows":[[1,0.9,0.8],[1.1,null,0.7],[1,0.8,0.6]]}
{"event":"step","method":"salf[half]","step":0,"data":2,"loss":2.5}
{"event":"step","method":"salf[half]","step":1,"data":4,"loss":1.5}
{"event":"deviations","method":"salf[half]","when":"after","metric":"cosine","rows":[[1,0.5,0.2],[1.1,0.6,0.1]]}
{"event":"plan","method":"salf[half]","counts":[2,2],"matched":[1,2],"filled":[1,0],"saving":0.25}
{"event":"eof","method":"salf[half]","counts":[1,3]}
{"event":"result","method":"salf[half]","f1":0.75,"accuracy":0.5,"saving":0.25,"backward_s":1.5}
{"event":"result","method":"cut sho
END
printf '{"event":"result","method":"cut' >"$work/tail"
sed '$d' "$work/log" >"$work/log.jsonl"
cat "$work/tail" >>"$work/log.jsonl"
run 0 report "$work/log.jsonl" -o "$work/r.html"
for text in '<td>salf[half]</td><td class="share" style="--w:100.0%">0.750</td>' 'm&lt;b&gt;' 'Training loss' \
    'cosine deviation' '<h2>Plans</h2>' '<h2>End-of-freezing layers</h2>' '<td>25.0 %</td>' '>1.50</td>'; do
    grep -qF -- "$text" "$work/r.html"
    check $? "page has $text"
done
# Tags that need an end have one; a chart for each of: loss, points, deviations, plan, end of freezing.
for tag in svg figure div table p h2 span; do
    [ "$(grep -o "<$tag[ >]" "$work/r.html" | wc -l)" -eq "$(grep -o "</$tag>" "$work/r.html" | wc -l)" ]
    check $? "every $tag is closed"
done
[ "$(grep -o '<svg ' "$work/r.html" | wc -l)" -eq 5 ]
check $? 'page has five charts'
! grep -q 'lora\[full\]' "$work/r.html"
check $? 'no column compares with a method that is not there'
! grep -qiE 'nan|inf[^o]|<script|http' "$work/r.html"
check $? 'page has no bad numbers, scripts or links'
cat >"$work/small.jsonl" <<'END'
{"event":"result","method":"lora[full]","f1":0.5,"probe_s":0,"backward_s":2}
{"event":"result","method":"other","f1":null,"backward_s":1}
END
run 0 report "$work/small.jsonl" -o "$work/small.html"
grep -qF '<td>1.00</td>' "$work/small.html" && grep -qF '<td>0.50</td>' "$work/small.html"
check $? 'backward times are compared with lora[full]'
! grep -qE '<h2>(Deviation|Plans|End)' "$work/small.html"
check $? 'sections without content are left out'
printf '{"event":\n' >"$work/bad.jsonl"
run 1 report "$work/bad.jsonl" -o "$work/none.html"
tells 'bad.jsonl:1:'
[ ! -e "$work/none.html" ]
check $? 'nothing is written after an error'
run 1 report "$work/log.jsonl" -o /nonexistent/r.html
tells '/nonexistent/r.html'
finish
