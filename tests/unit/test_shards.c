/*
 * test_shards.c - a head whose rows lie on several ranks: ce, rank, losses and gradients are those of the whole head on
 * one process, and whatever differs or fails on one rank is told to all.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "oracle.h"
#include "world.h"

enum { V = 41, PADDED = 44, D = 9, M = 2, ROWS = 5, N = ROWS * (M + 1) };

/* One of the ranks has a single row, the last one padding as well. */
static const int64_t firsts[WORLD_RANKS + 1] = {0, 10, 11, PADDED};
static const int32_t labels[ROWS] = {4, 10, 40, SALF_LABEL_IGNORE, 4};
static const int32_t known[4] = {4, 10, 40, 7}; /* of the basis */

static float head[PADDED][D], other_head[PADDED][D], bias[PADDED], states[M + 1][ROWS][D];
static world_rank ranks[WORLD_RANKS];

/* What is computed, and how. */
typedef struct job {
    salf_probe_options probe;
    salf_loss_options loss;
    int32_t by_callback;
    salf_basis_options basis;
    uint64_t workspace;
    /* what rank 1 does wrong */
    int32_t mistake;
    int32_t second; /* of the other head */
} job;
enum {
    FINE,
    OTHER_LABELS,
    OTHER_SHARD,
    FAILING_ROWS,
    BAD_LABEL,
    NO_STATES,
    OTHER_TEMPERATURE,
    NEW_LABEL,
    FAILS_IN_OBSERVE,
    OTHER_HEAD
};

typedef struct results {
    double deviations[N];
    float losses[ROWS], gradient[ROWS][D];
    uint64_t fingerprint;
} results;
static results found[WORLD_RANKS];

static void fill(void) {
    uint64_t seed = 4;
    oracle_head(head[0], V, D, 5, 77);
    memcpy(head[12], head[4], sizeof head[0]); /* a token that equals a label's, on another rank: a tie */
    memcpy(other_head, head, sizeof head);
    other_head[30][2] += 0.5f;
    for (int i = 0; i < PADDED; i++) bias[i] = 0.3f * (float)harness_normal(&seed);
    for (int k = 0; k <= M; k++)
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < D; j++) states[k][r][j] = (float)(3 * harness_normal(&seed));
}

static int32_t rows_of_head(void *user, int64_t first, int64_t count, float *out) {
    int32_t *left = user; /* calls until it fails; negative: never */
    if (*left == 0) return 3;
    if (*left > 0) --*left;
    memcpy(out, head[first], (size_t)count * sizeof head[0]);
    return 0;
}

/* A model of rows first ... first+n-1; n PADDED: whole. */
static salf_status describe(salf_model **model, salf_context *context, const job *j, int64_t first, int64_t n,
                            int32_t *left) {
    const bool whole = n == PADDED;
    salf_model_options o = {.struct_size = sizeof o,
                            .n_layers = M,
                            .hidden = D,
                            .vocab = PADDED,
                            .valid_vocab = V,
                            .logit_bias = {.data = bias, .rows = 1, .cols = PADDED, .dtype = SALF_F32},
                            .logit_softcap = 9,
                            .shard_first = whole ? 0 : first,
                            .shard_rows = whole ? 0 : n};
    if (j->by_callback) {
        o.head_rows = rows_of_head;
        o.head_rows_user = left;
    } else {
        o.head = (salf_tensor){.data = (j->second ? other_head : head)[first], .rows = n, .cols = D, .dtype = SALF_F32};
    }
    return salf_model_create(model, context, &o);
}

static salf_status build(salf_basis **basis, salf_context *context, const job *j, salf_model *model, int64_t first,
                         int64_t n) {
    salf_basis_builder *builder = NULL;
    const int64_t valid = first + n < V ? n : V - first;
    const salf_tensor rows = {
        .data = (j->second ? other_head : head)[first], .rows = valid, .cols = D, .dtype = SALF_F32};
    salf_status status = salf_basis_builder_create(&builder, context, V, D, known, 4, &j->basis);
    if (status == SALF_OK) status = salf_basis_builder_add(builder, first, &rows);
    if (status == SALF_OK) status = salf_basis_builder_all_reduce(builder);
    if (status == SALF_OK) status = salf_basis_builder_finish(basis, builder, model);
    salf_basis_builder_destroy(builder);
    return status;
}

/* All numbers of a model and its basis. */
static salf_status compute(const job *j, salf_model *model, salf_basis *basis, bool odd, results *out) {
    salf_probe *probe = NULL;
    salf_loss *loss = NULL;
    salf_trace trace;
    int32_t own[ROWS];
    memcpy(own, labels, sizeof own);
    if (odd && j->mistake == OTHER_LABELS) own[0] = 7;
    if (odd && j->mistake == BAD_LABEL) own[0] = V;
    if (j->mistake == NEW_LABEL) own[0] = 20;
    salf_probe_options o = j->probe;
    if (odd && j->mistake == OTHER_TEMPERATURE) o.temperature = 0.5;
    salf_status status = salf_model_fingerprint(model, &out->fingerprint);
    if (status == SALF_OK) status = salf_probe_create(&probe, basis, &o);
    if (status == SALF_OK) status = salf_probe_begin(probe, own, ROWS);
    for (int32_t k = 0; k <= M && status == SALF_OK; k++) {
        const salf_tensor view = {
            .data = states[k], .rows = ROWS, .cols = odd && j->mistake == FAILS_IN_OBSERVE ? 1 : D, .dtype = SALF_F32};
        status = salf_probe_observe(probe, k, &view, SALF_STATE_RAW);
    }
    if (status == SALF_OK) status = salf_probe_end(probe, &trace);
    if (status == SALF_OK) memcpy(out->deviations, trace.deviations, sizeof out->deviations);
    const salf_tensor view = {.data = states[1], .rows = ROWS, .cols = D, .dtype = SALF_F32};
    const salf_tensor losses = {.data = out->losses, .rows = ROWS, .cols = 1, .dtype = SALF_F32};
    const salf_tensor gradient = {.data = out->gradient, .rows = ROWS, .cols = D, .dtype = SALF_F32};
    if (status == SALF_OK) status = salf_loss_create(&loss, basis, &j->loss);
    if (status == SALF_OK)
        status = salf_loss_compute(loss, own, odd && j->mistake == NO_STATES ? NULL : &view, 0.7, &losses, &gradient);
    if (status == SALF_OK) status = salf_loss_compute(loss, own, &view, 0.7, &losses, NULL);
    salf_loss_destroy(loss);
    salf_probe_destroy(probe);
    return status;
}

static salf_status work(world_rank *me) {
    const job *j = me->user;
    const bool odd = me->rank == 1;
    int32_t left = odd && j->mistake == FAILING_ROWS ? 3 : -1; /* fingerprint in finish and once more, then norms */
    int64_t first = firsts[me->rank];
    const int64_t n = firsts[me->rank + 1] - first;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_status status = describe(&model, me->context, j, odd && j->mistake == OTHER_SHARD ? 9 : first, n, &left);
    if (status == SALF_OK) status = build(&basis, me->context, j, model, first, n);
    /* all make a basis of the second head, too, and one rank goes on with it */
    job second = *j;
    salf_model *other_model = NULL;
    salf_basis *other_basis = NULL;
    second.second = 1;
    if (status == SALF_OK && j->mistake == OTHER_HEAD)
        status = describe(&other_model, me->context, &second, first, n, &left);
    if (other_model) status = build(&other_basis, me->context, &second, other_model, first, n);
    /* the rows' norms are the same on all ranks by then, so that the probe itself has to find it */
    if (status == SALF_OK && other_basis) status = compute(j, model, basis, odd, &found[me->rank]);
    if (status == SALF_OK && other_basis) status = compute(j, other_model, other_basis, odd, &found[me->rank]);
    const bool goes_on = odd && other_basis;
    if (status == SALF_OK)
        status = compute(j, goes_on ? other_model : model, goes_on ? other_basis : basis, odd, &found[me->rank]);
    salf_basis_destroy(other_basis);
    salf_model_destroy(other_model);
    if (status != SALF_OK && j->mistake == FAILS_IN_OBSERVE && odd) status = salf_context_agree(me->context, status);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    return status;
}

static void limit(salf_context_options *o, const void *user) {
    const job *j = user;
    o->workspace_limit = j->workspace;
}

static job job_of(int32_t metric, int32_t scores, double temperature) {
    job j = {.workspace = 0};
    salf_options_init(&j.probe, sizeof j.probe);
    salf_options_init(&j.loss, sizeof j.loss);
    salf_options_init(&j.basis, sizeof j.basis);
    j.probe.metric = metric;
    j.probe.scores = scores;
    j.probe.lens = SALF_LENS_RAW;
    j.probe.temperature = j.loss.temperature = temperature;
    j.loss.kind = SALF_LOSS_CE;
    j.basis.mode = SALF_BASIS_RTOL;
    return j;
}

/* On one process with the whole head, by a view. */
static void expect(job j, results *want) {
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    salf_model *model;
    salf_basis *basis;
    j.by_callback = 0;
    CHECK_OK(describe(&model, context, &j, 0, PADDED, NULL));
    CHECK_OK(salf_basis_create(&basis, model, known, 4, &j.basis));
    CHECK_OK(compute(&j, model, basis, false, want));
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
}

START_TEST(shards_give_what_the_whole_head_gives) {
    static const double temperatures[] = {1, 0.002, 0.1};
    fill();
    for (int32_t metric = SALF_METRIC_COSINE; metric <= SALF_METRIC_RANK; metric++)
        for (int32_t scores = SALF_SCORE_BASIS; scores <= SALF_SCORE_LOGITS; scores++)
            for (int t = 0; t < 3; t++)
                for (int by_callback = 0; by_callback < 2; by_callback++)
                    for (int small = 0; small < 2; small++) { /* many walks */
                        job j = job_of(metric, scores, temperatures[t]);
                        results want;
                        j.by_callback = by_callback;
                        j.workspace = small ? 2048 : 0;
                        expect(j, &want);
                        world_run(work, &j, limit, ranks);
                        world_all(ranks, SALF_OK, "");
                        for (int r = 0; r < WORLD_RANKS; r++) {
                            const results *got = &found[r];
                            ck_assert_uint_eq(got->fingerprint, want.fingerprint);
                            for (int i = 0; i < N; i++) {
                                const double x = got->deviations[i], y = want.deviations[i];
                                const double slack = metric == SALF_METRIC_RANK ? 0 : 2e-6 / fmin(temperatures[t], 1);
                                CHECK_EACH(isnan(y) ? isnan(x) : fabs(x - y) <= slack, "metric %d: %g, not %g", metric,
                                           x, y);
                                CHECK_EACH(isnan(x) || x == found[0].deviations[i], "rank %d has its own", r);
                            }
                            for (int i = 0; i < ROWS; i++) {
                                CHECK_EACH(fabsf(got->losses[i] - want.losses[i]) <=
                                               1e-5f * (1 + fabsf(want.losses[i])),
                                           "loss %g, not %g", (double)got->losses[i], (double)want.losses[i]);
                                for (int d = 0; d < D; d++)
                                    CHECK_EACH(fabsf(got->gradient[i][d] - want.gradient[i][d]) <=
                                                   1e-5f / (float)temperatures[t],
                                               "gradient %g, not %g", (double)got->gradient[i][d],
                                               (double)want.gradient[i][d]);
                            }
                        }
                    }
}
END_TEST

/* The bytes that a probe of ce with sharp temperatures exchanges: agreements of a begin and a walk, a maximum and a sum
 * of each entry; the norms once. */
static salf_status count_bytes(world_rank *me) {
    const job *j = me->user;
    const int64_t first = firsts[me->rank], n = firsts[me->rank + 1] - first;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_probe *probe = NULL;
    salf_trace trace;
    int32_t left = -1;
    salf_status status = describe(&model, me->context, j, first, n, &left);
    if (status == SALF_OK) status = build(&basis, me->context, j, model, first, n);
    if (status == SALF_OK) status = salf_probe_create(&probe, basis, &j->probe);
    const int64_t bytes = me->bytes;
    const int32_t calls = me->calls;
    if (status == SALF_OK) status = salf_probe_begin(probe, labels, ROWS);
    for (int32_t k = 0; k <= M && status == SALF_OK; k++) {
        const salf_tensor view = {.data = states[k], .rows = ROWS, .cols = D, .dtype = SALF_F32};
        status = salf_probe_observe(probe, k, &view, SALF_STATE_RAW);
    }
    if (status == SALF_OK) status = salf_probe_end(probe, &trace);
    me->bytes -= bytes;
    me->calls -= calls;
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    return status;
}

START_TEST(messages_are_as_small_as_documented) {
    fill();
    const int64_t entries = (ROWS - 1) * (M + 1), agreement = 107 * 8; /* one row has no label */
    job j = job_of(SALF_METRIC_CE, SALF_SCORE_BASIS, 0.002);
    world_run(count_bytes, &j, NULL, ranks);
    world_all(ranks, SALF_OK, "");
    ck_assert_int_eq(ranks[2].calls, 4);
    ck_assert_int_eq(ranks[2].bytes, 2 * agreement + 2 * 8 * entries);
    j = job_of(SALF_METRIC_RANK, SALF_SCORE_LOGITS, 1);
    world_run(count_bytes, &j, NULL, ranks);
    ck_assert_int_eq(ranks[0].bytes, 2 * agreement + 8 * entries);
    j = job_of(SALF_METRIC_COSINE, SALF_SCORE_BASIS, 1);
    world_run(count_bytes, &j, NULL, ranks);
    ck_assert_int_eq(ranks[0].bytes, 0);
}
END_TEST

START_TEST(mistakes_of_one_rank_are_told_to_all) {
    fill();
    job j = job_of(SALF_METRIC_CE, SALF_SCORE_BASIS, 1);
    j.mistake = OTHER_LABELS;
    world_run(work, &j, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "labels of the batch (hash)");
    j.mistake = OTHER_TEMPERATURE;
    world_run(work, &j, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "temperature (bits)");
    j.mistake = BAD_LABEL;
    world_run(work, &j, NULL, ranks);
    world_one(ranks, 1, SALF_E_PADDING, "label 41");
    j.mistake = NO_STATES;
    world_run(work, &j, NULL, ranks);
    world_one(ranks, 1, SALF_E_NULL, "states is NULL");
    j.mistake = OTHER_HEAD;
    world_run(work, &j, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "heads of the bases (hash)");
    j.mistake = OTHER_SHARD; /* row 9 twice, row 10 not at all */
    world_run(work, &j, NULL, ranks);
    world_all(ranks, SALF_E_MISMATCH, "the ranks' shards have 41 rows of 41, some twice and some not at all");
    j.mistake = NEW_LABEL; /* on all ranks, for each of which it is the same error */
    world_run(work, &j, NULL, ranks);
    world_all(ranks, SALF_E_LABEL, "label 20 has no row in the basis");
    j.probe.scores = SALF_SCORE_LOGITS;
    world_run(work, &j, NULL, ranks);
    world_all(ranks, SALF_E_LABEL, "label 20 has no row in the basis; with a head in shards");
    j = job_of(SALF_METRIC_RANK, SALF_SCORE_LOGITS, 1);
    j.by_callback = 1;
    j.mistake = FAILING_ROWS;
    world_run(work, &j, NULL, ranks);
    world_one(ranks, 1, SALF_E_CALLBACK, "rows 10 ... 10 returned 3");
    j.mistake = FAILS_IN_OBSERVE;
    world_run(work, &j, NULL, ranks);
    ck_assert_int_eq(ranks[1].status, SALF_E_SHAPE);
    for (int r = 0; r < WORLD_RANKS; r += 2) {
        ck_assert_int_eq(ranks[r].status, SALF_E_MISMATCH);
        ck_assert(harness_contains(ranks[r].message, "rank 1 failed with SALF_E_SHAPE"));
    }
}
END_TEST

/* What a shard cannot do is refused by name, on one process as well. */
START_TEST(what_a_shard_cannot_do) {
    fill();
    salf_context *context = harness_context(SALF_BACKEND_CPU, NULL);
    salf_model *model, *bad;
    salf_basis *basis;
    salf_probe *probe;
    const job j = job_of(SALF_METRIC_CE, SALF_SCORE_LOGITS, 1);
    CHECK_OK(describe(&model, context, &j, 3, 7, NULL));
    CHECK_FAILS(salf_basis_create(&basis, model, known, 4, NULL), SALF_E_UNSUPPORTED, "comes from a builder");
    uint64_t print = 5;
    CHECK_FAILS(salf_model_fingerprint(model, &print), SALF_E_MISMATCH, "shards have 7 rows of 41");
    ck_assert_uint_eq(print, 5);
    salf_model_destroy(model);
    salf_model_options o = {.struct_size = sizeof o,
                            .n_layers = M,
                            .hidden = D,
                            .vocab = V,
                            .head = {.data = head, .rows = 7, .cols = D, .dtype = SALF_F32},
                            .shard_first = 35,
                            .shard_rows = 7};
    CHECK_FAILS(salf_model_create(&bad, context, &o), SALF_E_ARGUMENT, "shard_first is 35 and shard_rows 7");
    o.shard_first = -1;
    CHECK_FAILS(salf_model_create(&bad, context, &o), SALF_E_ARGUMENT, "shard_first is -1");
    o.shard_first = 3, o.shard_rows = 0;
    CHECK_FAILS(salf_model_create(&bad, context, &o), SALF_E_ARGUMENT, "shard_first is 3 and shard_rows 0");
    o.shard_rows = 8;
    CHECK_FAILS(salf_model_create(&bad, context, &o), SALF_E_SHAPE, "head");
    o.shard_rows = 7;
    o.head_transposed = 1;
    CHECK_FAILS(salf_model_create(&bad, context, &o), SALF_E_UNSUPPORTED, "head is a shard and transposed");
    const salf_model_options of_file[] = {{.struct_size = sizeof o, .shard_rows = 3},
                                          {.struct_size = sizeof o, .shard_first = 3},
                                          {.struct_size = sizeof o, .head_transposed = 1},
                                          {.struct_size = sizeof o, .embedding_transposed = 1}};
    for (int i = 0; i < 4; i++)
        CHECK_FAILS(salf_model_open(&bad, context, "no-such-folder", &of_file[i]), SALF_E_ARGUMENT, "only valid_vocab");
    /* with one rank the whole may be called a shard: then all but making a basis and a table works */
    o.head_transposed = 0;
    o.shard_first = 0;
    o.shard_rows = o.head.rows = V;
    salf_basis_builder *builder;
    const salf_tensor all = {.data = head, .rows = V, .cols = D, .dtype = SALF_F32};
    CHECK_OK(salf_model_create(&model, context, &o));
    salf_basis_options table = {.struct_size = sizeof table, .prepare = SALF_PREPARE_TABLE};
    for (int32_t prepare = SALF_PREPARE_LABELS; prepare <= SALF_PREPARE_TABLE; prepare++) {
        table.prepare = prepare;
        CHECK_OK(salf_basis_builder_create(&builder, context, V, D, known, 4, &table));
        CHECK_OK(salf_basis_builder_add(builder, 0, &all));
        if (prepare == SALF_PREPARE_TABLE) {
            CHECK_FAILS(salf_basis_builder_finish(&basis, builder, model), SALF_E_UNSUPPORTED, "a table of a head");
        } else {
            CHECK_OK(salf_basis_builder_finish(&basis, builder, model));
            salf_probe_options of = {.struct_size = sizeof of, .metric = SALF_METRIC_CE};
            of.candidates = known;
            of.n_candidates = 4;
            CHECK_OK(salf_probe_create(&probe, basis, &of)); /* by rows that are held */
            salf_probe_destroy(probe);
            of.scores = SALF_SCORE_LOGITS;
            CHECK_FAILS(salf_probe_create(&probe, basis, &of), SALF_E_UNSUPPORTED, "logits over candidates");
            /* a file of the basis has no rows of the head */
            char *path = files_path("shard.safetensors");
            CHECK_OK(salf_basis_save(basis, path));
            salf_basis_destroy(basis);
            CHECK_OK(salf_basis_load(&basis, context, path, model));
            const salf_probe_options whole = {.struct_size = sizeof whole, .metric = SALF_METRIC_RANK};
            CHECK_OK(salf_probe_create(&probe, basis, &whole));
            CHECK_FAILS(salf_probe_begin(probe, labels, ROWS), SALF_E_UNSUPPORTED, "a basis from a file");
            salf_probe_destroy(probe);
            salf_basis_destroy(basis);
            free(path);
        }
        salf_basis_builder_destroy(builder);
    }
    salf_model_destroy(model);
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, shards_give_what_the_whole_head_gives);
    HARNESS_ADD(suite, messages_are_as_small_as_documented);
    HARNESS_ADD(suite, mistakes_of_one_rank_are_told_to_all);
    HARNESS_ADD(suite, what_a_shard_cannot_do);
}
