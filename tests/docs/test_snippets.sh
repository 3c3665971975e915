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

# Functions of a document stand in blocks of their own, "c file-scope", and come before the body.
blocks() { # file, language: the fenced blocks of that language
    awk -v fence="^\`\`\`$2\$" '$0 ~ fence { inside = 1; next } /^```$/ { inside = 0 } inside' "$1"
}

# Hosts of three layers; a failing call leaves its message in salf_last_error.
before='#include <salf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
enum { ROWS = 2, SEQUENCE = 3, LAYERS = 3, WIDTH = 4, TOKENS = 5, PADDED = 8 };
static float wte[PADDED * WIDTH], lnfw[WIDTH], lnfb[WIDTH], encoded[ROWS * SEQUENCE * WIDTH];
static float residual3[LAYERS * ROWS * SEQUENCE * WIDTH];
static const int32_t labels[] = {1, 3}, next_token[ROWS] = {3, 1};
static const int64_t medium[ROWS] = {2, 5};
static int layers_back;
struct quantised_head {
    const unsigned char *data;
    int64_t row_bytes, columns;
    void (*to_float)(const void *row, float *out, int64_t n);
};
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
static const int32_t targets[ROWS * SEQUENCE] = {SALF_LABEL_IGNORE, 1, 3, SALF_LABEL_IGNORE, SALF_LABEL_IGNORE, 2};
static int cleared, passed, rows_trained, logged;
static void trainer_zero_grad(const uint8_t *trainable) { cleared += trainable[LAYERS - 1]; }
static void trainer_head_backward(int32_t weights) { passed += weights; }
static void trainer_layer_backward(int l, int weights, int input) { passed += l >= 0 && weights <= 1 && input <= 1; }
static void trainer_batch_forward(const uint32_t *data, int n) {
    for (int b = 0; b < n; b++) rows_forward += data[b] < 6;
}
static salf_status trainer_probe(salf_probe *probe, const int32_t *next, int64_t n, salf_trace *trace) {
    salf_tensor view = {.row_index = medium, .rows = n, .cols = WIDTH, .dtype = SALF_F32};
    salf_status status = salf_probe_begin(probe, next, n);
    for (int space = 0; space <= LAYERS && status == SALF_OK; space++) {
        view.data = space == 0 ? encoded : residual3 + (space - 1) * ROWS * SEQUENCE * WIDTH;
        status = salf_probe_observe(probe, space, &view, SALF_STATE_RAW);
    }
    return status == SALF_OK ? salf_probe_end(probe, trace) : status;
}
static void trainer_masked_step(const uint8_t *trains, int32_t cut, const double *scale, double share) {
    for (int b = 0; b < ROWS; b++) rows_trained += trains[b];
    if (scale[LAYERS - 1] != 1 || share <= 0 || share > 1 || cut > LAYERS) rows_trained = -1000;
}
static void trainer_log(const char *message) { logged += *message != 0; }
static void to_floats(const void *row, float *out, int64_t n) { memcpy(out, row, (size_t)n * sizeof *out); }
static int dequantises(salf_context *context) { /* a head by the callback has the fingerprint of the view */
    struct quantised_head head = {(const unsigned char *)wte, WIDTH * sizeof *wte, WIDTH, to_floats};
    const salf_model_options o = {.struct_size = sizeof o, .n_layers = 1, .hidden = WIDTH, .vocab = TOKENS,
        .head_rows = dequantised_rows, .head_rows_user = &head};
    const salf_model_options v = {.struct_size = sizeof v, .n_layers = 1, .hidden = WIDTH, .vocab = TOKENS,
        .head = {.data = wte, .rows = TOKENS, .cols = WIDTH, .dtype = SALF_F32}};
    salf_model *by_rows, *by_view;
    uint64_t one = 1, two = 2;
    return !salf_model_create(&by_rows, context, &o) && !salf_model_create(&by_view, context, &v) &&
        !salf_model_fingerprint(by_rows, &one) &&
        !salf_model_fingerprint(by_view, &two) && one == two;
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
    if (window.rows != 2 * B || lowest != next_one.cut || logged || cleared != 1 || passed < 1 || trace.rows != B)
        return (salf_decision){0};
    decision.rows = B;
    return decision;
}
int main(void) {
    salf_context *context;
    fill(wte, TOKENS * WIDTH), fill(lnfw, WIDTH), fill(encoded, ROWS * SEQUENCE * WIDTH);
    fill(residual3, LAYERS * ROWS * SEQUENCE * WIDTH);
    if (salf_context_create(&context, &here)) return 1;
    const salf_decision decision = run(context, ROWS, SEQUENCE, LAYERS, WIDTH, TOKENS, PADDED, 2, next_token, 0);
    return puts(salf_last_error()), *salf_last_error() || decision.n_layers != LAYERS || decision.rows != ROWS ||
        rows_forward < 12 || rows_back != 12 || /* half the depth: two data each at 3, 2 and 1 layers */
        rows_trained != 6 || !dequantises(context);
}'

library=${BUILD:-build}/lib
compiles() { # document, before, behind
    { printf '%s\n' "$before" && blocks "$1" 'c file-scope' && printf '%s\n' "$2" && blocks "$1" c &&
        printf '%s\n' "$3"; } >"$work/snippet.c"
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
