/*
 * gguf.c - reads files of llama.cpp. A file holds the magic "GGUF", a version, how many tensors and fields there are;
 * the fields (key, type, value); for each tensor its name, its lengths, its type and its place; then, from the next
 * multiple of the alignment on, the data. Numbers are little-endian, lengths and counts u64.
 *
 * Nothing in the file is believed: every count is compared with the bytes that are left before a loop or a block of
 * memory depends on it, every length before it is read, and every place with the end of the file and with its
 * neighbours. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
 */
#include "gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Types of values, as the format numbers them. A text is a length and bytes; a list is the type of its elements, their
 * number and the elements. A key is a text that begins with the part of the file it is about: "general.", "tokenizer.",
 * or the name of the architecture. */
enum { TYPE_U8, TYPE_I8, TYPE_U16, TYPE_I16, TYPE_U32, TYPE_I32, TYPE_F32, TYPE_BOOL, TYPE_TEXT, TYPE_LIST, TYPE_U64 };
enum { TYPE_I64 = 11, TYPE_F64 = 12, N_TYPES };
static const uint8_t type_bytes[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* The least bytes that a field (key length, type, value) and a tensor (name length, one dimension, type, place) take:
 * what a count in the header is compared with before a loop or a block of memory depends on it. */
enum { FIELD_LEAST = 8 + 4 + 1, TENSOR_LEAST = 8 + 4 + 8 + 4 + 8 };

/* Where the reader is: at never exceeds size, so that size - at is what is left. */
typedef struct {
    const salf_context *context;
    const char *path;
    const uint8_t *bytes;
    uint64_t size, at;
} gguf_place;

/* The next n bytes, after a look at whether the file has them. what: for the message. */
static salf_status take_bytes(gguf_place *p, uint64_t n, const char *what, const uint8_t **out) {
    if (n > p->size - p->at)
        return slf_fail(SALF_E_TRUNCATED, "%s: %s of %" PRIu64 " bytes at %" PRIu64 " in a file of %" PRIu64, p->path,
                        what, n, p->at, p->size);
    *out = p->bytes + p->at;
    p->at += n;
    return SALF_OK;
}

/* n bytes, 1 ... 8; the sign of a signed number is for the caller to extend. */
static uint64_t little_endian(const uint8_t *bytes, int n) {
    uint64_t number = 0;
    for (int i = n - 1; i >= 0; i--) number = number << 8 | bytes[i];
    return number;
}

/* Byte by byte, since numbers lie at any address. */
static salf_status take_number(gguf_place *p, int n, const char *what, uint64_t *out) {
    const uint8_t *bytes = NULL;
    SLF_TRY(take_bytes(p, (uint64_t)n, what, &bytes));
    *out = little_endian(bytes, n);
    return SALF_OK;
}

/* A length and as many bytes of text. */
static salf_status take_text(gguf_place *p, const char *what, const uint8_t **out, uint64_t *length) {
    SLF_TRY(take_number(p, 8, what, length));
    return take_bytes(p, *length, what, out);
}

/* A name or a key as a string of its own, freed by slf_free. A byte 0 inside would hide the rest of it. */
static salf_status take_name(gguf_place *p, const char *what, char **out) {
    const uint8_t *text = NULL;
    uint64_t length = 0;
    SLF_TRY(take_text(p, what, &text, &length));
    if (length == 0 || memchr(text, 0, (size_t)length))
        return slf_fail(SALF_E_CORRUPT, "%s: %s at %" PRIu64 " is empty or has a byte 0", p->path, what,
                        p->at - length);
    *out = slf_alloc(p->context, length + 1, 1);
    if (!*out) return SALF_E_NO_MEMORY;
    memcpy(*out, text, (size_t)length);
    (*out)[length] = 0;
    return SALF_OK;
}

/* ---- fields ---- */

/* Every field of a file, sorted by key. They belong to the handle as soon as they are counted. Values stay where they
 * are: it is only made sure that they are there whole. */
static salf_status take_fields(gguf_place *p, uint64_t n, salf_tensors *tensors) {
    uint64_t number = 0;
    const uint8_t *bytes = NULL;
    if (n > (p->size - p->at) / FIELD_LEAST)
        return slf_fail(SALF_E_TRUNCATED, "%s: %" PRIu64 " fields in a file of %" PRIu64 " bytes", p->path, n, p->size);
    SLF_TRY(SLF_ALLOC_ZERO(p->context, tensors->fields, n));
    while (tensors->n_fields < (int64_t)n) {
        slf_file_field *field = &tensors->fields[tensors->n_fields++];
        /* 1. key and type; item is the type of what counts, be it one or many */
        SLF_TRY(take_name(p, "key of a field", &field->key));
        SLF_TRY(take_number(p, 4, "type of a field", &number));
        field->type = field->item = (uint32_t)number;
        field->count = 1;
        if (field->type == TYPE_LIST) {
            SLF_TRY(take_number(p, 4, "type of a list", &number));
            SLF_TRY(take_number(p, 8, "length of a list", &field->count));
            field->item = (uint32_t)number;
        }
        /* Lists of lists are in the format, but nothing writes them, and llama.cpp refuses them as well. */
        if (field->item == TYPE_LIST)
            return slf_fail(SALF_E_UNSUPPORTED, "%s: field '%s' is a list of lists", p->path, field->key);
        if (field->item >= N_TYPES)
            return slf_fail(SALF_E_CORRUPT, "%s: field '%s' is of type %" PRIu32, p->path, field->key, field->item);
        /* 2. the value. Numbers are as many bytes as count says; a product that overflows is more than any file has.
         * Each text of a list has 8 bytes of length at least, so that the loop ends with the file whatever count says.
         * */
        field->data = p->bytes + p->at;
        if (field->item != TYPE_TEXT)
            SLF_TRY(take_bytes(p, slf_mul_add(field->count, type_bytes[field->item], 0), field->key, &bytes));
        else if (field->type == TYPE_TEXT)
            SLF_TRY(take_text(p, field->key, &field->data, &field->count));
        for (uint64_t i = 0; field->type == TYPE_LIST && field->item == TYPE_TEXT && i < field->count; i++)
            SLF_TRY(take_text(p, field->key, &bytes, &number));
    }
    /* 3. sorted, so that a key is found by bisection, and that one which stands twice is seen */
    const slf_file_field *fields = tensors->fields;
    if (n > 0) qsort(tensors->fields, (size_t)n, sizeof *fields, slf_order_names);
    for (uint64_t i = 1; i < n; i++)
        if (strcmp(fields[i - 1].key, fields[i].key) == 0)
            return slf_fail(SALF_E_CORRUPT, "%s: field '%s' is there twice", p->path, fields[i].key);
    return SALF_OK;
}

/* By bisection: a file has some forty fields, a hostile one a million. */
const slf_file_field *slf_gguf_field(const salf_tensors *tensors, const char *key) {
    const slf_file_field wanted = {.key = (char *)(uintptr_t)key};
    const size_t n = (size_t)tensors->n_fields;
    return n > 0 ? bsearch(&wanted, tensors->fields, n, sizeof wanted, slf_order_names) : NULL;
}

/* Of any width, or where there may be one a layer the number that all elements of a list are. */
salf_status slf_gguf_integer(const salf_tensors *tensors, const char *path, const char *key, bool each, int64_t least,
                             int64_t most, int64_t *out) {
    const slf_file_field *field = slf_gguf_field(tensors, key);
    if (!field) return SALF_OK;
    const bool has_sign = field->item == TYPE_I8 || field->item == TYPE_I16 || field->item == TYPE_I32;
    const bool is_integer = field->item <= TYPE_I32 || field->item == TYPE_U64 || field->item == TYPE_I64;
    if (!is_integer || (field->type == TYPE_LIST && !each))
        return slf_fail(SALF_E_CORRUPT, "%s: %s is no integer", path, field->key);
    if (field->count == 0) return SALF_OK;
    const int bytes = type_bytes[field->item];
    const uint64_t number = little_endian(field->data, bytes);
    for (uint64_t i = 1; i < field->count; i++)
        if (memcmp(field->data + i * (uint64_t)bytes, field->data, (size_t)bytes) != 0) return SALF_OK;
    /* The bits above a signed number's own are copies of its sign. */
    const int64_t value =
        (int64_t)(has_sign && number >> (8 * bytes - 1) ? number | ~UINT64_C(0) << 8 * bytes : number);
    if (value < least || value > most)
        return slf_fail(SALF_E_CORRUPT, "%s: %s is %" PRId64 ", not in %" PRId64 " ... %" PRId64, path, field->key,
                        value, least, most);
    *out = value;
    return SALF_OK;
}

/* llama.cpp's converters write float32 for numbers with a point; an integer in such a place is a mistake of whoever
 * wrote the file, and is not guessed at. */
salf_status slf_gguf_real(const salf_tensors *tensors, const char *path, const char *key, double least, double *out) {
    const slf_file_field *field = slf_gguf_field(tensors, key);
    float narrow;
    double value;
    if (!field) return SALF_OK;
    if (field->type != TYPE_F32 && field->type != TYPE_F64)
        return slf_fail(SALF_E_CORRUPT, "%s: %s is no number with a point", path, key);
    memcpy(&narrow, field->data, sizeof narrow);
    if (field->type == TYPE_F64)
        memcpy(&value, field->data, sizeof value);
    else
        value = (double)narrow;
    if (!isfinite(value) || value < least)
        return slf_fail(SALF_E_CORRUPT, "%s: %s is %g, not a number of %g or more", path, key, value, least);
    *out = value;
    return SALF_OK;
}

/* For short texts that choose something, such as the architecture: what is too long for the caller is none of them. */
void slf_gguf_text(const salf_tensors *tensors, const char *key, char *text, size_t size) {
    const slf_file_field *field = slf_gguf_field(tensors, key);
    *text = 0;
    if (!field || field->type != TYPE_TEXT || field->count >= size || memchr(field->data, 0, (size_t)field->count))
        return;
    memcpy(text, field->data, (size_t)field->count);
    text[field->count] = 0;
}

/* Walks the list once: texts differ in length, so that the last ones cannot be reached from the end. What was checked
 * when the file was opened is not checked again. */
int64_t slf_gguf_tokens(const salf_tensors *tensors) {
    const slf_file_field *tokens = slf_gguf_field(tensors, "tokenizer.ggml.tokens");
    const slf_file_field *types = slf_gguf_field(tensors, "tokenizer.ggml.token_type");
    if (!tokens || tokens->type != TYPE_LIST || tokens->item != TYPE_TEXT) return -1;
    /* one number a token, or none at all: of others it is not known which tokens are made up */
    const bool typed = types && types->type == TYPE_LIST && types->count == tokens->count &&
                       (types->item == TYPE_I32 || types->item == TYPE_U32);
    if (types && !typed) return -1;
    int64_t n = 0;
    const uint8_t *text = tokens->data;
    for (uint64_t i = 0; i < tokens->count; i++) {
        const uint64_t length = little_endian(text, 8);
        char made_up[32];
        const int expected = snprintf(made_up, sizeof made_up, "[PAD%" PRIu64 "]", i);
        const bool unused = types && little_endian(types->data + 4 * i, 4) == 5;
        if (!unused || length != (uint64_t)expected || memcmp(text + 8, made_up, length) != 0) n = (int64_t)i + 1;
        text += 8 + length;
    }
    return n;
}

/* ---- tensors ---- */

/* Name, lengths, type and place of one tensor. The file has the shortest step first, rows of lengths[0] elements. */
static salf_status take_tensor(gguf_place *p, salf_tensors *tensors, uint64_t alignment) {
    char *name = NULL;
    slf_entry *entry;
    uint64_t n_dims = 0, length = 0, number = 0;
    salf_status status = take_name(p, "name of a tensor", &name);
    if (status == SALF_OK) status = slf_tensors_add(tensors, name, &entry);
    slf_free(p->context, name);
    SLF_TRY(status);
    SLF_TRY(take_number(p, 4, "dimensions of a tensor", &n_dims));
    if (n_dims < 1 || n_dims > 4)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' has %" PRIu64 " dimensions, not 1 ... 4", p->path, entry->name,
                        n_dims);
    entry->n_dims = (int32_t)n_dims;
    for (int32_t d = entry->n_dims - 1; d >= 0; d--) {
        SLF_TRY(take_number(p, 8, "length of a tensor", &length));
        entry->shape[d] = (int64_t)SLF_MIN(length, (uint64_t)INT64_MAX);
    }
    const int64_t elements = slf_shape_elements(entry->shape, entry->n_dims);
    if (elements < 0)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': the product of its %d lengths overflows", p->path,
                        entry->name, (int)entry->n_dims);
    SLF_TRY(take_number(p, 4, "type of a tensor", &number));
    SLF_TRY(take_number(p, 8, "place of a tensor", &entry->begin));
    if (entry->begin % alignment != 0)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s' begins at %" PRIu64 ", which is no multiple of %" PRIu64,
                        p->path, entry->name, entry->begin, alignment);

    /* A file may hold tensors of types that nobody asks for: they keep name and shape, and their size is checked where
     * the type has one. */
    const slf_gguf_type *type = slf_gguf_type_of((uint32_t)number);
    const int64_t row = entry->shape[entry->n_dims - 1];
    entry->end = entry->begin;
    if (!type) { /* of a later version of the format: of any size, and refused when somebody asks for it */
        snprintf(entry->type_name, sizeof entry->type_name, "number %" PRIu32, (uint32_t)number);
        return SALF_OK;
    }
    snprintf(entry->type_name, sizeof entry->type_name, "%s", type->name);
    entry->dtype = type->dtype;
    entry->packed = type->packed;
    if (row % type->elements != 0)
        return slf_fail(SALF_E_CORRUPT, "%s: tensor '%s': rows of %" PRId64 " elements are no whole blocks of %s",
                        p->path, entry->name, row, type->name);
    /* Rows are whole blocks, so that the tensor is a whole number of them; an overflow ends beyond every file. */
    const uint64_t blocks = (uint64_t)(elements / type->elements);
    entry->end = slf_mul_add(blocks, (uint64_t)type->bytes, entry->begin);
    return SALF_OK;
}

/* ---- a file ---- */

/* Texts of the handle's fields, for salf_tensors_metadata, which knows no other values. One with a byte 0 is left out:
 * what stands before the 0 would be another text. */
static salf_status list_texts(salf_tensors *tensors) {
    SLF_TRY(SLF_ALLOC_ZERO(tensors->context, tensors->metadata, 2 * tensors->n_fields));
    for (int64_t i = 0; i < tensors->n_fields; i++) {
        const slf_file_field *field = &tensors->fields[i];
        if (field->type != TYPE_TEXT || memchr(field->data, 0, (size_t)field->count)) continue;
        char **pair = tensors->metadata + tensors->n_metadata;
        tensors->n_metadata += 2;
        pair[0] = slf_strdup(tensors->context, field->key);
        pair[1] = slf_alloc_zero(tensors->context, field->count + 1, 1);
        if (!pair[0] || !pair[1]) return SALF_E_NO_MEMORY;
        memcpy(pair[1], field->data, (size_t)field->count);
    }
    return SALF_OK;
}

/* Fields of a first file go to the handle as they are read, so that a failure needs no cleanup for them. */
salf_status slf_gguf_read(salf_tensors *tensors, const uint8_t *bytes, uint64_t size, const char *path,
                          int64_t *parts) {
    gguf_place p = {tensors->context, path, bytes, size, 0};
    const bool leads = tensors->n_maps <= 1;
    const int64_t first = tensors->n;
    salf_tensors later = {0}; /* the fields of a later part */
    salf_tensors *own = leads ? tensors : &later;
    int64_t alignment = 32, part = 0;
    uint64_t version = 0, n_tensors = 0, n = 0;
    const uint8_t *magic = NULL;
    salf_status status;
    /* 1. what kind of file */
    SLF_TRY(take_bytes(&p, 4, "magic", &magic));
    if (memcmp(magic, "GGUF", 4) != 0)
        return slf_fail(SALF_E_CORRUPT, "%s: begins with bytes %02x %02x %02x %02x; no GGUF file", path, magic[0],
                        magic[1], magic[2], magic[3]);
    SLF_TRY(take_number(&p, 4, "version", &version));
    if (version != 0 && (version & 0xFFFF) == 0)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: a big-endian GGUF file", path);
    if (version < 2 || version > 3)
        return slf_fail(SALF_E_UNSUPPORTED, "%s: GGUF version %" PRIu64 "; 2 and 3 are read", path, version);
    SLF_TRY(take_number(&p, 8, "number of tensors", &n_tensors));
    SLF_TRY(take_number(&p, 8, "number of fields", &n));

    /* 2. fields: the handle's, or those of a later part */
    SLF_DO(take_fields(&p, n, own));
    SLF_DO(slf_gguf_integer(own, path, "general.alignment", false, 8, 1 << 24, &alignment));
    if (alignment & (alignment - 1))
        SLF_DO(slf_fail(SALF_E_CORRUPT, "%s: general.alignment is %" PRId64 ", no power of two", path, alignment));
    /* A part of a split model says how many there are, and which one it is, from 0 on: a file that was renamed, or is
     * of another split, must not be taken for the one that was asked for. */
    *parts = 1;
    SLF_DO(slf_gguf_integer(own, path, "split.count", false, 0, 65535, parts));
    SLF_DO(slf_gguf_integer(own, path, "split.no", false, 0, 65535, &part));
    if (*parts > 1 && part != (leads ? 0 : tensors->n_maps - 1))
        SLF_DO(slf_fail(SALF_E_MISMATCH, "%s: this is part %" PRId64 " of %" PRId64 "%s", path, part + 1, *parts,
                        leads ? "; open the first" : ", under the name of another"));
    if (leads) SLF_DO(list_texts(tensors));

    /* 3. tensors, and then their data */
    if (n_tensors > (p.size - p.at) / TENSOR_LEAST)
        SLF_DO(slf_fail(SALF_E_TRUNCATED, "%s: %" PRIu64 " tensors in a file of %" PRIu64 " bytes", path, n_tensors,
                        size));
    for (uint64_t i = 0; i < n_tensors; i++) SLF_DO(take_tensor(&p, tensors, (uint64_t)alignment));
    const uint64_t pad = (~p.at + 1) & (uint64_t)(alignment - 1);
    const uint64_t data = SLF_MIN(p.at + pad, size); /* a file without tensors may end before */
    SLF_DO(slf_tensors_put_data(tensors, first, bytes + data, size - data, true, path)); /* holes for alignment */
done:
    for (int64_t i = 0; i < later.n_fields; i++) slf_free(p.context, later.fields[i].key);
    slf_free(p.context, later.fields);
    return status;
}
