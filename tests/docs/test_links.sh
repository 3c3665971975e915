#!/bin/bash
# Links between the documents of the repository lead somewhere: the file is there, and so is the heading. Paths of the
# tree that are written as code (`libsalf/...`) exist too.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
result() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; status=1; fi
}

prose() { # a document without its fenced blocks
    awk '/^```/ { inside = !inside; next } !inside' "$1"
}

anchors() { # headings as the anchors that hosting sites make of them
    prose "$1" | sed -n 's/^##* //p' | tr 'A-Z' 'a-z' | sed -e 's/[^a-z0-9 _-]//g' -e 's/ /-/g'
}

broken() { # prints each link of a document that leads nowhere
    local link path anchor target
    prose "$1" | grep -oE '\]\([^)]+\)' | sed -e 's/^](//' -e 's/)$//' | while read -r link; do
        case $link in http://* | https://* | mailto:*) continue ;; esac
        path=${link%%#*}
        anchor=
        [ "$path" = "$link" ] || anchor=${link#*#}
        target=$1
        [ -z "$path" ] || target=$(dirname "$1")/$path
        if [ ! -e "$target" ]; then
            echo "$link"
        elif [ -n "$anchor" ] && ! anchors "$target" | grep -qxF -- "$anchor"; then
            echo "$link"
        fi
    done
}

missing_paths() { # prints each `path` of the tree a document names that is not there; patterns are left out
    prose "$1" | grep -oE '`(libsalf|examples|tests|docs|include|pkgconfig|bindings|packaging)/[A-Za-z0-9_./-]+`' | tr -d '`' | sort -u |
        while read -r path; do [ -e "$path" ] || [ -e "${path%/}" ] || echo "$path"; done
}

for document in *.md docs/*.md examples/*.md examples/*/*.md bindings/*/*.md packaging/*.md; do
    found=$(broken "$document"; missing_paths "$document")
    [ -z "$found" ]
    result $? "$document leads everywhere it says${found:+, but not to $(tr '\n' ' ' <<<"$found")}"
done

mkdir "$work/docs"
printf '# One heading\n[a](#one-heading) [b](docs/there.md) [c](gone.md) [d](#another) `libsalf/gone.c`\n' >"$work/page.md"
: >"$work/docs/there.md"
[ "$(broken "$work/page.md"; missing_paths "$work/page.md")" = "$(printf 'gone.md\n#another\nlibsalf/gone.c')" ]
result $? "links and paths that lead nowhere are found, and no others"
exit $status
