/*
 * decoder_load.c - weights of a checkpoint. Every tensor of it is accounted for: it is a parameter, a buffer that
 * follows from the configuration, or of another part of the model (a vision tower); else it would change what the
 * layers compute, and is refused by name. Cost: a pass over the file.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "decoder_internal.h"

/* Bits of an IEEE half as a float. A subnormal (exponent 0) lacks the leading bit of the others. */
static float half_to_float(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    double value = exponent == 31  ? (fraction ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
    return (float)(half & 0x8000 ? -value : value);
}

/* Fills x [count] from a stored tensor of any floating-point type. 0, or -1 when the type is not known. */
static int convert_values(float *x, const void *data, int32_t dtype, int64_t count) {
    const uint16_t *half = data;
    const double *wide = data;
    switch (dtype) {
    case SALF_F32:
        memcpy(x, data, sizeof *x * (size_t)count);
        return 0;
    case SALF_F64:
        for (int64_t i = 0; i < count; i++) x[i] = (float)wide[i];
        return 0;
    case SALF_F16:
        for (int64_t i = 0; i < count; i++) x[i] = half_to_float(half[i]);
        return 0;
    case SALF_BF16:
        for (int64_t i = 0; i < count; i++) {
            const uint32_t bits = (uint32_t)half[i] << 16; /* the upper half of a float's bits */
            memcpy(&x[i], &bits, sizeof bits);
        }
        return 0;
    default:
        return -1;
    }
}

/* Asks without an error when the answer is no. */
int decoder_has_tensor(const salf_tensors *file, const char *name) {
    for (int64_t i = 0; i < salf_tensors_count(file); i++) {
        salf_named_tensor t;
        const salf_status status = salf_tensors_at(file, i, &t);
        if ((!status || status == SALF_E_DTYPE) && strcmp(t.name, name) == 0) return 1;
    }
    return 0;
}

/* A parameter from the file. The head lies beside the inner model or beside what that is in, once, as the library has
 * seen to: with the prefix "a.b." its name begins with that, "a." or nothing. A tied matrix may be stored under the
 * head's name only. The parameter takes the name that was found. */
static salf_status load_parameter(decoder *d, const salf_tensors *file, decoder_parameter *p) {
    salf_named_tensor t;
    const int is_head = p->rows == d->config.vocab && (d->config.tied || p->group == d->config.n_layers);
    size_t n = strlen(d->prefix);
    while (is_head && !decoder_has_tensor(file, p->name)) {
        char name[DECODER_NAME_SIZE];
        snprintf(name, sizeof name, "%.*slm_head.weight", (int)n, d->prefix);
        if (decoder_has_tensor(file, name)) memcpy(p->name, name, sizeof name);
        if (n == 0) break;
        do n--;
        while (n > 0 && d->prefix[n - 1] != '.');
    }
    const salf_status status = salf_tensors_find(file, p->name, &t);
    if (status == SALF_E_NOT_FOUND) return decoder_fail(status, "the checkpoint lacks tensor %s", p->name);
    if (status) return decoder_fail_library(status);
    if (t.view.rows * t.view.cols != p->count || (p->rows > 1 && t.view.rows != p->rows))
        return decoder_fail(SALF_E_MISMATCH, "tensor %s is [%lld][%lld], not [%lld][%lld]", p->name,
                            (long long)t.view.rows, (long long)t.view.cols, (long long)p->rows, (long long)p->cols);
    if (convert_values(p->values, t.view.data, t.view.dtype, p->count) != 0)
        return decoder_fail(SALF_E_DTYPE, "tensor %s has element type %d, not F32, BF16, F16 or F64", p->name,
                            (int)t.view.dtype);
    return SALF_OK;
}

static int ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Not a parameter, and yet of no consequence: tables that transformers makes anew, a second name of a tied head. */
static int is_neutral(const decoder *d, const char *name) {
    static const char *const buffers[] = {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias",
                                          ".attention.masked_bias"};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (ends_with(name, buffers[i])) return 1;
    }
    return d->config.tied && ends_with(name, "lm_head.weight");
}

/* Tensors under the prefix are of the text model, and those of the head change its logits. Where that has no prefix,
 * other parts of a larger model stand beside it, which the library has told from its own but for the layers. */
static salf_status account(const decoder *d, const salf_tensors *file) {
    for (int64_t i = 0; i < salf_tensors_count(file); i++) {
        salf_named_tensor t;
        const salf_status status = salf_tensors_at(file, i, &t);
        if (status && status != SALF_E_DTYPE) return decoder_fail_library(status);
        int known = is_neutral(d, t.name);
        for (int64_t j = 0; !known && j < d->n_parameters; j++) known = strcmp(d->parameters[j].name, t.name) == 0;
        const char *under = *d->prefix ? d->prefix : "layers.";
        if (known || (strncmp(t.name, under, strlen(under)) != 0 && !strstr(t.name, "lm_head."))) continue;
        return decoder_fail(SALF_E_UNSUPPORTED, "tensor %s of the checkpoint is not understood here", t.name);
    }
    return SALF_OK;
}

salf_status decoder_load(decoder *d, const salf_tensors *file) {
    salf_status status = SALF_OK;
    for (int64_t i = 0; !status && i < d->n_parameters; i++) {
        if (d->parameters[i].role < DECODER_LORA_A) status = load_parameter(d, file, &d->parameters[i]);
    }
    return status ? status : account(d, file);
}
