/*
 * save.c - writes a safetensors file. The header is padded with spaces to a multiple of 8 and tensors are laid out by
 * element size, largest first, then by name: so every tensor is aligned for its type, and the same content gives the
 * same bytes.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

/* Everything that can be wrong with a tensor, before a file is begun. n_dims 0: the shape is that of the view. */
static salf_status check_named_tensor(const salf_named_tensor *t, int64_t index) {
    const salf_tensor *v = &t->view;
    if (!t->name || !*t->name || strcmp(t->name, "__metadata__") == 0)
        return slf_fail(SALF_E_ARGUMENT, "tensor %" PRId64 " has no usable name", index);
    if (!slf_is_utf8(t->name)) return slf_fail(SALF_E_ARGUMENT, "the name '%s' is not UTF-8", t->name);
    if (!slf_safetensors_type(v->dtype))
        return slf_fail(SALF_E_DTYPE, "tensor '%s' has dtype %d", t->name, (int)v->dtype);
    if (t->n_dims < 0 || t->n_dims > 8)
        return slf_fail(SALF_E_ARGUMENT, "tensor '%s' has %d dimensions", t->name, (int)t->n_dims);
    SLF_TRY(SLF_CHECK_RANGES({"reserved of a tensor", t->reserved, 0, 0}));
    const int64_t plain[2] = {v->rows, v->cols}, elements = slf_shape_elements(plain, 2);
    if (elements < 0)
        return slf_fail(SALF_E_SHAPE, "tensor '%s' is [%" PRId64 "][%" PRId64 "]", t->name, v->rows, v->cols);
    if (t->n_dims > 0 && slf_shape_elements(t->shape, t->n_dims) != elements)
        return slf_fail(SALF_E_SHAPE, "tensor '%s': shape and view [%" PRId64 "][%" PRId64 "] disagree", t->name,
                        v->rows, v->cols);
    if (v->memory != SALF_MEMORY_HOST || v->index_memory != SALF_MEMORY_HOST)
        return slf_fail(SALF_E_ARGUMENT, "tensor '%s' is not in host memory", t->name);
    if (!v->data && elements > 0) return slf_fail(SALF_E_NULL, "tensor '%s' has no data", t->name);
    return slf_tensor_check_places(v, t->name);
}

/* No overflow: check_named_tensor has seen that 16 bytes an element fit. */
static uint64_t data_bytes(const salf_tensor *view) {
    return (uint64_t)view->rows * (uint64_t)view->cols * (uint64_t)slf_dtype_size(view->dtype);
}

/* ---- header ---- */

/* An array of integers at a key. */
static salf_status put_integers(slf_json *entry, const char *key, const int64_t *values, int32_t n) {
    slf_json *array = slf_json_new(entry->context, SLF_JSON_ARRAY);
    salf_status status = array ? SALF_OK : SALF_E_NO_MEMORY;
    for (int32_t i = 0; i < n && status == SALF_OK; i++)
        status = slf_json_put(array, NULL, slf_json_integer(entry->context, values[i]));
    if (status == SALF_OK) return slf_json_put(entry, key, array);
    slf_json_release(array);
    return status;
}

/* ---- bytes ---- */

/* Length, header text, spaces up to a multiple of 8, then the data of one tensor after another; a seal is known when
 * its turn comes. */
static salf_status write_content(slf_file *file, const slf_json *header, const salf_named_tensor **order, int64_t n,
                                 uint64_t *seal) {
    const size_t length = slf_json_write(header, NULL, 0);
    char *text = slf_alloc(file->context, length, 1);
    if (!text) return SALF_E_NO_MEMORY;
    /* Spaces are white space in JSON, so that readers need not know of the padding; with it the data begin at a
     * multiple of 8 in the file, and mapped tensors are aligned. */
    const uint64_t padded = (length + 7) / 8 * 8;
    uint8_t size[8];
    for (int i = 0; i < 8; i++) size[i] = (uint8_t)(padded >> 8 * i);
    salf_status status;
    slf_json_write(header, text, length);
    SLF_DO(slf_file_write(file, size, sizeof size));
    SLF_DO(slf_file_write(file, text, length));
    SLF_DO(slf_file_write(file, "        ", (size_t)(padded - length)));
    /* Rows are written as they are stored: the file's byte order is little-endian, as the machines are that this code
     * is compiled for. */
    uint64_t done = 0, total = 0;
    for (int64_t i = 0; i < n; i++) total += data_bytes(&order[i]->view);
    for (int64_t i = 0; i < n; i++) {
        const salf_tensor *v = &order[i]->view;
        const uint64_t bytes = data_bytes(v), row = (uint64_t)(v->cols * slf_dtype_size(v->dtype));
        const bool dense = !v->row_index && (v->row_stride == 0 || v->row_stride == v->cols);
        if (seal && i == n - 1) *seal = slf_sum_end(file->sum);
        /* in pieces of 16 MiB, some hundredths of a second on a disk; what is strided or indexed row by row */
        for (uint64_t at = 0, piece, asked = 0; at < bytes; at += piece) {
            if (at >= asked) {
                SLF_DO(slf_proceed(file->context, "bytes", (int64_t)(done + at), (int64_t)total));
                asked = at + SLF_PATIENCE;
            }
            piece = dense ? SLF_MIN(bytes - at, SLF_PATIENCE) : row;
            const char *from = dense ? (const char *)v->data + at : slf_tensor_row(v, (int64_t)(at / row));
            SLF_DO(slf_file_write(file, from, (size_t)piece));
        }
        done += bytes;
    }
done:
    slf_free(file->context, text);
    return status;
}

/* Where sizes fall, every tensor begins at a multiple of its own element size; names make the order, and so the bytes
 * of the file, independent of the order in which the host lists its tensors. */
static int by_layout(const void *a, const void *b) {
    const salf_named_tensor *x = *(const salf_named_tensor *const *)a, *y = *(const salf_named_tensor *const *)b;
    const int64_t size_x = slf_dtype_size(x->view.dtype), size_y = slf_dtype_size(y->view.dtype);
    if (size_x != size_y) return size_x > size_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Nothing of the arguments is kept. An error before the last step leaves the file of that name, if there is one, as it
 * was; what can be wrong with the tensors is found before anything is written. */
salf_status slf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                             int64_t n_tensors, const char *const *metadata, int64_t n_metadata, uint64_t *seal) {
    for (int64_t i = 0; i < n_tensors; i++) SLF_TRY(check_named_tensor(&tensors[i], i));

    /* 1. the order of the data */
    slf_file file;
    slf_sum sum = {0};
    slf_json *header = NULL;
    const salf_named_tensor **order;
    const int64_t n_sorted = n_tensors - (seal != NULL);
    salf_status status;
    SLF_TRY(SLF_ALLOC(context, order, n_tensors));
    for (int64_t i = 0; i < n_tensors; i++) order[i] = &tensors[i];
    if (n_sorted > 0) qsort(order, (size_t)n_sorted, sizeof *order, by_layout);
    /* 2. the header, which says where each will be */
    SLF_DO((header = slf_json_new(context, SLF_JSON_OBJECT)) ? SALF_OK : SALF_E_NO_MEMORY);
    if (n_metadata > 0) SLF_DO(slf_json_put(header, "__metadata__", slf_json_new(context, SLF_JSON_OBJECT)));
    slf_json *pairs = slf_json_get(header, "__metadata__");
    int64_t place = 0;
    for (int64_t i = 0; i < n_metadata; i++) {
        const char *key = metadata[2 * i], *value = metadata[2 * i + 1];
        if (!key || !value || !slf_is_utf8(key) || !slf_is_utf8(value))
            SLF_DO(slf_fail(SALF_E_ARGUMENT, "metadata '%s' is not a pair of UTF-8 strings", key ? key : "NULL"));
        if (slf_json_get(pairs, key)) SLF_DO(slf_fail(SALF_E_ARGUMENT, "two pairs of metadata have the key '%s'", key));
        SLF_DO(slf_json_put(pairs, key, slf_json_text(context, value, -1)));
    }
    for (int64_t i = 0; i < n_tensors; i++) { /* entries {dtype, shape, data_offsets} */
        const salf_named_tensor *t = order[i];
        const int64_t plain[2] = {t->view.rows, t->view.cols};
        const int64_t offsets[2] = {place, place + (int64_t)data_bytes(&t->view)};
        if (slf_json_get(header, t->name)) SLF_DO(slf_fail(SALF_E_ARGUMENT, "two tensors are called '%s'", t->name));
        SLF_DO(slf_json_put(header, t->name, slf_json_new(context, SLF_JSON_OBJECT)));
        slf_json *entry = slf_json_get(header, t->name);
        SLF_DO(put_integers(entry, "shape", t->n_dims ? t->shape : plain, t->n_dims ? t->n_dims : 2));
        SLF_DO(slf_json_put(entry, "dtype", slf_json_text(context, slf_safetensors_type(t->view.dtype), -1)));
        SLF_DO(put_integers(entry, "data_offsets", offsets, 2));
        place = offsets[1];
    }
    /* 3. header and data into a file of another name, which then takes the place of path */
    SLF_DO(slf_file_create(&file, context, path));
    file.sum = seal ? &sum : NULL;
    status = write_content(&file, header, order, n_tensors, seal);
    if (status == SALF_OK)
        status = slf_file_commit(&file);
    else
        slf_file_abandon(&file);
done:
    slf_json_release(header);
    slf_free(context, order);
    return status;
}

salf_status salf_tensors_save(salf_context *context, const char *path, const salf_named_tensor *tensors,
                              int64_t n_tensors, const char *const *metadata, int64_t n_metadata) {
    SLF_REQUIRE(context, path);
    if (n_tensors < 0 || n_metadata < 0 || (n_tensors > 0 && !tensors) || (n_metadata > 0 && !metadata))
        return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " tensors and %" PRId64 " pairs of metadata are not given",
                        n_tensors, n_metadata);
    return slf_tensors_save(context, path, tensors, n_tensors, metadata, n_metadata, NULL);
}
