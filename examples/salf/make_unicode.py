#!/usr/bin/env python3
"""Writes tokenizer_categories.h and tokenizer_normal.h: what the tokenizer must know of Unicode. Needs the package unicodedata2, whose version is
that of the standard; 16.0.0 is the one of the regular expressions of the package tokenizers 0.23.

    pip install unicodedata2==16.0.0
    python3 make_unicode.py
"""

import pathlib

import unicodedata2 as ucd

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn".split()
HANGUL = range(0xAC00, 0xAC00 + 11172)  # composed by a formula


def runs(value):
    """(first code, value) of each run of codes of the same value."""
    last = None
    for code in range(0x110000):
        if value(chr(code)) != last:
            last = value(chr(code))
            yield code, last


def lines(words):
    line = "   "
    for word in words:
        if len(line) + len(word) > 118:
            yield line
            line = "   "
        line += f" {word},"
    yield line


def table(comment, head, words):
    return [f"/* {comment} */", f"{head} = {{", *lines(words), "};", ""]


def write(name, holds, *tables):
    opening = f"/* {name} - {holds}, of Unicode {ucd.unidata_version}. Made by\n * make_unicode.py, which you change instead. */"
    text = [opening, "/* clang-format off */", "#include <stdint.h>", "", *(line for lines in tables for line in lines)]
    pathlib.Path(__file__).with_name(name).write_text("\n".join(text))


def decompositions():
    """(code, first, second or 0) of every canonical decomposition by one step."""
    for code in range(0x110000):
        text = ucd.decomposition(chr(code))
        if text and not text.startswith("<") and code not in HANGUL:
            parts = [int(part, 16) for part in text.split()]
            yield code, parts[0], parts[1] if len(parts) > 1 else 0


def main():
    write(
        "tokenizer_categories.h", "general categories of characters",
        table("Their names, by number.", "static const char *const category_names[]", [f'"{name}"' for name in CATEGORIES]),
        table("Where a run of characters of one category begins, times 32, plus the category.", "static const uint32_t category_runs[]",
              [hex(code << 5 | CATEGORIES.index(name)) for code, name in runs(ucd.category)]),
    )  # fmt: skip
    pairs = list(decompositions())
    write(
        "tokenizer_normal.h", "what composing and decomposing characters takes",
        table("Where a run of characters of one combining class begins, times 256, plus the class.", "static const uint32_t class_runs[]",
              [hex(code << 8 | number) for code, number in runs(ucd.combining)]),
        table("Characters that stand for others, ascending, times 2, plus 1 where composing does not lead back to them.", "static const uint32_t decomposed[]",
              [hex(code << 1 | (ucd.normalize("NFC", chr(code)) != chr(code))) for code, _, _ in pairs]),
        table("For each of them what it stands for: first, second or 0.", "static const uint32_t decomposed_parts[]",
              [f"{hex(a)}, {hex(b)}" for _, a, b in pairs]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
