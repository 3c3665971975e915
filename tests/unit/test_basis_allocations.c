/* Every allocation of a basis, of its rows and of its builder may fail: each is reported, and nothing leaks. */
#include "harness.h"
#include "oracle.h"

static const int32_t backends[] = {SALF_BACKEND_REFERENCE, SALF_BACKEND_CPU};

static const float small_head[8 * 3] = {1, 0, 2, 0, 3, 1, 1, 1, 1, 2, 0, 1, 4, 1, 0, 0, 1, 5, 1, 3, 2, 2, 2, 1};

/* Columns 0 and 2 are equal: EXACT looks whether what it drops is 0. */
static const float flat_head[8 * 3] = {1, 0, 1, 0, 3, 0, 1, 1, 1, 2, 0, 2, 4, 1, 4, 0, 1, 0, 1, 3, 1, 2, 2, 2};
enum { EXACT_OF_FLAT = 9 };

static salf_status create_body(harness_memory *memory, int32_t backend, void *user) {
    const int32_t prepare = *(const int32_t *)user;
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_model_options shape;
    salf_options_init(&shape, sizeof shape);
    shape.n_layers = 2;
    shape.hidden = prepare < 0 ? 8 : 3; /* negative: V < D */
    shape.vocab = prepare < 0 ? 3 : 8;
    shape.head = oracle_view(small_head, SALF_F32, shape.vocab, shape.hidden);
    salf_basis_options options;
    salf_options_init(&options, sizeof options);
    options.prepare = prepare < 0 || prepare == EXACT_OF_FLAT ? 0 : prepare;
    if (prepare == EXACT_OF_FLAT) {
        shape.head = oracle_view(flat_head, SALF_F32, 8, 3);
        options.mode = SALF_BASIS_EXACT;
    }
    const int32_t labels[] = {1, 2};
    double row[8];
    const salf_tensor out = oracle_view(row, SALF_F64, 1, shape.hidden);
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_model_create(&model, context, &shape);
    if (status == SALF_OK) status = salf_basis_create(&basis, model, labels, 2, &options);
    const int32_t unheld = 0;
    if (status == SALF_OK) status = salf_basis_rows(basis, &unheld, 1, &out);
    salf_model_destroy(model);
    salf_context_destroy(context);
    salf_basis_destroy(basis);
    return status;
}

static salf_status builder_body(harness_memory *memory, int32_t backend, void *user) {
    (void)user;
    salf_context *context = NULL;
    salf_basis_builder *builder = NULL;
    salf_basis *basis = NULL;
    const int32_t label = 1;
    const salf_tensor rows = oracle_view(small_head, SALF_F32, 8, 3);
    salf_status status = harness_context_or_status(&context, backend, memory);
    if (status == SALF_OK) status = salf_basis_builder_create(&builder, context, 8, 3, &label, 1, NULL);
    if (status == SALF_OK) status = salf_basis_builder_add(builder, 0, &rows);
    if (status == SALF_OK) status = salf_basis_builder_finish(&basis, builder, NULL);
    salf_basis_builder_destroy(builder);
    salf_basis_destroy(basis);
    salf_context_destroy(context);
    return status;
}

START_TEST(every_allocation_may_fail) {
    for (size_t k = 0; k < 2; k++) {
        for (int32_t prepare = -1; prepare <= SALF_PREPARE_TABLE; prepare++)
            harness_fail_each_allocation(create_body, backends[k], &prepare);
        int32_t flat = EXACT_OF_FLAT;
        harness_fail_each_allocation(create_body, backends[k], &flat);
        harness_fail_each_allocation(builder_body, backends[k], NULL);
    }
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, every_allocation_may_fail);
}
