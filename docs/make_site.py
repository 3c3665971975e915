#!/usr/bin/env python3
"""Lays out the documents as the sources of a site for MkDocs.

    make_site.py REFERENCE OUT

writes OUT/mkdocs.yml and OUT/docs: README as the start page, the documents, the changelog, and REFERENCE
(reference.md of generate_reference.py). Links between documents are rewritten to where the pages now lie; a link to another file of the
repository points to the file itself, by REPOSITORY in the environment (else the link becomes plain text). Prints each
link that leads nowhere, and then the exit status is 1.
"""

import os
import pathlib
import re
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Title of each chapter -> its pages, in reading order.
CHAPTERS = {
    "Start": ["README.md", "docs/concepts.md", "docs/when-to-freeze.md", "docs/evidence.md", "docs/troubleshooting.md"],
    "Use it": [
        "docs/embedding.md", "docs/python.md", "bindings/python/README.md", "bindings/cpp/README.md", "docs/gpu.md",
        "examples/salf/README.md", "examples/trainer/README.md", "packaging/README.md",
    ],
    "Look it up": [
        "reference.md", "docs/glossary.md", "docs/formats.md", "docs/abi.md", "docs/conformance.md",
        "docs/performance.md", "docs/reliability.md",
    ],
    "Take part": ["docs/structure.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md"],
}  # fmt: skip


def place(path):
    """Where a document of the tree lies on the site: docs/ falls away, READMEs are called after their folder."""
    if path == "README.md":
        return "index.md"
    parts = pathlib.PurePosixPath(path)
    if parts.name == "README.md":
        return "-".join(parts.parts[:-1]) + ".md"
    return parts.name.lower()


def title(text):
    return re.search(r"^# (.*)", text, re.M).group(1).replace("`", "")


def rewrite(path, text, pages, broken):
    """The text with its links rewritten; fenced blocks stay as they are."""
    repository = os.environ.get("REPOSITORY")

    def link(found):
        label, target, anchor = found.group(1), found.group(2), found.group(3) or ""
        if re.match(r"[a-z]+:", target) or not target:
            return found.group(0)
        there = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if there in pages:
            return f"[{label}]({place(there)}{anchor})"
        if there.startswith("docs/pictures/"):
            return f"[{label}]({there.removeprefix('docs/')})"
        if not (ROOT / there).exists():
            broken.append(f"{path}: {target}")
        return f"[{label}]({repository}/{there})" if repository else label

    blocks = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    pattern = r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)"
    return "".join(block if block.startswith("```") else re.sub(pattern, link, block) for block in blocks)


def main():
    reference, out = map(pathlib.Path, sys.argv[1:])
    pages = {path: ROOT / path for chapter in CHAPTERS.values() for path in chapter}
    pages["reference.md"] = reference
    shutil.rmtree(out, ignore_errors=True)
    (out / "docs").mkdir(parents=True)
    shutil.copytree(ROOT / "docs/pictures", out / "docs/pictures")
    broken, titles = [], {}
    for path, file in pages.items():
        text = file.read_text(encoding="utf8")
        titles[path] = title(text)
        (out / "docs" / place(path)).write_text(rewrite(path, text, pages, broken), encoding="utf8")
    lines = ["site_name: libsalf", "site_description: where to fine-tune a language model", "theme: readthedocs"]
    lines += ["markdown_extensions: [tables, fenced_code, toc]", "use_directory_urls: false", "nav:"]
    for chapter, paths in CHAPTERS.items():
        lines += [f"  - {chapter}:"] + [f'      - "{titles[path]}": {place(path)}' for path in paths]
    (out / "mkdocs.yml").write_text("\n".join(lines) + "\n", encoding="utf8")
    print("".join(f"{line}\n" for line in broken), end="")
    missing = [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in pages]
    print("".join(f"{name} is on no page of the site\n" for name in missing), end="")
    return 1 if broken or missing else 0


if __name__ == "__main__":
    sys.exit(main())
