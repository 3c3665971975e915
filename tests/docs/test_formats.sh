#!/bin/bash
# docs/formats.md names every key and tensor that the sources read or write; a new one has to be described there.
set -u
status=0
described() { # what, names...
    local what=$1 name lacking=
    shift
    for name; do grep -qF -- "\`$name\`" docs/formats.md || grep -qF -- "\`$name." docs/formats.md || lacking+=" $name"; done
    if [ $# -ge 3 ] && [ -z "$lacking" ]; then echo "ok - $what are described"; else
        echo "not ok - $what ($#) are described, but not:$lacking"
        status=1
    fi
}
quoted() { # pattern that ends before a string, files...: the strings that follow it
    local pattern=$1
    shift
    grep -ohE -- "$pattern\"[A-Za-z_.*-]+\"" "$@" | sed 's/.*"\(.*\)"/\1/' | sort -u
}

described "keys of the log" $(quoted 'jsonl_[a-z_]+\([^"]*, ' examples/salf/runlog.c examples/salf/evaluate.c)
described "keys the report reads" $(quoted 'json_object_get\([^"]*, ' examples/salf/cmd_report.c examples/salf/report_*.c)
described "metadata of a basis" $(sed -n '/meta_keys\[META_COUNT\] = /,/;/p' libsalf/basis/file.c | grep -oE '"[a-z_]+"' | tr -d '"')
described "tensors of a basis" $(quoted '(put|get)_[a-z_]+\([^"]*, ' libsalf/basis/file.c | grep -v '^SALF_')
described "tensors of a training checkpoint" $(quoted 'add_array\(l, ("", )?' examples/salf/runstate.c | sed 's|\.$||')
described "keys of config.json" $({
    sed -n '/integer_keys\[\] = /,/};/p' libsalf/io/config.c
    grep -ohE 'slf_keys_[a-z]+\(&?k?e?y?s?(config->keys)?, "[a-z_]+"|json_object_get\([a-z>-]+, "[a-z_]+"\)|\.eps = "[a-z_]+"|(LAYER)\("[a-z_]+' \
        libsalf/io/config.c libsalf/io/decoder.c libsalf/io/rope.c libsalf/io/families.c
} | grep -oE '"[a-z_]+' | tr -d '"' | sort -u | grep -vxE 'model_type|base_model_name_or_path')
described "model types" $(grep -oE 'NAMED\("[a-z0-9_]+"' libsalf/io/families.c | cut -d'"' -f2)
described "element types" $(sed -n '/file_types\[\] = /,/};/p' libsalf/io/safetensors.c | grep -oE '"[A-Z0-9_]+"' |
    tr -d '"' | sed 's/^F8_.*/F8_*/')
if (described "some" rows labels not_there) | grep -q '^not ok .*not: not_there$'; then
    echo "ok - a name that is not described is found"
else
    echo "not ok - a name that is not described is found"
    status=1
fi
exit $status
