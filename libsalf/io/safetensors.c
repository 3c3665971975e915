/*
 * safetensors.c - reads one safetensors file: 8 bytes of header length n (little-endian), n bytes of JSON that give for
 * each tensor its type, shape and place in the rest, then the data. A file is checked completely before anything of it
 * is used: lengths, types, shapes that agree with places, and places that cover the data without holes or overlaps (as
 * the format demands).
 */
#include <inttypes.h>
#include <string.h>

#include "io.h"

/* The format's own limit. */
#define LARGEST_HEADER ((uint64_t)100000000)

/* The element types of the format: those that are usable here, and others whose size is known, so that their shape can
 * be checked against their bytes. */
typedef struct {
    const char *name;
    int32_t dtype; /* SALF_F32 ...; 0: passed over */
    int32_t bytes; /* of an element */
} file_type;

static const file_type file_types[] = {
    {"F32", SALF_F32, 4}, {"BF16", SALF_BF16, 2}, {"F16", SALF_F16, 2}, {"F64", SALF_F64, 8}, {"I8", SALF_I8, 1},
    {"U8", SALF_U8, 1},   {"I32", SALF_I32, 4},   {"I64", SALF_I64, 8}, {"BOOL", 0, 1},       {"F8_E4M3", 0, 1},
    {"F8_E5M2", 0, 1},    {"F8_E8M0", 0, 1},      {"I16", 0, 2},        {"U16", 0, 2},        {"U32", 0, 4},
    {"U64", 0, 8},        {"C64", 0, 8},
};
enum { N_FILE_TYPES = sizeof file_types / sizeof *file_types };

/* save.c writes with the same table, so that what is written can be read. */
const char *slf_safetensors_type(int32_t dtype) {
    for (size_t i = 0; i < N_FILE_TYPES; i++)
        if (file_types[i].dtype == dtype && dtype != 0) return file_types[i].name;
    return NULL;
}

/* ---- the header ---- */

/* Type, shape and place of one tensor, which have to agree: elements * size of the type = bytes of data. Types of a
 * later version of the format are passed over, since a file may hold tensors that nobody asks for; only their shape is
 * checked. */
static salf_status read_tensor(slf_entry *entry, const slf_json *json, const char *path) {
    const slf_json *shape = slf_json_get(json, "shape"), *offsets = slf_json_get(json, "data_offsets");
    if (!slf_json_is(shape, SLF_JSON_ARRAY))
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': no shape", path, entry->name);
    entry->n_dims = (int32_t)SLF_MIN(slf_json_size(shape), INT32_MAX);
    int64_t elements = 1;
    bool empty = false; /* one dimension is 0: the others still have to make sense */
    for (int32_t d = 0; d < entry->n_dims; d++) {
        const slf_json *size = slf_json_at(shape, d);
        if (!slf_json_is(size, SLF_JSON_INTEGER) || slf_json_to_integer(size) < 0)
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': dimension %d is no size", path, entry->name, (int)d);
        const int64_t sizes[2] = {elements, slf_json_to_integer(size)};
        if (d < 8) entry->shape[d] = sizes[1];
        if (sizes[1] > 0) elements = slf_shape_elements(sizes, 2);
        if (sizes[1] == 0) empty = true;
        if (elements < 0)
            return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': the product of its %d dimensions overflows", path,
                            entry->name, (int)entry->n_dims);
    }
    if (empty) elements = 0;

    const slf_json *begin = slf_json_at(offsets, 0), *end = slf_json_at(offsets, 1);
    if (slf_json_size(offsets) != 2 || !slf_json_is(begin, SLF_JSON_INTEGER) || !slf_json_is(end, SLF_JSON_INTEGER))
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': data_offsets are not two integers", path, entry->name);
    const int64_t first = slf_json_to_integer(begin), last = slf_json_to_integer(end);
    if (first < 0 || last < first)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': data_offsets [%" PRId64 ", %" PRId64 "]", path, entry->name,
                        first, last);
    /* Offsets count from the first byte behind the header, and the second one is behind the tensor's last byte.
     * Whether they lie in the file, and how they fit together, is seen once all entries are known. */
    entry->begin = (uint64_t)first;
    entry->end = (uint64_t)last;

    const char *name = slf_json_to_text(slf_json_get(json, "dtype"));
    if (!name) return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': no dtype", path, entry->name);
    strncpy(entry->type_name, name, sizeof entry->type_name - 1);
    const file_type *type = NULL;
    for (size_t i = 0; i < N_FILE_TYPES && !type; i++)
        if (strcmp(file_types[i].name, name) == 0) type = &file_types[i];
    /* A type that this version does not know may have elements of any size, even of less than a byte: then the data
     * are taken to be as long as the file says, and the tensor is refused when somebody asks for it. */
    const uint64_t bytes = (uint64_t)elements * (uint64_t)(type ? type->bytes : 0);
    if (type && bytes != entry->end - entry->begin)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': %" PRIu64 " bytes of data for a shape of %" PRIu64, path,
                        entry->name, entry->end - entry->begin, bytes);
    entry->dtype = type ? type->dtype : 0;
    return SALF_OK;
}

/* Metadata of the first file counts where there are several: the shards of a checkpoint repeat it. Entries and pairs
 * belong to the handle as soon as they are counted, so that a failure needs no cleanup here. */
static salf_status read_header(salf_tensors *tensors, slf_json *header, const char *path) {
    const char *name, *key;
    slf_json *value, *text;
    SLF_JSON_EACH(header, name, value) {
        if (slf_json_is(value, SLF_JSON_NULL) && strcmp(name, "__metadata__") == 0)
            continue; /* some writers have none to give */
        if (!slf_json_is(value, SLF_JSON_OBJECT)) return slf_fail(SALF_E_CORRUPT, "%s: '%s' is no object", path, name);
        if (strcmp(name, "__metadata__") == 0) {
            if (tensors->n_maps > 1) continue;
            SLF_TRY(SLF_ALLOC_ZERO(tensors->context, tensors->metadata, 2 * slf_json_size(value)));
            SLF_JSON_EACH(value, key, text) {
                if (!slf_json_is(text, SLF_JSON_STRING))
                    return slf_fail(SALF_E_CORRUPT, "%s: metadata '%s' is no string", path, key);
                char **pair = tensors->metadata + tensors->n_metadata;
                tensors->n_metadata += 2;
                if (!(pair[0] = slf_strdup(tensors->context, key)) ||
                    !(pair[1] = slf_strdup(tensors->context, slf_json_to_text(text))))
                    return SALF_E_NO_MEMORY;
            }
            continue;
        }
        slf_entry *entry;
        if (!*name) return slf_fail(SALF_E_CORRUPT, "%s: a tensor without a name", path);
        SLF_TRY(slf_tensors_add(tensors, name, &entry));
        SLF_TRY(read_tensor(entry, value, path));
    }
    return SALF_OK;
}

/* ---- the whole ---- */

/* The header's length is checked against the file before one byte of the header is read, and the first byte before the
 * parser sees it: what is no JSON object is a file of another kind, and told so. */
salf_status slf_safetensors_read(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path) {
    uint64_t header_bytes = 0, blank = 8;
    /* Byte by byte, lowest first: the same on every machine, and the address may be odd. */
    for (int i = 7; size >= 8 && i >= 0; i--) header_bytes = header_bytes << 8 | bytes[i];
    while (blank < size && strchr(" \t\r\n", bytes[blank]) && bytes[blank]) blank++;
    const bool object = blank < size && blank - 8 < header_bytes && bytes[blank] == '{';
    const char *kind = object ? NULL : slf_file_kind(bytes, size);
    if (kind) return slf_fail(SALF_E_UNSUPPORTED, "%s: %s", path, kind);
    if (size < 8) return slf_fail(SALF_E_TRUNCATED, "%s: %" PRIu64 " bytes are no safetensors file", path, size);
    if (object && header_bytes > LARGEST_HEADER && header_bytes <= size - 8)
        return slf_fail(SALF_E_CORRUPT, "%s: header of %" PRIu64 " bytes, above the format's limit of %" PRIu64, path,
                        header_bytes, LARGEST_HEADER);
    if (header_bytes > LARGEST_HEADER)
        return slf_fail(SALF_E_CORRUPT, "%s: header of %" PRIu64 " bytes; no safetensors file", path, header_bytes);
    if (header_bytes > size - 8)
        return slf_fail(SALF_E_TRUNCATED, "%s: header of %" PRIu64 " bytes in a file of %" PRIu64, path, header_bytes,
                        size);
    if (!object) return slf_fail(SALF_E_CORRUPT, "%s: the header does not begin with '{'", path);

    slf_json *header;
    SLF_TRY(slf_json_parse(&header, tensors->context, bytes + 8, header_bytes, true, path));
    const int64_t first = tensors->n;
    const salf_status status = read_header(tensors, header, path);
    slf_json_release(header);
    SLF_TRY(status);
    const uint64_t before = 8 + header_bytes;
    return slf_tensors_put_data(tensors, first, bytes + before, size - before, false, path);
}
