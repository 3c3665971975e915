#!/usr/bin/env python3
"""Writes cases.json beside this script: tokenizers (two sets of pieces, and what each kind changes of the file), texts, and
the ids that the package tokenizers gives (0.23 wrote the committed file). tests/unit/test_cli_tokenizer_json.c compares."""

import json
import pathlib

from variants import NASTY, over_bytes, over_characters, random_texts, variants

TRAINED_ON = NASTY + ["the cat saw the other cat", "the dog saw a cat and another dog", "what is that word?"] * 3


def main():
    bases = {"bytes": over_bytes(TRAINED_ON, 340), "characters": over_characters(TRAINED_ON, 420)}
    wholes = {name: json.loads(base.to_str()) for name, base in bases.items()}
    texts = NASTY + random_texts(12)
    kinds = []
    for name, tokenizer in variants(bases["bytes"], bases["characters"]):
        whole = json.loads(tokenizer.to_str())
        base = "characters" if "▁" in whole["model"]["vocab"] else "bytes"
        changes = {key: value for key, value in whole.items() if key != "model" and value != wholes[base][key]}
        model = {key: value for key, value in whole["model"].items() if value != wholes[base]["model"].get(key)}
        ids = [tokenizer.encode(text).ids for text in texts]
        kinds.append({"name": name, "base": base, "changes": changes, "model": model, "ids": ids})
    out = pathlib.Path(__file__).with_name("cases.json")
    whole = {"texts": texts, "bases": wholes, "kinds": kinds}
    out.write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
