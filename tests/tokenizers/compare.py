#!/usr/bin/env python3
"""compare.py [--all] SALF FOLDER [TOKENIZER.json...]: the program's ids of many texts against those of the package tokenizers, for
tokenizers of every kind that are trained here on the data sets in FOLDER, and for those named. A line for each, in the form
that tests/run.sh counts. Without --all, a tenth of the texts of the data sets."""

import pathlib
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer
from variants import NASTY, over_bytes, over_characters, random_texts, variants


def characters():
    """All of the lower planes, some at a time, with letters in between."""
    codes = [code for code in range(1, 0x11000) if not 0xD800 <= code < 0xE000]
    return ["x".join(map(chr, codes[i : i + 11])) for i in range(0, len(codes), 11)]


def main():
    everything = sys.argv[1] == "--all"
    salf, folder, *named = sys.argv[1 + everything :]
    lines = [line for path in sorted(pathlib.Path(folder).glob("*/*.tsv")) for line in path.read_text("utf-8", "replace").split("\n")]
    texts = NASTY + random_texts(2000) + characters() + lines[:: 1 if everything else 10]
    records = b"".join(text.encode() + b"\0" for text in texts)
    bases = over_bytes(NASTY + lines[:20000], 2500), over_characters(NASTY + lines[:20000], 2500)
    cases = [(path, Tokenizer.from_file(path)) for path in named] + list(variants(*bases))
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        for name, tokenizer in cases:
            path = pathlib.Path(work) / "tokenizer.json"
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.save(str(path))
            run = subprocess.run([salf, "tokens", "--tokenizer", path, "-0"], input=records, capture_output=True, check=False)
            found = run.stdout.decode().split("\n")[:-1]
            wrong = [
                (text, ids)
                for text, ids, expected in zip(texts, found, tokenizer.encode_batch(texts))
                if ids != ",".join(map(str, expected.ids))
            ]
            good = run.returncode == 0 and len(found) == len(texts) and not wrong
            failed += not good
            print(f"{'ok' if good else 'not ok'} - {name}: ids of {len(texts)} texts")
            for text, ids in wrong[:5]:
                print(f"    {text[:80]!r}: {ids[:80]}, {tokenizer.encode(text).tokens[:20]}")
            if run.returncode:
                print(f"    {run.stderr.decode()}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
