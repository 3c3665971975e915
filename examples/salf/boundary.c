/* boundary.c - a forward that begins at the boundary below which nothing trains any more, from states of an earlier epoch
 * (cache.h). What is kept for a datum is exact: no layer below the boundary changes again, and there is nothing random in
 * this trainer's forward.
 *
 * A row without states at the boundary runs up to it on its own. So its states are a function of the datum and of the
 * weights, bit for bit, whatever else is in the batch and whatever is kept: a run that is resumed with nothing kept ends
 * with the same weights. With bfloat16 that holds where the boundary stays, since states are rounded at it; other methods
 * then run without. */
#include <stdlib.h>
#include <string.h>

#include "run.h"

/* Methods whose boundary can rise above 0, and whether it stays where it is. Probes need every space of a forward. */
static int has_boundary(const run *r, int *stays) {
    const method *m = r->m;
    const int32_t kind = m->how.policy;
    const int mixed = r->feed.mixed;
    *stays = kind == SALF_POLICY_SUFFIX || kind == SALF_POLICY_HALF;
    return !m->how.probes &&
           (*stays || kind == SALF_POLICY_LIFT || kind == SALF_POLICY_LIFT_STAR || kind == SALF_POLICY_LINEAR ||
            kind == SALF_POLICY_FREEZEOUT || (kind == SALF_POLICY_BUDGET && !mixed));
}

void boundary_open(run *r) {
    const finetune_settings *o = r->s->settings;
    char message[512];
    int stays;
    if (o->cache_bytes == 0 || o->epochs == 1 || !has_boundary(r, &stays)) return;
    if (o->cache_bf16 && !stays) {
        if (r->s->seed == o->seed)
            fprintf(stderr, "--cache: nothing is kept for %s: its boundary moves, and bf16 is for one that stays",
                    r->m->name);
        return;
    }
    const int64_t all = r->s->train.offsets[r->s->train.n] * r->s->info.hidden * (o->cache_bf16 ? 2 : 4);
    const cache_options options = {.bytes = all < o->cache_bytes ? all : o->cache_bytes,
                                   .bf16 = o->cache_bf16,
                                   .folder = o->cache_folder,
                                   .n_data = r->s->train.n,
                                   .width = r->s->info.hidden};
    if (cache_open(&r->cache, &options, message, sizeof message) == 0 || r->s->cache_said) return;
    r->s->cache_said = 1; /* training goes on without, and this is said once */
    args_say(0, training_command, "--cache: %s; no states are kept", message);
}

/* The states of a space, taken out of a forward that ends there. */
typedef struct taker {
    int32_t space;
    size_t bytes;
    float *states;
    int done;
} taker;

static salf_status take_space(void *user, int32_t space, int64_t rows, const float *states) {
    taker *t = user;
    (void)rows;
    if (space != t->space) return SALF_OK;
    memcpy(t->states, states, t->bytes);
    t->done = 1;
    return SALF_E_CALLBACK; /* what is above is not needed */
}

int boundary_begin(run *r, const uint32_t *data) {
    const split *train = &r->s->train;
    const int64_t width = r->s->info.hidden, tokens = r->batch.offsets[r->batch.batch.n_sequences];
    /* Gradients of a stage that has just ended may still wait for their update. */
    const int32_t boundary = r->decision.cut < r->lowest ? r->decision.cut : r->lowest;
    const double start = tally_clock();
    r->skipped = 0;
    if (!r->cache || boundary == 0) return 0;
    if (tokens > r->states_room) {
        free(r->states);
        r->states_room = 0;
        if (!(r->states = malloc((size_t)(tokens * width) * sizeof *r->states))) return say_no_memory();
        r->states_room = tokens;
    }
    for (int64_t i = 0; i < r->batch.batch.n_sequences; i++) {
        const int64_t first = r->batch.offsets[i], n = r->batch.offsets[i + 1] - first;
        const int32_t *ids = train->tokens + train->offsets[data[i]];
        float *states = r->states + first * width;
        int32_t from = cache_space(r->cache, data[i], ids, n);
        if (from > boundary) from = 0;
        if (from > 0) cache_get(r->cache, data[i], n, states);
        r->skipped += from;
        if (from == boundary) continue;
        const int64_t offsets[] = {0, n}, head = n - 1;
        const decoder_batch one = {ids, offsets, 1, &head, 1, NULL, from, from > 0 ? states : NULL};
        taker t = {.space = boundary, .bytes = (size_t)(n * width) * sizeof *states, .states = states};
        if (decoder_forward(r->decoder, &one, 0, take_space, &t) != SALF_OK && !t.done) return say_decoder("forward");
        if (cache_put(r->cache, data[i], boundary, ids, n, states) == 1 || r->s->cache_said) continue;
        r->s->cache_said = 1;
        args_say(0, training_command, "--cache: the room is used up; data that come later are run from the start");
    }
    r->batch.batch.first_layer = boundary;
    r->batch.batch.states = r->states;
    r->tally.v[TALLY_FORWARD] += tally_clock() - start;
    r->tally.v[TALLY_PASSED] -= r->skipped / r->s->info.n_layers;
    return 0;
}

int64_t boundary_bytes(const run *r) {
    return r->cache ? cache_bytes(r->cache) + r->states_room * r->s->info.hidden * (int64_t)sizeof(float) : 0;
}

void boundary_close(run *r) {
    cache_close(r->cache);
    free(r->states);
}
