/* boundary.c - a forward that begins at the boundary below which nothing trains any more, from states of an earlier
 * epoch (cache.h). What is kept for a datum is exact: no layer below the boundary changes again, and there is nothing
 * random in this trainer's forward.
 *
 * States are made for a group of neighbouring data at a time, all that share a group run the same layers together, and
 * which groups have room is settled before the training. So a datum's states are a function of its group and of the
 * weights, bit for bit, whatever batch it is in and whatever is kept: a run that is resumed with nothing kept ends with
 * the same weights. Each layer below the boundary is run once for a group, as small products are dear. With bfloat16
 * all that holds where the boundary stays, since states are rounded at it; other methods then run without. */
#include <stdlib.h>
#include <string.h>

#include "run.h"

/* Data of a group: a batch, within limits. */
enum { GROUP_LEAST = 16, GROUP_MOST = 64 };

/* Probes need every space of a forward. */
int boundary_rises(const method *m, int mixed, int *stays) {
    const int32_t kind = m->how.policy;
    *stays = kind == SALF_POLICY_SUFFIX || kind == SALF_POLICY_HALF;
    return !m->how.probes &&
           (*stays || kind == SALF_POLICY_LIFT || kind == SALF_POLICY_LIFT_STAR || kind == SALF_POLICY_LINEAR ||
            kind == SALF_POLICY_FREEZEOUT || (kind == SALF_POLICY_BUDGET && !mixed));
}

void boundary_open(run *r) {
    const finetune_settings *o = r->s->settings;
    const split *train = &r->s->train;
    char message[512];
    int stays;
    if (o->cache_bytes == 0 || o->epochs == 1 || !boundary_rises(r->m, r->feed.mixed, &stays)) return;
    if (o->cache_bf16 && !stays) {
        if (r->s->seed == o->seed)
            args_say(0, training_command,
                     "--cache: nothing is kept for %s: its boundary moves, and bf16 is for one that stays", r->m->name);
        return;
    }
    /* Groups get room in their order, as many as there is room for; the data behind them are always run from the start.
     * */
    const int64_t token = r->s->info.hidden * (o->cache_bf16 ? 2 : 4);
    int64_t end = 0;
    r->group = o->batch < GROUP_LEAST ? GROUP_LEAST : o->batch > GROUP_MOST ? GROUP_MOST : o->batch;
    while (end < train->n) {
        const int64_t next = end + r->group < train->n ? end + r->group : train->n;
        if (train->offsets[next] * token > o->cache_bytes) break;
        end = next;
    }
    const cache_options options = {.bytes = train->offsets[end] * token,
                                   .bf16 = o->cache_bf16,
                                   .folder = o->cache_folder,
                                   .n_data = train->n,
                                   .width = r->s->info.hidden};
    snprintf(message, sizeof message, "there is room for the states of %lld of %lld data", (long long)end,
             (long long)train->n);
    const int failed = end > 0 && cache_open(&r->cache, &options, message, sizeof message) != 0;
    r->n_kept = failed ? 0 : end;
    if (r->n_kept == train->n || r->s->cache_said) return;
    r->s->cache_said = 1; /* training goes on without, and this is said once */
    args_say(0, training_command, "--cache: %s; the others are run from the start", message);
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

/* A buffer for the states of a batch. */
static int make_room(const run *r, state_room *room, const prompt_batch *b) {
    const int64_t tokens = b->offsets[b->batch.n_sequences];
    if (tokens <= room->tokens) return 0;
    free(room->states);
    room->tokens = 0;
    room->states = malloc((size_t)(tokens * r->s->info.hidden) * sizeof *room->states);
    if (!room->states) return say_no_memory();
    room->tokens = tokens;
    return 0;
}

/* Runs a group's batch from the space of its states in room (0: from its tokens) to the boundary, into room. */
static int run_up(run *r, prompt_batch *b, state_room *room, int32_t from, int32_t boundary) {
    const int64_t tokens = b->offsets[b->batch.n_sequences];
    taker t = {
        .space = boundary, .bytes = (size_t)(tokens * r->s->info.hidden) * sizeof(float), .states = room->states};
    b->batch.first_layer = from;
    b->batch.states = from > 0 ? room->states : NULL;
    if (decoder_forward(r->decoder, &b->batch, 0, take_space, &t) != SALF_OK && !t.done) return say_decoder("forward");
    r->skipped -= (double)(boundary - from) * (double)b->batch.n_sequences;
    return 0;
}

static const int32_t *tokens_of(const split *train, int64_t datum, int64_t *n) {
    *n = train->offsets[datum + 1] - train->offsets[datum];
    return train->tokens + train->offsets[datum];
}

/* Brings the states of a datum's group up to the boundary. They are all of one space; where a text is not what it was,
 * all are made anew. */
static int raise_group(run *r, int64_t datum, int32_t boundary) {
    const split *train = &r->s->train;
    const int64_t first = datum / r->group * r->group;
    const int64_t n_group = first + r->group < r->n_kept ? r->group : r->n_kept - first;
    uint32_t ids[GROUP_MOST];
    int32_t from = boundary;
    int64_t n;
    for (int64_t i = 0; i < n_group; i++) {
        const int32_t *tokens = tokens_of(train, first + i, &n);
        const int32_t space = cache_space(r->cache, first + i, tokens, n);
        if (space != from) from = i == 0 && space < boundary ? space : 0;
        ids[i] = (uint32_t)(first + i);
    }
    if (from == boundary) return 0;
    prompt_batch *b = &r->group_batch;
    if (prompt_batch_fill(b, r->s, train, ids, n_group) != 0 || make_room(r, &r->group_states, b) != 0) return -1;
    float *states = r->group_states.states;
    for (int64_t i = 0; i < n_group && from > 0; i++)
        cache_get(r->cache, first + i, b->offsets[i + 1] - b->offsets[i], states + b->offsets[i] * r->s->info.hidden);
    if (run_up(r, b, &r->group_states, from, boundary) != 0) return -1;
    for (int64_t i = 0; i < n_group; i++) {
        const int32_t *tokens = tokens_of(train, first + i, &n);
        cache_put(r->cache, first + i, boundary, tokens, n, states + b->offsets[i] * r->s->info.hidden);
    }
    return 0;
}

int boundary_begin(run *r, const uint32_t *data) {
    const int64_t width = r->s->info.hidden, n_rows = r->batch.batch.n_sequences;
    /* Gradients of a stage that has just ended may still wait for their update. */
    const int32_t boundary = r->decision.cut < r->lowest ? r->decision.cut : r->lowest;
    const double start = tally_clock();
    r->skipped = 0;
    if (!r->cache || boundary == 0) return 0;
    if (make_room(r, &r->states, &r->batch) != 0) return -1;

    /* 1. rows whose group has room; the others are put aside */
    int64_t n_others = 0;
    for (int64_t i = 0; i < n_rows; i++) {
        float *states = r->states.states + r->batch.offsets[i] * width;
        if (data[i] >= r->n_kept) {
            r->feed.rows[n_others++] = data[i]; /* the task's data are in other memory by now */
            continue;
        }
        if (raise_group(r, data[i], boundary) != 0) return -1;
        cache_get(r->cache, data[i], r->batch.offsets[i + 1] - r->batch.offsets[i], states);
    }
    /* 2. the others together, from the start; which they are follows from the batch alone */
    if (n_others > 0) {
        prompt_batch *b = &r->group_batch;
        if (prompt_batch_fill(b, r->s, &r->s->train, r->feed.rows, n_others) != 0 ||
            make_room(r, &r->group_states, b) != 0 || run_up(r, b, &r->group_states, 0, boundary) != 0)
            return -1;
        for (int64_t i = 0, k = 0; i < n_rows; i++) {
            if (data[i] < r->n_kept) continue;
            const int64_t n = b->offsets[k + 1] - b->offsets[k];
            memcpy(r->states.states + r->batch.offsets[i] * width, r->group_states.states + b->offsets[k++] * width,
                   (size_t)(n * width) * sizeof(float));
        }
    }
    /* 3. the forward of the batch begins there */
    r->skipped += (double)boundary * (double)n_rows;
    r->batch.batch.first_layer = boundary;
    r->batch.batch.states = r->states.states;
    r->tally.v[TALLY_FORWARD] += tally_clock() - start;
    r->tally.v[TALLY_PASSED] -= r->skipped / r->s->info.n_layers;
    return 0;
}

int64_t boundary_bytes(const run *r) {
    const int64_t tokens = r->states.tokens + r->group_states.tokens;
    return r->cache ? cache_bytes(r->cache) + tokens * r->s->info.hidden * (int64_t)sizeof(float) : 0;
}

void boundary_close(run *r) {
    cache_close(r->cache);
    prompt_batch_free(&r->group_batch);
    free(r->states.states);
    free(r->group_states.states);
}
