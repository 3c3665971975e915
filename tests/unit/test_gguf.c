/* Files of llama.cpp: quantised rows equal the package gguf's bit for bit; models of them are understood; files that
 * lie are refused with what is wrong with them; the parts of a split model belong together. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "from_memory.h"
#include "gguf_text.h"
#include "harness.h"
#include "model/model.h"

/* ---- element types ---- */

START_TEST(quantised_rows_equal_the_package_bit_for_bit) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_tensors *tensors;
    CHECK_OK(salf_tensors_open(&tensors, context, "tests/gguf/types.gguf"));
    int compared = 0;
    for (int64_t i = 0; i < tensors->n; i++) {
        const slf_entry *packed = &tensors->entries[i];
        char name[64];
        snprintf(name, sizeof name, "%s.f32", packed->name);
        salf_named_tensor expected, named;
        if (salf_tensors_find(tensors, name, &expected) != SALF_OK) continue;
        compared++;
        ck_assert_int_eq(packed->shape[0], 3);
        ck_assert_int_eq(packed->shape[1], 512);
        ck_assert_int_eq(expected.view.rows, 3);
        ck_assert_int_eq(expected.view.cols, 512);
        /* all rows, and one from the middle */
        float rows[3][512];
        ck_assert_int_eq(slf_entry_rows(&tensors->entries[i], 0, 3, rows[0]), 0);
        ck_assert_msg(memcmp(rows, expected.view.data, sizeof rows) == 0, "%s", packed->name);
        ck_assert_int_eq(slf_entry_rows(&tensors->entries[i], 1, 1, rows[0]), 0);
        ck_assert_msg(memcmp(rows[0], rows[1], sizeof rows[0]) == 0, "%s", packed->name);
        /* where it lies it is of no use */
        CHECK_FAILS(salf_tensors_find(tensors, packed->name, &named), SALF_E_DTYPE, packed->name);
        ck_assert_int_eq(named.shape[1], 512);
        ck_assert_ptr_null(named.view.data);
    }
    ck_assert_int_eq(compared, 13);
    salf_named_tensor other;
    CHECK_FAILS(salf_tensors_find(tensors, "TQ1_0", &other), SALF_E_DTYPE, "of type TQ1_0");
    ck_assert_str_eq(salf_tensors_metadata(tensors, "general.architecture"), "none");
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
}
END_TEST

/* ---- files that lie ---- */

#define MOST "0xffffffffffffffff"
static const struct {
    const char *text;
    salf_status status;
    const char *words;
} lies[] = {
    {"", SALF_E_TRUNCATED, "magic"},
    {"'GGU", SALF_E_TRUNCATED, "magic"},
    {"'GGML 4:3 8:0 8:0", SALF_E_CORRUPT, "47 47 4d 4c; no GGUF file"},
    {"'GGUF 4:0 8:0 8:0", SALF_E_UNSUPPORTED, "version 0"},
    {"'GGUF 4:1 8:0 8:0", SALF_E_UNSUPPORTED, "version 1"},
    {"'GGUF 4:4 8:0 8:0", SALF_E_UNSUPPORTED, "version 4"},
    {"'GGUF 4:0x03000000 8:0 8:0", SALF_E_UNSUPPORTED, "big-endian"},
    {"'GGUF 4:3 8:0", SALF_E_TRUNCATED, "number of fields"},
    {GGUF_HEAD("1", "0"), SALF_E_TRUNCATED, "1 tensors"},
    {GGUF_HEAD(MOST, "0"), SALF_E_TRUNCATED, "18446744073709551615 tensors"},
    {GGUF_HEAD("0", MOST), SALF_E_TRUNCATED, "18446744073709551615 fields"},
    {GGUF_HEAD("0", "1") "s:k 4:4 2:1", SALF_E_TRUNCATED, "k of 4 bytes"},
    {GGUF_HEAD("0", "1") "8:100 'abcdefgh", SALF_E_TRUNCATED, "key of a field of 100 bytes"},
    {GGUF_HEAD("0", "1") "8:" MOST " 'abcdefgh", SALF_E_TRUNCATED, "key of a field of 18446744073709551615"},
    {GGUF_HEAD("0", "1") "8:0 4:4 4:1 z:9", SALF_E_CORRUPT, "key of a field"},
    {GGUF_HEAD("0", "1") "8:3 'a 1:0 'b 4:4 4:1", SALF_E_CORRUPT, "byte 0"},
    {GGUF_HEAD("0", "1") "s:k 4:13 4:1 z:9", SALF_E_CORRUPT, "'k' is of type 13"},
    {GGUF_HEAD("0", "1") "s:k 4:9 4:99 8:0 z:9", SALF_E_CORRUPT, "'k' is of type 99"},
    {GGUF_HEAD("0", "1") "s:k 4:9 4:9 8:1 4:4 8:0", SALF_E_UNSUPPORTED, "'k' is a list of lists"},
    {GGUF_HEAD("0", "1") "s:k 4:9 4:12 8:0x2000000000000001 z:9", SALF_E_TRUNCATED, "k of 18446744073709551615"},
    {GGUF_HEAD("0", "1") "s:k 4:9 4:4 8:3 z:11", SALF_E_TRUNCATED, "k of 12 bytes"},
    {GGUF_HEAD("0", "1") "s:k 4:9 4:8 8:" MOST " z:20", SALF_E_TRUNCATED, "k of 8 bytes"},
    {GGUF_HEAD("0", "1") "s:k 4:9 4:8 8:1 8:40 z:20", SALF_E_TRUNCATED, "k of 40 bytes"},
    {GGUF_HEAD("0", "1") "s:k 4:8 8:40 z:20", SALF_E_TRUNCATED, "k of 40 bytes"},
    {GGUF_HEAD("0", "2") GGUF_U32("k", "1") GGUF_U32("k", "2"), SALF_E_CORRUPT, "'k' is there twice"},
    {GGUF_HEAD("0", "1") GGUF_U32("general.alignment", "0"), SALF_E_CORRUPT, "alignment is 0"},
    {GGUF_HEAD("0", "1") GGUF_U32("general.alignment", "4"), SALF_E_CORRUPT, "alignment is 4"},
    {GGUF_HEAD("0", "1") GGUF_U32("general.alignment", "48"), SALF_E_CORRUPT, "48, no power of two"},
    {GGUF_HEAD("0", "1") GGUF_TEXT("general.alignment", "32"), SALF_E_CORRUPT, "alignment is no integer"},
    {GGUF_HEAD("0", "1") GGUF_F32("general.alignment", "32"), SALF_E_CORRUPT, "alignment is no integer"},
    {GGUF_HEAD("0", "1") "s:general.alignment 4:1 1:0xe0", SALF_E_CORRUPT, "alignment is -32"},
    {GGUF_HEAD("0", "1") "s:general.alignment 4:10 8:" MOST, SALF_E_CORRUPT, "alignment is -1"},
    {GGUF_HEAD("1", "0") "s:t 4:0 4:0 8:0 z:40", SALF_E_CORRUPT, "'t' has 0 dimensions"},
    {GGUF_HEAD("1", "0") "s:t 4:5 z:60", SALF_E_CORRUPT, "'t' has 5 dimensions"},
    {GGUF_HEAD("1", "0") "s:t 4:0xffffffff z:60", SALF_E_CORRUPT, "'t' has 4294967295 dimensions"},
    {GGUF_HEAD("1", "0") "8:0 4:1 8:1 4:0 8:0 z:40", SALF_E_CORRUPT, "name of a tensor"},
    {GGUF_HEAD("1", "0") GGUF_VECTOR("t", MOST, "0"), SALF_E_CORRUPT, "'t': the product"},
    {GGUF_HEAD("1", "0") GGUF_MATRIX("t", "0x100000000", "0x100000000", "0", "0"), SALF_E_CORRUPT, "'t': the product"},
    {GGUF_HEAD("1", "0") GGUF_VECTOR("t", "0x0400000000000000", "0") "pad", SALF_E_TRUNCATED, "'t' ends at"},
    {GGUF_HEAD("1", "0") GGUF_VECTOR("t", "4", "0xffffffffffffffe0") "pad z:64", SALF_E_TRUNCATED, "'t' ends at"},
    {GGUF_HEAD("1", "0") GGUF_VECTOR("t", "4", "8") "pad z:64", SALF_E_CORRUPT, "begins at 8, which is no multiple"},
    {GGUF_HEAD("1", "0") GGUF_VECTOR("t", "4", "0") "pad z:15", SALF_E_TRUNCATED, "'t' ends at 16"},
    {GGUF_HEAD("1", "0") GGUF_VECTOR("t", "4", "0"), SALF_E_TRUNCATED, "which has 0 bytes"},
    {GGUF_HEAD("1", "0") GGUF_MATRIX("t", "33", "2", "8", "0") "pad z:99", SALF_E_CORRUPT, "no whole blocks of Q8_0"},
    {GGUF_HEAD("1", "0") GGUF_MATRIX("t", "32", "2", "8", "0") "pad z:67", SALF_E_TRUNCATED, "'t' ends at 68"},
    {GGUF_HEAD("2", "0") GGUF_VECTOR("t", "9", "0") GGUF_VECTOR("u", "4", "32") "pad z:64", SALF_E_CORRUPT,
     "'u' begins at 32 of the data, inside"},
    {GGUF_HEAD("2", "0") GGUF_VECTOR("t", "4", "0") GGUF_VECTOR("u", "4", "0") "pad z:64", SALF_E_CORRUPT, "inside"},
    {GGUF_HEAD("2", "0") GGUF_VECTOR("t", "4", "0") GGUF_VECTOR("t", "4", "32") "pad z:64", SALF_E_CORRUPT,
     "'t' is there twice"},
};

START_TEST(files_that_lie_are_refused) {
    harness_memory memory = {.fail_at = -1};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    const int64_t before = memory.alive;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint8_t bytes[2048];
        salf_tensors *tensors;
        const size_t n = gguf_assemble(bytes, sizeof bytes, lies[i].text);
        CHECK_FAILS(tensors_from_memory(&tensors, context, true, bytes, n), lies[i].status, lies[i].words);
        ck_assert_ptr_null(tensors);
        ck_assert_int_eq(memory.alive, before);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(what_is_merely_odd_is_read) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_tensors *tensors;
    salf_named_tensor named;
    uint8_t bytes[2048];
    /* version 2, another alignment, a gap, empty lists, a type of a later version, bytes behind the last tensor */
    size_t n =
        gguf_assemble(bytes, sizeof bytes,
                      "'GGUF 4:2 8:3 8:4 s:general.alignment 4:4 4:64 s:e 4:9 4:4 8:0 s:t 4:9 4:8 8:0 "
                      "s:n 4:8 8:3 'a 1:0 'b " GGUF_VECTOR("t", "2", "64") GGUF_MATRIX("later", "5", "7", "200", "0")
                          GGUF_VECTOR("none", "0", "128") "z:200 z:60");
    CHECK_OK(tensors_from_memory(&tensors, context, true, bytes, n));
    ck_assert_int_eq(salf_tensors_count(tensors), 3);
    CHECK_OK(salf_tensors_find(tensors, "t", &named));
    ck_assert_int_eq(named.n_dims, 1);
    ck_assert_int_eq(named.view.cols, 2);
    ck_assert_int_eq(((const uint8_t *)named.view.data - bytes) % 64, 0);
    CHECK_FAILS(salf_tensors_find(tensors, "later", &named), SALF_E_DTYPE, "of type number 200");
    ck_assert_int_eq(named.shape[0], 7);
    ck_assert_ptr_null(salf_tensors_metadata(tensors, "n")); /* half of it would be another text */
    ck_assert_ptr_null(salf_tensors_metadata(tensors, "e"));
    salf_tensors_destroy(tensors);
    /* no tensor at all */
    n = gguf_assemble(bytes, sizeof bytes, GGUF_HEAD("0", "1") GGUF_TEXT("k", "v"));
    CHECK_OK(tensors_from_memory(&tensors, context, true, bytes, n));
    ck_assert_str_eq(salf_tensors_metadata(tensors, "k"), "v");
    salf_tensors_destroy(tensors);
    salf_context_destroy(context);
}
END_TEST

/* ---- models ---- */

/* D 32, 2 layers, 4 tokens in Q8_0; the data hold 4 rows of 34 bytes, then vectors of 32 float32. */
#define SHAPE(a)                         \
    GGUF_TEXT("general.architecture", a) \
    GGUF_U32(a ".block_count", "2") GGUF_U32(a ".embedding_length", "32")
#define RMS_EPS(a)   GGUF_F32(a ".attention.layer_norm_rms_epsilon", "0.25")
#define LAYER_EPS(a) GGUF_F32(a ".attention.layer_norm_epsilon", "0.5")
#define EMBEDDING    GGUF_MATRIX("token_embd.weight", "32", "4", "8", "0")
#define NORM         GGUF_VECTOR("output_norm.weight", "32", "160")
#define LAYERS       GGUF_VECTOR("blk.0.x", "0", "0") GGUF_VECTOR("blk.1.x", "0", "0")
#define DATA         "pad d:136 z:24 z:640"

static salf_status open_text(salf_model **model, salf_context *context, const char *text) {
    char *path = files_path("m.gguf");
    gguf_write(path, text);
    const salf_status status = salf_model_open(model, context, path, NULL);
    free(path);
    return status;
}

START_TEST(a_model_is_understood) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_model *model;
    salf_model_info info = {.struct_size = sizeof info};
    CHECK_OK(open_text(
        &model, context,
        GGUF_HEAD("4", "12") SHAPE("llama") RMS_EPS("llama") GGUF_U32("llama.context_length", "77")
            GGUF_U32("llama.attention.head_count", "4") GGUF_U32("llama.attention.head_count_kv", "2")
                GGUF_U32("llama.feed_forward_length", "96") GGUF_F32("llama.rope.freq_base", "5000") GGUF_U32(
                    "tokenizer.ggml.bos_token_id",
                    "1") "s:tokenizer.ggml.tokens 4:9 4:8 8:4 s:a s:b s:[PAD2] s:[PAD3] "
                         "s:tokenizer.ggml.token_type 4:9 4:5 8:4 4:1 4:1 4:1 4:5 " EMBEDDING NORM LAYERS DATA));
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert_int_eq(info.family, SALF_FAMILY_OTHER);
    ck_assert_int_eq(info.n_layers, 2);
    ck_assert_int_eq(info.hidden, 32);
    ck_assert_int_eq(info.vocab, 4);
    ck_assert_int_eq(info.valid_vocab, 3); /* [PAD2] is a token, [PAD3] was made up */
    ck_assert_int_eq(info.tied, 1);
    ck_assert_int_eq(info.norm_kind, SALF_NORM_RMS);
    ck_assert_int_eq(info.head_dtype, 0);
    ck_assert(info.norm_eps == 0.25 && info.rope_theta == 5000 && info.logit_scale == 1 && info.logit_softcap == 0);
    ck_assert(info.embedding_scale == 1);
    ck_assert_int_eq(info.max_positions, 77);
    ck_assert_int_eq(info.n_heads, 4);
    ck_assert_int_eq(info.n_kv_heads, 2);
    ck_assert_int_eq(info.head_dim, 8);
    ck_assert_int_eq(info.ffn_hidden, 96);
    ck_assert_int_eq(info.bos_token, 1);
    ck_assert_int_eq(info.eos_token, -1);
    /* row 1: bytes 34 ... 67 count on, the first two are its scale */
    float row[32];
    CHECK_OK(slf_matrix_fetch(NULL, &model->head, &(int32_t){1}, 1, row));
    const float scale = ldexpf(1 + 0x322 / 1024.f, 8 - 15); /* 0x2322 */
    for (int i = 0; i < 32; i++) ck_assert_msg(row[i] == scale * (float)(36 + i), "%d: %g", i, (double)row[i]);
    uint64_t fingerprint;
    CHECK_OK(salf_model_fingerprint(model, &fingerprint));
    ck_assert_ptr_nonnull(salf_model_get_tensors(model));
    ck_assert_int_eq(info.vocab_from, SALF_VOCAB_TOKENIZER);
    salf_decoder_info decoder = {.struct_size = sizeof decoder};
    CHECK_OK(salf_model_get_decoder(model, &decoder));
    ck_assert_str_eq(decoder.unsupported, "general.architecture = \"llama\"");
    ck_assert_ptr_null(decoder.prefix);
    salf_model_destroy(model);
    const salf_model_options given = {.struct_size = sizeof given, .valid_vocab = 2, .norm_eps = 3};
    char *path = files_path("m.gguf");
    CHECK_OK(salf_model_open(&model, context, path, &given));
    ck_assert_int_eq(model->info.valid_vocab, 2);
    ck_assert(model->info.norm_eps == 3);
    salf_model_destroy(model);
    const salf_model_options accepting = {.struct_size = sizeof accepting, .accept = "key"};
    CHECK_FAILS(salf_model_open(&model, context, path, &accepting), SALF_E_ARGUMENT, "accept is 'key'");
    free(path);
    /* a number for each layer: all the same, or none for all */
    for (int i = 0; i < 2; i++) {
        char text[2048];
        snprintf(text, sizeof text,
                 GGUF_HEAD("4", "6") SHAPE("llama") RMS_EPS("llama")
                     GGUF_U32("llama.attention.head_count",
                              "4") "s:llama.attention.head_count_kv 4:9 4:4 8:2 4:2 4:%d " EMBEDDING NORM LAYERS DATA,
                 2 - i);
        CHECK_OK(open_text(&model, context, text));
        ck_assert_int_eq(model->info.n_kv_heads, i ? 4 : 2);
        salf_model_destroy(model);
    }
    /* float64 */
    CHECK_OK(open_text(
        &model, context,
        GGUF_HEAD("4", "4") SHAPE("llama") RMS_EPS("llama") GGUF_MATRIX("token_embd.weight", "32", "2", "28", "0")
            GGUF_VECTOR("output_norm.weight", "32", "512") LAYERS "pad z:248 8:0xbff8000000000000 z:256 z:128"));
    CHECK_OK(slf_matrix_fetch(NULL, &model->head, &(int32_t){0}, 1, row));
    ck_assert(row[30] == 0 && row[31] == -1.5f);
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

/* What an architecture does behind the last layer. */
static const struct {
    const char *text;
    int32_t norm_kind, tied;
    double eps, scale, cap, embedding_scale;
} rules[] = {
    {GGUF_HEAD("4", "4") SHAPE("gemma") RMS_EPS("gemma") EMBEDDING NORM LAYERS DATA, SALF_NORM_RMS, 1, .25, 1, 0,
     5.656854249492381},
    {GGUF_HEAD("4", "4") SHAPE("gemma2") RMS_EPS("gemma2") EMBEDDING NORM LAYERS DATA, SALF_NORM_RMS, 1, .25, 1, 30,
     5.656854249492381},
    {GGUF_HEAD("4", "5") SHAPE("gemma2") RMS_EPS("gemma2") GGUF_F32("gemma2.final_logit_softcapping", "20")
         EMBEDDING NORM LAYERS DATA,
     SALF_NORM_RMS, 1, .25, 1, 20, 5.656854249492381},
    {GGUF_HEAD("4", "4") SHAPE("gemma3") RMS_EPS("gemma3") EMBEDDING NORM LAYERS DATA, SALF_NORM_RMS, 1, .25, 1, 0,
     5.656854249492381},
    {GGUF_HEAD("4", "6") SHAPE("granite") RMS_EPS("granite") GGUF_F32("granite.logit_scale", "8")
         GGUF_F32("granite.embedding_scale", "12") EMBEDDING NORM LAYERS DATA,
     SALF_NORM_RMS, 1, .25, .125, 0, 12},
    {GGUF_HEAD("4", "5") SHAPE("cohere2") LAYER_EPS("cohere2") GGUF_F32("cohere2.logit_scale", "0.0625")
         EMBEDDING NORM LAYERS DATA,
     SALF_NORM_LAYER, 1, .5, .0625, 0, 1},
    {GGUF_HEAD("4", "6") SHAPE("granite") RMS_EPS("granite") GGUF_F32("granite.logit_scale", "0")
         GGUF_U32("general.quantization_version", "2") EMBEDDING NORM LAYERS DATA,
     SALF_NORM_RMS, 1, .25, 1, 0, 1},
    {GGUF_HEAD("4", "4") SHAPE("mpt") LAYER_EPS("mpt") EMBEDDING NORM LAYERS DATA, SALF_NORM_LAYER, 1, .5, 1, 0, 1},
    {GGUF_HEAD("3", "4") SHAPE("olmo") LAYER_EPS("olmo") EMBEDDING LAYERS DATA, SALF_NORM_LAYER, 1, .5, 1, 0, 1},
    {GGUF_HEAD("7", "4") SHAPE("phi2") LAYER_EPS("phi2") EMBEDDING NORM GGUF_VECTOR("output_norm.bias", "32", "288")
         GGUF_VECTOR("output.bias", "4", "416") GGUF_MATRIX("output.weight", "32", "4", "1", "448") LAYERS DATA,
     SALF_NORM_LAYER, 0, .5, 1, 0, 1},
};

START_TEST(architectures_have_their_rules) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        salf_model *model;
        CHECK_OK(open_text(&model, context, rules[i].text));
        const salf_model_info *info = &model->info;
        ck_assert_int_eq(info->norm_kind, rules[i].norm_kind);
        ck_assert_int_eq(info->tied, rules[i].tied);
        ck_assert_int_eq(info->valid_vocab, 4);
        ck_assert(info->norm_eps == rules[i].eps && info->logit_scale == rules[i].scale);
        ck_assert(info->logit_softcap == rules[i].cap);
        ck_assert_double_eq_tol(info->embedding_scale, rules[i].embedding_scale, 1e-14);
        ck_assert_int_eq(model->logit_bias != NULL, !rules[i].tied);
        ck_assert_int_eq(model->norm_bias != NULL, !rules[i].tied);
        ck_assert_int_eq(info->head_dtype, rules[i].tied ? 0 : SALF_F16);
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

#define LLAMA(tensors, fields, more) GGUF_HEAD(tensors, fields) SHAPE("llama") RMS_EPS("llama") more
static const struct {
    const char *text;
    salf_status status;
    const char *words;
} wrong[] = {
    {GGUF_HEAD("0", "0"), SALF_E_UNSUPPORTED, "general.architecture ''"},
    {GGUF_HEAD("0", "1") GGUF_TEXT("general.architecture", "bert"), SALF_E_UNSUPPORTED, "'bert'"},
    {GGUF_HEAD("0", "1") GGUF_U32("general.architecture", "7"), SALF_E_UNSUPPORTED, "general.architecture ''"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") GGUF_TEXT("general.type", "adapter"),
     SALF_E_UNSUPPORTED, "general.type is 'adapter'"},
    {GGUF_HEAD("0", "1") GGUF_TEXT("general.architecture", "llama"), SALF_E_CORRUPT, "llama.block_count is missing"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") GGUF_U32("llama.block_count", "0"), SALF_E_CORRUPT,
     "llama.block_count is 0"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") GGUF_TEXT("llama.block_count", "2"), SALF_E_CORRUPT,
     "llama.block_count is no integer"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") GGUF_TEXT("llama.block_count", ""), SALF_E_CORRUPT,
     "llama.block_count is no integer"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") "s:llama.block_count 4:9 4:4 8:2 4:2 4:2 ",
     SALF_E_CORRUPT, "llama.block_count is no integer"},
    {LLAMA("4", "5", "s:llama.embedding_length_out 4:9 4:4 8:0 " EMBEDDING NORM LAYERS DATA), SALF_E_CORRUPT,
     "llama.embedding_length_out is no integer"},
    {LLAMA("4", "5", "s:llama.attention.head_count 4:9 4:6 8:1 f:1 " EMBEDDING NORM LAYERS DATA), SALF_E_CORRUPT,
     "llama.attention.head_count is no integer"},
    {LLAMA("4", "5", "s:tokenizer.ggml.tokens 4:9 4:4 8:1 4:1 " EMBEDDING NORM LAYERS DATA), SALF_E_CORRUPT,
     "tokenizer.ggml.tokens is no list of texts"},
    {LLAMA("4", "6",
           "s:tokenizer.ggml.tokens 4:9 4:8 8:1 s:a s:tokenizer.ggml.token_type 4:9 4:5 8:2 4:1 4:5 " EMBEDDING NORM
               LAYERS DATA),
     SALF_E_CORRUPT, ".token_type none of theirs"},
    {LLAMA("4", "6",
           "s:tokenizer.ggml.tokens 4:9 4:8 8:1 s:a s:tokenizer.ggml.token_type 4:9 4:6 8:1 f:5 " EMBEDDING NORM LAYERS
               DATA),
     SALF_E_CORRUPT, ".token_type none of theirs"},
    {LLAMA("4", "5", GGUF_TEXT("tokenizer.ggml.tokens", "a") EMBEDDING NORM LAYERS DATA), SALF_E_CORRUPT,
     "tokenizer.ggml.tokens is no list of texts"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") GGUF_U32("general.type", "1"), SALF_E_UNSUPPORTED,
     "general.type is ''"},
    {GGUF_HEAD("0", "2") GGUF_TEXT("general.architecture", "llama") GGUF_U32("llama.block_count", "2"), SALF_E_CORRUPT,
     "llama.embedding_length is missing"},
    {LLAMA("3", "4", NORM LAYERS DATA), SALF_E_MISMATCH, "'token_embd.weight' is missing"},
    {LLAMA("4", "4", GGUF_VECTOR("token_embd.weight", "32", "0") NORM LAYERS DATA), SALF_E_MISMATCH, "1 dimensions"},
    {LLAMA("4", "4", GGUF_MATRIX("token_embd.weight", "64", "2", "8", "0") NORM LAYERS DATA), SALF_E_MISMATCH,
     "[2][64]; the configuration says [2][32]"},
    {LLAMA("4", "4", GGUF_MATRIX("token_embd.weight", "256", "1", "16", "0") NORM LAYERS DATA), SALF_E_MISMATCH,
     "[1][256]"},
    {LLAMA("4", "5", GGUF_U32("llama.vocab_size", "5") EMBEDDING NORM LAYERS DATA), SALF_E_MISMATCH, "5 tokens"},
    {LLAMA("4", "5", "s:tokenizer.ggml.tokens 4:9 4:8 8:5 s:a s:b s:c s:d s:e " EMBEDDING NORM LAYERS DATA),
     SALF_E_MISMATCH, "5 tokens"},
    {LLAMA("4", "5", GGUF_U32("llama.embedding_length_out", "64") EMBEDDING NORM LAYERS DATA), SALF_E_UNSUPPORTED,
     "embedding_length_out is 64"},
    {GGUF_HEAD("4", "4") SHAPE("llama") LAYER_EPS("llama") EMBEDDING NORM LAYERS DATA, SALF_E_MISMATCH,
     "layer_norm_rms_epsilon is missing"},
    {GGUF_HEAD("4", "4") SHAPE("gpt2") RMS_EPS("gpt2") EMBEDDING NORM LAYERS DATA, SALF_E_MISMATCH,
     "layer_norm_epsilon is missing"},
    {GGUF_HEAD("4", "4") SHAPE("llama") GGUF_F32("llama.attention.layer_norm_rms_epsilon", "nan")
         EMBEDDING NORM LAYERS DATA,
     SALF_E_CORRUPT, "is nan"},
    {GGUF_HEAD("4", "4") SHAPE("llama") GGUF_F32("llama.attention.layer_norm_rms_epsilon", "-1")
         EMBEDDING NORM LAYERS DATA,
     SALF_E_CORRUPT, "is -1"},
    {LLAMA("4", "5", GGUF_F32("llama.logit_scale", "2") EMBEDDING NORM LAYERS DATA), SALF_E_UNSUPPORTED,
     "llama.logit_scale is 2"},
    {LLAMA("4", "5", GGUF_F32("llama.final_logit_softcapping", "30") EMBEDDING NORM LAYERS DATA), SALF_E_UNSUPPORTED,
     "llama.final_logit_softcapping is 30"},
    {LLAMA("3", "4", EMBEDDING NORM GGUF_VECTOR("blk.1.x", "0", "0") DATA), SALF_E_MISMATCH, "layer 0 is missing"},
    {LLAMA("5", "4", EMBEDDING NORM LAYERS GGUF_VECTOR("blk.2.x", "0", "0") DATA), SALF_E_MISMATCH, "'blk.2.x'"},
    {LLAMA("5", "4", EMBEDDING NORM LAYERS GGUF_VECTOR("output.scale", "0", "0") DATA), SALF_E_UNSUPPORTED,
     "tensor 'output.scale'"},
    {LLAMA("3", "4", EMBEDDING LAYERS DATA), SALF_E_MISMATCH, "'output_norm.weight' is missing"},
    {LLAMA("4", "4", EMBEDDING GGUF_VECTOR("output_norm.weight", "31", "160") LAYERS DATA), SALF_E_MISMATCH,
     "31 elements, the configuration says 32"},
    {LLAMA("5", "4", EMBEDDING NORM GGUF_VECTOR("output_norm.bias", "32", "288") LAYERS DATA), SALF_E_MISMATCH,
     "'output_norm.bias' is not expected"},
    {GGUF_HEAD("4", "4") SHAPE("olmo") LAYER_EPS("olmo") EMBEDDING NORM LAYERS DATA, SALF_E_MISMATCH, "not expected"},
    {GGUF_HEAD("4", "4") SHAPE("gpt2") LAYER_EPS("gpt2") EMBEDDING NORM LAYERS DATA, SALF_E_MISMATCH,
     "'output_norm.bias' is missing"},
    {GGUF_HEAD("5", "4") SHAPE("phi2") LAYER_EPS("phi2") EMBEDDING NORM GGUF_VECTOR("output_norm.bias", "32", "288")
         LAYERS DATA,
     SALF_E_MISMATCH, "'output.bias' is missing"},
    {LLAMA("4", "5", GGUF_U32("general.quantization_version", "3") EMBEDDING NORM LAYERS DATA), SALF_E_UNSUPPORTED,
     "general.quantization_version is 3"},
    {GGUF_HEAD("4", "4") SHAPE("cohere2") LAYER_EPS("cohere2") EMBEDDING NORM LAYERS DATA, SALF_E_MISMATCH,
     "cohere2.logit_scale is missing"},
    {GGUF_HEAD("4", "4") SHAPE("granite") RMS_EPS("granite") EMBEDDING NORM LAYERS DATA, SALF_E_MISMATCH,
     "granite.logit_scale is missing"},
    {LLAMA("5", "4", EMBEDDING NORM GGUF_MATRIX("output.weight", "32", "5", "8", "320") LAYERS DATA), SALF_E_MISMATCH,
     "'output.weight' has 2 dimensions, [5][32]"},
    {GGUF_HEAD("5", "4") GGUF_TEXT("general.architecture", "llama") GGUF_U32("llama.block_count", "2") GGUF_U32(
         "llama.embedding_length", "256") RMS_EPS("llama") GGUF_MATRIX("token_embd.weight", "256", "1", "16", "0")
         GGUF_VECTOR("output_norm.weight", "1", "160") LAYERS GGUF_VECTOR("rope_freqs.weight", "0", "320") DATA,
     SALF_E_DTYPE, "'token_embd.weight' is of type IQ2_XXS"},
    {"'{ pad", SALF_E_CORRUPT, "no GGUF file"},
};

START_TEST(models_that_do_not_fit_are_refused) {
    harness_memory memory = {.fail_at = -1};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    const int64_t before = memory.alive;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        salf_model *model;
        CHECK_FAILS(open_text(&model, context, wrong[i].text), wrong[i].status, wrong[i].words);
        ck_assert_ptr_null(model);
        ck_assert_int_eq(memory.alive, before);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- split models ---- */

#define PART(tensors, fields, number, of) \
    GGUF_HEAD(tensors, fields) "s:split.no 4:2 2:" number " s:split.count 4:2 2:" of " s:split.tensors.count 4:5 4:4 "

static char *write_part(const char *name, const char *text) {
    char *path = files_path(name);
    gguf_write(path, text);
    return path;
}

START_TEST(parts_of_a_model_belong_together) {
    harness_memory memory = {.fail_at = -1};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, &memory);
    const int64_t before = memory.alive;
    static const char first_text[] = PART("2", "7", "0", "3") SHAPE("llama") RMS_EPS("llama") EMBEDDING NORM DATA;
    static const char second_text[] = PART("1", "3", "1", "3") GGUF_VECTOR("blk.0.x", "2", "0") "pad d:64";
    char *first = write_part("m-00001-of-00003.gguf", first_text);
    char *second = write_part("m-00002-of-00003.gguf", second_text);
    char *third = write_part("m-00003-of-00003.gguf", PART("1", "3", "2", "3") GGUF_VECTOR("blk.1.x", "0", "0"));
    salf_model *model;
    salf_named_tensor named;
    CHECK_OK(salf_model_open(&model, context, first, NULL));
    ck_assert_int_eq(salf_tensors_count(salf_model_get_tensors(model)), 4);
    CHECK_OK(salf_tensors_find(salf_model_get_tensors(model), "blk.0.x", &named));
    ck_assert_int_eq(((const uint8_t *)named.view.data)[7], 7);
    salf_model_destroy(model);

    CHECK_FAILS(salf_model_open(&model, context, second, NULL), SALF_E_MISMATCH, "part 2 of 3; open the first");
    gguf_write(second, PART("1", "3", "2", "3") GGUF_VECTOR("blk.0.x", "2", "0") "pad d:64");
    CHECK_FAILS(salf_model_open(&model, context, first, NULL), SALF_E_MISMATCH, "part 3 of 3, under the name");
    gguf_write(second, PART("1", "3", "1", "2") GGUF_VECTOR("blk.0.x", "2", "0") "pad d:64");
    CHECK_FAILS(salf_model_open(&model, context, first, NULL), SALF_E_MISMATCH, "one of 2 parts");
    gguf_write(second,
               PART("2", "3", "1", "3") GGUF_VECTOR("blk.0.x", "2", "0") GGUF_VECTOR("blk.1.x", "0", "0") "pad d:64");
    CHECK_FAILS(salf_model_open(&model, context, first, NULL), SALF_E_MISMATCH, "5 tensors, split.tensors.count is 4");
    gguf_write(second, second_text);
    CHECK_OK(salf_model_open(&model, context, first, NULL));
    salf_model_destroy(model);
    remove(third);
    CHECK_FAILS(salf_model_open(&model, context, first, NULL), SALF_E_NOT_FOUND, "m-00003-of-00003.gguf");
    char *other = write_part("m-1.gguf", first_text);
    CHECK_FAILS(salf_model_open(&model, context, other, NULL), SALF_E_MISMATCH, "-00001-of-00003.gguf");
    ck_assert_int_eq(memory.alive, before);
    free(first);
    free(second);
    free(third);
    free(other);
    salf_context_destroy(context);
}
END_TEST

/* ---- what is no GGUF file, and memory ---- */

START_TEST(the_first_bytes_tell_a_file_without_the_name) {
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    salf_model *model;
    char *path = write_part("blob", LLAMA("4", "4", EMBEDDING NORM LAYERS DATA));
    CHECK_OK(salf_model_open(&model, context, path, NULL));
    salf_model_destroy(model);
    CHECK_FAILS(salf_model_open(&model, context, "nowhere.gguf", NULL), SALF_E_NOT_FOUND, "nowhere.gguf");
    free(path);
    salf_context_destroy(context);
}
END_TEST

static salf_status open_and_destroy(harness_memory *memory, int32_t backend, void *path) {
    salf_context *context;
    salf_model *model = NULL;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_model_open(&model, context, path, NULL);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_failed_allocation_is_reported) {
    char *first = write_part("a-00001-of-00002.gguf", PART("3", "7", "0", "2") SHAPE("llama") RMS_EPS("llama")
                                                          EMBEDDING NORM GGUF_VECTOR("blk.0.x", "0", "0") DATA);
    char *second = write_part("a-00002-of-00002.gguf", PART("1", "3", "1", "2") GGUF_VECTOR("blk.1.x", "0", "0"));
    harness_fail_each_allocation(open_and_destroy, SALF_BACKEND_REFERENCE, first);
    free(first);
    free(second);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, quantised_rows_equal_the_package_bit_for_bit);
    HARNESS_ADD(suite, files_that_lie_are_refused);
    HARNESS_ADD(suite, what_is_merely_odd_is_read);
    HARNESS_ADD(suite, a_model_is_understood);
    HARNESS_ADD(suite, architectures_have_their_rules);
    HARNESS_ADD(suite, models_that_do_not_fit_are_refused);
    HARNESS_ADD(suite, parts_of_a_model_belong_together);
    HARNESS_ADD(suite, the_first_bytes_tell_a_file_without_the_name);
    HARNESS_ADD(suite, each_failed_allocation_is_reported);
}
