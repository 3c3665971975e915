/* Walks over the vocabulary for ce and rank: many spaces share one, whatever the workspace holds nothing changes, and a
 * walk that fails can be tried again. */
#include <math.h>
#include <string.h>

#include "harness.h"
#include "oracle.h"

enum { V = 50, D = 12, M = 3, ROWS = 5, SPACES = M + 1 };

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};
static const int32_t labels[ROWS] = {4, 49, 0, 4, 17};

typedef struct {
    float w[V * D];
    double b[V * D];
    float states[SPACES][ROWS * D];
    int walks;   /* calls for row 0 of the head */
    int failing; /* calls for rows that fail, the next ones */
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_probe *probe;
} world;

static int32_t head_rows(void *user, int64_t first, int64_t count, float *out) {
    world *x = user;
    if (x->failing > 0) return x->failing--;
    x->walks += first == 0;
    memcpy(out, x->w + first * D, (size_t)(count * D) * sizeof *out);
    return 0;
}

/* workspace 0: the default. A head far from orthogonal has rows that need float64 beside others that do not. */
static void open_world(world *x, int32_t backend, double spread, uint64_t workspace, int32_t metric) {
    uint64_t seed = 3;
    memset(x, 0, sizeof *x);
    oracle_head(x->w, V, D, spread, 11);
    oracle_basis(x->w, V, D, 0, 0, x->b);
    for (int k = 0; k < SPACES; k++)
        for (int i = 0; i < ROWS * D; i++) x->states[k][i] = (float)harness_normal(&seed);
    const salf_context_options c = {.struct_size = sizeof c, .backend = backend, .workspace_limit = workspace};
    CHECK_OK(salf_context_create(&x->context, &c));
    const salf_model_options m = {
        .struct_size = sizeof m, .n_layers = M, .hidden = D, .vocab = V, .head_rows = head_rows, .head_rows_user = x};
    CHECK_OK(salf_model_create(&x->model, x->context, &m));
    const salf_basis_options b = {
        .struct_size = sizeof b, .mode = SALF_BASIS_EXACT, .prepare = SALF_PREPARE_VOCABULARY};
    CHECK_OK(salf_basis_create(&x->basis, x->model, labels, ROWS, &b));
    const salf_probe_options p = {.struct_size = sizeof p, .metric = metric, .lens = SALF_LENS_RAW};
    CHECK_OK(salf_probe_create(&x->probe, x->basis, &p));
}

static void close_world(world *x) {
    salf_probe_destroy(x->probe);
    salf_basis_destroy(x->basis);
    salf_model_destroy(x->model);
    salf_context_destroy(x->context);
}

static salf_status observe(world *x, int32_t space) {
    const salf_tensor states = oracle_view(x->states[space], SALF_F32, ROWS, D);
    return salf_probe_observe(x->probe, space, &states, SALF_STATE_RAW);
}

static void check(const world *x, int32_t metric, const salf_trace *trace, int32_t without) {
    for (int r = 0; r < ROWS; r++)
        for (int k = 0; k < SPACES; k++) {
            const double got = trace->deviations[r * SPACES + k];
            const double expected = oracle_deviation(metric, x->states[k] + r * D, x->b, V, D, labels[r], 1, NULL, 0);
            ck_assert_msg(k == without ? isnan(got) : fabs(got - expected) <= 1e-5, "row %d space %d: %g, not %g", r, k,
                          got, expected);
        }
}

/* Bytes of workspace of which a quarter holds so many queries, as float64. */
static uint64_t workspace_for(int64_t queries) {
    return 4 * (uint64_t)queries * D * sizeof(double);
}

START_TEST(one_walk_serves_what_the_workspace_holds) {
    static const struct {
        int64_t queries;
        int walks;
    } cases[] = {{4 * ROWS + ROWS, 1}, {15, 2}, {8, 4}, {5, 5}, {2, 20}, {1, 20}};
    for (size_t k = 0; k < 2; k++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++)
            for (size_t c = 0; oracle_walks(metric) && c < sizeof cases / sizeof *cases; c++)
                for (int spread = 2; spread <= 300; spread += 298) {
                    world x;
                    salf_trace trace;
                    open_world(&x, backends[k], spread, workspace_for(cases[c].queries), metric);
                    for (int batch = 0; batch < 2; batch++) {
                        CHECK_OK(salf_probe_begin(x.probe, labels, ROWS));
                        x.walks = 0;
                        for (int32_t space = 0; space < SPACES; space++) CHECK_OK(observe(&x, space));
                        CHECK_OK(salf_probe_end(x.probe, &trace));
                        check(&x, metric, &trace, -1);
                        ck_assert_int_eq(x.walks, cases[c].walks);
                    }
                    close_world(&x);
                }
}
END_TEST

/* A space that is left out, and results asked for before the end, end what waits. */
START_TEST(a_space_may_be_missing) {
    for (size_t k = 0; k < 2; k++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++)
            for (int32_t without = 0; oracle_walks(metric) && without < SPACES; without++)
                for (int64_t queries = 3; queries <= 40; queries += 4) {
                    world x;
                    salf_trace trace;
                    open_world(&x, backends[k], 2, workspace_for(queries), metric);
                    CHECK_OK(salf_probe_begin(x.probe, labels, ROWS));
                    for (int32_t space = 0; space < SPACES; space++)
                        if (space != without) CHECK_OK(observe(&x, space));
                    CHECK_OK(salf_probe_partial(x.probe, &trace));
                    check(&x, metric, &trace, without);
                    close_world(&x);
                }
}
END_TEST

/* Whatever call meets a walk that fails: made again it succeeds, and nothing is counted twice. */
START_TEST(a_walk_that_fails_is_tried_again) {
    for (size_t k = 0; k < 2; k++)
        for (int32_t metric = 0; oracle_is_metric(metric); metric++)
            for (int64_t queries = 2; oracle_walks(metric) && queries <= 26; queries += 3)
                for (int32_t at = 0; at <= SPACES; at++) {
                    world x;
                    salf_trace trace;
                    int failures = 0;
                    open_world(&x, backends[k], 2, workspace_for(queries), metric);
                    CHECK_OK(salf_probe_begin(x.probe, labels, ROWS));
                    for (int32_t space = 0; space <= SPACES; space++) {
                        x.failing = space == at ? 2 : 0;
                        salf_status status;
                        do {
                            status = space < SPACES ? observe(&x, space) : salf_probe_end(x.probe, &trace);
                            if (status != SALF_OK) ck_assert_int_eq(status, SALF_E_CALLBACK);
                            failures += status != SALF_OK;
                        } while (status != SALF_OK);
                    }
                    check(&x, metric, &trace, -1);
                    ck_assert_int_le(failures, 2);
                    if (at == SPACES) ck_assert_int_eq(failures, 2); /* there is always a walk at the end */
                    close_world(&x);
                }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, one_walk_serves_what_the_workspace_holds);
    HARNESS_ADD(suite, a_space_may_be_missing);
    HARNESS_ADD(suite, a_walk_that_fails_is_tried_again);
}
