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
for text in '<td>salf[half]</td><td>0.750</td>' 'm&lt;b&gt;' 'Training loss' 'cosine deviation' 'plan, data per' \
    'end-of-freezing' '<td>25.0 %</td>'; do
    grep -qF -- "$text" "$work/r.html"
    check $? "page has $text"
done
! grep -qiE 'nan|inf[^o]|<script|http' "$work/r.html"
check $? 'page has no bad numbers, scripts or links'
printf '{"event":\n' >"$work/bad.jsonl"
run 1 report "$work/bad.jsonl" -o "$work/none.html"
tells 'bad.jsonl:1:'
[ ! -e "$work/none.html" ]
check $? 'nothing is written after an error'
run 1 report "$work/log.jsonl" -o /nonexistent/r.html
tells '/nonexistent/r.html'
finish
