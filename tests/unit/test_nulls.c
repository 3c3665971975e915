/* Each pointer that a public call needs, NULL in turn: SALF_E_NULL and a message that names it, before anything is
 * looked at. So the other pointers may lead to memory that is no handle at all. */
#include "harness.h"

static double room[512];
#define SOME                   ((void *)room)
#define CHECK_NULL(call, name) CHECK_FAILS(call, SALF_E_NULL, name)

START_TEST(context_and_files) {
    salf_context *context = SOME;
    salf_tensors *tensors = SOME;
    CHECK_NULL(salf_context_create(NULL, NULL), "out");
    CHECK_NULL(salf_context_get_info(NULL, SOME), "context");
    CHECK_NULL(salf_context_get_info(context, NULL), "info");
    CHECK_NULL(salf_context_agree(NULL, SALF_OK), "context");
    CHECK_NULL(salf_file_save(NULL, "x", 1), "path");
    CHECK_NULL(salf_hash_file(NULL, SOME), "path");
    CHECK_NULL(salf_hash_file("x", NULL), "hash");
    salf_checkpoint *run = SOME;
    CHECK_NULL(salf_checkpoint_open(NULL, context, "x", NULL, 0), "out");
    CHECK_NULL(salf_checkpoint_open(&run, NULL, "x", NULL, 0), "context");
    ck_assert_ptr_null(run);
    CHECK_NULL(salf_checkpoint_open(&run, context, NULL, NULL, 0), "folder");
    CHECK_NULL(salf_checkpoint_get_info(NULL, SOME), "c");
    CHECK_NULL(salf_checkpoint_get_info(SOME, NULL), "info");
    CHECK_NULL(salf_checkpoint_save(NULL, SOME), "c");
    CHECK_NULL(salf_checkpoint_save(SOME, NULL), "content");
    CHECK_NULL(salf_checkpoint_load(NULL, SOME), "c");
    CHECK_NULL(salf_checkpoint_load(SOME, NULL), "content");
    CHECK_NULL(salf_constant(NULL, SOME), "name");
    CHECK_NULL(salf_constant("SALF_OK", NULL), "value");
    CHECK_NULL(salf_method_find(NULL, SOME), "name");
    CHECK_NULL(salf_method_find("salf", NULL), "method");
    CHECK_NULL(salf_cost_estimate(NULL, SOME), "options");
    CHECK_NULL(salf_cost_estimate(SOME, NULL), "cost");
    CHECK_NULL(salf_tensors_open(NULL, context, "x"), "out");
    CHECK_NULL(salf_tensors_open(&tensors, NULL, "x"), "context");
    ck_assert_ptr_null(tensors);
    CHECK_NULL(salf_tensors_open(&tensors, context, NULL), "path");
    CHECK_NULL(salf_tensors_at(NULL, 0, SOME), "tensors");
    CHECK_NULL(salf_tensors_at(SOME, 0, NULL), "out");
    CHECK_NULL(salf_tensors_find(NULL, "x", SOME), "tensors");
    CHECK_NULL(salf_tensors_find(SOME, NULL, SOME), "name");
    CHECK_NULL(salf_tensors_find(SOME, "x", NULL), "out");
    CHECK_NULL(salf_tensors_save(NULL, "x", SOME, 0, NULL, 0), "context");
    CHECK_NULL(salf_tensors_save(context, NULL, SOME, 0, NULL, 0), "path");
}
END_TEST

START_TEST(model_and_basis) {
    salf_model *model = SOME;
    salf_basis *basis = SOME;
    salf_basis_builder *builder = SOME;
    CHECK_NULL(salf_model_create(NULL, SOME, SOME), "out");
    CHECK_NULL(salf_model_create(&model, NULL, SOME), "context");
    ck_assert_ptr_null(model);
    CHECK_NULL(salf_model_create(&model, SOME, NULL), "options");
    CHECK_NULL(salf_model_open(NULL, SOME, "x", NULL), "out");
    CHECK_NULL(salf_model_open(&model, NULL, "x", NULL), "context");
    CHECK_NULL(salf_model_open(&model, SOME, NULL, NULL), "path");
    CHECK_NULL(salf_model_update(NULL, SOME), "model");
    CHECK_NULL(salf_model_update(SOME, NULL), "options");
    CHECK_NULL(salf_model_get_info(NULL, SOME), "model");
    CHECK_NULL(salf_model_get_info(SOME, NULL), "info");
    CHECK_NULL(salf_model_get_decoder(NULL, SOME), "model");
    CHECK_NULL(salf_model_get_decoder(SOME, NULL), "info");
    CHECK_NULL(salf_model_fingerprint(NULL, SOME), "model");
    CHECK_NULL(salf_model_fingerprint(SOME, NULL), "fingerprint");
    CHECK_NULL(salf_basis_create(NULL, SOME, SOME, 1, NULL), "out");
    CHECK_NULL(salf_basis_create(&basis, NULL, SOME, 1, NULL), "model");
    ck_assert_ptr_null(basis);
    CHECK_NULL(salf_basis_refresh(NULL, SOME, SOME), "out");
    CHECK_NULL(salf_basis_refresh(&basis, NULL, SOME), "old");
    CHECK_NULL(salf_basis_refresh(&basis, SOME, NULL), "model");
    CHECK_NULL(salf_basis_get_info(NULL, SOME), "basis");
    CHECK_NULL(salf_basis_get_info(SOME, NULL), "info");
    CHECK_NULL(salf_basis_get_labels(NULL, SOME, SOME), "basis");
    CHECK_NULL(salf_basis_get_labels(SOME, NULL, SOME), "labels");
    CHECK_NULL(salf_basis_get_labels(SOME, SOME, NULL), "n_labels");
    CHECK_NULL(salf_basis_rows(NULL, SOME, 1, SOME), "basis");
    CHECK_NULL(salf_basis_rows(SOME, NULL, 1, SOME), "labels");
    CHECK_NULL(salf_basis_rows(SOME, SOME, 1, NULL), "out");
    CHECK_NULL(salf_basis_check(NULL, SOME), "basis");
    CHECK_NULL(salf_basis_check(SOME, NULL), "model");
    CHECK_NULL(salf_basis_save(NULL, "x"), "basis");
    CHECK_NULL(salf_basis_save(SOME, NULL), "path");
    CHECK_NULL(salf_basis_load(NULL, SOME, "x", NULL), "out");
    CHECK_NULL(salf_basis_load(&basis, NULL, "x", NULL), "context");
    CHECK_NULL(salf_basis_load(&basis, SOME, NULL, NULL), "path");
    CHECK_NULL(salf_basis_builder_create(NULL, SOME, 4, 2, SOME, 1, NULL), "out");
    CHECK_NULL(salf_basis_builder_create(&builder, NULL, 4, 2, SOME, 1, NULL), "context");
    ck_assert_ptr_null(builder);
    CHECK_NULL(salf_basis_builder_add(NULL, 0, SOME), "builder");
    CHECK_NULL(salf_basis_builder_add(SOME, 0, NULL), "rows");
    CHECK_NULL(salf_basis_builder_partial(NULL, SOME, SOME), "builder");
    CHECK_NULL(salf_basis_builder_partial(SOME, NULL, SOME), "values");
    CHECK_NULL(salf_basis_builder_partial(SOME, SOME, NULL), "count");
    CHECK_NULL(salf_basis_builder_merge(NULL, SOME), "builder");
    CHECK_NULL(salf_basis_builder_merge(SOME, NULL), "other");
    CHECK_NULL(salf_basis_builder_all_reduce(NULL), "builder");
    CHECK_NULL(salf_basis_builder_finish(NULL, SOME, NULL), "out");
    CHECK_NULL(salf_basis_builder_finish(&basis, NULL, NULL), "builder");
}
END_TEST

START_TEST(probe_loss_and_signal) {
    salf_probe *probe = SOME;
    salf_loss *loss = SOME;
    salf_signal *signal = SOME;
    CHECK_NULL(salf_probe_create(NULL, SOME, NULL), "out");
    CHECK_NULL(salf_probe_create(&probe, NULL, NULL), "basis");
    ck_assert_ptr_null(probe);
    CHECK_NULL(salf_probe_begin(NULL, SOME, 1), "probe");
    CHECK_NULL(salf_probe_begin(SOME, NULL, 1), "labels");
    CHECK_NULL(salf_probe_observe(NULL, 0, SOME, 0), "probe");
    CHECK_NULL(salf_probe_observe(SOME, 0, NULL, 0), "states");
    CHECK_NULL(salf_probe_end(NULL, SOME), "probe");
    CHECK_NULL(salf_probe_end(SOME, NULL), "trace");
    CHECK_NULL(salf_probe_partial(NULL, SOME), "probe");
    CHECK_NULL(salf_probe_partial(SOME, NULL), "trace");
    CHECK_NULL(salf_probe_flush(NULL), "probe");
    CHECK_NULL(salf_probe_replay(NULL), "probe");
    CHECK_NULL(salf_probe_poll(NULL, SOME), "probe");
    CHECK_NULL(salf_probe_poll(SOME, NULL), "ready");
    CHECK_NULL(salf_eof_from_deviations(2, 1, NULL, 0, 0, NULL, SOME), "deviations");
    CHECK_NULL(salf_eof_from_deviations(2, 1, room, 0, 0, NULL, NULL), "eof");
    CHECK_NULL(salf_loss_create(NULL, SOME, NULL), "out");
    CHECK_NULL(salf_loss_create(&loss, NULL, NULL), "basis");
    ck_assert_ptr_null(loss);
    CHECK_NULL(salf_loss_compute(NULL, SOME, SOME, 1, SOME, NULL), "loss");
    CHECK_NULL(salf_loss_compute(SOME, SOME, NULL, 1, SOME, NULL), "states");
    CHECK_NULL(salf_signal_create(NULL, SOME, NULL), "out");
    CHECK_NULL(salf_signal_create(&signal, NULL, NULL), "context");
    ck_assert_ptr_null(signal);
    CHECK_NULL(salf_signal_add(NULL, SOME, NULL, NULL, NULL), "signal");
    CHECK_NULL(salf_signal_add(SOME, NULL, NULL, NULL, NULL), "trace");
    CHECK_NULL(salf_signal_get(NULL, SOME), "signal");
    CHECK_NULL(salf_signal_get(SOME, NULL), "info");
}
END_TEST

START_TEST(planner_and_policy) {
    salf_planner *planner = SOME;
    salf_policy *policy = SOME;
    uint64_t size = 0;
    CHECK_NULL(salf_planner_create(NULL, SOME, 2, 2, NULL), "out");
    CHECK_NULL(salf_planner_create(&planner, NULL, 2, 2, NULL), "context");
    ck_assert_ptr_null(planner);
    CHECK_NULL(salf_planner_counts(NULL, SOME), "planner");
    CHECK_NULL(salf_planner_counts(SOME, NULL), "counts");
    CHECK_NULL(salf_planner_saving(NULL, SOME), "planner");
    CHECK_NULL(salf_planner_saving(SOME, NULL), "saving");
    CHECK_NULL(salf_planner_set_eof(NULL, 0, 1, SOME), "planner");
    const salf_planner_options offline = {.struct_size = sizeof offline, .matching = SALF_MATCH_OFFLINE};
    salf_context *context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    CHECK_OK(salf_planner_create(&planner, context, 2, 2, &offline));
    CHECK_NULL(salf_planner_set_eof(planner, 0, 1, NULL), "eof");
    CHECK_OK(salf_planner_set_eof(planner, 2, 0, NULL)); /* of no data */
    salf_planner_destroy(planner);
    salf_context_destroy(context);
    CHECK_NULL(salf_planner_match(NULL), "planner");
    CHECK_NULL(salf_planner_get_stage(NULL, 0, SOME), "planner");
    CHECK_NULL(salf_planner_get_stage(SOME, 0, NULL), "stage");
    CHECK_NULL(salf_planner_next(NULL, 1, SOME), "planner");
    CHECK_NULL(salf_planner_next(SOME, 1, NULL), "task");
    CHECK_NULL(salf_planner_report(NULL, SOME, 1, SOME), "planner");
    CHECK_NULL(salf_planner_set_groups(NULL, SOME, SOME, 1), "planner");
    CHECK_NULL(salf_planner_set_groups(SOME, NULL, SOME, 1), "groups");
    CHECK_NULL(salf_planner_set_groups(SOME, SOME, NULL, 1), "sizes");
    CHECK_NULL(salf_planner_assign(NULL, SOME, SOME, SOME), "planner");
    CHECK_NULL(salf_planner_done(NULL), "planner");
    CHECK_NULL(salf_planner_save(NULL, NULL, &size), "planner");
    CHECK_NULL(salf_planner_save(SOME, NULL, NULL), "size");
    CHECK_NULL(salf_planner_load(NULL, SOME, 1), "planner");
    CHECK_NULL(salf_planner_load(SOME, NULL, 1), "buffer");
    CHECK_NULL(salf_policy_create(NULL, SOME, SALF_POLICY_FULL, 2, NULL), "out");
    CHECK_NULL(salf_policy_create(&policy, NULL, SALF_POLICY_FULL, 2, NULL), "context");
    ck_assert_ptr_null(policy);
    CHECK_NULL(salf_policy_decide(NULL, SOME, SOME), "policy");
    CHECK_NULL(salf_policy_save(NULL, NULL, &size), "policy");
    CHECK_NULL(salf_policy_save(SOME, NULL, NULL), "size");
    CHECK_NULL(salf_policy_load(NULL, SOME, 1), "policy");
    CHECK_NULL(salf_policy_load(SOME, NULL, 1), "buffer");
}
END_TEST

/* What does nothing, and what says so by its value. */
START_TEST(destroying_and_asking_nothing) {
    salf_context_destroy(NULL);
    salf_tensors_destroy(NULL);
    salf_model_destroy(NULL);
    salf_basis_destroy(NULL);
    salf_basis_builder_destroy(NULL);
    salf_probe_destroy(NULL);
    salf_loss_destroy(NULL);
    salf_signal_destroy(NULL);
    salf_planner_destroy(NULL);
    salf_policy_destroy(NULL);
    salf_checkpoint_destroy(NULL);
    ck_assert_int_eq(salf_tensors_count(NULL), 0);
    ck_assert_ptr_null(salf_tensors_metadata(NULL, "key"));
    ck_assert_ptr_null(salf_model_get_tensors(NULL));
    ck_assert_ptr_null(salf_constant_word(NULL, 0));
    ck_assert_ptr_null(salf_method_name(-1));
    salf_options_init(NULL, 64);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, context_and_files);
    HARNESS_ADD(suite, model_and_basis);
    HARNESS_ADD(suite, probe_loss_and_signal);
    HARNESS_ADD(suite, planner_and_policy);
    HARNESS_ADD(suite, destroying_and_asking_nothing);
}
