/*
 * odd_ranks.c - ranks over MPI of which one is configured otherwise, or has failed: all must end with the error, where
 * MPI would abort the job for counts that differ, or wait for ever. Says what rank 0 was told, a line a case.
 */
#include <mpi.h>
#include <salf.h>
#include <stdio.h>
#include <string.h>

static int rank, ranks;

static int32_t all_reduce(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    (void)user;
    return MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, dtype == SALF_F64 ? MPI_DOUBLE : MPI_INT64_T,
                         operation == SALF_ALL_REDUCE_SUM ? MPI_SUM : MPI_MIN, MPI_COMM_WORLD);
}

/* Label lists of another length on the last rank: the sums would have other sizes. */
static salf_status labels(salf_context *context, int odd) {
    static const int32_t list[3] = {1, 2, 3};
    salf_basis_builder *builder = NULL;
    salf_status status = salf_basis_builder_create(&builder, context, 9, 4, list, odd ? 2 : 3, NULL);
    if (status == SALF_OK) status = salf_basis_builder_all_reduce(builder);
    salf_basis_builder_destroy(builder);
    return status;
}

static salf_status decide(salf_context *context, int32_t kind, int32_t reduction, int64_t seed) {
    static const double gains[2] = {1, 2};
    static const int32_t eof[1] = {1};
    const salf_trace trace = {.rows = 1, .n_layers = 2, .gains = gains, .eof = eof};
    const salf_observation seen = {.struct_size = sizeof seen, .trace = &trace};
    const salf_policy_options o = {
        .struct_size = sizeof o, .interval = 1, .reduction = reduction, .seed = (uint64_t)seed};
    salf_decision d = {.struct_size = sizeof d};
    salf_policy *policy = NULL;
    salf_status status = salf_policy_create(&policy, context, kind, 2, &o);
    if (status == SALF_OK) status = salf_policy_decide(policy, &seen, &d);
    salf_policy_destroy(policy);
    return status;
}

/* Counts and types would differ: m + 1 doubles against m integers. */
static salf_status reductions(salf_context *context, int odd) {
    return decide(context, SALF_POLICY_SALF, odd ? SALF_REDUCE_MODE : SALF_REDUCE_MEAN_GAIN, 0);
}

/* Policies that made no collective of their own would draw other layers. */
static salf_status seeds(salf_context *context, int odd) {
    return decide(context, SALF_POLICY_LISA, 0, odd);
}

/* A rank that goes home tells the others. */
static salf_status failure(salf_context *context, int odd) {
    return odd ? salf_context_agree(context, SALF_E_IO) : decide(context, SALF_POLICY_FULL, 0, 0);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        salf_status (*run)(salf_context *context, int odd);
    } cases[] = {{"labels", labels}, {"reductions", reductions}, {"seeds", seeds}, {"failure", failure}};
    int bad = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const salf_context_options here = {
        .struct_size = sizeof here, .rank = rank, .ranks = ranks, .all_reduce = all_reduce};
    salf_context *context;
    if (salf_context_create(&context, &here) != SALF_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int odd = rank == ranks - 1;
        const salf_status status = cases[i].run(context, odd);
        if (rank == 0) printf("%s: %s: %s\n", cases[i].name, salf_status_name(status), salf_last_error());
        bad |= status != (odd && cases[i].run == failure ? SALF_E_IO : SALF_E_MISMATCH);
    }
    MPI_Allreduce(MPI_IN_PLACE, &bad, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    salf_context_destroy(context);
    MPI_Finalize();
    return bad;
}
