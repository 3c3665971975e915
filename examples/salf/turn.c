/* turn.c - gradients summed over a turn of AUTOFREEZE, which compares the norms of these sums: noise that cancels from
 * step to step is no change. As many numbers as the layers have parameters that train, for this method alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

static int in_layers(const run *r, const decoder_parameter *p) {
    return p->trains && p->group >= 0 && p->group < r->s->info.n_layers;
}

int turn_open(run *r) {
    if (r->m->how.policy != SALF_POLICY_AUTOFREEZE) return 0;
    for (int64_t i = 0; i < decoder_n_parameters(r->decoder); i++) {
        const decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        if (in_layers(r, p)) r->turn_size += p->count;
    }
    r->turn = calloc((size_t)r->turn_size, sizeof *r->turn);
    return r->turn ? 0 : say_no_memory();
}

void turn_add(run *r) {
    float *sum = r->turn;
    for (int64_t i = 0; sum && i < decoder_n_parameters(r->decoder); i++) {
        const decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        if (!in_layers(r, p)) continue;
        for (int64_t j = 0; j < p->count && decoder_is_live(r->decoder, p->group); j++) sum[j] += p->gradient[j];
        sum += p->count;
    }
}

void turn_end(run *r, double *norms) {
    const float *sum = r->turn;
    memset(norms, 0, (size_t)r->s->info.n_layers * sizeof *norms);
    for (int64_t i = 0; i < decoder_n_parameters(r->decoder); i++) {
        const decoder_parameter *p = decoder_parameter_at(r->decoder, i);
        if (!in_layers(r, p)) continue;
        for (int64_t j = 0; j < p->count; j++) norms[p->group] += fabs((double)sum[j]);
        sum += p->count;
    }
    memset(r->turn, 0, (size_t)r->turn_size * sizeof *r->turn);
}
