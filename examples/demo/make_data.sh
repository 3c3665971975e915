#!/bin/sh
# Writes everything of the demonstration but the model: the text to pretrain on (into $2, not committed), the tokenizer
# and the classification data. Usage: examples/demo/make_data.sh SALF-DEMO-PROGRAM CORPUS-FILE, from the repository
# root.
set -eu
tools=$1
corpus=$2
demo=$(dirname "$0")
mkdir -p "$demo/data"
"$tools" corpus --lines 40000 --seed 42 >"$corpus"
"$tools" tokenizer --size 1024 -o "$demo/tokenizer.bin" "$corpus"
# No text twice, so none of the test's is in the training set.
"$tools" corpus --examples --lines 4000 --seed 7 | awk '!seen[$0]++' >"$corpus.examples"
sed -n '1,1200p' "$corpus.examples" >"$demo/data/train.tsv"
sed -n '1201,1600p' "$corpus.examples" >"$demo/data/test.tsv"
rm -f "$corpus.examples"
printf '%s\n' animals weather food sports travel music >"$demo/data/labels.txt"
# The words say nothing of their topics: the model has to learn them, and names no topic before it is trained.
printf '%s\t%s\n' animals red weather blue food green sports cold travel old music small >"$demo/data/words.txt"
printf '{text} It is about\n' >"$demo/data/template.txt"
