#!/bin/bash
# The documents as a site: every document has its place, every link between them leads somewhere there.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
result() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; status=1; fi
}
python=${PYTHON:-python3}
"$python" docs/generate_reference.py include/salf.h "$work/reference" &&
    found=$("$python" docs/make_site.py "$work/reference/reference.md" "$work/site")
result $? "every document is on a page, and no link of one leads nowhere${found:+, but $(tr '\n' ' ' <<<"$found")}"
grep -q '^      - "Glossary": glossary.md$' "$work/site/mkdocs.yml" && grep -qF '(concepts.md)' "$work/site/docs/index.md" &&
    grep -qF '![Deviations' "$work/site/docs/index.md" && ! grep -qF '](docs/' "$work/site/docs/index.md"
result $? "README is the start page, its links and picture rewritten"
REPOSITORY=https://example.org/tree "$python" docs/make_site.py "$work/reference/reference.md" "$work/linked" >/dev/null &&
    grep -qF '(https://example.org/tree/include/salf.h)' "$work/linked/docs/index.md"
result $? "files that are no documents are linked where the repository is"
if mkdocs=$(command -v "${MKDOCS:-mkdocs}"); then
    "$mkdocs" build --quiet --strict --config-file "$work/site/mkdocs.yml" --site-dir "$work/html" >"$work/output" 2>&1 ||
        { sed 's/^/# /' "$work/output"; false; }
    result $? "MkDocs builds it without a warning"
else
    echo "skip - MkDocs builds it: mkdocs is not installed"
fi
exit $status
