/* accounts.c - what a batch is booked with: rows, depth, and operations that the cost model predicts from shapes. */
#include "run.h"

/* Rows that are not trained (cut m) belong to no step of a run that trains everything, so that what it would have cost
 * does not grow with them. */
int book_rows(run *r, const int32_t *cuts, int64_t rows, int probed, int trained) {
    const salf_model_info *info = &r->s->info;
    const finetune_settings *o = r->s->settings;
    salf_cost_options c;
    salf_cost cost;
    salf_options_init(&c, sizeof c);
    salf_options_init(&cost, sizeof cost);
    c.n_layers = info->n_layers;
    c.hidden = info->hidden;
    c.ffn_hidden = info->ffn_hidden;
    c.vocab = info->vocab;
    c.n_heads = info->n_heads;
    c.n_kv_heads = info->n_kv_heads;
    c.head_dim = info->head_dim;
    c.gated_ffn = decoder_get_config(r->decoder)->layers.gated_ffn;
    c.lora_rank = o->dense ? 0 : o->lora_rank;
    c.matrices = o->dense ? 0 : o->targets;
    c.rows = rows;
    c.row_tokens = r->batch.offsets[r->batch.batch.n_sequences] / r->batch.batch.n_sequences;
    c.probe = probed;
    c.metric = r->m->how.metric;
    c.eof = cuts;
    c.trainable = trained ? r->decision.trainable : NULL;
    if (salf_cost_estimate(&c, &cost) != SALF_OK) return say_salf("cost model");
    if (o->loss == LOSS_COSINE && trained) { /* which takes no logits */
        cost.total -= cost.head;
        cost.full_total -= cost.head;
    }
    r->tally.v[TALLY_FLOPS] += trained ? cost.total : cost.forward + cost.probe;
    if (trained) r->tally.v[TALLY_FLOPS] -= cost.forward * r->skipped / ((double)rows * info->n_layers);
    if (trained) r->tally.v[TALLY_FULL_FLOPS] += cost.full_total;
    return 0;
}

/* Rows that train and rows that were only probed are priced apart, as the cost model takes one kind of step at a time.
 * A layer's reach is what its learning rate will follow: see update_weights. */
int64_t book_batch(run *r, int probed) {
    const int32_t m = r->s->info.n_layers;
    const int64_t rows = r->batch.batch.n_sequences;
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (r->cuts[i] >= m) continue;
        r->tally.v[TALLY_DEPTH] += (double)r->cuts[i] / m; /* the share of the layers below the cut */
        r->compact[n++] = r->cuts[i];
        if (r->cuts[i] < r->lowest) r->lowest = r->cuts[i];
        for (int32_t k = r->cuts[i]; k < m; k++)
            if (r->decision.trainable[k]) r->reach[k] += r->decision.rate_scale[k];
    }
    r->tally.v[TALLY_TRAINED] += (double)n;
    if (n > 0 && book_rows(r, r->compact, n, probed, 1) != 0) return -1;
    for (int64_t i = n; i < rows; i++) r->compact[i] = m;
    if (n < rows && book_rows(r, r->compact + n, rows - n, probed, 0) != 0) return -1;
    return n;
}
