/*
 * 06_mpi.c - data-parallel ranks over MPI: one basis from a head that no rank holds whole, one budget for all of them.
 *
 * Each rank feeds its own rows of the head to a builder, and all get the same basis. Then they share a stream of data:
 * every step each rank probes its part of a global batch, all learn what the others found, and all get the decision for
 * their rows. At the end the data of all ranks have been trained at the depths that the plan counts. What differs
 * between ranks by mistake, such as labels or options, is SALF_E_MISMATCH on all of them.
 *
 *   mpicc 06_mpi.c $(pkg-config --cflags --libs salf) -o mpi && mpirun -n 4 ./mpi
 */
#include <mpi.h>
#include <salf.h>
#include <stdio.h>

enum { LAYERS = 4, HIDDEN = 8, VOCAB = 40, BATCH = 8, DATA = 90 };

static int rank, ranks;

/* The one collective that libsalf asks for. MPI's own error handler ends the job, on all ranks, where it fails. */
static int32_t all_reduce(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    MPI_Comm *world = user;
    if (count > INT32_MAX) return 1; /* MPI counts in int */
    return MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, dtype == SALF_F64 ? MPI_DOUBLE : MPI_INT64_T,
                         operation == SALF_ALL_REDUCE_SUM ? MPI_SUM : MPI_MIN, *world);
}

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "rank %d: %s: %s\n", rank, salf_status_name(status), salf_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static float noise(int seed) { /* in -1 ... 1 */
    uint32_t x = (uint32_t)seed * 2654435761u;
    x = (x ^ x >> 15) * 2246822519u;
    return (float)(x >> 8) / (float)(1 << 23) - 1;
}

static salf_basis *basis_of_all_ranks(salf_context *context) {
    const int first = VOCAB * rank / ranks, rows = VOCAB * (rank + 1) / ranks - first;
    float shard[VOCAB][HIDDEN];
    int32_t labels[VOCAB]; /* the same on all ranks, whatever their data are */
    salf_basis_builder *builder;
    salf_basis *basis;
    for (int i = 0; i < VOCAB; i++) labels[i] = i;
    for (int i = 0; i < rows * HIDDEN; i++) shard[i / HIDDEN][i % HIDDEN] = noise(first * HIDDEN + i);
    check(salf_basis_builder_create(&builder, context, VOCAB, HIDDEN, labels, VOCAB, NULL));
    const salf_tensor block = {.data = shard, .rows = rows, .cols = HIDDEN, .dtype = SALF_F32};
    check(salf_basis_builder_add(builder, first, &block));
    check(salf_basis_builder_all_reduce(builder));
    check(salf_basis_builder_finish(&basis, builder, NULL));
    salf_basis_builder_destroy(builder);
    return basis;
}

/* A forward, as far as libsalf sees it: states of each space, and the right next token of each row. */
static void probe_rows(salf_probe *probe, const salf_task *task, int32_t *next, salf_trace *trace) {
    float states[BATCH][HIDDEN];
    for (int64_t i = 0; i < task->n_data; i++) next[i] = (int32_t)(task->data[i] * 7 % VOCAB);
    check(salf_probe_begin(probe, next, task->n_data));
    for (int space = 0; space <= LAYERS; space++) {
        for (int i = 0; i < BATCH * HIDDEN; i++)
            states[i / HIDDEN][i % HIDDEN] = noise(1000 + space + 10 * (int)task->data[0] + 100 * i);
        const salf_tensor view = {.data = states, .rows = task->n_data, .cols = HIDDEN, .dtype = SALF_F32};
        check(salf_probe_observe(probe, space, &view, SALF_STATE_RAW));
    }
    check(salf_probe_end(probe, trace));
}

int main(int argc, char **argv) {
    MPI_Comm world = MPI_COMM_WORLD;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &ranks);
    const salf_context_options here = {.struct_size = sizeof here,
                                       .rank = rank,
                                       .ranks = ranks,
                                       .all_reduce = all_reduce,
                                       .communicator_user = &world};
    salf_context *context;
    salf_planner *planner;
    salf_policy *policy;
    salf_probe *probe;
    check(salf_context_create(&context, &here));
    salf_basis *basis = basis_of_all_ranks(context);
    check(salf_probe_create(
        &probe, basis,
        &(salf_probe_options){.struct_size = sizeof(salf_probe_options), .n_layers = LAYERS, .lens = SALF_LENS_RAW}));
    const salf_planner_options half = {
        .struct_size = sizeof half, .matching = SALF_MATCH_STREAM, .assignment = SALF_ASSIGN_EOF};
    check(salf_planner_create(&planner, context, LAYERS, DATA, &half)); /* DATA: of all ranks together */
    const salf_policy_options budget = {.struct_size = sizeof budget, .planner = planner};
    check(salf_policy_create(&policy, context, SALF_POLICY_BUDGET, LAYERS, &budget));

    int64_t trained[LAYERS] = {0}, counts[LAYERS]; /* data by depth: of this rank, later of all; and of the plan */
    int steps = 0;
    for (;; steps++) {
        salf_task task;
        salf_trace trace;
        int32_t next[BATCH];
        salf_decision decision = {.struct_size = sizeof decision};
        check(salf_planner_next(planner, BATCH, &task)); /* at most BATCH for each rank; a last one may have none */
        if (task.kind == SALF_TASK_DONE) break;
        if (task.n_data > 0) probe_rows(probe, &task, next, &trace);
        check(salf_planner_assign(planner, task.n_data > 0 ? &trace : NULL, next, &task));
        const salf_observation seen = {.struct_size = sizeof seen, .step = steps};
        check(salf_policy_decide(policy, &seen, &decision));
        for (int64_t i = 0; i < decision.rows; i++) trained[decision.eof[i]]++; /* here a trainer's backward runs */
        check(salf_planner_done(planner));
    }
    check(salf_planner_counts(planner, counts));
    MPI_Allreduce(MPI_IN_PLACE, trained, LAYERS, MPI_INT64_T, MPI_SUM, world);
    int as_planned = 1;
    for (int e = 0; e < LAYERS; e++) as_planned = as_planned && trained[e] == counts[e];
    if (rank == 0)
        printf("%d ranks, %d data in %d steps: %s\n", ranks, DATA, steps, as_planned ? "as planned" : "not as planned");
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_context_destroy(context);
    MPI_Finalize();
    return !as_planned;
}
