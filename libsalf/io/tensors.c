/*
 * tensors.c - one safetensors file: 8 bytes of header length n (little-endian), n bytes of JSON that give for each
 * tensor its type, shape and place in the rest, then the data. A file is checked completely before anything of it is
 * used: lengths, types, shapes that agree with places, and places that cover the data without holes or overlaps (as the
 * format demands).
 */
#include "tensors_types.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

#define LARGEST_HEADER ((uint64_t)100000000) /* the format's own limit */

/* ---- making and freeing ---- */

salf_status slf_tensors_new(salf_tensors **out, salf_context *context) {
    salf_tensors *tensors = slf_alloc_zero(context, 1, sizeof *tensors);
    if (!tensors) return SALF_E_NO_MEMORY;
    tensors->context = slf_context_retain(context);
    *out = tensors;
    return SALF_OK;
}

void salf_tensors_destroy(salf_tensors *tensors) {
    if (!tensors) return;
    salf_context *context = tensors->context;
    for (int64_t i = 0; i < tensors->n; i++) {
        slf_free(context, tensors->entries[i].name);
        slf_free(context, tensors->entries[i].copy);
    }
    for (int64_t i = 0; i < tensors->n_metadata; i++) slf_free(context, tensors->metadata[i]);
    for (int64_t i = 0; i < tensors->n_maps; i++) slf_map_close(&tensors->maps[i]);
    slf_free(context, tensors->entries);
    slf_free(context, tensors->metadata);
    slf_free(context, tensors->maps);
    slf_free(context, tensors);
    slf_context_release(context);
}

/* ---- one tensor of the header ---- */

static salf_status read_shape(slf_entry *entry, const json_t *shape, const char *path) {
    if (!json_is_array(shape)) return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': no shape", path, entry->name);
    if (json_array_size(shape) > 8)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: tensor '%s' has %zu dimensions, more than 8", path, entry->name,
                        json_array_size(shape));
    entry->n_dims = (int32_t)json_array_size(shape);
    for (int32_t d = 0; d < entry->n_dims; d++) {
        const json_t *size = json_array_get(shape, (size_t)d);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': dimension %d is no size", path, entry->name, (int)d);
        entry->shape[d] = json_integer_value(size);
    }
    return SALF_OK;
}

static salf_status read_place(slf_entry *entry, const json_t *offsets, const char *path) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': data_offsets are not two integers", path, entry->name);
    const int64_t first = json_integer_value(begin), last = json_integer_value(end);
    if (first < 0 || last < first)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': data_offsets [%" PRId64 ", %" PRId64 "]", path, entry->name,
                        first, last);
    entry->begin = (uint64_t)first;
    entry->end = (uint64_t)last;
    return SALF_OK;
}

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

/* The product of the shape and the element size must be the number of bytes. Elements of an unknown type have size 0,
 * and only their shape is checked. */
static salf_status check_bytes(const slf_entry *entry, int64_t element, const char *path) {
    const int64_t elements = slf_shape_elements(entry->shape, entry->n_dims);
    if (elements < 0)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': the product of its %d dimensions overflows", path,
                        entry->name, (int)entry->n_dims);
    const uint64_t bytes = (uint64_t)elements * (uint64_t)element;
    if (element == 0 || bytes == entry->end - entry->begin) return SALF_OK;
    return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': %" PRIu64 " bytes of data for a shape of %" PRIu64, path,
                    entry->name, entry->end - entry->begin, bytes);
}

static salf_status read_type(slf_entry *entry, const json_t *type, const char *path) {
    const char *name = json_string_value(type);
    if (!name) return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': no dtype", path, entry->name);
    const slf_file_type *known = slf_file_type_by_name(name);
    strncpy(entry->type_name, name, sizeof entry->type_name - 1);
    entry->dtype = known ? known->dtype : 0; /* of a later version of the format; an error only when asked for */
    return check_bytes(entry, known ? known->bytes : 0, path);
}

static salf_status read_entry(slf_entry *entry, const json_t *json, const char *path) {
    SLF_TRY(read_shape(entry, json_object_get(json, "shape"), path));
    SLF_TRY(read_place(entry, json_object_get(json, "data_offsets"), path));
    return read_type(entry, json_object_get(json, "dtype"), path);
}

/* Room for one more entry, which is zeroed and has its name; it counts only once it is complete. */
static slf_entry *next_entry(salf_tensors *tensors, const char *name) {
    if (tensors->n == tensors->room) {
        const int64_t room = tensors->room ? 2 * tensors->room : 64;
        slf_entry *more = slf_alloc(tensors->context, (uint64_t)room, sizeof *more);
        if (!more) return NULL;
        if (tensors->n > 0) memcpy(more, tensors->entries, (size_t)tensors->n * sizeof *more);
        slf_free(tensors->context, tensors->entries);
        tensors->entries = more;
        tensors->room = room;
    }
    slf_entry *entry = &tensors->entries[tensors->n];
    *entry = (slf_entry){.name = slf_strdup(tensors->context, name), .file = tensors->n_maps};
    return entry->name ? entry : NULL;
}

static salf_status add_entry(salf_tensors *tensors, const char *name, const json_t *json, const char *path) {
    if (!*name) return slf_fail(SALF_E_CORRUPT, "%s: a tensor without a name", path);
    slf_entry *entry = next_entry(tensors, name);
    if (!entry) return SALF_E_NO_MEMORY;
    tensors->n++;
    return read_entry(entry, json, path);
}

/* ---- metadata ---- */

static salf_status read_metadata(salf_tensors *tensors, json_t *json, const char *path) {
    if (tensors->n_maps > 1) return SALF_OK; /* the first file's counts */
    const uint64_t n = 2 * json_object_size(json);
    tensors->metadata = slf_alloc_zero(tensors->context, n, sizeof *tensors->metadata);
    if (!tensors->metadata) return SALF_E_NO_MEMORY;
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value) {
        if (!json_is_string(value)) return slf_fail(SALF_E_CORRUPT, "%s: metadata '%s' is no string", path, key);
        char *pair[2] = {slf_strdup(tensors->context, key), slf_strdup(tensors->context, json_string_value(value))};
        for (int i = 0; i < 2; i++) tensors->metadata[tensors->n_metadata++] = pair[i];
        if (!pair[0] || !pair[1]) return SALF_E_NO_MEMORY;
    }
    return SALF_OK;
}

/* ---- places ---- */

static int by_place(const void *a, const void *b) {
    const slf_entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* Of the entries of one file: first and those after it. */
static salf_status check_places(salf_tensors *tensors, int64_t first, uint64_t data_bytes, const char *path) {
    uint64_t place = 0;
    const int64_t n = tensors->n - first;
    if (n > 0) qsort(&tensors->entries[first], (size_t)n, sizeof *tensors->entries, by_place);
    for (int64_t i = first; i < tensors->n; i++) {
        const slf_entry *e = &tensors->entries[i];
        if (e->begin != place)
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' begins at %" PRIu64 " of the data, %s %" PRIu64, path,
                            e->name, e->begin,
                            e->begin < place ? "inside the one before, which ends at" : "after a hole from", place);
        if (e->end > data_bytes)
            return slf_fail(SALF_E_TRUNCATED,
                            "%s: tensor '%s' ends at %" PRIu64 " of the data, which has %" PRIu64 " bytes", path,
                            e->name, e->end, data_bytes);
        place = e->end;
    }
    if (place == data_bytes) return SALF_OK;
    return slf_fail(SALF_E_CORRUPT, "%s: %" PRIu64 " bytes after the last tensor", path, data_bytes - place);
}

/* Element access needs aligned addresses; data that does not lie so is copied. */
static salf_status place_data(salf_tensors *tensors, int64_t first, const uint8_t *data) {
    for (int64_t i = first; i < tensors->n; i++) {
        slf_entry *e = &tensors->entries[i];
        const int64_t size = slf_dtype_size(e->dtype);
        e->data = data + e->begin;
        if (size == 0 || (uintptr_t)e->data % (uintptr_t)size == 0) continue;
        e->copy = slf_alloc(tensors->context, e->end - e->begin, 1);
        if (!e->copy) return SALF_E_NO_MEMORY;
        e->data = memcpy(e->copy, e->data, (size_t)(e->end - e->begin));
    }
    return SALF_OK;
}

/* ---- a file ---- */

static salf_status read_header(salf_tensors *tensors, json_t *header, const char *path) {
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value) {
        if (!json_is_object(value)) return slf_fail(SALF_E_CORRUPT, "%s: '%s' is no object", path, name);
        if (strcmp(name, "__metadata__") == 0)
            SLF_TRY(read_metadata(tensors, value, path));
        else
            SLF_TRY(add_entry(tensors, name, value, path));
    }
    return SALF_OK;
}

static uint64_t little_endian(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

salf_status slf_tensors_add_file(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path) {
    if (size < 8) return slf_fail(SALF_E_TRUNCATED, "%s: %" PRIu64 " bytes are no safetensors file", path, size);
    const uint64_t header_bytes = little_endian(bytes);
    if (header_bytes > LARGEST_HEADER)
        return slf_fail(SALF_E_CORRUPT, "%s: header of %" PRIu64 " bytes; no safetensors file", path, header_bytes);
    if (header_bytes > size - 8)
        return slf_fail(SALF_E_TRUNCATED, "%s: header of %" PRIu64 " bytes in a file of %" PRIu64, path, header_bytes,
                        size);
    if (header_bytes == 0 || bytes[8] != '{')
        return slf_fail(SALF_E_CORRUPT, "%s: the header does not begin with '{'", path);
    json_t *header;
    SLF_TRY(slf_json_parse(&header, bytes + 8, header_bytes, path));
    const int64_t first = tensors->n;
    salf_status status = read_header(tensors, header, path);
    json_decref(header);
    const uint64_t data_bytes = size - 8 - header_bytes;
    if (status == SALF_OK) status = check_places(tensors, first, data_bytes, path);
    if (status == SALF_OK) status = place_data(tensors, first, bytes + 8 + header_bytes);
    return status;
}

/* ---- after the last file ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const slf_entry *)a)->name, ((const slf_entry *)b)->name);
}

salf_status slf_tensors_seal(salf_tensors *tensors, const char *path) {
    if (tensors->n == 0) return SALF_OK;
    qsort(tensors->entries, (size_t)tensors->n, sizeof *tensors->entries, by_name);
    for (int64_t i = 1; i < tensors->n; i++)
        if (strcmp(tensors->entries[i - 1].name, tensors->entries[i].name) == 0)
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' is there twice", path, tensors->entries[i].name);
    return SALF_OK;
}

salf_status slf_tensors_from_memory(salf_tensors **out, salf_context *context, const void *bytes, uint64_t size) {
    salf_tensors *tensors;
    *out = NULL;
    SLF_TRY(slf_tensors_new(&tensors, context));
    salf_status status = slf_tensors_add_file(tensors, bytes, size, "memory");
    if (status == SALF_OK) status = slf_tensors_seal(tensors, "memory");
    if (status != SALF_OK)
        salf_tensors_destroy(tensors);
    else
        *out = tensors;
    return status;
}

/* ---- use ---- */

int64_t salf_tensors_count(const salf_tensors *tensors) {
    return tensors ? tensors->n : 0;
}

static salf_status describe(const slf_entry *entry, salf_named_tensor *out) {
    *out = (salf_named_tensor){.name = entry->name, .n_dims = entry->n_dims};
    int64_t cols = 1;
    for (int32_t d = 0; d < entry->n_dims; d++) {
        out->shape[d] = entry->shape[d];
        if (d > 0 || entry->n_dims == 1) cols *= entry->shape[d];
    }
    if (entry->dtype == 0) /* to be listed all the same */
        return slf_fail(SALF_E_DTYPE, "tensor '%s' is of type %s, which is not usable here", entry->name,
                        entry->type_name);
    const int64_t rows = entry->n_dims >= 2 ? entry->shape[0] : 1;
    out->view = slf_tensor_host(entry->data, entry->dtype, rows, cols);
    return SALF_OK;
}

salf_status salf_tensors_at(const salf_tensors *tensors, int64_t index, salf_named_tensor *out) {
    SLF_REQUIRE(tensors);
    SLF_REQUIRE(out);
    if (index < 0 || index >= tensors->n)
        return slf_fail(SALF_E_NOT_FOUND, "salf_tensors_at: index %" PRId64 " of %" PRId64 " tensors", index,
                        tensors->n);
    return describe(&tensors->entries[index], out);
}

const slf_entry *slf_tensors_entry(const salf_tensors *tensors, const char *name) {
    int64_t low = 0, high = tensors->n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const int order = strcmp(name, tensors->entries[middle].name);
        if (order == 0) return &tensors->entries[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

salf_status salf_tensors_find(const salf_tensors *tensors, const char *name, salf_named_tensor *out) {
    SLF_REQUIRE(tensors);
    SLF_REQUIRE(name);
    SLF_REQUIRE(out);
    const slf_entry *entry = slf_tensors_entry(tensors, name);
    if (!entry) return slf_fail(SALF_E_NOT_FOUND, "no tensor is called '%s'", name);
    return describe(entry, out);
}

const char *salf_tensors_metadata(const salf_tensors *tensors, const char *key) {
    if (!tensors || !key) return NULL;
    for (int64_t i = 0; i < tensors->n_metadata; i += 2)
        if (strcmp(tensors->metadata[i], key) == 0) return tensors->metadata[i + 1];
    return NULL;
}
