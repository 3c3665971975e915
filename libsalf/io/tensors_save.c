/*
 * tensors_save.c - writes a safetensors file. The header is padded with spaces to a multiple of 8 and tensors are laid
 * out by element size, largest first, then by name: so every tensor is aligned for its type, and the same content gives
 * the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "io.h"
#include "tensors_types.h"

/* ---- checks ---- */

static salf_status check_shape(const salf_named_tensor *t) {
    const salf_tensor *v = &t->view;
    if (t->n_dims < 0 || t->n_dims > 8)
        return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: tensor '%s' has %d dimensions", t->name, (int)t->n_dims);
    if (v->rows < 0 || v->cols < 0 || (v->cols > 0 && v->rows > INT64_MAX / 16 / v->cols))
        return slf_fail(SALF_E_SHAPE, "salf_tensors_save: tensor '%s' is [%lld][%lld]", t->name, (long long)v->rows,
                        (long long)v->cols);
    if (t->n_dims == 0 || slf_shape_elements(t->shape, t->n_dims) == v->rows * v->cols) return SALF_OK;
    return slf_fail(SALF_E_SHAPE, "salf_tensors_save: tensor '%s': shape and view [%lld][%lld] disagree", t->name,
                    (long long)v->rows, (long long)v->cols);
}

static salf_status check_tensor(const salf_named_tensor *t, int64_t index) {
    if (!t->name || !*t->name || strcmp(t->name, "__metadata__") == 0)
        return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: tensor %lld has no usable name", (long long)index);
    if (!slf_is_utf8(t->name))
        return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: the name '%s' is not UTF-8", t->name);
    if (!slf_file_type_by_dtype(t->view.dtype))
        return slf_fail(SALF_E_DTYPE, "salf_tensors_save: tensor '%s' has dtype %d", t->name, (int)t->view.dtype);
    SLF_TRY(check_shape(t));
    if (t->view.memory != SALF_MEMORY_HOST || t->view.index_memory != SALF_MEMORY_HOST)
        return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: tensor '%s' is not in host memory", t->name);
    if (!t->view.data && t->view.rows > 0 && t->view.cols > 0)
        return slf_fail(SALF_E_NULL, "salf_tensors_save: tensor '%s' has no data", t->name);
    return SALF_OK;
}

/* ---- header ---- */

static salf_status no_memory(void) {
    return slf_fail(SALF_E_NO_MEMORY, "out of memory while writing JSON");
}

/* An array of integers; NULL without memory. */
static json_t *integers(const int64_t *values, int32_t n) {
    json_t *array = json_array();
    int failed = 0;
    for (int32_t i = 0; i < n; i++) failed |= json_array_append_new(array, json_integer(values[i]));
    if (!failed) return array;
    json_decref(array);
    return NULL;
}

static uint64_t bytes_of(const salf_named_tensor *t) {
    return (uint64_t)t->view.rows * (uint64_t)t->view.cols * (uint64_t)slf_dtype_size(t->view.dtype);
}

static salf_status describe(json_t *entry, const salf_named_tensor *t, uint64_t begin, uint64_t end) {
    const int64_t plain[2] = {t->view.rows, t->view.cols}, place[2] = {(int64_t)begin, (int64_t)end};
    json_t *shape = integers(t->n_dims ? t->shape : plain, t->n_dims ? t->n_dims : 2);
    const char *type = slf_file_type_by_dtype(t->view.dtype)->name;
    if (json_object_set_new(entry, "shape", shape) != 0 ||
        json_object_set_new(entry, "dtype", json_string(type)) != 0 ||
        json_object_set_new(entry, "data_offsets", integers(place, 2)) != 0)
        return no_memory();
    return SALF_OK;
}

static salf_status add_to_header(json_t *header, const salf_named_tensor *t, uint64_t *place) {
    if (json_object_get(header, t->name))
        return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: two tensors are called '%s'", t->name);
    const uint64_t begin = *place, end = begin + bytes_of(t);
    json_t *entry = json_object();
    if (json_object_set_new(header, t->name, entry) != 0) return no_memory();
    *place = end;
    return describe(entry, t, begin, end);
}

static salf_status add_metadata(json_t *header, const char *const *pairs, int64_t n) {
    if (n == 0) return SALF_OK;
    json_t *metadata = json_object();
    if (json_object_set_new(header, "__metadata__", metadata) != 0) return no_memory();
    for (int64_t i = 0; i < n; i++) {
        const char *key = pairs[2 * i], *value = pairs[2 * i + 1];
        if (!key || !value || !slf_is_utf8(key) || !slf_is_utf8(value))
            return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: metadata '%s' is not a pair of UTF-8 strings",
                            key ? key : "NULL");
        if (json_object_set_new(metadata, key, json_string(value)) != 0) return no_memory();
    }
    return SALF_OK;
}

static int by_layout(const void *a, const void *b) {
    const salf_named_tensor *x = *(const salf_named_tensor *const *)a, *y = *(const salf_named_tensor *const *)b;
    const int64_t size_x = slf_dtype_size(x->view.dtype), size_y = slf_dtype_size(y->view.dtype);
    if (size_x != size_y) return size_x > size_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

static salf_status fill_header(json_t *header, const salf_named_tensor **order, int64_t n, const char *const *metadata,
                               int64_t n_metadata) {
    uint64_t place = 0;
    SLF_TRY(add_metadata(header, metadata, n_metadata));
    for (int64_t i = 0; i < n; i++) SLF_TRY(add_to_header(header, order[i], &place));
    return SALF_OK;
}

/* ---- writing ---- */

static salf_status write_text(slf_file *file, const char *text, uint64_t length) {
    const uint64_t padded = (length + 7) / 8 * 8;
    uint8_t size[8];
    for (int i = 0; i < 8; i++) size[i] = (uint8_t)(padded >> 8 * i);
    SLF_TRY(slf_file_write(file, size, sizeof size));
    SLF_TRY(slf_file_write(file, text, (size_t)length));
    return slf_file_write(file, "        ", (size_t)(padded - length));
}

static salf_status write_header(slf_file *file, const json_t *header) {
    const size_t length = json_dumpb(header, NULL, 0, JSON_COMPACT);
    if (length == 0) return no_memory();
    char *text = slf_alloc(file->context, length, 1);
    if (!text) return SALF_E_NO_MEMORY;
    const salf_status status =
        json_dumpb(header, text, length, JSON_COMPACT) == length ? write_text(file, text, length) : no_memory();
    slf_free(file->context, text);
    return status;
}

static salf_status write_tensor(slf_file *file, const salf_named_tensor *t) {
    const salf_tensor *v = &t->view;
    const bool dense = !v->row_index && (v->row_stride == 0 || v->row_stride == v->cols);
    if (bytes_of(t) == 0) return SALF_OK;
    if (dense) return slf_file_write(file, v->data, (size_t)bytes_of(t));
    const size_t row_bytes = (size_t)(v->cols * slf_dtype_size(v->dtype));
    for (int64_t r = 0; r < v->rows; r++) SLF_TRY(slf_file_write(file, slf_tensor_row(v, r), row_bytes));
    return SALF_OK;
}

static salf_status write_file(salf_context *context, const char *path, const json_t *header,
                              const salf_named_tensor *const *order, int64_t n) {
    slf_file file;
    SLF_TRY(slf_file_begin(&file, context, path));
    salf_status status = write_header(&file, header);
    for (int64_t i = 0; i < n && status == SALF_OK; i++) status = write_tensor(&file, order[i]);
    if (status == SALF_OK) return slf_file_commit(&file);
    slf_file_abandon(&file);
    return status;
}

salf_status salf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                              int64_t n_tensors, const char *const *metadata, int64_t n_metadata) {
    SLF_REQUIRE(context);
    SLF_REQUIRE(path);
    if (n_tensors < 0 || n_metadata < 0 || (n_tensors > 0 && !tensors) || (n_metadata > 0 && !metadata))
        return slf_fail(SALF_E_ARGUMENT, "salf_tensors_save: %lld tensors and %lld pairs of metadata are not given",
                        (long long)n_tensors, (long long)n_metadata);
    for (int64_t i = 0; i < n_tensors; i++) SLF_TRY(check_tensor(&tensors[i], i));
    const salf_named_tensor **order = slf_alloc(context, (uint64_t)n_tensors, sizeof *order);
    if (!order) return SALF_E_NO_MEMORY;
    for (int64_t i = 0; i < n_tensors; i++) order[i] = &tensors[i];
    if (n_tensors > 0) qsort(order, (size_t)n_tensors, sizeof *order, by_layout);
    json_t *header = json_object();
    salf_status status = header ? SALF_OK : no_memory();
    if (status == SALF_OK) status = fill_header(header, order, n_tensors, metadata, n_metadata);
    if (status == SALF_OK) status = write_file(context, path, header, order, n_tensors);
    json_decref(header);
    slf_free(context, order);
    return status;
}
