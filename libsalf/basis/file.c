/*
 * file.c - a basis as a safetensors file: save, and load with every value checked. The layout is described in
 * docs/formats.md. Numbers that are not whole are kept as a tensor: exact, and the same in every locale.
 *
 * Tensors: "spectrum" [7] float64, always; then either "table" [V][D] float32, or "labels" [n] int32 with "rows"
 * [n][D] float64 (both missing for n = 0), "projection" [D][D] float64 (P; output side only) and, where the norms of
 * the vocabulary had been made, "inverse_norms" [V] float64.
 *
 * A file comes from anywhere: sizes and values are checked before memory is taken by them, and a value that is
 * plausible but wrong can spoil results, not memory. The fingerprint tells a file of another head.
 * Errors: SALF_E_NOT_FOUND for what is missing, SALF_E_CORRUPT for what makes no sense, SALF_E_DTYPE and
 * SALF_E_MISMATCH for a tensor of another kind, SALF_E_NONFINITE for its values, SALF_E_VERSION, SALF_E_STALE.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basis/basis.h"

#define FORMAT         "salf-basis"
#define FORMAT_VERSION 1 /* raised when an old reader would misread a new file; this reader then keeps reading 1 */
#define MAX_TENSORS    5 /* spectrum, labels, rows, projection, inverse_norms */

/* Metadata: whole numbers, in decimal, but for the format's name and the fingerprint, 16 hexadecimal digits. A file may
 * have them in any order, and others beside them. */
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

/* Places in the tensor "spectrum", float64. They are the format: a new number goes to the end, with a new version. */
enum {
    SPECTRUM_RTOL,       /* used */
    SPECTRUM_RTOL_ASKED, /* 0: the default */
    SPECTRUM_RIDGE,
    SPECTRUM_MAX, /* sigma_max */
    SPECTRUM_MIN,
    SPECTRUM_MIN_KEPT,
    SPECTRUM_AMPLIFICATION, /* 0: no norms in the file */
    SPECTRUM_COUNT
};

/* ---- save ---- */

typedef struct {
    const salf_context *context;
    salf_named_tensor tensors[MAX_TENSORS]; /* views of the basis's host memory, of spectrum or of owned */
    int64_t n_tensors;
    double spectrum[SPECTRUM_COUNT];
    char text[META_COUNT][24]; /* 20 digits of 64 bits, a sign, and the end */
    const char *pairs[2 * META_COUNT];
    void *owned[MAX_TENSORS]; /* host copies of backend memory */
    int64_t n_owned;
} saved_file;

/* A tensor to be saved, of host memory [rows][cols] that stays; cols 0: a vector [rows]. Names are static. */
static void put_host_tensor(saved_file *file, const char *name, const void *data, int32_t dtype, int64_t rows,
                            int64_t cols) {
    file->tensors[file->n_tensors++] =
        (salf_named_tensor){.name = name,
                            .shape = {rows, cols},
                            .n_dims = cols ? 2 : 1,
                            .view = slf_tensor_host(data, dtype, rows, SLF_MAX(cols, 1))};
}

/* The same of backend memory, by a copy that lives until the file is written. */
static salf_status put_device_tensor(saved_file *file, const char *name, const void *device, int32_t dtype,
                                     int64_t rows, int64_t cols) {
    const uint64_t elements = (uint64_t)rows * (uint64_t)SLF_MAX(cols, 1), size = (uint64_t)slf_dtype_size(dtype);
    void *host = slf_alloc(file->context, elements, size);
    if (!host) return SALF_E_NO_MEMORY;
    file->owned[file->n_owned++] = host;
    SLF_TRY(slf_download(file->context, host, device, elements * size));
    put_host_tensor(file, name, host, dtype, rows, cols);
    return SALF_OK;
}

salf_status salf_basis_save(const salf_basis *basis, const char *path) {
    SLF_OWN_ARITHMETIC;
    SLF_REQUIRE(basis, path);
    const salf_basis_info *info = &basis->info;
    const slf_label_rows *held = &basis->held;
    const int64_t dim = info->hidden;
    saved_file file = {.context = basis->context};
    salf_status status;
    /* 1. whole numbers, as text, which every reader of safetensors shows; format and fingerprint are none, and written
     * over what this puts in their places */
    const int64_t numbers[META_COUNT] = {[META_VERSION] = FORMAT_VERSION, [META_MODE] = info->mode,
                                         [META_SIDE] = info->side,        [META_PREPARE] = basis->options.prepare,
                                         [META_METHOD] = info->method,    [META_HIDDEN] = dim,
                                         [META_VOCAB] = info->vocab,      [META_PADDED] = basis->padded_vocab,
                                         [META_RANK] = info->rank};
    for (int i = 0; i < META_COUNT; i++) {
        snprintf(file.text[i], sizeof file.text[i], "%" PRId64, numbers[i]);
        file.pairs[2 * i] = meta_keys[i];
        file.pairs[2 * i + 1] = file.text[i];
    }
    snprintf(file.text[META_FORMAT], sizeof file.text[META_FORMAT], "%s", FORMAT);
    snprintf(file.text[META_FINGERPRINT], sizeof file.text[META_FINGERPRINT], "%016" PRIx64, info->fingerprint);
    /* 2. the others, among them the amplification where there are norms */
    file.spectrum[SPECTRUM_RTOL] = info->rtol;
    file.spectrum[SPECTRUM_RTOL_ASKED] = basis->options.rtol;
    file.spectrum[SPECTRUM_RIDGE] = info->ridge;
    file.spectrum[SPECTRUM_MAX] = info->sigma_max;
    file.spectrum[SPECTRUM_MIN] = info->sigma_min;
    file.spectrum[SPECTRUM_MIN_KEPT] = basis->sigma_min_kept;
    if (held->labels && slf_basis_has_norms(basis)) {
        const double *inverse;
        SLF_DO(slf_basis_norms(basis, &inverse, &file.spectrum[SPECTRUM_AMPLIFICATION]));
        SLF_DO(put_device_tensor(&file, "inverse_norms", inverse, SALF_F64, info->vocab, 0));
    }
    put_host_tensor(&file, "spectrum", file.spectrum, SALF_F64, SPECTRUM_COUNT, 0);
    /* 3. rows: a table, whose norms follow from it and beside which there is no P, or those of labels. These go in
     * float64, as they were solved: what the API gives of a loaded basis is what the saved one gave. */
    if (!held->labels) {
        SLF_DO(put_device_tensor(&file, "table", held->rows, SALF_F32, held->n, dim));
    } else if (held->n > 0) {
        put_host_tensor(&file, "labels", held->labels, SALF_I32, held->n, 0);
        put_host_tensor(&file, "rows", held->exact, SALF_F64, held->n, dim);
    }
    if (basis->p) SLF_DO(put_device_tensor(&file, "projection", basis->p, SALF_F64, dim, dim));
    SLF_DO(salf_tensors_save(basis->context, path, file.tensors, file.n_tensors, file.pairs, META_COUNT));
done:
    for (int64_t i = 0; i < file.n_owned; i++) slf_free(basis->context, file.owned[i]);
    return status;
}

/* ---- load: what the file says ---- */

/* What the file says apart from its rows. */
typedef struct {
    const salf_tensors *tensors;
    int64_t number[META_COUNT];
    uint64_t fingerprint;
    double spectrum[SPECTRUM_COUNT];
} loaded_file;

/* Metadata number i, borrowed from the file. */
static salf_status get_text(const loaded_file *file, int i, const char **text) {
    *text = salf_tensors_metadata(file->tensors, meta_keys[i]);
    if (*text) return SALF_OK;
    return slf_fail(SALF_E_NOT_FOUND, "the basis file has no metadata '%s'", meta_keys[i]);
}

/* The same as a whole number of least ... most, into file->number. */
static salf_status get_number(loaded_file *file, int i, int64_t least, int64_t most) {
    const char *text;
    char *end;
    SLF_TRY(get_text(file, i, &text));
    /* strtoll tells an overflow by errno alone. It takes white space and a sign in front, which are harmless. */
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < least || value > most)
        return slf_fail(SALF_E_CORRUPT, "metadata '%s' of the basis file is '%.40s'", meta_keys[i], text);
    file->number[i] = value;
    return SALF_OK;
}

/* A number that is a constant of a family. One that this library does not know, of a newer one, is refused. */
static salf_status get_choice(loaded_file *file, int i, const char *family) {
    SLF_TRY(get_number(file, i, 0, INT32_MAX));
    if (salf_constant_word(family, file->number[i])) return SALF_OK;
    return slf_fail(SALF_E_CORRUPT, "metadata '%s' of the basis file is %" PRId64 ", none of %s_*", meta_keys[i],
                    file->number[i], family);
}

/* Asked before a tensor that may be missing, since salf_tensors_find would leave an error message. */
static bool has_tensor(const loaded_file *file, const char *name) {
    salf_named_tensor tensor;
    for (int64_t i = 0; i < salf_tensors_count(file->tensors); i++)
        if (salf_tensors_at(file->tensors, i, &tensor) == SALF_OK && strcmp(tensor.name, name) == 0) return true;
    return false;
}

/* A tensor of known type and shape, borrowed from the mapped file. cols 0: a vector; rows -1: any number. Of float64
 * every value must be finite and at least `least`. Data may lie unaligned in the file. */
static salf_status get_tensor(const loaded_file *file, const char *name, int32_t dtype, int64_t rows, int64_t cols,
                              double least, salf_named_tensor *tensor) {
    SLF_TRY(salf_tensors_find(file->tensors, name, tensor));
    if (tensor->view.dtype != dtype)
        return slf_fail(SALF_E_DTYPE, "tensor '%s' of the basis file is %s, not %s", name,
                        slf_dtype_name(tensor->view.dtype), slf_dtype_name(dtype));
    if (tensor->n_dims != (cols ? 2 : 1) || (rows >= 0 && tensor->shape[0] != rows) ||
        (cols && tensor->shape[1] != cols))
        return slf_fail(SALF_E_MISMATCH,
                        "tensor '%s' of the basis file has %" PRId32 " dimensions [%" PRId64 "][%" PRId64
                        "], not [%" PRId64 "][%" PRId64 "]",
                        name, tensor->n_dims, tensor->shape[0], tensor->n_dims > 1 ? tensor->shape[1] : 0, rows, cols);
    /* Values of other types are for the caller to check: labels by their order, a table by the norms of its rows. */
    const char *data = tensor->view.data;
    const int64_t n = dtype == SALF_F64 ? tensor->view.rows * tensor->view.cols : 0;
    for (int64_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, data + i * (int64_t)sizeof value, sizeof value);
        if (!isfinite(value) || value < least)
            return slf_fail(SALF_E_NONFINITE, "tensor '%s' of the basis file holds %g in row %" PRId64, name, value,
                            cols ? i / cols : i);
    }
    return SALF_OK;
}

/* Metadata and spectrum. What they say is believed nowhere before it has been checked here. The version comes first, as
 * a newer file may lack what is asked for next. Limits are those of slf_basis_read_options: D twice in 32 bits, labels
 * in 32 bits. */
static salf_status read_basis_header(loaded_file *file) {
    const char *format = salf_tensors_metadata(file->tensors, "format"), *fingerprint;
    if (!format || strcmp(format, FORMAT) != 0)
        return slf_fail(SALF_E_CORRUPT, "the file's format is '%.40s', not '%s'", format ? format : "", FORMAT);
    SLF_TRY(get_number(file, META_VERSION, 0, INT64_MAX));
    if (file->number[META_VERSION] != FORMAT_VERSION)
        return slf_fail(SALF_E_VERSION, "the basis file has version %" PRId64 ", this library reads version %d",
                        file->number[META_VERSION], FORMAT_VERSION);
    SLF_TRY(get_choice(file, META_MODE, "SALF_BASIS"));
    SLF_TRY(get_choice(file, META_SIDE, "SALF_SIDE"));
    SLF_TRY(get_choice(file, META_PREPARE, "SALF_PREPARE"));
    SLF_TRY(get_choice(file, META_METHOD, "SALF_METHOD"));
    SLF_TRY(get_number(file, META_HIDDEN, 1, INT32_MAX / 2));
    SLF_TRY(get_number(file, META_VOCAB, 1, INT32_MAX));
    SLF_TRY(get_number(file, META_PADDED, file->number[META_VOCAB], INT32_MAX));
    SLF_TRY(get_number(file, META_RANK, 0, file->number[META_HIDDEN]));
    SLF_TRY(get_text(file, META_FINGERPRINT, &fingerprint));
    if (strlen(fingerprint) != 16 || strspn(fingerprint, "0123456789abcdef") != 16)
        return slf_fail(SALF_E_CORRUPT, "metadata 'fingerprint' of the basis file is '%.40s'", fingerprint);
    file->fingerprint = strtoull(fingerprint, NULL, 16);
    salf_named_tensor tensor;
    SLF_TRY(get_tensor(file, "spectrum", SALF_F64, SPECTRUM_COUNT, 0, 0, &tensor));
    memcpy(file->spectrum, tensor.view.data, sizeof file->spectrum);
    const double *s = file->spectrum;
    const double most = s[SPECTRUM_MAX], least_kept = s[SPECTRUM_MIN_KEPT], ridge = s[SPECTRUM_RIDGE];
    const bool output = file->number[META_SIDE] == SALF_SIDE_OUTPUT;
    /* sigma_max > 0 and sigma_min_kept <= sigma_max: noise divides by both. Something must be kept, and a ridge alone
     * may keep what has no singular value. */
    if (output && (!(most > 0) || (!(least_kept > 0) && !(ridge > 0)) || least_kept > most))
        return slf_fail(SALF_E_CORRUPT, "singular values %g ... %g of the basis file make no sense", least_kept, most);
    if (s[SPECTRUM_RTOL] >= 1 || s[SPECTRUM_RTOL_ASKED] >= 1)
        return slf_fail(SALF_E_CORRUPT, "rtol %g of the basis file is not below 1", s[SPECTRUM_RTOL]);
    if (output && file->number[META_MODE] == SALF_BASIS_RIDGE && !(ridge > 0))
        return slf_fail(SALF_E_CORRUPT, "the basis file has ridge mode with a ridge of %g", ridge);
    return SALF_OK;
}

/* ---- load: the rows ---- */

/* A float64 tensor into new backend memory, straight from the mapped file. Waits: the mapping goes away. */
static salf_status get_device_tensor(const loaded_file *file, const salf_context *context, const char *name,
                                     int64_t rows, int64_t cols, double least, double **out) {
    salf_named_tensor tensor;
    SLF_TRY(get_tensor(file, name, SALF_F64, rows, cols, least, &tensor));
    SLF_TRY(SLF_DEVICE_COPY_OF(context, *out, tensor.view.data, rows * SLF_MAX(cols, 1)));
    return slf_sync(context);
}

/* Row norms are computed, not stored: they are exact, and the file cannot contradict itself. */
static salf_status load_table(const loaded_file *file, salf_basis *basis) {
    const salf_context *context = basis->context;
    const int64_t n = basis->info.vocab, dim = basis->info.hidden;
    slf_label_rows *held = &basis->held;
    salf_named_tensor table;
    float *row;
    SLF_TRY(get_tensor(file, "table", SALF_F32, n, dim, 0, &table));
    SLF_TRY(slf_label_rows_make(held, context, NULL, n, dim));
    SLF_TRY(SLF_ALLOC(context, row, dim));
    /* By way of a row that is aligned; a copy of the whole table would be as large as the file. */
    salf_status status = SALF_OK;
    for (int64_t i = 0; i < n && status == SALF_OK; i++) {
        if (i % 1024 == 0) status = slf_proceed(context, "table", i, n);
        memcpy(row, (const char *)table.view.data + (size_t)(i * dim) * sizeof *row, (size_t)dim * sizeof *row);
        held->host_norms[i] = slf_norm2_f32(row, dim);
    }
    slf_free(context, row);
    SLF_TRY(status);
    /* Finite only when all D numbers of the row are. Zero rows are no error: nobody asked for their labels. */
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(held->host_norms[i]))
            return slf_fail(SALF_E_NONFINITE, "row %" PRId64 " of the basis file's table is not finite", i);
    SLF_TRY(slf_upload(context, held->rows, table.view.data, (uint64_t)(n * dim) * sizeof *held->rows));
    SLF_TRY(slf_upload(context, held->norms, held->host_norms, (uint64_t)n * sizeof *held->norms));
    return slf_basis_use_table_norms(basis, held); /* waits for the uploads too */
}

/* A file without the tensors holds no labels. They must ascend, since they are searched by halves; a zero row is
 * refused as at creation. */
static salf_status load_label_rows(const loaded_file *file, salf_basis *basis) {
    const salf_context *context = basis->context;
    const int64_t dim = basis->info.hidden;
    slf_label_rows *held = &basis->held;
    salf_named_tensor labels = {0}, rows = {0};
    /* One of them without the other is an error, which the second look-up reports. */
    if (has_tensor(file, "labels") || has_tensor(file, "rows")) {
        SLF_TRY(get_tensor(file, "labels", SALF_I32, -1, 0, 0, &labels));
        SLF_TRY(get_tensor(file, "rows", SALF_F64, labels.shape[0], dim, -INFINITY, &rows));
    }
    /* Labels and rows are views of the file: the handle makes its own copies of both. */
    const int64_t n = labels.shape[0];
    int32_t none; /* NULL labels would make a table */
    SLF_TRY(slf_label_rows_make(held, context, n > 0 ? labels.view.data : &none, n, dim));
    for (int64_t i = 0; i < n; i++) {
        const int32_t label = held->labels[i], before = i > 0 ? held->labels[i - 1] : -1;
        if (label < 0 || label >= basis->info.vocab)
            return slf_fail(SALF_E_LABEL, "label %" PRId32 " of the basis file is outside the vocabulary of %" PRId64,
                            label, basis->info.vocab);
        if (label <= before)
            return slf_fail(SALF_E_CORRUPT,
                            "labels %" PRId32 " and %" PRId32 " of the basis file are not in ascending order", before,
                            label);
    }
    if (n > 0) memcpy(held->exact, rows.view.data, (size_t)(n * dim) * sizeof *held->exact);
    for (int64_t i = 0; i < n; i++) {
        held->host_norms[i] = slf_norm2(held->exact + i * dim, dim);
        if (!(held->host_norms[i] > 0))
            return slf_fail(SALF_E_ZERO_ROW, "the row of label %" PRId32 " in the basis file is zero", held->labels[i]);
    }
    return slf_label_rows_upload(held, context, dim);
}

/* ---- load ---- */

/* Rows are not solved anew: a basis from a file is the one that was saved, to the last bit, on any machine. */
salf_status salf_basis_load(salf_basis **out, salf_context *context, const char *path, salf_model *model) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    salf_tensors *tensors;
    salf_basis *basis = NULL;
    salf_status status;
    SLF_TRY(salf_tensors_open(&tensors, context, path));
    loaded_file file = {.tensors = tensors};
    const double *spectrum = file.spectrum;
    SLF_DO(read_basis_header(&file));
    /* 1. the basis without its rows */
    const salf_basis_options options = {.struct_size = sizeof options,
                                        .mode = (int32_t)file.number[META_MODE],
                                        .rtol = spectrum[SPECTRUM_RTOL_ASKED],
                                        .ridge = spectrum[SPECTRUM_RIDGE],
                                        .side = (int32_t)file.number[META_SIDE],
                                        .prepare = (int32_t)file.number[META_PREPARE]};
    const int64_t vocab = file.number[META_VOCAB], dim = file.number[META_HIDDEN];
    SLF_DO(slf_basis_new(&basis, context, model, &options, vocab, model ? model->info.vocab : file.number[META_PADDED],
                         dim));
    salf_basis_info *info = &basis->info;
    /* What is known of the factorisation, as it was when the basis was made: none of it is computed again. */
    info->method = (int32_t)file.number[META_METHOD];
    info->rank = file.number[META_RANK];
    info->fingerprint = file.fingerprint;
    info->rtol = spectrum[SPECTRUM_RTOL];
    info->ridge = spectrum[SPECTRUM_RIDGE];
    info->sigma_max = spectrum[SPECTRUM_MAX];
    info->sigma_min = spectrum[SPECTRUM_MIN];
    basis->sigma_min_kept = spectrum[SPECTRUM_MIN_KEPT];
    /* Infinite where a ridge alone made P, since no singular value counted. */
    if (info->side == SALF_SIDE_OUTPUT)
        info->condition = basis->sigma_min_kept > 0 ? info->sigma_max / basis->sigma_min_kept : INFINITY;
    slf_basis_set_noise(basis);                        /* follows from the spectrum, so that it is not in the file */
    if (model) SLF_DO(salf_basis_check(basis, model)); /* before rows of another head are read */
    /* 2. a table, or rows of labels with P and perhaps the norms of the vocabulary */
    if (has_tensor(&file, "table")) {
        SLF_DO(load_table(&file, basis));
    } else {
        /* P stays even where all labels are held: others may come, and candidates. */
        SLF_DO(load_label_rows(&file, basis));
        if (info->side == SALF_SIDE_OUTPUT)
            SLF_DO(get_device_tensor(&file, context, "projection", dim, dim, -INFINITY, &basis->p));
        /* No lock: nobody else has the basis yet. */
        basis->norm_cache->amplification = spectrum[SPECTRUM_AMPLIFICATION];
        if (has_tensor(&file, "inverse_norms"))
            SLF_DO(get_device_tensor(&file, context, "inverse_norms", vocab, 0, 0, &basis->norm_cache->inverse_norms));
    }
    *out = basis;
    basis = NULL;
done:
    salf_basis_destroy(basis);
    salf_tensors_destroy(tensors);
    return status;
}
