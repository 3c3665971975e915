#!/bin/bash
# The C code in README.md and docs/embedding.md compiles against salf.h alone, and the commands that name no file of the
# reader's run as printed. Each document's C blocks, in order, become the body of one function; what they take for granted of
# their host stands in the prelude here.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
status=0
result() { # status, name
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else echo "not ok - $2"; status=1; fi
}

blocks() { # file, language: the fenced blocks of that language
    awk -v fence="^\`\`\`$2\$" '$0 ~ fence { inside = 1; next } /^```$/ { inside = 0 } inside' "$1"
}

readme_prelude='
void layer_forward(int k);
void layer_backward(int k, const int64_t *order, int64_t rows);
void step_of_host(salf_probe *probe, salf_policy *policy, const int32_t *next_token, int64_t n_rows, int m, int64_t step,
                  const salf_tensor embedding_out, const salf_tensor layer_out);
void step_of_host(salf_probe *probe, salf_policy *policy, const int32_t *next_token, int64_t n_rows, int m, int64_t step,
                  const salf_tensor embedding_out, const salf_tensor layer_out) {
    salf_trace trace;
    salf_observation observation;
    salf_decision decision = {.struct_size = sizeof decision};'
embedding_prelude='
void trainer(salf_context *context, float *wte, float *lnfw, float *lnfb, float *encoded, float *residual3, int B, int T,
             int L, int C, int V, int Vp, const int32_t *labels, int64_t n_labels, const int32_t *next,
             const int64_t *medium, int64_t step);
void trainer(salf_context *context, float *wte, float *lnfw, float *lnfb, float *encoded, float *residual3, int B, int T,
             int L, int C, int V, int Vp, const int32_t *labels, int64_t n_labels, const int32_t *next,
             const int64_t *medium, int64_t step) {
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    salf_policy *policy;
    salf_trace trace;
    salf_decision decision = {.struct_size = sizeof decision};'

compiles() { # document, prelude
    { printf '#include <salf.h>\n%s\n' "$2" && blocks "$1" c && echo '}'; } >"$work/snippet.c"
    "${CC:-gcc}" -std=c11 -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only "$work/snippet.c" 2>"$work/messages"
}

check_document() { # document, prelude, a name its blocks use
    [ -n "$(blocks "$1" c)" ]
    result $? "$1 has C blocks"
    compiles "$1" "$2"
    local compiled=$?
    result $compiled "the C blocks of $1 compile"
    [ $compiled -eq 0 ] || sed 's/^/# /' "$work/messages"
    sed "s/$3/${3}_gone/" "$1" >"$work/changed.md"
    ! compiles "$work/changed.md" "$2"
    result $? "a wrong name in $1 is found"
}

check_document README.md "$readme_prelude" salf_probe_end
check_document docs/embedding.md "$embedding_prelude" residual3

# The host loop is advertised by its length.
[ "$(blocks README.md c | grep -c .)" -eq 10 ]
result $? "the host loop of README.md has ten lines"

program=${BUILD:-build}/bin/salf
if [ -x "$program" ]; then
    while read -r document line; do
        bash -c "${line/#build\/bin\/salf/$program}" >"$work/output" 2>&1
        code=$?
        result $code "$document: $line"
        [ $code -eq 0 ] || sed 's/^/# /' "$work/output"
    done < <(for d in README.md docs/*.md examples/*.md examples/*/README.md; do
        blocks "$d" sh | grep -E '^build/bin/salf ' | grep -vE ' [A-Z]{4,}| -o | --output |\\$' | sed "s|^|$d |"
    done)
else
    echo "SKIPPED: commands of the documents, $program is not built"
fi
exit $status
