/* ids.h - a set of 64-bit ids in the order in which they came: the index of an id, for tables of what is known of it.
 * Not installed. */
#ifndef SALF_IDS_H
#define SALF_IDS_H

#include "core/core.h"

typedef struct slf_ids {
    int32_t n, most; /* how many there are, and may be */
    int64_t *ids;    /* [n] */
    int32_t *slots;  /* [n_slots] index of an id, -1 where a slot is free; less than half of them are taken */
    int64_t n_slots; /* a power of two, or 0 */
} slf_ids;

/* Index of an id; -1 where it is not there. */
int32_t slf_ids_find(const slf_ids *set, int64_t id);
/* The same, but an id that is not there gets the next index, or -1 where the set is full. */
salf_status slf_ids_add(slf_ids *set, const salf_context *context, int64_t id, int32_t *index);
void slf_ids_free(slf_ids *set, const salf_context *context);

#endif
