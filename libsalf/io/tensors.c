/*
 * tensors.c - the tensors of one or more files: entries sorted by name, and metadata. Readers (safetensors.c, and
 * shards.c over it) make a handle, add entries whose bytes stay where the file is mapped, and seal it; from then on it
 * is immutable.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

/* A handle holds its context, whose hooks its memory comes from. */
salf_status slf_tensors_new(salf_tensors **out, salf_context *context) {
    salf_tensors *tensors;
    SLF_TRY(SLF_ALLOC_ZERO(context, tensors, 1));
    tensors->context = SLF_RETAIN(context);
    *out = tensors;
    return SALF_OK;
}

/* Views that salf_tensors_find gave end here: maps and copies go. Also for a handle that was only half read. */
void salf_tensors_destroy(salf_tensors *tensors) {
    if (!tensors) return;
    salf_context *context = tensors->context;
    for (int64_t i = 0; i < tensors->n; i++) {
        slf_free(context, tensors->entries[i].name);
        slf_free(context, atomic_load(&tensors->entries[i].copy));
    }
    for (int64_t i = 0; i < tensors->n_metadata; i++) slf_free(context, tensors->metadata[i]);
    for (int64_t i = 0; i < tensors->n_fields; i++) slf_free(context, tensors->fields[i].key);
    for (int64_t i = 0; i < tensors->n_maps; i++) slf_map_close(&tensors->maps[i]);
    SLF_FREE(context, tensors->fields, tensors->entries, tensors->metadata, tensors->maps, tensors);
    salf_context_destroy(context);
}

/* ---- filling ---- */

salf_status slf_tensors_add(salf_tensors *tensors, const char *name, slf_entry **out) {
    if (tensors->n == tensors->capacity) { /* twice as many: moving all n entries costs O(n) copies in total */
        const int64_t capacity = tensors->capacity ? 2 * tensors->capacity : 64;
        slf_entry *more;
        SLF_TRY(SLF_ALLOC(tensors->context, more, capacity));
        if (tensors->n > 0) memcpy(more, tensors->entries, (size_t)tensors->n * sizeof *more);
        slf_free(tensors->context, tensors->entries);
        tensors->entries = more;
        tensors->capacity = capacity;
    }
    char *copy = slf_strdup(tensors->context, name);
    if (!copy) return SALF_E_NO_MEMORY;
    *out = &tensors->entries[tensors->n++];
    **out = (slf_entry){.name = copy, .file = tensors->n_maps};
    return SALF_OK;
}

/* An empty tensor begins where another does: it must come first, hence the second comparison. */
static int by_place(const void *a, const void *b) {
    const slf_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* A file whose tensors overlap, or that has holes where its format allows none, was damaged, or is made to hide bytes
 * from readers that look at the tensors only. */
salf_status slf_tensors_put_data(salf_tensors *tensors, int64_t first, const uint8_t *data, uint64_t n, bool holes,
                                 const char *path) {
    const int64_t count = tensors->n - first;
    uint64_t end = 0; /* of the tensor before */
    if (count > 0) qsort(&tensors->entries[first], (size_t)count, sizeof *tensors->entries, by_place);
    for (int64_t i = first; i < tensors->n; i++) {
        slf_entry *e = &tensors->entries[i];
        if (e->begin < end || (!holes && e->begin > end))
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' begins at %" PRIu64 " of the data, %s %" PRIu64, path,
                            e->name, e->begin,
                            e->begin < end ? "inside the one before, which ends at" : "after a hole from", end);
        if (e->end > n)
            return slf_fail(SALF_E_TRUNCATED,
                            "%s: tensor '%s' ends at %" PRIu64 " of the data, which has %" PRIu64 " bytes", path,
                            e->name, e->end, n);
        end = e->end;
        e->data = data + e->begin;
    }
    if (!holes && end != n)
        return slf_fail(SALF_E_CORRUPT, "%s: %" PRIu64 " bytes after the last tensor", path, n - end);
    return SALF_OK;
}

/* Sorting moves entries: no address of one may be kept from before. */
salf_status slf_tensors_seal(salf_tensors *tensors, const char *path) {
    if (tensors->n == 0) return SALF_OK;
    qsort(tensors->entries, (size_t)tensors->n, sizeof *tensors->entries, slf_order_names);
    for (int64_t i = 1; i < tensors->n; i++)
        if (strcmp(tensors->entries[i - 1].name, tensors->entries[i].name) == 0)
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' is there twice", path, tensors->entries[i].name);
    return SALF_OK;
}

/* 16 is more than the bytes of any element: what passes here can be multiplied by a type's size unchecked. */
int64_t slf_shape_elements(const int64_t *shape, int32_t n_dims) {
    int64_t product = 1;
    bool empty = false;
    for (int32_t d = 0; d < n_dims; d++) {
        if (shape[d] < 0) return -1;
        if (shape[d] == 0) empty = true;
        if (shape[d] > 0 && product > INT64_MAX / 16 / shape[d]) return -1;
        if (shape[d] > 0) product *= shape[d];
    }
    return empty ? 0 : product;
}

/* ---- use ---- */

/* Lower bound by bisection; the caller may look at the neighbours, which share beginnings. */
int64_t slf_tensors_place(const salf_tensors *tensors, const char *name) {
    int64_t low = 0, high = tensors->n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (strcmp(tensors->entries[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool slf_tensors_begin(const salf_tensors *tensors, const char *beginning) {
    const int64_t place = slf_tensors_place(tensors, beginning); /* names with a common beginning are neighbours */
    return place < tensors->n && strncmp(tensors->entries[place].name, beginning, strlen(beginning)) == 0;
}

/* O(log n) comparisons of names; NULL where there is none, which is a question here and no error. */
const slf_entry *slf_tensors_entry(const salf_tensors *tensors, const char *name) {
    const int64_t place = slf_tensors_place(tensors, name);
    return place < tensors->n && strcmp(tensors->entries[place].name, name) == 0 ? &tensors->entries[place] : NULL;
}

/* A handle that is not there has no tensors: hosts loop over them without asking first. */
int64_t salf_tensors_count(const salf_tensors *tensors) {
    return tensors ? tensors->n : 0;
}

/* An entry as the API has it: [shape[0]][product of the rest], a vector or a scalar as one row. An entry of a type that
 * is not usable here keeps its name and shape, so that a host can list the file all the same. Elements are read in
 * place, which needs aligned addresses. Data that do not lie so are copied when they are asked for, the first time:
 * files of salf_tensors_save, and most others, need no copy, and of those that do mostly a head is asked for alone. */
static salf_status describe_entry(const salf_tensors *tensors, slf_entry *entry, salf_named_tensor *out) {
    *out = (salf_named_tensor){.name = entry->name};
    if (entry->n_dims > 8)
        return slf_fail(SALF_E_UNSUPPORTED, "tensor '%s' has %d dimensions, more than 8", entry->name,
                        (int)entry->n_dims);
    int64_t cols = 1;
    out->n_dims = entry->n_dims;
    for (int32_t d = 0; d < entry->n_dims; d++) {
        out->shape[d] = entry->shape[d];
        if (d > 0 || entry->n_dims == 1) cols *= entry->shape[d];
    }
    if (entry->dtype == 0)
        return slf_fail(SALF_E_DTYPE, "tensor '%s' is of type %s, which is not usable here", entry->name,
                        entry->type_name);
    const int64_t size = slf_dtype_size(entry->dtype);
    const void *data = entry->data;
    if (size > 0 && (uintptr_t)data % (uintptr_t)size != 0) {
        void *copy = atomic_load(&entry->copy), *none = NULL;
        const size_t bytes = (size_t)(entry->end - entry->begin);
        if (!copy) {
            if (!(copy = slf_alloc(tensors->context, bytes, 1))) return SALF_E_NO_MEMORY;
            memcpy(copy, entry->data, bytes);
            /* Handles are shared between threads: of two copies one is given back. */
            if (!atomic_compare_exchange_strong(&entry->copy, &none, copy)) {
                slf_free(tensors->context, copy);
                copy = none;
            }
        }
        data = copy;
    }
    const int64_t rows = entry->n_dims >= 2 ? entry->shape[0] : 1;
    out->view = slf_tensor_host(data, entry->dtype, rows, cols);
    return SALF_OK;
}

/* In the order of names, so that listing a file gives the same on every machine. */
salf_status salf_tensors_at(const salf_tensors *tensors, int64_t index, salf_named_tensor *out) {
    SLF_REQUIRE(tensors, out);
    if (index < 0 || index >= tensors->n)
        return SLF_FAIL(SALF_E_NOT_FOUND, "index %" PRId64 " of %" PRId64 " tensors", index, tensors->n);
    return describe_entry(tensors, &tensors->entries[index], out);
}

/* The view lies in the mapped file, or in a copy of the handle's: it ends with the handle. */
salf_status salf_tensors_find(const salf_tensors *tensors, const char *name, salf_named_tensor *out) {
    SLF_REQUIRE(tensors, name, out);
    if (!slf_tensors_entry(tensors, name)) return SLF_FAIL(SALF_E_NOT_FOUND, "no tensor is called '%s'", name);
    return describe_entry(tensors, &tensors->entries[slf_tensors_place(tensors, name)], out);
}

/* One after another: files have a handful of pairs. The text belongs to the handle. */
const char *salf_tensors_metadata(const salf_tensors *tensors, const char *key) {
    if (!tensors || !key) return NULL;
    for (int64_t i = 0; i < tensors->n_metadata; i += 2)
        if (strcmp(tensors->metadata[i], key) == 0) return tensors->metadata[i + 1];
    return NULL;
}
