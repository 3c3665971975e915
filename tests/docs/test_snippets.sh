#!/bin/bash
# The C code in README.md and docs/embedding.md compiles against salf.h alone and runs without an error of the library,
# and the commands that name no file of the reader's run as printed. Each document's C blocks, in order, become the body
# of one function; what they take for granted of their host stands here, before and behind.
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

# Hosts of three layers; a failing call leaves its message in salf_last_error.
before='#include <salf.h>
#include <stdio.h>
#include <stdlib.h>
enum { ROWS = 2, SEQUENCE = 3, LAYERS = 3, WIDTH = 4, TOKENS = 5, PADDED = 8 };
static float wte[PADDED * WIDTH], lnfw[WIDTH], lnfb[WIDTH], encoded[ROWS * SEQUENCE * WIDTH];
static float residual3[LAYERS * ROWS * SEQUENCE * WIDTH];
static const int32_t labels[] = {1, 3}, next_token[ROWS] = {3, 1};
static const int64_t medium[ROWS] = {2, 5};
static int layers_back;
static const salf_context_options here = {.struct_size = sizeof here, .backend = SALF_BACKEND_CPU};
static void fill(float *values, int n) {
    for (int i = 0; i < n; i++) values[i] = (float)((i * 7 + 3) % 11) - 4.5f;
}'
readme_before='
static int forwards;
static void layer_forward(int k) { forwards += k + 1; }
static void layer_backward(int k, const int64_t *order, int64_t rows) { layers_back += k >= 0 && order && rows > 0; }
static void run(salf_probe *probe, salf_policy *policy, int64_t n_rows, int m, int64_t step, const salf_tensor embedding_out,
                const salf_tensor layer_out) {
    salf_trace trace = {0};
    salf_observation observation;
    salf_decision decision = {.struct_size = sizeof decision, .cut = LAYERS};'
readme_behind='
}
int main(void) {
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    salf_policy *policy;
    fill(wte, TOKENS * WIDTH), fill(encoded, ROWS * WIDTH), fill(residual3 + 1, ROWS * WIDTH);
    const salf_model_options o = {.struct_size = sizeof o, .n_layers = LAYERS, .hidden = WIDTH, .vocab = TOKENS,
        .norm_kind = SALF_NORM_RMS, .head = {.data = wte, .rows = TOKENS, .cols = WIDTH, .dtype = SALF_F32}};
    const salf_tensor first = {.data = encoded, .rows = ROWS, .cols = WIDTH, .dtype = SALF_F32};
    const salf_tensor other = {.data = residual3, .rows = ROWS, .cols = WIDTH, .dtype = SALF_F32};
    if (salf_context_create(&context, &here) || salf_model_create(&model, context, &o) ||
        salf_basis_create(&basis, model, labels, 2, NULL) || salf_probe_create(&probe, basis, NULL) ||
        salf_policy_create(&policy, context, SALF_POLICY_SALF, LAYERS, NULL)) return puts(salf_last_error()), 1;
    run(probe, policy, ROWS, LAYERS, 0, first, other);
    return puts(salf_last_error()), *salf_last_error() || layers_back < 1 || forwards != 6;
}'
embedding_before='
static const int64_t n_data = 6;
static int64_t rows_forward, rows_back;
static void trainer_forward(const uint32_t *data, int64_t n, const int32_t *eof) {
    for (int64_t i = 0; i < n; i++) rows_forward += data[i] < 6 && eof[i] >= 0;
}
static void trainer_backward(int layer, const int64_t *order, int64_t n) { rows_back += layer >= 0 && order ? n : 0; }
static void trainer_update(const uint8_t *trainable, const double *scale, double share) {
    if (!trainable[LAYERS - 1] || scale[LAYERS - 1] != 1 || share != 1) rows_back = -1000;
}
static salf_decision run(salf_context *context, int B, int T, int L, int C, int V, int Vp, int64_t n_labels,
                         const int32_t *next, int64_t step) {
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
    salf_policy *policy, *by_plan;
    salf_planner *planner;
    salf_trace trace = {0};
    salf_decision decision = {.struct_size = sizeof decision};'
embedding_behind='
    return decision;
}
int main(void) {
    salf_context *context;
    fill(wte, TOKENS * WIDTH), fill(lnfw, WIDTH), fill(encoded, ROWS * SEQUENCE * WIDTH);
    fill(residual3, LAYERS * ROWS * SEQUENCE * WIDTH);
    if (salf_context_create(&context, &here)) return 1;
    const salf_decision decision = run(context, ROWS, SEQUENCE, LAYERS, WIDTH, TOKENS, PADDED, 2, next_token, 0);
    return puts(salf_last_error()), *salf_last_error() || decision.n_layers != LAYERS || decision.rows != ROWS ||
        rows_forward != 6 || rows_back != 12; /* half the depth: two data each at 3, 2 and 1 layers */
}'

library=${BUILD:-build}/lib
compiles() { # document, before, behind
    { printf '%s\n%s\n' "$before" "$2" && blocks "$1" c && printf '%s\n' "$3"; } >"$work/snippet.c"
    ${CC:-gcc} -std=c11 -Wall -Wextra -Wpedantic -Wno-unused-variable -Werror -Iinclude -c -o "$work/snippet.o" \
        "$work/snippet.c" 2>"$work/messages"
}

check_document() { # document, before, behind, a name its blocks use
    [ -n "$(blocks "$1" c)" ]
    result $? "$1 has C blocks"
    compiles "$1" "$2" "$3"
    local compiled=$?
    result $compiled "the C blocks of $1 compile"
    [ $compiled -eq 0 ] || sed 's/^/# /' "$work/messages"
    if [ -e "$library/libsalf.so" ]; then
        ${CC:-gcc} -o "$work/snippet" "$work/snippet.o" -L"$library" -lsalf -Wl,-rpath,"$(realpath "$library")" &&
            "$work/snippet" >"$work/messages"
        local code=$?
        result $code "the C blocks of $1 run"
        [ $code -eq 0 ] || sed 's/^/# /' "$work/messages"
    else
        echo "SKIPPED: running the C blocks of $1, $library/libsalf.so is not built"
    fi
    sed "s/$4/${4}_gone/" "$1" >"$work/changed.md"
    ! compiles "$work/changed.md" "$2" "$3"
    result $? "a wrong name in $1 is found"
}

check_document README.md "$readme_before" "$readme_behind" salf_probe_end
check_document docs/embedding.md "$embedding_before" "$embedding_behind" residual3

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
