/*
 * options.c - what comes from hosts: structs that grow, read from callers of other versions and written to them; ranges
 * of options; traces.
 *
 * A struct only grows at its end and 0 means the default, so that a field which one side does not know may be left out
 * as long as it is 0. A set field that this library does not know is an error: the host relies on it. A struct ends
 * between two fields, in every version: a size that cuts one in two is a mistake, and half a pointer is never used.
 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/core.h"

/* The largest struct of the API has some 300 bytes; a struct_size above this is memory that nobody has set. */
#define LARGEST_STRUCT 65536u

void salf_options_init(void *options, uint32_t struct_size) {
    if (!options || struct_size < sizeof struct_size) return;
    memset(options, 0, struct_size);
    memcpy(options, &struct_size, sizeof struct_size);
}

/* What the size of each struct is a multiple of, in every version of the API: that of its widest members, which no such
 * size cuts. A struct without any has an even number of int32_t. */
struct slf_step {
    char c;
    int64_t widest;
};
#define STRUCT_STEP ((uint32_t)offsetof(struct slf_step, widest))
/* Hosts may pack their structs: ours have no padding. The C library's have, and those that libsalf takes from its
 * headers would be others than the ones it is called with. */
_Static_assert(STRUCT_STEP == sizeof(int64_t), "libsalf cannot be built with -fpack-struct");

static salf_status read_struct_size(const void *theirs, const char *type, uint32_t *size) {
    memcpy(size, theirs, sizeof *size);
    if (*size >= sizeof *size && *size <= LARGEST_STRUCT && *size % STRUCT_STEP == 0) return SALF_OK;
    return slf_fail(SALF_E_STRUCT, "%s: struct_size is %u; set it to sizeof(%s)", type, *size, type);
}

salf_status slf_options_read(void *own, uint32_t own_size, const void *theirs, const char *type) {
    salf_options_init(own, own_size);
    if (!theirs) return SALF_OK;
    uint32_t size;
    SLF_TRY(read_struct_size(theirs, type, &size));
    const unsigned char *bytes = theirs;
    for (uint32_t i = own_size; i < size; i++)
        if (bytes[i] != 0)
            return slf_fail(SALF_E_STRUCT,
                            "%s: byte %u of %u is set, but this version of libsalf (%s) knows only %u bytes", type, i,
                            size, salf_version_string(), own_size);
    memcpy(own, theirs, SLF_MIN(size, own_size));
    memcpy(own, &own_size, sizeof own_size);
    return SALF_OK;
}

salf_status slf_info_check(const void *theirs, const char *type) {
    uint32_t size;
    return read_struct_size(theirs, type, &size);
}

salf_status slf_info_write(void *theirs, const void *own, uint32_t own_size, const char *type) {
    uint32_t size;
    SLF_TRY(read_struct_size(theirs, type, &size));
    memset(theirs, 0, size);
    memcpy(theirs, own, SLF_MIN(size, own_size));
    memcpy(theirs, &size, sizeof size);
    return SALF_OK;
}

salf_status slf_check_ranges(const slf_range *ranges, size_t n) {
    for (const slf_range *r = ranges; r < ranges + n; r++) {
        if (r->value >= r->least && r->value <= r->most) continue; /* nor NaN */
        if (isinf(r->most))
            return slf_fail(SALF_E_ARGUMENT, "%s is %.16g; it must be at least %.16g", r->name, r->value, r->least);
        return slf_fail(SALF_E_ARGUMENT, "%s is %.16g, not in %.16g ... %.16g", r->name, r->value, r->least, r->most);
    }
    return SALF_OK;
}

/* A trace may come from the host's own code, so nothing in it is believed. Gains need not be numbers: those of rows
 * that are to train fully are none, and those of a row that trains nothing, eof m, must be none. */
salf_status slf_trace_check(const salf_trace *t, int32_t m, bool gains, int32_t most, const char *owner) {
    if (!t) return slf_fail(SALF_E_NULL, "the %s needs a trace, and trace is NULL", owner);
    if (t->n_layers != m)
        return slf_fail(SALF_E_SHAPE, "trace of %" PRId32 " layers for a %s of %" PRId32, t->n_layers, owner, m);
    if (t->rows < 0) return slf_fail(SALF_E_ARGUMENT, "trace of %" PRId64 " rows", t->rows);
    if (t->rows > 0 && (!t->eof || (gains && !t->gains)))
        return slf_fail(SALF_E_NULL, "%s of the trace is NULL", t->eof ? "gains" : "eof");
    for (int64_t r = 0; r < t->rows; r++)
        if (t->eof[r] < 0 || t->eof[r] > most || (t->eof[r] == m && t->gains && !isnan(t->gains[r * m])))
            return slf_fail(SALF_E_ARGUMENT, "eof of row %" PRId64 " is %" PRId32 ", not in 0 ... %" PRId32, r,
                            t->eof[r], m - 1);
    return SALF_OK;
}
