/*
 * open_gguf.c - a model from a file of llama.cpp: its shape from the fields "ARCHITECTURE.*", head, embedding and final
 * norm from its tensors. Quantised matrices stay as they are in the file; their rows become float32 when they are asked
 * for.
 *
 * What an architecture does with the last hidden state stands in no field: the kind of the final norm, and whether the
 * logits are multiplied or divided by logit_scale. A table has it, after the graphs of llama.cpp (src/models/ there);
 * the name of the field with the norm's eps has to agree. Architectures that are not in the table are refused. Norm
 * weights are taken as they stand: where a family's norm multiplies by 1 + weight (Gemma, Qwen3-Next, Nemotron), the
 * converter has added the 1 (conversion/gemma.py in llama.cpp: every norm.weight is stored with + 1).
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/gguf.h"
#include "model/model.h"

/* What happens to head . state, and to the embedding's output. SCALED: by a factor that llama.cpp does not open a file
 * without. CAPPED: cap tanh(logits / cap). SQRT: times sqrt(D), which no field says. Then what tensors the final norm
 * and the head have there: a weight unless WITHOUT, no bias unless they need one, or in MPT may have one. */
enum {
    LOGITS_MULTIPLIED = 1,
    LOGITS_DIVIDED = 2,
    LOGITS_SCALED = 4,
    LOGITS_CAPPED = 8,
    EMBEDDING_SQRT = 16,
    NORM_WITHOUT_WEIGHT = 32,
    NORM_NEEDS_BIAS = 64,
    NORM_MAY_HAVE_BIAS = 128,
    HEAD_NEEDS_BIAS = 256
};

typedef struct {
    const char *name;
    int32_t norm_kind;
    int32_t rules;  /* sum of those above */
    double softcap; /* where the file has no final_logit_softcapping, with LOGITS_CAPPED */
} architecture;

/* By kind of norm, then as llama.cpp grew them. Left out on purpose: encoders, architectures whose last state is no
 * plain residual stream (Gemma 3n), and those that scale their logits by numbers that stand in no field (Grok,
 * MiniCPM). */
#define RMS_NORM(name) \
    { name, SALF_NORM_RMS, 0, 0 }
#define LAYER_NORM(name) \
    { name, SALF_NORM_LAYER, NORM_NEEDS_BIAS, 0 }
#define RMS_NORMS                                                                                                     \
    RMS_NORM("llama"), RMS_NORM("llama4"), RMS_NORM("mistral3"), RMS_NORM("deci"), RMS_NORM("smollm3"),               \
        RMS_NORM("qwen"), RMS_NORM("qwen2"), RMS_NORM("qwen2moe"), RMS_NORM("qwen2vl"), RMS_NORM("qwen3"),            \
        RMS_NORM("qwen3moe"), RMS_NORM("qwen3vl"), RMS_NORM("qwen3vlmoe"), RMS_NORM("qwen3next"), RMS_NORM("qwen35"), \
        RMS_NORM("qwen35moe"), RMS_NORM("phi3"), RMS_NORM("baichuan"), RMS_NORM("internlm2"), RMS_NORM("xverse"),     \
        RMS_NORM("deepseek"), RMS_NORM("deepseek2"), RMS_NORM("chatglm"), RMS_NORM("glm4"), RMS_NORM("glm4moe"),      \
        RMS_NORM("exaone"), RMS_NORM("exaone4"), RMS_NORM("olmo2"), RMS_NORM("olmoe"), RMS_NORM("openelm"),           \
        RMS_NORM("gpt-oss"), RMS_NORM("arcee"), RMS_NORM("ernie4_5"), RMS_NORM("ernie4_5-moe"),                       \
        RMS_NORM("hunyuan-dense"), RMS_NORM("hunyuan-moe"), RMS_NORM("seed_oss"), RMS_NORM("dots1"),                  \
        RMS_NORM("bailingmoe"), RMS_NORM("bailingmoe2"), RMS_NORM("apertus"), RMS_NORM("mamba")
#define LAYER_NORMS                                                                                                \
    LAYER_NORM("gpt2"), LAYER_NORM("gptneox"), LAYER_NORM("bloom"), LAYER_NORM("falcon"), LAYER_NORM("starcoder"), \
        LAYER_NORM("starcoder2"), LAYER_NORM("codeshell"), LAYER_NORM("stablelm"), LAYER_NORM("orion"),            \
        LAYER_NORM("nemotron")

static const architecture architectures[] = {
    RMS_NORMS,
    {"gemma", SALF_NORM_RMS, EMBEDDING_SQRT, 0},
    {"gemma2", SALF_NORM_RMS, EMBEDDING_SQRT | LOGITS_CAPPED, 30},
    {"gemma3", SALF_NORM_RMS, EMBEDDING_SQRT | LOGITS_CAPPED, 0},
    {"granite", SALF_NORM_RMS, LOGITS_DIVIDED | LOGITS_SCALED, 0},
    {"granitemoe", SALF_NORM_RMS, LOGITS_DIVIDED | LOGITS_SCALED, 0},
    {"granitehybrid", SALF_NORM_RMS, LOGITS_DIVIDED, 0},
    LAYER_NORMS,
    {"gptj", SALF_NORM_LAYER, NORM_NEEDS_BIAS | HEAD_NEEDS_BIAS, 0},
    {"phi2", SALF_NORM_LAYER, NORM_NEEDS_BIAS | HEAD_NEEDS_BIAS, 0},
    {"mpt", SALF_NORM_LAYER, NORM_MAY_HAVE_BIAS, 0},
    {"dbrx", SALF_NORM_LAYER, 0, 0},
    {"command-r", SALF_NORM_LAYER, LOGITS_MULTIPLIED | LOGITS_SCALED, 0},
    {"cohere2", SALF_NORM_LAYER, LOGITS_MULTIPLIED | LOGITS_SCALED, 0},
    {"olmo", SALF_NORM_LAYER, NORM_WITHOUT_WEIGHT, 0},
};

/* Tensors outside the layers that are read here, or that end where the first layer begins. Any other one might change
 * the last state or the logits. */
static const char *const outer_tensors[] = {"token_embd.weight",
                                            "output.weight",
                                            "output.bias",
                                            "output_norm.weight",
                                            "output_norm.bias",
                                            "token_embd_norm.weight",
                                            "token_embd_norm.bias",
                                            "position_embd.weight",
                                            "rope_freqs.weight",
                                            "rope_factors_long.weight",
                                            "rope_factors_short.weight",
                                            "attn_rot_embd"};

/* The file at hand. */
typedef struct {
    salf_model *model;
    const char *path, *name; /* name: of the architecture */
    const architecture *rules;
} gguf_model;

/* An integer "NAME.suffix", with each perhaps a list of one a layer. NEEDED as missing: the field has to be there. The
 * name has at most 63 bytes (slf_model_open_gguf) and no suffix 40, so that a key is never cut. */
enum { NEEDED = -1 };
static salf_status read_integer(const gguf_model *g, const char *suffix, bool each, int64_t missing, int64_t most,
                                int64_t *out) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", g->name, suffix);
    const int64_t least = missing == NEEDED ? 1 : 0;
    if (missing == NEEDED && !slf_gguf_field(g->model->tensors, key))
        return slf_fail(SALF_E_CORRUPT, "%s: %s is missing", g->path, key);
    *out = missing;
    return slf_gguf_integer(g->model->tensors, g->path, key, each, least, most, out);
}

/* A number "NAME.suffix"; *out stays what it is where the file has none. */
static salf_status read_real(const gguf_model *g, const char *suffix, double least, double *out) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", g->name, suffix);
    return slf_gguf_real(g->model->tensors, g->path, key, least, out);
}

/* Fields that describe the decoder are informative only, as lists of unequal numbers (one a layer) have none. */
static salf_status read_shape(const gguf_model *g) {
    const salf_tensors *tensors = g->model->tensors;
    salf_model_info *info = &g->model->info;
    /* The bounds keep every product that the library makes of these within 64 bits. */
    int64_t layers, extra, heads, kv_heads, head_dim, ffn, bos = -1, eos = -1, vocab, width;
    /* 1. what there must be. Layers that only predict further tokens come last, and are no part of the walk. */
    SLF_TRY(read_integer(g, "block_count", false, NEEDED, 65535, &layers));
    SLF_TRY(read_integer(g, "nextn_predict_layers", false, 0, layers - 1, &extra));
    SLF_TRY(read_integer(g, "embedding_length", false, NEEDED, 1 << 24, &info->hidden));
    SLF_TRY(read_integer(g, "embedding_length_out", false, info->hidden, INT64_MAX, &width));
    /* Where states leave the layers with another width than they have in between, the head takes none of those that a
     * probe sees. */
    if (width != info->hidden)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: %s.embedding_length_out is %" PRId64, g->path, g->name, width);
    info->n_layers = (int32_t)(layers - extra);
    /* The rows of the embedding are the vocabulary: vocab_size is a field that older converters left out, and the list
     * of tokens may be shorter where rows are padded. */
    const slf_entry *embedding = slf_tensors_entry(tensors, "token_embd.weight");
    if (!embedding) return slf_fail(SALF_E_MISMATCH, "%s: 'token_embd.weight' is missing", g->path);
    info->vocab = embedding->shape[0];
    if (embedding->n_dims != 2 || info->vocab < 1 || info->vocab > INT32_MAX)
        return slf_fail(SALF_E_MISMATCH, "%s: 'token_embd.weight' has %d dimensions and %" PRId64 " rows", g->path,
                        (int)embedding->n_dims, info->vocab);
    SLF_TRY(read_integer(g, "vocab_size", false, info->vocab, INT64_MAX, &vocab));
    const int64_t tokens = slf_gguf_tokens(tensors);
    if (tokens < 0 && slf_gguf_field(tensors, "tokenizer.ggml.tokens"))
        return slf_fail(SALF_E_CORRUPT, "%s: tokenizer.ggml.tokens is no list of texts, or .token_type none of theirs",
                        g->path);
    if (vocab > info->vocab || tokens > info->vocab)
        return slf_fail(SALF_E_MISMATCH, "%s: %" PRId64 " tokens, but 'token_embd.weight' has %" PRId64 " rows",
                        g->path, SLF_MAX(vocab, tokens), info->vocab);
    /* Rows behind the last token pad the matrix to a size that is quick to multiply with. They stand for no text, and
     * stay out of basis, scores and fingerprint. */
    info->valid_vocab = tokens > 0 ? SLF_MIN(tokens, vocab) : vocab;
    if (info->valid_vocab < 1) return slf_fail(SALF_E_CORRUPT, "%s: %s.vocab_size is 0", g->path, g->name);

    /* 2. what is told of the decoder */
    SLF_TRY(read_integer(g, "attention.head_count", true, 0, 65535, &heads));
    SLF_TRY(read_integer(g, "attention.head_count_kv", true, heads, 65535, &kv_heads));
    SLF_TRY(read_integer(g, "attention.key_length", true, heads > 0 ? info->hidden / heads : 0, 1 << 24, &head_dim));
    SLF_TRY(read_integer(g, "feed_forward_length", true, 0, INT32_MAX, &ffn));
    SLF_TRY(read_integer(g, "context_length", false, 0, INT64_MAX / 2, &info->max_positions));
    SLF_TRY(slf_gguf_integer(tensors, g->path, "tokenizer.ggml.bos_token_id", false, 0, UINT32_MAX, &bos));
    SLF_TRY(slf_gguf_integer(tensors, g->path, "tokenizer.ggml.eos_token_id", false, 0, UINT32_MAX, &eos));
    info->n_heads = (int32_t)heads;
    info->n_kv_heads = (int32_t)kv_heads;
    info->head_dim = (int32_t)head_dim;
    info->ffn_hidden = ffn;
    info->bos_token = bos < info->vocab ? (int32_t)bos : -1;
    info->eos_token = eos < info->vocab ? (int32_t)eos : -1;
    /* No field says it; the tensors of layer 0 do, of which queries, keys and values may be one. */
    info->attention_bias =
        slf_tensors_entry(tensors, "blk.0.attn_q.bias") || slf_tensors_entry(tensors, "blk.0.attn_qkv.bias");
    /* llama.cpp takes 10000 where a file has no rope.freq_base. */
    info->rope_theta = 10000;
    return read_real(g, "rope.freq_base", 0, &info->rope_theta);
}

/* From the last state to the logits, and the factor on the embedding. */
static salf_status read_rules(const gguf_model *g) {
    salf_model_info *info = &g->model->info;
    const int32_t rules = g->rules->rules;
    const bool rms = g->rules->norm_kind == SALF_NORM_RMS;
    double scale = NAN, eps = -1;
    SLF_TRY(read_real(g, rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", 0, &eps));
    if (eps < 0)
        return slf_fail(SALF_E_MISMATCH, "%s: %s.attention.layer_norm_%sepsilon is missing", g->path, g->name,
                        rms ? "rms_" : "");
    info->norm_eps = eps;
    /* A factor or a cap that the graph of this architecture is not known to apply is no detail to pass over: whoever
     * wrote the field believes that it counts. */
    SLF_TRY(read_real(g, "logit_scale", -1e30, &scale));
    if (isnan(scale) && (rules & LOGITS_SCALED))
        return slf_fail(SALF_E_MISMATCH, "%s: %s.logit_scale is missing", g->path, g->name);
    const bool scaled = !isnan(scale) && scale != 0; /* 0 is none in llama.cpp */
    /* llama.cpp has a default of its own where the field is missing: 30 for Gemma 2, none for Gemma 3. */
    info->logit_softcap = g->rules->softcap;
    SLF_TRY(read_real(g, "final_logit_softcapping", 0, &info->logit_softcap));
    if (scaled && !(rules & (LOGITS_MULTIPLIED | LOGITS_DIVIDED)))
        return slf_fail(SALF_E_UNSUPPORTED, "%s: %s.logit_scale is %g; what %s does with it is not known", g->path,
                        g->name, scale, g->name);
    if (info->logit_softcap > 0 && !(rules & LOGITS_CAPPED))
        return slf_fail(SALF_E_UNSUPPORTED, "%s: %s.final_logit_softcapping is %g, which %s is not known to have",
                        g->path, g->name, info->logit_softcap, g->name);
    /* One field for two rules: Cohere multiplies by it, Granite divides. */
    if (scaled) info->logit_scale = rules & LOGITS_DIVIDED ? 1 / scale : scale;
    if (rules & EMBEDDING_SQRT) info->embedding_scale = sqrt((double)info->hidden);
    return read_real(g, "embedding_scale", 0, &info->embedding_scale);
}

/* Every tensor belongs to a layer that the file says there is, or is known; every layer has one. */
static salf_status check_tensors(const gguf_model *g) {
    const salf_tensors *tensors = g->model->tensors;
    const int32_t m = g->model->info.n_layers;
    char begin[32];
    for (int32_t k = 0; k < m; k++) {
        snprintf(begin, sizeof begin, "blk.%d.", (int)k);
        if (!slf_tensors_begin(tensors, begin))
            return slf_fail(SALF_E_MISMATCH, "%s: %s.block_count says %d layers, but layer %d is missing", g->path,
                            g->name, (int)m, (int)k);
    }
    /* Layers behind the last one that counts are those that predict further tokens: they are there, and stay unread. */
    int64_t layers;
    SLF_TRY(read_integer(g, "block_count", false, NEEDED, 65535, &layers));
    for (int64_t i = 0; i < tensors->n; i++) {
        const char *name = tensors->entries[i].name;
        bool known = false;
        int k, end = 0;
        /* Five digits hold every number that block_count may have; end is set only where a point follows them. */
        if (sscanf(name, "blk.%5d.%n", &k, &end) == 1 && end > 0 && k >= 0) {
            if (k < layers) continue;
            return slf_fail(SALF_E_MISMATCH, "%s: %s.block_count says %" PRId64 " layers, but '%s' is there", g->path,
                            g->name, layers, name);
        }
        for (size_t j = 0; j < sizeof outer_tensors / sizeof *outer_tensors; j++)
            if (strcmp(name, outer_tensors[j]) == 0) known = true;
        if (!known)
            return slf_fail(SALF_E_UNSUPPORTED, "%s: what tensor '%s' does in %s is not known", g->path, name, g->name);
    }
    return SALF_OK;
}

salf_status slf_model_open_gguf(salf_model *model, const char *path, const salf_model_options *options) {
    char name[64], kind[32];
    gguf_model g = {.model = model, .path = path, .name = name};
    /* 1. what the file is: of a model, and of one whose last steps are known */
    SLF_TRY(salf_tensors_open(&model->tensors, model->context, path));
    slf_gguf_text(model->tensors, "general.type", kind, sizeof kind);
    if (slf_gguf_field(model->tensors, "general.type") && strcmp(kind, "model") != 0)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: general.type is '%s'; a model is needed", path, kind);
    slf_gguf_text(model->tensors, "general.architecture", name, sizeof name);
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (strcmp(architectures[i].name, name) == 0) g.rules = &architectures[i];
    if (!g.rules)
        return slf_fail(SALF_E_UNSUPPORTED,
                        "%s: general.architecture '%s' is not one whose final norm and logits are known; describe the "
                        "model instead",
                        path, name);
    /* 2. its fields; the family stays OTHER, since "llama" stands for a dozen of them */
    model->info = (salf_model_info){.struct_size = sizeof model->info, .logit_scale = 1, .embedding_scale = 1};
    SLF_TRY(read_shape(&g));
    SLF_TRY(read_rules(&g));
    SLF_TRY(check_tensors(&g));
    /* 3. its tensors. A file without an output matrix uses the embedding, as llama.cpp does. */
    const salf_tensors *tensors = model->tensors;
    const slf_entry *embedding = slf_tensors_entry(tensors, "token_embd.weight");
    const slf_entry *head = slf_tensors_entry(tensors, "output.weight");
    static const char *const names[] = {"output_norm.weight", "output_norm.bias", "output.bias"};
    const slf_entry *vectors[3];
    for (int i = 0; i < 3; i++) vectors[i] = slf_tensors_entry(tensors, names[i]);
    SLF_TRY(slf_matrix_open(&model->embedding, &model->scaled[1], model, embedding, (const int64_t[2]){0, 0}, path));
    SLF_TRY(slf_matrix_open(&model->head, &model->scaled[0], model, head, (const int64_t[2]){0, 0}, path));
    /* How blocks are packed goes by this number; files without blocks may lack it. */
    int64_t packing = 2;
    SLF_TRY(slf_gguf_integer(tensors, path, "general.quantization_version", false, 0, INT64_MAX, &packing));
    if (packing != 2 && (embedding->packed || (head && head->packed)))
        return slf_fail(SALF_E_UNSUPPORTED, "%s: general.quantization_version is %" PRId64 ", not 2", path, packing);
    model->info.tied = slf_matrix_is_empty(&model->head);
    slf_model_tie(model);
    const int32_t has = g.rules->rules;
    const bool needs[] = {!(has & NORM_WITHOUT_WEIGHT), has & NORM_NEEDS_BIAS, has & HEAD_NEEDS_BIAS};
    const bool takes[] = {needs[0], has & (NORM_NEEDS_BIAS | NORM_MAY_HAVE_BIAS), true}; /* any head a bias */
    for (int i = 0; i < 3; i++)
        if (vectors[i] ? !takes[i] : needs[i])
            return slf_fail(SALF_E_MISMATCH, "%s: '%s' is %s in %s", path, names[i],
                            vectors[i] ? "not expected" : "missing", name);
    SLF_TRY(slf_model_use_vectors(model, g.rules->norm_kind, vectors, 0, path));
    /* 4. its layers, which nothing here describes */
    char lacks[96];
    snprintf(lacks, sizeof lacks, "general.architecture = \"%s\"", name);
    if (!(model->unsupported = slf_strdup(model->context, lacks))) return SALF_E_NO_MEMORY;
    model->decoder = (salf_decoder_info){.struct_size = sizeof model->decoder, .unsupported = model->unsupported};
    model->info.model_type = g.rules->name;
    model->info.vocab_from = slf_gguf_tokens(model->tensors) > 0 ? SALF_VOCAB_TOKENIZER : SALF_VOCAB_ROWS;
    return slf_model_set_numbers(model, options);
}
