/*
 * file.c - a basis as a safetensors file: save, and load with every value checked. The layout is described in
 * docs/formats.md. Numbers that are not whole are kept as a tensor: exact, and the same in every locale.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basis/basis.h"

#define FORMAT         "salf-basis"
#define FORMAT_VERSION 1
#define SPECTRUM       7
#define MAX_TENSORS    5

/* ---- save ---- */

enum {
    META_FORMAT,
    META_VERSION,
    META_MODE,
    META_SIDE,
    META_PREPARE,
    META_METHOD,
    META_HIDDEN,
    META_VOCAB,
    META_PADDED,
    META_RANK,
    META_FINGERPRINT,
    META_COUNT
};

static const char *const meta_keys[META_COUNT] = {"format", "version", "mode",         "side", "prepare",    "method",
                                                  "hidden", "vocab",   "padded_vocab", "rank", "fingerprint"};

typedef struct {
    salf_named_tensor tensors[MAX_TENSORS];
    int64_t n_tensors;
    double spectrum[SPECTRUM];
    char text[META_COUNT][24];
    const char *pairs[2 * META_COUNT];
    void *owned[MAX_TENSORS]; /* host copies of backend memory */
    int64_t n_owned;
} saved_file;

/* Names are static; a vector has n_dims 1 and cols 1. */
static void put_tensor(saved_file *file, const char *name, const void *data, int32_t dtype, int32_t n_dims,
                       int64_t rows, int64_t cols) {
    file->tensors[file->n_tensors++] = (salf_named_tensor){.name = name,
                                                           .shape = {rows, n_dims == 1 ? 0 : cols},
                                                           .n_dims = n_dims,
                                                           .view = slf_tensor_host(data, dtype, rows, cols)};
}

/* A host copy of backend memory [rows][cols]. */
static salf_status put_device(saved_file *file, const salf_context *context, const char *name, const void *device,
                              int32_t dtype, int32_t n_dims, int64_t rows, int64_t cols) {
    const uint64_t elements = (uint64_t)rows * (uint64_t)cols, size = (uint64_t)slf_dtype_size(dtype);
    void *host = slf_alloc(context, elements, size);
    if (!host) return SALF_E_NO_MEMORY;
    file->owned[file->n_owned++] = host;
    SLF_TRY(slf_download(context, host, device, elements * size));
    put_tensor(file, name, host, dtype, n_dims, rows, cols);
    return SALF_OK;
}

static void put_metadata(saved_file *file, const salf_basis *basis) {
    const salf_basis_info *info = &basis->info;
    const long long numbers[META_COUNT] = {[META_VERSION] = FORMAT_VERSION, [META_MODE] = info->mode,
                                           [META_SIDE] = info->side,        [META_PREPARE] = basis->options.prepare,
                                           [META_METHOD] = info->method,    [META_HIDDEN] = info->hidden,
                                           [META_VOCAB] = info->vocab,      [META_PADDED] = basis->padded_vocab,
                                           [META_RANK] = info->rank};
    for (int i = 0; i < META_COUNT; i++) {
        snprintf(file->text[i], sizeof file->text[i], "%lld", numbers[i]);
        file->pairs[2 * i] = meta_keys[i];
        file->pairs[2 * i + 1] = file->text[i];
    }
    snprintf(file->text[META_FORMAT], sizeof file->text[META_FORMAT], "%s", FORMAT);
    snprintf(file->text[META_FINGERPRINT], sizeof file->text[META_FINGERPRINT], "%016llx",
             (unsigned long long)info->fingerprint);
}

static salf_status put_rows(saved_file *file, const salf_basis *basis) {
    const slf_label_rows *held = &basis->held;
    const int64_t dim = basis->info.hidden;
    if (!held->labels) return put_device(file, basis->context, "table", held->rows, SALF_F32, 2, held->n, dim);
    if (held->n == 0) return SALF_OK;
    put_tensor(file, "labels", held->labels, SALF_I32, 1, held->n, 1);
    put_tensor(file, "rows", held->exact, SALF_F64, 2, held->n, dim);
    return SALF_OK;
}

static salf_status put_norms(saved_file *file, const salf_basis *basis) {
    const double *inverse_norms;
    if (!basis->held.labels || !slf_basis_has_norms(basis)) return SALF_OK;
    SLF_TRY(slf_basis_norms(basis, &inverse_norms, &file->spectrum[SPECTRUM - 1]));
    return put_device(file, basis->context, "inverse_norms", inverse_norms, SALF_F64, 1, basis->info.vocab, 1);
}

static salf_status put_all(saved_file *file, const salf_basis *basis) {
    const salf_basis_info *info = &basis->info;
    const double spectrum[SPECTRUM] = {
        info->rtol, basis->options.rtol, info->ridge, info->sigma_max, info->sigma_min, basis->sigma_min_kept, 0};
    memcpy(file->spectrum, spectrum, sizeof spectrum);
    put_metadata(file, basis);
    SLF_TRY(put_norms(file, basis));
    put_tensor(file, "spectrum", file->spectrum, SALF_F64, 1, SPECTRUM, 1);
    SLF_TRY(put_rows(file, basis));
    if (!basis->p) return SALF_OK;
    return put_device(file, basis->context, "projection", basis->p, SALF_F64, 2, info->hidden, info->hidden);
}

salf_status salf_basis_save(const salf_basis *basis, const char *path) {
    SLF_REQUIRE(basis);
    SLF_REQUIRE(path);
    saved_file *file = slf_alloc_zero(basis->context, 1, sizeof *file);
    if (!file) return SALF_E_NO_MEMORY;
    salf_status status = put_all(file, basis);
    if (status == SALF_OK)
        status = salf_tensors_save(basis->context, path, file->tensors, file->n_tensors, file->pairs, META_COUNT);
    for (int64_t i = 0; i < file->n_owned; i++) slf_free(basis->context, file->owned[i]);
    slf_free(basis->context, file);
    return status;
}

/* ---- load ---- */

typedef struct {
    const salf_tensors *tensors;
    int64_t number[META_COUNT];
    uint64_t fingerprint;
    double spectrum[SPECTRUM];
} loaded_file;

/* Metadata i as text; SALF_E_NOT_FOUND. */
static salf_status get_text(const loaded_file *file, int i, const char **text) {
    *text = salf_tensors_metadata(file->tensors, meta_keys[i]);
    if (*text) return SALF_OK;
    return slf_fail(SALF_E_NOT_FOUND, "salf_basis_load: the file has no metadata '%s'", meta_keys[i]);
}

static salf_status get_number(loaded_file *file, int i, int64_t least, int64_t most) {
    const char *text;
    char *end;
    SLF_TRY(get_text(file, i, &text));
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < least || value > most)
        return slf_fail(SALF_E_CORRUPT, "salf_basis_load: metadata '%s' is '%.40s'", meta_keys[i], text);
    file->number[i] = value;
    return SALF_OK;
}

static salf_status get_fingerprint(loaded_file *file) {
    const char *text;
    SLF_TRY(get_text(file, META_FINGERPRINT, &text));
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return slf_fail(SALF_E_CORRUPT, "salf_basis_load: metadata 'fingerprint' is '%.40s'", text);
    file->fingerprint = strtoull(text, NULL, 16);
    return SALF_OK;
}

static salf_status get_metadata(loaded_file *file) {
    const char *format = salf_tensors_metadata(file->tensors, "format");
    if (!format || strcmp(format, FORMAT) != 0)
        return slf_fail(SALF_E_CORRUPT, "salf_basis_load: the file's format is '%.40s', not '%s'", format ? format : "",
                        FORMAT);
    SLF_TRY(get_number(file, META_VERSION, 0, INT64_MAX));
    if (file->number[META_VERSION] != FORMAT_VERSION)
        return slf_fail(SALF_E_VERSION, "salf_basis_load: the file has version %lld, this library reads version %d",
                        (long long)file->number[META_VERSION], FORMAT_VERSION);
    SLF_TRY(get_number(file, META_MODE, SALF_BASIS_RTOL, SALF_BASIS_RIDGE));
    SLF_TRY(get_number(file, META_SIDE, SALF_SIDE_OUTPUT, SALF_SIDE_INPUT));
    SLF_TRY(get_number(file, META_PREPARE, SALF_PREPARE_LABELS, SALF_PREPARE_TABLE));
    SLF_TRY(get_number(file, META_METHOD, SALF_METHOD_NONE, SALF_METHOD_EIGEN));
    SLF_TRY(get_number(file, META_HIDDEN, 1, INT32_MAX / 2));
    SLF_TRY(get_number(file, META_VOCAB, 1, INT32_MAX));
    SLF_TRY(get_number(file, META_PADDED, file->number[META_VOCAB], INT32_MAX));
    SLF_TRY(get_number(file, META_RANK, 0, file->number[META_HIDDEN]));
    return get_fingerprint(file);
}

/* A tensor of known type and shape, cols 0: a vector. rows -1: any number. */
static salf_status get_tensor(const loaded_file *file, const char *name, int32_t dtype, int64_t rows, int64_t cols,
                              salf_named_tensor *tensor) {
    SLF_TRY(salf_tensors_find(file->tensors, name, tensor));
    if (tensor->view.dtype != dtype)
        return slf_fail(SALF_E_DTYPE, "salf_basis_load: tensor '%s' is %s, not %s", name,
                        slf_dtype_name(tensor->view.dtype), slf_dtype_name(dtype));
    if (tensor->n_dims != (cols ? 2 : 1) || (rows >= 0 && tensor->shape[0] != rows) ||
        (cols && tensor->shape[1] != cols))
        return slf_fail(SALF_E_MISMATCH,
                        "salf_basis_load: tensor '%s' has %d dimensions [%lld][%lld], not [%lld][%lld]", name,
                        (int)tensor->n_dims, (long long)tensor->shape[0],
                        (long long)(tensor->n_dims > 1 ? tensor->shape[1] : 0), (long long)rows, (long long)cols);
    return SALF_OK;
}

static bool has_tensor(const loaded_file *file, const char *name) {
    salf_named_tensor tensor;
    for (int64_t i = 0; i < salf_tensors_count(file->tensors); i++)
        if (salf_tensors_at(file->tensors, i, &tensor) == SALF_OK && strcmp(tensor.name, name) == 0) return true;
    return false;
}

/* A copy of float64 data [n], which may lie unaligned in the file; every value finite and at least `least`. */
static salf_status copy_doubles(const salf_context *context, const salf_named_tensor *tensor, double least,
                                double **out) {
    const int64_t n = tensor->view.rows * tensor->view.cols;
    double *copy = slf_alloc(context, (uint64_t)n, sizeof *copy);
    if (!copy) return SALF_E_NO_MEMORY;
    if (n > 0) memcpy(copy, tensor->view.data, (size_t)n * sizeof *copy);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(copy[i]) || copy[i] < least) {
            const salf_status status =
                slf_fail(SALF_E_NONFINITE, "salf_basis_load: tensor '%s' holds %g in row %lld", tensor->name, copy[i],
                         (long long)(i / (tensor->view.cols > 0 ? tensor->view.cols : 1)));
            slf_free(context, copy);
            return status;
        }
    *out = copy;
    return SALF_OK;
}

static salf_status get_spectrum(loaded_file *file, const salf_context *context) {
    salf_named_tensor tensor;
    double *values;
    SLF_TRY(get_tensor(file, "spectrum", SALF_F64, SPECTRUM, 0, &tensor));
    SLF_TRY(copy_doubles(context, &tensor, 0, &values));
    memcpy(file->spectrum, values, sizeof file->spectrum);
    slf_free(context, values);
    return SALF_OK;
}

static salf_status check_loaded_labels(const loaded_file *file, const int32_t *labels, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (labels[i] < 0 || labels[i] >= file->number[META_VOCAB])
            return slf_fail(SALF_E_LABEL, "salf_basis_load: label %d is outside the vocabulary of %lld", (int)labels[i],
                            (long long)file->number[META_VOCAB]);
        if (i > 0 && labels[i] <= labels[i - 1])
            return slf_fail(SALF_E_CORRUPT, "salf_basis_load: labels %d and %d are not in ascending order",
                            (int)labels[i - 1], (int)labels[i]);
    }
    return SALF_OK;
}

/* ---- rows of labels ---- */

static salf_status upload_held(const salf_context *context, int64_t dim, slf_label_rows *held) {
    const uint64_t elements = (uint64_t)held->n * (uint64_t)dim;
    void *rows, *norms;
    float *narrow = slf_alloc(context, elements, sizeof *narrow);
    if (!narrow) return SALF_E_NO_MEMORY;
    for (uint64_t i = 0; i < elements; i++) narrow[i] = (float)held->exact[i];
    salf_status status = slf_device_copy_of(context, narrow, elements, sizeof *narrow, &rows);
    if (status == SALF_OK) {
        held->rows = rows;
        status = slf_sync(context);
    }
    slf_free(context, narrow);
    SLF_TRY(status);
    SLF_TRY(slf_device_copy_of(context, held->host_norms, (uint64_t)held->n, sizeof(double), &norms));
    held->norms = norms;
    return SALF_OK;
}

static salf_status fill_held(const loaded_file *file, const salf_context *context, slf_label_rows *held) {
    const int64_t dim = file->number[META_HIDDEN];
    salf_named_tensor labels = {0}, rows = {0};
    if (has_tensor(file, "labels") || has_tensor(file, "rows")) {
        SLF_TRY(get_tensor(file, "labels", SALF_I32, -1, 0, &labels));
        SLF_TRY(get_tensor(file, "rows", SALF_F64, labels.shape[0], dim, &rows));
    }
    held->n = labels.shape[0];
    held->labels = slf_alloc(context, (uint64_t)held->n, sizeof *held->labels);
    held->host_norms = slf_alloc(context, (uint64_t)held->n, sizeof *held->host_norms);
    if (!held->labels || !held->host_norms) return SALF_E_NO_MEMORY;
    if (held->n > 0) memcpy(held->labels, labels.view.data, (size_t)held->n * sizeof *held->labels);
    SLF_TRY(check_loaded_labels(file, held->labels, held->n));
    SLF_TRY(copy_doubles(context, &rows, -INFINITY, &held->exact));
    for (int64_t i = 0; i < held->n; i++) {
        held->host_norms[i] = slf_norm2(held->exact + i * dim, dim);
        if (!(held->host_norms[i] > 0))
            return slf_fail(SALF_E_ZERO_ROW, "salf_basis_load: the row of label %d is zero", (int)held->labels[i]);
    }
    return upload_held(context, dim, held);
}

/* ---- table ---- */

static salf_status table_norms(const float *rows, int64_t n, int64_t dim, double *norms) {
    for (int64_t i = 0; i < n; i++) {
        norms[i] = slf_norm2_f32(rows + i * dim, dim);
        if (!isfinite(norms[i]))
            return slf_fail(SALF_E_NONFINITE, "salf_basis_load: row %lld of the table is not finite", (long long)i);
    }
    return SALF_OK;
}

static salf_status upload_table(const loaded_file *file, salf_basis *basis, float *rows, double *norms) {
    const int64_t n = file->number[META_VOCAB], dim = file->number[META_HIDDEN];
    const salf_context *context = basis->context;
    void *device;
    SLF_TRY(table_norms(rows, n, dim, norms));
    SLF_TRY(slf_device_copy_of(context, rows, (uint64_t)(n * dim), sizeof *rows, &device));
    basis->held.rows = device;
    SLF_TRY(slf_device_copy_of(context, norms, (uint64_t)n, sizeof *norms, &device));
    basis->held.norms = device;
    memcpy(basis->held.host_norms, norms, (size_t)n * sizeof *norms);
    SLF_TRY(slf_sync(context));
    for (int64_t i = 0; i < n; i++) norms[i] = norms[i] > 0 ? 1 / norms[i] : 0;
    SLF_TRY(slf_device_copy_of(context, norms, (uint64_t)n, sizeof *norms, &device));
    slf_norm_cache_set(basis->cache, device, 1);
    return slf_sync(context);
}

static salf_status fill_table(const loaded_file *file, salf_basis *basis) {
    const int64_t n = file->number[META_VOCAB], dim = file->number[META_HIDDEN];
    salf_named_tensor table;
    SLF_TRY(get_tensor(file, "table", SALF_F32, n, dim, &table));
    basis->held.n = n;
    basis->held.host_norms = slf_alloc(basis->context, (uint64_t)n, sizeof(double));
    float *rows = slf_alloc(basis->context, (uint64_t)(n * dim), sizeof *rows);
    double *norms = slf_alloc(basis->context, (uint64_t)n, sizeof *norms);
    salf_status status = rows && norms && basis->held.host_norms ? SALF_OK : SALF_E_NO_MEMORY;
    if (status == SALF_OK) {
        memcpy(rows, table.view.data, (size_t)(n * dim) * sizeof *rows);
        status = upload_table(file, basis, rows, norms);
    }
    slf_free(basis->context, rows);
    slf_free(basis->context, norms);
    return status;
}

/* ---- P and the norms ---- */

/* A float64 tensor as backend memory. */
static salf_status get_device(const loaded_file *file, const salf_context *context, const char *name, int64_t rows,
                              int64_t cols, double least, double **out) {
    salf_named_tensor tensor;
    double *values;
    void *device;
    SLF_TRY(get_tensor(file, name, SALF_F64, rows, cols, &tensor));
    SLF_TRY(copy_doubles(context, &tensor, least, &values));
    salf_status status =
        slf_device_copy_of(context, values, (uint64_t)rows * (uint64_t)(cols ? cols : 1), sizeof *values, &device);
    if (status == SALF_OK) {
        *out = device;
        status = slf_sync(context);
    }
    slf_free(context, values);
    return status;
}

static salf_status fill_rows(const loaded_file *file, salf_basis *basis) {
    const int64_t dim = basis->info.hidden;
    double *inverse_norms = NULL;
    if (has_tensor(file, "table")) return fill_table(file, basis);
    SLF_TRY(fill_held(file, basis->context, &basis->held));
    if (basis->info.side == SALF_SIDE_OUTPUT)
        SLF_TRY(get_device(file, basis->context, "projection", dim, dim, -INFINITY, &basis->p));
    if (!has_tensor(file, "inverse_norms")) return SALF_OK;
    const salf_status status =
        get_device(file, basis->context, "inverse_norms", basis->info.vocab, 0, 0, &inverse_norms);
    slf_norm_cache_set(basis->cache, inverse_norms, file->spectrum[SPECTRUM - 1]);
    return status;
}

static salf_status check_spectrum(const loaded_file *file) {
    const double *s = file->spectrum;
    const bool output = file->number[META_SIDE] == SALF_SIDE_OUTPUT;
    if (output && (!(s[3] > 0) || (!(s[5] > 0) && !(s[2] > 0)) || s[5] > s[3]))
        return slf_fail(SALF_E_CORRUPT, "salf_basis_load: singular values %g ... %g make no sense", s[5], s[3]);
    if (s[0] >= 1 || s[1] >= 1) return slf_fail(SALF_E_CORRUPT, "salf_basis_load: rtol %g is not below 1", s[0]);
    if (output && file->number[META_MODE] == SALF_BASIS_RIDGE && !(s[2] > 0))
        return slf_fail(SALF_E_CORRUPT, "salf_basis_load: ridge mode with a ridge of %g", s[2]);
    return SALF_OK;
}

static void set_info(const loaded_file *file, salf_basis *basis) {
    salf_basis_info *info = &basis->info;
    info->method = (int32_t)file->number[META_METHOD];
    info->rank = file->number[META_RANK];
    info->fingerprint = file->fingerprint;
    info->rtol = file->spectrum[0];
    info->ridge = file->spectrum[2];
    info->sigma_max = file->spectrum[3];
    info->sigma_min = file->spectrum[4];
    basis->sigma_min_kept = file->spectrum[5];
    if (info->side == SALF_SIDE_OUTPUT)
        info->condition = basis->sigma_min_kept > 0 ? info->sigma_max / basis->sigma_min_kept : INFINITY;
    slf_basis_set_noise(basis);
}

static salf_status build(const loaded_file *file, salf_context *context, salf_model *model, salf_basis **out) {
    const salf_basis_options options = {.struct_size = sizeof options,
                                        .mode = (int32_t)file->number[META_MODE],
                                        .rtol = file->spectrum[1],
                                        .ridge = file->spectrum[2],
                                        .side = (int32_t)file->number[META_SIDE],
                                        .prepare = (int32_t)file->number[META_PREPARE]};
    SLF_TRY(slf_basis_new(out, context, model, &options, file->number[META_VOCAB],
                          model ? model->info.vocab : file->number[META_PADDED], file->number[META_HIDDEN]));
    set_info(file, *out);
    if (model) SLF_TRY(salf_basis_check(*out, model));
    return fill_rows(file, *out);
}

static salf_status load(salf_basis **out, salf_context *context, const salf_tensors *tensors, salf_model *model) {
    loaded_file file = {.tensors = tensors};
    SLF_TRY(get_metadata(&file));
    SLF_TRY(get_spectrum(&file, context));
    SLF_TRY(check_spectrum(&file));
    salf_basis *basis = NULL;
    const salf_status status = build(&file, context, model, &basis);
    if (status != SALF_OK)
        salf_basis_destroy(basis);
    else
        *out = basis;
    return status;
}

salf_status salf_basis_load(salf_basis **out, salf_context *context, const char *path, salf_model *model) {
    SLF_REQUIRE(out);
    *out = NULL;
    SLF_REQUIRE(context);
    SLF_REQUIRE(path);
    salf_tensors *tensors;
    SLF_TRY(salf_tensors_open(&tensors, context, path));
    const salf_status status = load(out, context, tensors, model);
    salf_tensors_destroy(tensors);
    return status;
}
