/* Checkpoints: those of every family are understood, and must agree with their configuration, which must make sense. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/fingerprint.h"
#include "core/random.h"
#include "files.h"
#include "harness.h"
#include "io/io.h"
#include "model/model.h"
#include "oracle.h"

enum { V = 7, D = 4, M = 2 };

/* ---- checkpoints ---- */

enum { WIDEST = 64, ROOM = 512 };

typedef struct {
    const char *name;
    int32_t dtype;
    int64_t rows; /* 0: a vector [cols] */
    int64_t cols;
} part;

/* Numbers of a made-up checkpoint: element i is small and different for each tensor. */
static void save_parts(salf_context *context, const char *folder, const part *parts, int n) {
    static float numbers[WIDEST];
    static double doubles[WIDEST];
    static uint16_t bf16[WIDEST], f16[WIDEST];
    salf_named_tensor in[16];
    for (int i = 0; i < WIDEST; i++) {
        numbers[i] = (float)(i * 7 % 23 - 11) * 0.125f;
        doubles[i] = (double)numbers[i];
        bf16[i] = harness_to_bf16(numbers[i]);
        f16[i] = harness_to_f16(numbers[i]);
    }
    for (int i = 0; i < n; i++) {
        const void *data = parts[i].dtype == SALF_BF16  ? (const void *)bf16
                           : parts[i].dtype == SALF_F16 ? (const void *)f16
                           : parts[i].dtype == SALF_F64 ? (const void *)doubles
                                                        : (const void *)numbers;
        const int64_t rows = parts[i].rows ? parts[i].rows : 1;
        ck_assert_int_le(rows * parts[i].cols, WIDEST);
        in[i] =
            (salf_named_tensor){.name = parts[i].name, .view = oracle_view(data, parts[i].dtype, rows, parts[i].cols)};
        in[i].n_dims = parts[i].rows ? 2 : 1;
        in[i].shape[0] = parts[i].rows ? parts[i].rows : parts[i].cols;
        in[i].shape[1] = parts[i].rows ? parts[i].cols : 0;
    }
    char path[ROOM + 32];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CHECK_OK(salf_tensors_save(context, path, in, n, NULL, 0));
}

/* A folder of the scratch folder with a config.json (NULL: none). */
static void make_folder(char *folder, const char *name, const char *config) {
    snprintf(folder, ROOM, "%s", harness_path(name));
    mkdir(folder, 0777);
    char path[ROOM + 32];
    snprintf(path, sizeof path, "%s/config.json", folder);
    remove(path);
    if (!config) return;
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(config, file);
    fclose(file);
}

#define LLAMA_SHAPE                                                                         \
    "\"num_hidden_layers\":2,\"hidden_size\":4,\"vocab_size\":7,\"num_attention_heads\":2," \
    "\"intermediate_size\":12"
#define GPT2_SHAPE "\"n_layer\":2,\"n_embd\":4,\"n_head\":2,\"vocab_size\":7"
#define LAYERS(prefix)                       \
    {prefix "layers.0.x", SALF_F32, 2, 2}, { \
        prefix "layers.1.x", SALF_F32, 2, 2  \
    }
#define GPT2_LAYERS(prefix)             \
    {prefix "h.0.x", SALF_F32, 2, 2}, { \
        prefix "h.1.x", SALF_F32, 2, 2  \
    }

typedef struct {
    const char *config;
    part parts[8];
    int32_t n;
    int32_t family;
    int32_t norm_kind;
    int32_t tied;
    int32_t attention_bias;
    int32_t head_dtype;
} checkpoint;

static const checkpoint good[] = {
    {"{\"model_type\":\"llama\"," LLAMA_SHAPE "}",
     {{"model.embed_tokens.weight", SALF_BF16, V, D},
      {"lm_head.weight", SALF_F16, V, D},
      {"model.norm.weight", SALF_F32, 0, D},
      LAYERS("model.")},
     5,
     SALF_FAMILY_LLAMA,
     SALF_NORM_RMS,
     0,
     0,
     SALF_F16},
    {"{\"model_type\":\"llama\",\"tie_word_embeddings\":true," LLAMA_SHAPE "}",
     {{"lm_head.weight", SALF_BF16, V, D}, {"norm.weight", SALF_BF16, 0, D}, LAYERS("")},
     4,
     SALF_FAMILY_LLAMA,
     SALF_NORM_RMS,
     1,
     0,
     SALF_BF16},
    {"{\"model_type\":\"qwen2\",\"tie_word_embeddings\":true," LLAMA_SHAPE "}",
     {{"model.embed_tokens.weight", SALF_F32, V, D}, {"model.norm.weight", SALF_F32, 0, D}, LAYERS("model.")},
     4,
     SALF_FAMILY_QWEN2,
     SALF_NORM_RMS,
     1,
     1,
     SALF_F32},
    {"{\"model_type\":\"gemma2\"," LLAMA_SHAPE "}",
     {{"model.embed_tokens.weight", SALF_BF16, V, D}, {"model.norm.weight", SALF_BF16, 0, D}, LAYERS("model.")},
     4,
     SALF_FAMILY_GEMMA2,
     SALF_NORM_RMS1P,
     1,
     0,
     SALF_BF16},
    {"{\"model_type\":\"mistral\"," LLAMA_SHAPE "}",
     {{"embed_tokens.weight", SALF_F32, V, D},
      {"lm_head.weight", SALF_F32, V, D},
      {"norm.weight", SALF_F32, 0, D},
      LAYERS("")},
     5,
     SALF_FAMILY_MISTRAL,
     SALF_NORM_RMS,
     0,
     0,
     SALF_F32},
    {"{\"model_type\":\"gpt2\"," GPT2_SHAPE "}",
     {{"wte.weight", SALF_F32, V, D}, {"ln_f.weight", SALF_F32, 0, D}, {"ln_f.bias", SALF_F32, 0, D}, GPT2_LAYERS("")},
     5,
     SALF_FAMILY_GPT2,
     SALF_NORM_LAYER,
     1,
     1,
     SALF_F32},
    {"{\"model_type\":\"gpt2\"," GPT2_SHAPE "}",
     {{"transformer.wte.weight", SALF_F16, V, D},
      {"lm_head.weight", SALF_F16, V, D},
      {"transformer.ln_f.weight", SALF_F32, 0, D},
      {"transformer.ln_f.bias", SALF_F32, 0, D},
      GPT2_LAYERS("transformer.")},
     6,
     SALF_FAMILY_GPT2,
     SALF_NORM_LAYER,
     1,
     1,
     SALF_F16},
};

START_TEST(families_are_understood) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const checkpoint *c = &good[i];
        char folder[ROOM];
        make_folder(folder, "family", c->config);
        save_parts(context, folder, c->parts, c->n);
        salf_model *model;
        salf_model_info info = {.struct_size = sizeof info};
        CHECK_OK(salf_model_open(&model, context, folder, NULL));
        CHECK_OK(salf_model_get_info(model, &info));
        ck_assert(info.family == c->family && info.norm_kind == c->norm_kind && info.tied == c->tied);
        ck_assert(info.attention_bias == c->attention_bias && info.head_dtype == c->head_dtype);
        ck_assert(info.n_layers == M && info.hidden == D && info.vocab == V && info.valid_vocab == V);
        ck_assert(info.n_heads == 2 && info.n_kv_heads == 2);
        ck_assert_int_eq(info.head_dim, c->family == SALF_FAMILY_GEMMA2 ? 256 : 2);
        ck_assert_int_eq(info.ffn_hidden, c->family == SALF_FAMILY_GPT2 ? 16 : 12);
        ck_assert(info.norm_eps == (c->family == SALF_FAMILY_GPT2 ? 1e-5 : 1e-6));
        ck_assert(info.embedding_scale == (c->family == SALF_FAMILY_GEMMA2 ? 2 : 1));
        ck_assert(info.logit_softcap == (c->family == SALF_FAMILY_GEMMA2 ? 30 : 0) && info.logit_scale == 1);
        ck_assert(info.rope_theta == (c->family == SALF_FAMILY_GPT2 ? 0 : 10000));
        ck_assert_int_eq(salf_tensors_count(salf_model_get_tensors(model)), c->n);
        ck_assert(model->norm_weight[1] == -0.5f + (float)(c->norm_kind == SALF_NORM_RMS1P));
        ck_assert((model->norm_bias != NULL) == (c->norm_kind == SALF_NORM_LAYER));
        ck_assert(!slf_matrix_is_empty(&model->head) && !slf_matrix_is_empty(&model->embedding));
        ck_assert((model->head.view.data == model->embedding.view.data) == c->tied);
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

static const part plain_parts[] = {{"model.embed_tokens.weight", SALF_F32, V, D},
                                   {"lm_head.weight", SALF_F32, V, D},
                                   {"model.norm.weight", SALF_F32, 0, D},
                                   LAYERS("model.")};
enum { PLAIN = sizeof plain_parts / sizeof *plain_parts };
#define PLAIN_CONFIG "{\"model_type\":\"llama\"," LLAMA_SHAPE "}"

/* One tensor is missing or another than the configuration says. */
START_TEST(tensors_that_disagree_are_refused) {
    static const struct {
        int which;
        part instead; /* name NULL: left out */
        salf_status status;
        const char *words;
    } changes[] = {
        {0, {NULL, 0, 0, 0}, SALF_E_MISMATCH, "'embed_tokens.weight' is missing"},
        {1, {NULL, 0, 0, 0}, SALF_E_MISMATCH, "'lm_head.weight' is missing"},
        {2, {NULL, 0, 0, 0}, SALF_E_MISMATCH, "'model.norm.weight' is missing"},
        {3, {NULL, 0, 0, 0}, SALF_E_MISMATCH, "layer 0 is missing"},
        {4, {NULL, 0, 0, 0}, SALF_E_MISMATCH, "layer 1 is missing"},
        {4, {"model.layers.10.x", SALF_F32, 1, 1}, SALF_E_MISMATCH, "layer 1 is missing"},
        {0, {"model.embed_tokens.weight", SALF_F32, V + 1, D}, SALF_E_MISMATCH, "[8][4]"},
        {1, {"lm_head.weight", SALF_F32, V, D + 1}, SALF_E_MISMATCH, "[7][5]"},
        {1, {"lm_head.weight", SALF_F32, 0, D}, SALF_E_MISMATCH, "'lm_head.weight' has 1 dimensions, [4][0]"},
        {1, {"lm_head.weight", SALF_I8, V, D}, SALF_E_DTYPE, "lm_head.weight"},
        {2, {"model.norm.weight", SALF_F32, 0, D + 1}, SALF_E_MISMATCH, "5 elements"},
        {2, {"model.norm.weight", SALF_F32, 2, D}, SALF_E_MISMATCH, "model.norm.weight"},
        {2, {"model.norm.weight", SALF_I32, 0, D}, SALF_E_DTYPE, "'model.norm.weight' is of type I32"},
    };
    harness_memory memory;
    salf_context *context = harness_context(SALF_BACKEND_CPU, &memory);
    const int64_t alive = memory.alive;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        part parts[PLAIN];
        int n = 0;
        for (int k = 0; k < PLAIN; k++)
            if (k != changes[i].which)
                parts[n++] = plain_parts[k];
            else if (changes[i].instead.name)
                parts[n++] = changes[i].instead;
        char folder[ROOM];
        make_folder(folder, "disagree", PLAIN_CONFIG);
        save_parts(context, folder, parts, n);
        salf_model *model;
        const salf_status status = salf_model_open(&model, context, folder, NULL);
        ck_assert_msg(status == changes[i].status && harness_contains(salf_last_error(), changes[i].words),
                      "%zu: %s: %s", i, salf_status_name(status), salf_last_error());
        ck_assert_ptr_null(model);
        ck_assert_int_eq(memory.alive, alive);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(one_layer_too_many) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    part parts[PLAIN + 1];
    memcpy(parts, plain_parts, sizeof plain_parts);
    parts[PLAIN] = (part){"model.layers.2.x", SALF_F32, 1, 1};
    char folder[ROOM];
    make_folder(folder, "more", PLAIN_CONFIG);
    save_parts(context, folder, parts, PLAIN + 1);
    salf_model *model;
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH, "layer 2 is there");
    /* nor one further on, whatever is between; what has no layer's name is none */
    parts[PLAIN].name = "model.layers.7.x";
    save_parts(context, folder, parts, PLAIN + 1);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH, "'model.layers.7.x' is there");
    parts[PLAIN].name = "model.layers.01.input_layernorm.weight";
    save_parts(context, folder, parts, PLAIN + 1);
    salf_decoder_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_model_open(&model, context, folder, NULL));
    CHECK_OK(salf_model_get_decoder(model, &info));
    ck_assert(harness_contains(info.unsupported, "model.layers.01."));
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

START_TEST(layer_norm_needs_its_bias) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    const part parts[] = {{"wte.weight", SALF_F32, V, D}, {"ln_f.weight", SALF_F32, 0, D}, GPT2_LAYERS("")};
    char folder[ROOM];
    make_folder(folder, "bias", "{\"model_type\":\"gpt2\"," GPT2_SHAPE "}");
    save_parts(context, folder, parts, 4);
    salf_model *model;
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH, "ln_f.bias' is missing");
    salf_context_destroy(context);
}
END_TEST

/* A tied model with neither of its names, and a head of a type that has no place here. */
START_TEST(heads_that_cannot_be_used) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    const part parts[] = {{"model.norm.weight", SALF_F32, 0, D}, LAYERS("model."), {"wte.weight", SALF_F32, V, D}};
    char folder[ROOM], path[ROOM + 32];
    make_folder(folder, "unusable", "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," LLAMA_SHAPE "}");
    save_parts(context, folder, parts, 4);
    salf_model *model;
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH,
                "neither 'model.embed_tokens.weight' nor 'lm_head.weight'");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    files_write_tensors(path,
                        "{\"lm_head.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[7,4],\"data_offsets\":[0,28]},"
                        "\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[28,44]},"
                        "\"layers.0.x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                        "\"layers.1.x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                        44);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_DTYPE, "F8_E4M3");
    salf_context_destroy(context);
}
END_TEST

START_TEST(norm_with_nan) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    const float numbers[V * D] = {0}, norm[D] = {1, 1, NAN, 1};
    salf_named_tensor in[] = {{.name = "lm_head.weight", .view = oracle_view(numbers, SALF_F32, V, D)},
                              {.name = "model.norm.weight", .view = oracle_view(norm, SALF_F32, 1, D)},
                              {.name = "model.layers.0.x", .view = oracle_view(norm, SALF_F32, 1, 1)},
                              {.name = "model.layers.1.x", .view = oracle_view(norm, SALF_F32, 1, 1)}};
    in[1].n_dims = 1;
    in[1].shape[0] = D;
    char folder[ROOM], path[ROOM + 32];
    make_folder(folder, "nan", "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," LLAMA_SHAPE "}");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    CHECK_OK(salf_tensors_save(context, path, in, 4, NULL, 0));
    salf_model *model;
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NONFINITE, "element 2");
    salf_context_destroy(context);
}
END_TEST

/* One field of a good configuration is taken away (value NULL) or changed. */
START_TEST(configurations_that_make_no_sense_are_refused) {
    static const struct {
        const char *field;
        const char *value;
        salf_status status;
        const char *words;
    } changes[] = {
        {"model_type", NULL, SALF_E_CORRUPT, "model_type"},
        {"model_type", "7", SALF_E_CORRUPT, "model_type"},
        {"model_type", "\"bert\"", SALF_E_UNSUPPORTED, "'bert'"},
        {"num_hidden_layers", NULL, SALF_E_CORRUPT, "num_hidden_layers is missing"},
        {"num_hidden_layers", "0", SALF_E_CORRUPT, "num_hidden_layers is 0"},
        {"num_hidden_layers", "-2", SALF_E_CORRUPT, "num_hidden_layers is -2"},
        {"num_hidden_layers", "65536", SALF_E_CORRUPT, "65536"},
        {"num_hidden_layers", "2.5", SALF_E_CORRUPT, "num_hidden_layers is no integer"},
        {"num_hidden_layers", "\"2\"", SALF_E_CORRUPT, "num_hidden_layers is no integer"},
        {"hidden_size", "0", SALF_E_CORRUPT, "hidden_size is 0"},
        {"hidden_size", NULL, SALF_E_CORRUPT, "hidden_size is missing"},
        {"hidden_size", "null", SALF_E_CORRUPT, "hidden_size is missing"},
        {"vocab_size", "4294967296", SALF_E_CORRUPT, "vocab_size is 4294967296"},
        {"vocab_size", NULL, SALF_E_CORRUPT, "vocab_size is missing"},
        {"num_attention_heads", NULL, SALF_E_CORRUPT, "num_attention_heads is missing"},
        {"num_attention_heads", "0", SALF_E_CORRUPT, "num_attention_heads is 0"},
        {"num_key_value_heads", "3", SALF_E_CORRUPT, "2 heads over 3"},
        {"intermediate_size", NULL, SALF_E_CORRUPT, "intermediate_size is missing"},
        {"head_dim", "0", SALF_E_CORRUPT, "head_dim is 0"},
        {"num_attention_heads", "5", SALF_E_CORRUPT, "hidden size 4 over 5 heads"},
        {"max_position_embeddings", "0", SALF_E_CORRUPT, "max_position_embeddings is 0"},
        {"rms_norm_eps", "-1", SALF_E_CORRUPT, "rms_norm_eps"},
        {"rms_norm_eps", "\"x\"", SALF_E_CORRUPT, "rms_norm_eps"},
        {"rope_theta", "[]", SALF_E_CORRUPT, "rope_theta"},
        {"rope_parameters", "{\"rope_theta\":-3}", SALF_E_CORRUPT, "rope_theta"},
        {"tie_word_embeddings", "1", SALF_E_CORRUPT, "tie_word_embeddings"},
        {"attention_bias", "\"no\"", SALF_E_CORRUPT, "attention_bias"},
    };
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char change[512];
        slf_json *json, *changed;
        snprintf(change, sizeof change, "{\"%s\":%s}", changes[i].field, changes[i].value ? changes[i].value : "0");
        CHECK_OK(slf_json_parse(&json, context, PLAIN_CONFIG, strlen(PLAIN_CONFIG), true, "plain"));
        CHECK_OK(slf_json_parse(&changed, context, change, strlen(change), true, changes[i].field));
        if (changes[i].value)
            CHECK_OK(slf_json_update(json, changed));
        else
            slf_json_remove(json, changes[i].field);
        slf_json_release(changed);
        slf_config config;
        const salf_status status = slf_config_read(&config, context, json, "x/config.json", NULL);
        ck_assert_msg(status == changes[i].status && harness_contains(salf_last_error(), changes[i].words) &&
                          harness_contains(salf_last_error(), "x/config.json"),
                      "%s: %s: %s: %s", changes[i].field, changes[i].value ? changes[i].value : "-",
                      salf_status_name(status), salf_last_error());
        slf_config_free(&config);
        slf_json_release(json);
    }
    salf_context_destroy(context);
}
END_TEST

/* Reads a configuration that is fine, and describes what came out of it. */
static salf_model_info read_config(salf_context *context, const char *text, salf_decoder_info *decoder,
                                   char *unsupported) {
    slf_config config;
    slf_json *json;
    CHECK_OK(slf_json_parse(&json, context, text, strlen(text), false, text));
    CHECK_OK(slf_config_read(&config, context, json, "x", NULL));
    if (decoder) *decoder = config.decoder;
    if (decoder) decoder->sliding = NULL; /* it goes with the configuration */
    if (unsupported) strcpy(unsupported, config.unsupported);
    slf_config_free(&config);
    slf_json_release(json);
    return config.info;
}

START_TEST(configurations_are_read) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    char lacks[512];
    salf_model_info info =
        read_config(context,
                    "{\"model_type\":\"qwen2\"," LLAMA_SHAPE
                    ",\"num_key_value_heads\":1,\"head_dim\":64,\"max_position_embeddings\":99,\"rms_norm_eps\":1,"
                    "\"rope_parameters\":{\"rope_theta\":1e6},\"tie_word_embeddings\":true,\"bos_token_id\":null,"
                    "\"eos_token_id\":[5,6]}",
                    NULL, lacks);
    ck_assert(info.n_kv_heads == 1 && info.head_dim == 64 && info.max_positions == 99 && info.norm_eps == 1);
    ck_assert(info.rope_theta == 1e6 && info.tied == 1 && info.attention_bias == 1);
    ck_assert(info.bos_token == -1 && info.eos_token == 5 && info.logit_softcap == 0 && !*lacks);
    ck_assert_str_eq(info.model_type, "qwen2");
    /* a cap of the logits that is null is none, one that is left out is the family's */
    info = read_config(
        context,
        "{\"model_type\":\"gemma2\"," LLAMA_SHAPE
        ",\"final_logit_softcapping\":null,\"rope_parameters\":{\"rope_theta\":null},\"num_key_value_heads\":2}",
        NULL, NULL);
    ck_assert(info.logit_softcap == 0 && info.rope_theta == 10000);
    info = read_config(context,
                       "{\"model_type\":\"gemma2\"," LLAMA_SHAPE
                       ",\"final_logit_softcapping\":12.5,\"num_key_value_heads\":2}",
                       NULL, NULL);
    ck_assert(info.logit_softcap == 12.5);
    salf_context_destroy(context);
}
END_TEST

/* ---- heads that backends do not take as they are, and names that are not the family's ---- */

START_TEST(float64_and_biases) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    const part parts[] = {{"a.b.model.embed_tokens.weight", SALF_F32, V, D},
                          {"a.b.lm_head.weight", SALF_F64, V, D},
                          {"a.b.model.norm.weight", SALF_F64, 0, D},
                          {"a.b.lm_head.bias", SALF_BF16, 0, V},
                          LAYERS("a.b.model."),
                          {"teacher.layers.0.x", SALF_F32, 1, 1}};
    char folder[ROOM];
    make_folder(folder, "double", PLAIN_CONFIG);
    save_parts(context, folder, parts, 7);
    salf_model *model;
    salf_model_info info = {.struct_size = sizeof info};
    salf_decoder_info decoder = {.struct_size = sizeof decoder};
    CHECK_OK(salf_model_open(&model, context, folder, NULL));
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert_int_eq(info.head_dtype, 0);
    float row[D];
    CHECK_OK(slf_matrix_fetch(NULL, &model->head, &(int32_t){3}, 1, row));
    for (int i = 0; i < D; i++) ck_assert(row[i] == (float)((3 * D + i) * 7 % 23 - 11) * 0.125f);
    ck_assert(model->norm_weight[1] == -0.5f && model->logit_bias[1] == -0.5f);
    CHECK_OK(salf_model_get_decoder(model, &decoder)); /* the layers' tensors have names of no family */
    ck_assert(harness_contains(decoder.unsupported, "a.b.model.layers.0.x"));
    ck_assert_str_eq(decoder.prefix, "a.b.model.");
    CHECK_FAILS(salf_model_get_decoder(NULL, &decoder), SALF_E_NULL, "model");
    CHECK_FAILS(salf_model_get_decoder(model, NULL), SALF_E_NULL, "info");
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

/* Two models in one file, and heads of which only one can be meant. */
START_TEST(names_that_could_be_two_are_refused) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    const part two[] = {{"a.embed_tokens.weight", SALF_F32, V, D}, {"a.norm.weight", SALF_F32, 0, D}, LAYERS("a."),
                        {"b.embed_tokens.weight", SALF_F32, V, D}, {"b.norm.weight", SALF_F32, 0, D}, LAYERS("b.")};
    const part heads[] = {{"x.model.embed_tokens.weight", SALF_F32, V, D},
                          {"x.model.norm.weight", SALF_F32, 0, D},
                          LAYERS("x.model."),
                          {"x.lm_head.weight", SALF_F32, V, D},
                          {"lm_head.weight", SALF_F32, V, D}};
    char folder[ROOM];
    salf_model *model;
    make_folder(folder, "two", "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," LLAMA_SHAPE "}");
    save_parts(context, folder, two, 8);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH, "2 models are in there");
    save_parts(context, folder, heads, 6);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH, "which is the head?");
    /* a missing part is named by where it was looked for */
    save_parts(context, folder, two, 1);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_MISMATCH,
                "'model.layers.0....', 'layers.0....' or '*.layers.0....'");
    salf_context_destroy(context);
}
END_TEST

/* Heads in eight bits: [2][2] and scales written by hand. The model's head is [7][4], in blocks of 4 x 2. */
START_TEST(scaled_heads) {
    static const struct {
        const char *head_type, *scale_name, *scale_shape;
        int scales; /* float32 */
        const char *more;
        salf_status status;
        const char *words;
    } cases[] = {
        {"F8_E4M3", "weight_scale_inv", "2,2", 4, "", SALF_OK, ""},
        {"F8_E4M3", "weight_scale", "7,1", 7, "", SALF_OK, ""},
        {"F8_E4M3", "weight_scale", "", 1, "", SALF_OK, ""},
        {"I8", "SCB", "7", 7, "", SALF_OK, ""},
        {"I8", "weight_scale", "7", 7, "", SALF_OK, ""},
        {"I8", "other", "7", 7, "", SALF_E_UNSUPPORTED, "lm_head.other"},
        {"F8_E4M3", "weight_scale_inv", "4", 4, "", SALF_E_MISMATCH, "4 scales for the 7 x 4"},
        {"F8_E4M3", "weight_scale_inv", "3,2", 6, "", SALF_E_MISMATCH, "6 scales"},
        {"F8_E4M3", "weight_scale", "1,7", 7, "", SALF_E_MISMATCH, "7 scales for the 7 x 4"}, /* not one a row */
        {"F8_E5M2", "weight_scale_inv", "2,2", 4, "", SALF_E_DTYPE, "F8_E5M2"},
        {"U8", "weight_scale", "7", 7, "", SALF_E_DTYPE, "'lm_head.weight' is of type U8"},
        {"I8", "SCB\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"lm_head.weight_scale", "7", 7, "",
         SALF_E_MISMATCH, "which are the scales of 'lm_head.weight'?"},
    };
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[ROOM], path[ROOM + 32], header[1024];
        uint8_t bytes[1024];
        make_folder(folder, "scaled",
                    "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," LLAMA_SHAPE
                    ",\"quantization_config\":{\"weight_block_size\":[4,2]}}");
        const int scale_bytes = 4 * cases[i].scales;
        snprintf(header, sizeof header,
                 "{\"lm_head.%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[0,%d]},"
                 "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[%d,%d]},"
                 "\"lm_head.weight\":{\"dtype\":\"%s\",\"shape\":[7,4],\"data_offsets\":[%d,%d]},"
                 "\"model.layers.0.x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                 "\"model.layers.1.x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
                 cases[i].scale_name, cases[i].scale_shape, scale_bytes, scale_bytes, scale_bytes + 16,
                 cases[i].head_type, scale_bytes + 16, scale_bytes + 44);
        const size_t n = files_build_tensors(bytes, header, (size_t)scale_bytes + 44),
                     data = n - (size_t)scale_bytes - 44;
        for (int s = 0; s < cases[i].scales; s++) {
            const float scale = (float)(s + 1);
            memcpy(bytes + data + 4 * s, &scale, 4);
        }
        memset(bytes + data + scale_bytes, 0, 16);
        /* 0x3C is 1.5 in FP8 and 60 in int8, 0x81 is -2^-9 and -127; 0x08 is 2^-6 and 8. */
        static const uint8_t rows[28] = {0x3C, 0x81, 0x08, 0x7E};
        memcpy(bytes + data + scale_bytes + 16, rows, 28);
        memcpy(bytes + data + scale_bytes + 16 + 24, rows, 4);
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        files_write(path, bytes, n);
        salf_model *model;
        const salf_status status = salf_model_open(&model, context, folder, NULL);
        ck_assert_msg(status == cases[i].status, "%zu: %s: %s", i, salf_status_name(status), salf_last_error());
        if (status != SALF_OK) {
            ck_assert_msg(harness_contains(salf_last_error(), cases[i].words), "%s", salf_last_error());
            continue;
        }
        float first[D], last[D];
        CHECK_OK(slf_matrix_fetch(NULL, &model->head, &(int32_t){0}, 1, first));
        CHECK_OK(slf_matrix_fetch(NULL, &model->head, &(int32_t){6}, 1, last));
        const bool fp8 = *cases[i].head_type == 'F', blocks = cases[i].scales == 4, whole = cases[i].scales == 1;
        const float unit = strcmp(cases[i].scale_name, "SCB") == 0 ? 1.f / 127 : 1;
        const float values[4] = {fp8 ? 1.5f : 60, fp8 ? -0.001953125f : -127, fp8 ? 0.015625f : 8, fp8 ? 448.f : 126};
        for (int c = 0; c < D; c++) {
            const float scale_first = blocks ? (float)(c / 2 + 1) : 1;
            const float scale_last = blocks ? (float)(c / 2 + 3) : whole ? 1 : 7;
            ck_assert_msg(first[c] == values[c] * (scale_first * unit), "%zu: %d: %g", i, c, (double)first[c]);
            ck_assert_msg(fabsf(last[c] - values[c] * scale_last * unit) <= 1e-6f * fabsf(last[c]), "%zu: %d: %g", i, c,
                          (double)last[c]);
        }
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

START_TEST(the_vocabulary_ends_with_the_tokenizer) {
    static const struct {
        const char *tokenizer; /* NULL: none */
        int64_t option, valid;
        int32_t from;
        salf_status status;
    } cases[] = {
        {NULL, 0, V, SALF_VOCAB_ROWS, SALF_OK},
        {"{\"model\":{\"vocab\":{\"a\":4}}}", 0, 5, SALF_VOCAB_TOKENIZER, SALF_OK},
        {"{\"model\":{\"vocab\":{\"a\":4}}}", 3, 3, SALF_VOCAB_OPTION, SALF_OK},
        {"{\"model\":{\"vocab\":{\"a\":9}}}", 0, V, SALF_VOCAB_ROWS, SALF_OK}, /* more than the head has */
        {"{\"model\":{}}", 0, 0, 0, SALF_E_CORRUPT},
        {"{\"model\":{\"vocab\":{\"a\":-4}}}", 0, 0, 0, SALF_E_CORRUPT},
        {"{\"model\":{}}", V, V, SALF_VOCAB_OPTION, SALF_OK},
        {"version https://git-lfs.github.com/spec/v1", 0, 0, 0, SALF_E_UNSUPPORTED},
    };
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char folder[ROOM], path[ROOM + 32];
        make_folder(folder, "vocabulary", PLAIN_CONFIG);
        save_parts(context, folder, plain_parts, PLAIN);
        snprintf(path, sizeof path, "%s/tokenizer.json", folder);
        if (cases[i].tokenizer) files_write(path, cases[i].tokenizer, strlen(cases[i].tokenizer));
        salf_model_options o;
        salf_options_init(&o, sizeof o);
        o.valid_vocab = cases[i].option;
        salf_model *model;
        salf_model_info info = {.struct_size = sizeof info};
        const salf_status status = salf_model_open(&model, context, folder, &o);
        ck_assert_msg(status == cases[i].status, "%zu: %s: %s", i, salf_status_name(status), salf_last_error());
        if (status != SALF_OK) continue;
        CHECK_OK(salf_model_get_info(model, &info));
        ck_assert(info.valid_vocab == cases[i].valid && info.vocab_from == cases[i].from && info.vocab == V);
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

/* Both are stored though one is said to serve as both: equal, they are one. */
START_TEST(tied_only_when_equal) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    char folder[ROOM], path[ROOM + 32];
    make_folder(folder, "tied", "{\"model_type\":\"llama\",\"tie_word_embeddings\":true," LLAMA_SHAPE "}");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    static float numbers[2][V * D], ones[D] = {1, 1, 1, 1};
    for (int different = 0; different < 2; different++) {
        numbers[1][5] = (float)different;
        salf_named_tensor in[] = {
            {.name = "lm_head.weight", .view = oracle_view(numbers[0], SALF_F32, V, D)},
            {.name = "model.embed_tokens.weight", .view = oracle_view(numbers[1], SALF_F32, V, D)},
            {.name = "model.norm.weight", .n_dims = 1, .shape = {D}, .view = oracle_view(ones, SALF_F32, 1, D)},
            {.name = "model.layers.0.x", .view = oracle_view(ones, SALF_F32, 1, 1)},
            {.name = "model.layers.1.x", .view = oracle_view(ones, SALF_F32, 1, 1)}};
        CHECK_OK(salf_tensors_save(context, path, in, 5, NULL, 0));
        salf_model *model;
        CHECK_OK(salf_model_open(&model, context, folder, NULL));
        ck_assert_int_eq(model->info.tied, !different);
        ck_assert((model->head.view.data == model->embedding.view.data) == !different);
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- opening ---- */

static int32_t no_rows(void *user, int64_t first, int64_t count, float *out) {
    (void)user;
    (void)first;
    (void)count;
    (void)out;
    return 1;
}

START_TEST(options_override_numbers_alone) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    char folder[ROOM];
    make_folder(folder, "options", PLAIN_CONFIG);
    save_parts(context, folder, plain_parts, PLAIN);
    salf_model_options o;
    salf_options_init(&o, sizeof o);
    o.valid_vocab = V - 3;
    o.norm_eps = 0.5;
    o.logit_scale = 3;
    o.logit_softcap = 4;
    salf_model *model;
    salf_model_info info = {.struct_size = sizeof info};
    CHECK_OK(salf_model_open(&model, context, folder, &o));
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert(info.valid_vocab == V - 3 && info.vocab == V && info.norm_eps == 0.5 && info.logit_scale == 3 &&
              info.logit_softcap == 4);
    salf_model_destroy(model);
    o.valid_vocab = V + 1;
    CHECK_FAILS(salf_model_open(&model, context, folder, &o), SALF_E_ARGUMENT, "valid_vocab is 8");
    const float w[V * D] = {0};
    for (int i = 0; i < 9; i++) {
        salf_options_init(&o, sizeof o);
        const salf_tensor view = oracle_view(w, SALF_F32, V, D);
        if (i == 0) o.n_layers = 2;
        if (i == 1) o.hidden = D;
        if (i == 2) o.vocab = V;
        if (i == 3) o.head = view;
        if (i == 4) o.embedding = view;
        if (i == 5) o.norm_weight = view;
        if (i == 6) o.logit_bias = view;
        if (i == 7) o.head_rows = no_rows;
        if (i == 8) o.tied = 1;
        CHECK_FAILS(salf_model_open(&model, context, folder, &o), SALF_E_ARGUMENT, "may be set");
    }
    CHECK_FAILS(salf_model_open(NULL, context, folder, NULL), SALF_E_NULL, "out");
    CHECK_FAILS(salf_model_open(&model, NULL, folder, NULL), SALF_E_NULL, "context");
    CHECK_FAILS(salf_model_open(&model, context, NULL, NULL), SALF_E_NULL, "path");
    salf_context_destroy(context);
}
END_TEST

START_TEST(folders_that_are_no_checkpoints) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    char folder[ROOM], path[ROOM + 32];
    salf_model *model;
    CHECK_FAILS(salf_model_open(&model, context, "/nonexistent", NULL), SALF_E_NOT_FOUND, "/nonexistent/config.json");
    make_folder(folder, "bare", NULL);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NOT_FOUND, "config.json");
    make_folder(folder, "bare", "");
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_TRUNCATED, "config.json");
    make_folder(folder, "bare", "[]");
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_CORRUPT, "config.json");
    make_folder(folder, "bare", "{\"model_type\":\"llama\"");
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_CORRUPT, "line 1");
    make_folder(folder, "bare", PLAIN_CONFIG);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NOT_FOUND, "model.safetensors");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *file = fopen(path, "w");
    fputs("short", file);
    fclose(file);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_TRUNCATED, "model.safetensors");
    /* what is there instead of the weights, of the folder, or of the model */
    CHECK_FAILS(salf_model_open(&model, context, path, NULL), SALF_E_ARGUMENT, "give the folder");
    remove(path);
    snprintf(path, sizeof path, "%s/pytorch_model.bin", folder);
    files_write(path, "PK\003\004", 4);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NOT_FOUND, "only pytorch_model.bin");
    CHECK_FAILS(salf_model_open(&model, context, path, NULL), SALF_E_UNSUPPORTED, "a zip archive");
    snprintf(path, sizeof path, "%s/model.fp16.safetensors", folder);
    files_write(path, "", 0);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NOT_FOUND,
                "only model.fp16.safetensors, pytorch_model.bin");
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/%c.gguf", folder, 'e' - i);
        files_write(path, "", 0);
    }
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NOT_FOUND,
                "only a.gguf, b.gguf, c.gguf, d.gguf, ...");
    snprintf(path, sizeof path, "%s/a-00001-of-00002.safetensors", folder);
    files_write(path, "", 0);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_NOT_FOUND, "the index comes from where these");
    make_folder(folder, "adapter", NULL);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    files_write(path, "{\"base_model_name_or_path\":\"maker/base\"}", 40);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_UNSUPPORTED, "adapter of PEFT");
    ck_assert(harness_contains(salf_last_error(), "(maker/base)"));
    ck_assert(harness_contains(salf_last_error(), "without the model"));
    make_folder(folder, "adapter", PLAIN_CONFIG); /* transformers would load the model with the adapter on it */
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_UNSUPPORTED, "beside the model");
    files_write(path, "{}", 2);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_UNSUPPORTED, "(not named)");
    files_write(path, "{", 1);
    CHECK_FAILS(salf_model_open(&model, context, folder, NULL), SALF_E_CORRUPT, "adapter_config.json");
    salf_context_destroy(context);
}
END_TEST

static salf_status open_body(harness_memory *memory, int32_t backend, void *user) {
    salf_context *context;
    salf_model *model = NULL;
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status != SALF_OK) return status;
    status = salf_model_open(&model, context, user, NULL);
    salf_model_destroy(model);
    salf_context_destroy(context);
    return status;
}

START_TEST(each_allocation_can_fail) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    for (size_t i = 0; i < sizeof good / sizeof *good; i += 5) {
        char folder[ROOM];
        make_folder(folder, "memory", good[i].config);
        save_parts(context, folder, good[i].parts, good[i].n);
        harness_fail_each_allocation(open_body, SALF_BACKEND_CPU, folder);
    }
    salf_context_destroy(context);
}
END_TEST

/* ---- real models ---- */

static void open_real(const char *name, const salf_model_info *expected, const char *head) {
    const char *folder = harness_shared(name);
    if (!folder) return;
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    salf_model *model;
    salf_model_info info = {.struct_size = sizeof info};
    salf_named_tensor tensor;
    CHECK_OK(salf_model_open(&model, context, folder, NULL));
    CHECK_OK(salf_model_get_info(model, &info));
    ck_assert(info.n_layers == expected->n_layers && info.hidden == expected->hidden && info.vocab == expected->vocab &&
              info.n_heads == expected->n_heads && info.n_kv_heads == expected->n_kv_heads &&
              info.head_dim == expected->head_dim && info.ffn_hidden == expected->ffn_hidden &&
              info.norm_eps == expected->norm_eps);
    ck_assert(info.family == SALF_FAMILY_LLAMA && info.norm_kind == SALF_NORM_RMS && info.tied == 1 &&
              info.head_dtype == SALF_F32 && info.max_positions == 512 && info.rope_theta == 10000 &&
              info.attention_bias == 0 && info.bos_token == 1 && info.eos_token == 2);
    CHECK_OK(salf_tensors_find(salf_model_get_tensors(model), head, &tensor));
    ck_assert_ptr_eq(model->head.view.data, tensor.view.data);
    ck_assert_ptr_eq(model->embedding.view.data, tensor.view.data);
    uint64_t fingerprint, expected_hash = 0;
    for (int64_t r = 0; r < info.vocab; r++)
        expected_hash += slf_row_hash((const float *)tensor.view.data + r * info.hidden, info.hidden, r);
    CHECK_OK(salf_model_fingerprint(model, &fingerprint));
    ck_assert_uint_eq(fingerprint, expected_hash);
    salf_model_destroy(model);
    salf_context_destroy(context);
}

START_TEST(stories260k) {
    const salf_model_info info = {.n_layers = 5,
                                  .hidden = 64,
                                  .vocab = 512,
                                  .n_heads = 8,
                                  .n_kv_heads = 4,
                                  .head_dim = 8,
                                  .ffn_hidden = 172,
                                  .norm_eps = 1e-5};
    open_real("models/stories260k", &info, "model.embed_tokens.weight");
}
END_TEST

START_TEST(stories3m) {
    const salf_model_info info = {.n_layers = 6,
                                  .hidden = 192,
                                  .vocab = 4096,
                                  .n_heads = 6,
                                  .n_kv_heads = 2,
                                  .head_dim = 32,
                                  .ffn_hidden = 512,
                                  .norm_eps = 1e-5};
    open_real("models/stories3m", &info, "model.embed_tokens.weight");
}
END_TEST

START_TEST(stories656k) { /* stored under the head's name */
    const salf_model_info info = {.n_layers = 2,
                                  .hidden = 128,
                                  .vocab = 2048,
                                  .n_heads = 8,
                                  .n_kv_heads = 4,
                                  .head_dim = 16,
                                  .ffn_hidden = 384,
                                  .norm_eps = 1e-6};
    open_real("models/stories656k", &info, "lm_head.weight");
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, families_are_understood);
    HARNESS_ADD(suite, tensors_that_disagree_are_refused);
    HARNESS_ADD(suite, one_layer_too_many);
    HARNESS_ADD(suite, layer_norm_needs_its_bias);
    HARNESS_ADD(suite, heads_that_cannot_be_used);
    HARNESS_ADD(suite, norm_with_nan);
    HARNESS_ADD(suite, configurations_that_make_no_sense_are_refused);
    HARNESS_ADD(suite, configurations_are_read);
    HARNESS_ADD(suite, float64_and_biases);
    HARNESS_ADD(suite, names_that_could_be_two_are_refused);
    HARNESS_ADD(suite, scaled_heads);
    HARNESS_ADD(suite, the_vocabulary_ends_with_the_tokenizer);
    HARNESS_ADD(suite, tied_only_when_equal);
    HARNESS_ADD(suite, options_override_numbers_alone);
    HARNESS_ADD(suite, folders_that_are_no_checkpoints);
    HARNESS_ADD(suite, each_allocation_can_fail);
    HARNESS_ADD(suite, stories260k);
    HARNESS_ADD(suite, stories3m);
    HARNESS_ADD(suite, stories656k);
}
