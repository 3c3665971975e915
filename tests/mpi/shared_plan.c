/*
 * shared_plan.c - Algorithm 4 over MPI: every rank probes and trains its share of each task. Says how many steps there
 * were, and a number of which datum trained at which step with which cut: the same for 1, 2, 3 and 4 ranks, as a task is
 * of 12 data on all together. Argument "full": batches that are full.
 */
#include <mpi.h>
#include <salf.h>
#include <stdio.h>
#include <string.h>

enum { LAYERS = 5, DATA = 100, JOINED = 12 };

static int32_t all_reduce(void *user, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    (void)user;
    return MPI_Allreduce(MPI_IN_PLACE, buffer, (int)count, dtype == SALF_F64 ? MPI_DOUBLE : MPI_INT64_T,
                         operation == SALF_ALL_REDUCE_SUM ? MPI_SUM : MPI_MIN, MPI_COMM_WORLD);
}

static void check(salf_status status) {
    if (status == SALF_OK) return;
    fprintf(stderr, "%s: %s\n", salf_status_name(status), salf_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

int main(int argc, char **argv) {
    int64_t trained[DATA] = {0}, where[DATA] = {0}, steps = 0, hash = 0;
    int rank, ranks, once = 1;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const salf_context_options here = {
        .struct_size = sizeof here, .rank = rank, .ranks = ranks, .all_reduce = all_reduce};
    const salf_planner_options options = {
        .struct_size = sizeof options, .seed = 3, .full_batches = argc > 1 && strcmp(argv[1], "full") == 0};
    salf_context *context;
    salf_planner *planner;
    salf_policy *policy;
    check(salf_context_create(&context, &here));
    check(salf_planner_create(&planner, context, LAYERS, DATA, &options));
    const salf_policy_options budget = {.struct_size = sizeof budget, .planner = planner};
    check(salf_policy_create(&policy, context, SALF_POLICY_BUDGET, LAYERS, &budget));
    for (int64_t calls = 0;; calls++) {
        int32_t eof[JOINED];
        uint8_t trains[JOINED];
        uint32_t ids[JOINED]; /* the task's own are lent until the next call */
        salf_task task;
        check(salf_planner_next(planner, JOINED / ranks, &task));
        if (task.kind == SALF_TASK_DONE) break;
        for (int64_t i = 0; i < task.n_data; i++) {
            ids[i] = task.data[i];
            eof[i] = (int32_t)(ids[i] * 7 % LAYERS);
            trains[i] = 1;
        }
        if (task.kind == SALF_TASK_PROBE) check(salf_planner_report(planner, eof, task.n_data, trains));
        salf_decision decision = {.struct_size = sizeof decision};
        const salf_observation seen = {.struct_size = sizeof seen, .step = calls};
        check(salf_policy_decide(policy, &seen, &decision));
        for (int64_t i = 0, row = 0; i < task.n_data; i++) {
            if (!trains[i]) continue;
            trained[ids[i]]++;
            where[ids[i]] = steps * LAYERS + decision.eof[row++];
        }
        steps += decision.batch_share > 0; /* on all ranks alike: no datum may have been taken */
        check(salf_planner_done(planner));
    }
    MPI_Allreduce(MPI_IN_PLACE, trained, DATA, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    MPI_Allreduce(MPI_IN_PLACE, where, DATA, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < DATA; i++) {
        once = once && trained[i] == 1;
        hash = (hash * 31 + where[i]) % 1000003;
    }
    printf("%d steps, %d: data trained %s\n", (int)steps, (int)hash, once ? "once" : "not once");
    salf_policy_destroy(policy);
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    MPI_Finalize();
    return !once;
}
