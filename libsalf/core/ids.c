/* ids.c - see ids.h. A hash table of indices with linear probing; it doubles when half of it is taken. */
#include "core/ids.h"

#include <string.h>

/* The slot where an id is, or would be. */
static int64_t slot_of(const slf_ids *set, int64_t id) {
    /* the fractional part of the golden ratio spreads ids that follow each other; its upper half has mixed most */
    const uint64_t hash = (uint64_t)id * 0x9E3779B97F4A7C15u;
    int64_t slot = (int64_t)((hash >> 32 ^ hash) & (uint64_t)(set->n_slots - 1));
    while (set->slots[slot] >= 0 && set->ids[set->slots[slot]] != id) slot = (slot + 1) & (set->n_slots - 1);
    return slot;
}

int32_t slf_ids_find(const slf_ids *set, int64_t id) {
    return set->n_slots == 0 ? -1 : set->slots[slot_of(set, id)];
}

/* What is there keeps its index when the table grows, so that callers may index arrays of their own by it. */
salf_status slf_ids_add(slf_ids *set, const salf_context *context, int64_t id, int32_t *index) {
    *index = slf_ids_find(set, id);
    if (*index >= 0 || set->n == set->most) return SALF_OK;
    /* 1. room: ids of half as many as there are slots */
    if (2 * (int64_t)set->n >= set->n_slots) {
        const int64_t n_slots = set->n_slots == 0 ? 32 : 2 * set->n_slots;
        slf_ids larger = {.n = set->n, .most = set->most, .n_slots = n_slots};
        larger.ids = slf_alloc(context, (uint64_t)n_slots / 2 + 1, sizeof *larger.ids);
        larger.slots = slf_alloc(context, (uint64_t)n_slots, sizeof *larger.slots);
        if (!larger.ids || !larger.slots) {
            slf_ids_free(&larger, context);
            return SALF_E_NO_MEMORY;
        }
        for (int64_t i = 0; i < n_slots; i++) larger.slots[i] = -1;
        for (int32_t i = 0; i < set->n; i++) {
            larger.ids[i] = set->ids[i];
            larger.slots[slot_of(&larger, set->ids[i])] = i;
        }
        slf_ids_free(set, context);
        *set = larger;
    }
    /* 2. its place */
    *index = set->n;
    set->slots[slot_of(set, id)] = set->n;
    set->ids[set->n++] = id;
    return SALF_OK;
}

void slf_ids_free(slf_ids *set, const salf_context *context) {
    SLF_FREE(context, set->ids, set->slots);
    *set = (slf_ids){0};
}
