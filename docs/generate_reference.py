#!/usr/bin/env python3
"""Makes the API reference from the comments of salf.h, and says what they leave out.

    generate_reference.py [--check] HEADER FOLDER

writes FOLDER/reference.md and FOLDER/reference.html. With --check, one line "ok" or "not ok" is printed for each
section of the header, and the exit status is 1 when anything public has no comment that covers it.

The header is read as it is laid out: sections begin with a ruled comment "---- N. Title ----"; a block is what stands
between empty lines. A comment covers what follows it up to the end of its block, so a create function's comment also
covers a destroy function right below it. A struct or enum is also covered by comments on its fields.
"""

import html
import os
import re
import sys

RULE = re.compile(r"^/\* -{3,} (.*?) -+ \*/$")
START = 'extern "C"'


class Item:
    """One declaration: its kind (function, struct, enum, type, macro), names, source text, and the comment over it."""

    def __init__(self, kind, names, source, comment):
        self.kind, self.names, self.source, self.comment = kind, names, source, comment


def plain(comment):
    """The text of a comment without its marks, in one line a paragraph."""
    text = re.sub(r"^/\*+|\*+/$", "", comment.strip())
    lines = [re.sub(r"^\s*\*( |$)", "", line).strip() for line in text.strip().split("\n")]
    paragraphs = "\n".join(lines).split("\n\n")
    joined = (re.sub(r"\n(?!- )", " ", paragraph).strip() for paragraph in paragraphs)
    return "\n\n".join(paragraph for paragraph in joined if paragraph)


def classify(source):
    """(kind, names) of one declaration."""
    bare = re.sub(r"/\*.*?\*/", "", source, flags=re.S)
    if bare.startswith("#define"):
        return "macro", [re.match(r"#define (\w+)", bare).group(1)]
    if bare.startswith("enum"):
        return "enum", [name for name in re.findall(r"\b(SALF_\w+)\b(?=\s*[=,}])", bare)]
    if bare.startswith("typedef struct") and "{" in bare:
        return "struct", [re.search(r"\}\s*(\w+)\s*;", bare).group(1)]
    if bare.startswith("SALF_API"):
        return "function", [re.search(r"\b(\w+)\s*\(", bare).group(1)]
    if bare.startswith("typedef"):
        found = re.search(r"\(\*(\w+)\)", bare) or re.search(r"(\w+)\s*;", bare)
        return "type", [found.group(1)]
    return None, []


def take(lines, start):
    """The lines of the comment, macro or declaration that begins at line start, and where the next one may begin."""
    end = start
    if lines[start].startswith("/*"):
        while "*/" not in lines[end]:
            end += 1
    elif lines[start].startswith("#"):
        while lines[end].endswith("\\"):
            end += 1
    else:
        depth = 0
        while True:
            bare = re.sub(r"/\*.*?(\*/|$)|^.*\*/", "", lines[end])
            depth += bare.count("{") - bare.count("}")
            if depth == 0 and bare.rstrip().endswith(("}", ";")):
                break
            end += 1
    return "\n".join(lines[start : end + 1]), end + 1


def read(path):
    """The opening comment, and the sections [(title, [Item])] of a header."""
    with open(path, encoding="utf-8") as header:
        lines = header.read().split("\n")
    opening, _ = take(lines, 0)
    i = next(n for n, line in enumerate(lines) if START in line)
    sections, comment = [], ""
    while i < len(lines):
        line = lines[i]
        rule = RULE.match(line)
        if rule:
            sections.append((rule.group(1), []))
            comment, i = "", i + 1
        elif not line.strip():
            comment, i = "", i + 1
        elif not sections or line.startswith(("#if", "#endif", "}")):
            i += 1
        else:
            source, i = take(lines, i)
            if source.startswith("/*"):
                comment = plain(source)
                continue
            kind, names = classify(source)
            if kind and not names[0].endswith("_"):
                sections[-1][1].append(Item(kind, names, source, comment))
    return plain(opening), [section for section in sections if section[1]]


def described_within(item):
    """Whether comments inside a struct or enum describe it: at least one beside its fields."""
    return item.kind in ("struct", "enum") and "/*" in item.source


def uncovered(section):
    """Names of a section that no comment covers. The name of a handle may stand alone: its functions say what it is."""
    _, items = section
    return [
        item.names[0]
        for item in items
        if not item.comment and not described_within(item) and not re.match(r"typedef struct \w+ \w+;", item.source)
    ]


def count_functions(path):
    """How often the header marks something as public, found independently of read()."""
    with open(path, encoding="utf-8") as header:
        return len(re.findall(r"^SALF_API ", header.read(), re.M))


def statuses(source):
    """The rows (name, value, text) of a list of statuses, X(NAME, value, "text"); of another macro none."""
    return re.findall(r'X\((\w+), (-?\d+), "(.*?)"\)', source)


def with_lists(text):
    """Markdown wants an empty line before a list."""
    return re.sub(r"(?m)^(?!- )(.+)\n(?=- )", r"\1\n\n", text)


def markdown(opening, sections):
    """The reference as Markdown: per section, blocks of declarations under the comment they share."""
    out = ["# API reference", "", "Made from the comments of `salf.h`.", "", with_lists(opening), ""]
    for title, items in sections:
        out += [f"## {title}", ""]
        last = None
        for item in items:
            if item.comment and item.comment != last:
                out += [with_lists(item.comment), ""]
            last = item.comment
            if statuses(item.source):
                rows = [f"| `{name}` | {value} | {text} |" for name, value, text in statuses(item.source)]
                out += ["| status | value | text |", "|---|---|---|", *rows, ""]
                continue
            out += ["```c", re.sub(r"\bSALF_API ", "", item.source), "```", ""]
    index = sorted({name for _, items in sections for item in items for name in item.names})
    out += ["## Index", "", ", ".join(f"`{name}`" for name in index), ""]
    return "\n".join(out)


def paragraphs(text):
    """Plain text as HTML: paragraphs, and lists of the lines that begin with a dash."""
    out = []
    for line in (line for part in text.split("\n\n") for line in part.split("\n")):
        out.append(f"<li>{html.escape(line[2:])}" if line.startswith("- ") else f"<p>{html.escape(line)}</p>")
    return re.sub(r"((?:<li>.*\n?)+)", r"<ul>\1</ul>", "\n".join(out))


def as_html(opening, sections):
    """The same as one HTML page without scripts; every name has an anchor, and every mention of it leads there."""
    style = "body{max-width:60em;margin:2em auto;padding:0 1em;font:16px/1.5 sans-serif}pre{background:#f4f4f4;\
padding:.7em;overflow:auto}a{color:inherit}td,th{padding:0 .7em 0 0;text-align:left}"
    known = {name for _, items in sections for item in items for name in item.names}

    def linked(text):
        return re.sub(
            r"\b(salf_\w+|SALF_\w+)\b", lambda m: f"<a href='#{m[1]}'>{m[1]}</a>" if m[1] in known else m[1], text
        )

    out = ["<!DOCTYPE html><html lang=en><meta charset=utf-8><title>libsalf API reference</title>"]
    out += [f"<style>{style}</style><h1>API reference</h1>{linked(paragraphs(opening))}<ul>"]
    for number, (title, _) in enumerate(sections):
        out.append(f"<li><a href='#section{number}'>{html.escape(title)}</a>")
    out.append("</ul>")
    for number, (title, items) in enumerate(sections):
        out.append(f"<h2 id='section{number}'>{html.escape(title)}</h2>")
        last = None
        for item in items:
            if item.comment and item.comment != last:
                out.append(linked(paragraphs(item.comment)))
            last = item.comment
            if statuses(item.source):
                rows = (f"<tr><td><code>{n}</code><td>{v}<td>{html.escape(t)}" for n, v, t in statuses(item.source))
                out.append("<table><tr><th>status<th>value<th>text" + "".join(rows) + "</table>")
                continue
            anchors = "".join(f"<a id='{name}'></a>" for name in item.names)
            source = html.escape(item.source.replace("SALF_API ", ""))
            out.append(f"{anchors}<pre>{linked(source)}</pre>")
    return "\n".join(out) + "\n"


def write(path, text):
    """Writes through a temporary name, so that a broken run leaves no half of a page."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".new", path)


def main(arguments):
    checking = "--check" in arguments
    header, folder = [argument for argument in arguments if argument != "--check"]
    opening, sections = read(header)
    os.makedirs(folder, exist_ok=True)
    write(os.path.join(folder, "reference.md"), markdown(opening, sections))
    write(os.path.join(folder, "reference.html"), as_html(opening, sections))
    failed = False
    for section in sections:
        missing = uncovered(section)
        failed |= bool(missing)
        if checking or missing:
            print(f"not ok - {section[0]}: no comment covers {', '.join(missing)}" if missing else f"ok - {section[0]}")
    found = sum(item.kind == "function" for _, items in sections for item in items)
    marked = count_functions(header)
    if checking or found != marked:
        print(f"{'ok' if found == marked else 'not ok'} - {found} functions are in the reference, {marked} in the header")
    return 1 if failed or found != marked else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
