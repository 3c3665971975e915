/* What holds of every call that takes a struct with a struct_size, or a view: a size that cuts a field in two, that
 * nobody has set or that is beyond reason is SALF_E_STRUCT, and nothing is read or written by it; a row or an index
 * beyond the extent of its view is named. salf.h itself says which structs there are, so that a new one is not
 * forgotten. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "unit/harness.h"

enum { V = 8, D = 4, M = 2, ROWS = 2 };

static float head[V * D], states[ROWS * D], out[(V + 1) * D];
static const int32_t labels[ROWS] = {1, 2};
static salf_context *context;
static salf_model *model, *opened; /* described, and of a checkpoint */
static salf_basis *basis;
static salf_probe *probe;
static salf_loss *loss;
static salf_policy *policy;
static salf_signal *signal_;
static salf_checkpoint *checkpoint;

static salf_tensor view(float *data, int64_t rows, int64_t cols) {
    return (salf_tensor){.data = data, .rows = rows, .cols = cols, .dtype = SALF_F32};
}

static salf_model_options shape(void) {
    salf_model_options o;
    salf_options_init(&o, sizeof o);
    o.n_layers = M;
    o.hidden = D;
    o.vocab = V;
    o.head = view(head, V, D);
    o.embedding = view(head, V, D);
    o.norm_kind = SALF_NORM_RMS;
    return o;
}

static void open_all(void) {
    uint64_t seed = 3;
    for (int i = 0; i < V * D; i++) head[i] = (float)harness_normal(&seed);
    for (int i = 0; i < ROWS * D; i++) states[i] = (float)harness_normal(&seed);
    const salf_model_options o = shape();
    salf_signal_options of_signal;
    salf_options_init(&of_signal, sizeof of_signal);
    of_signal.n_layers = M;
    salf_policy_options of_policy;
    salf_options_init(&of_policy, sizeof of_policy);
    of_policy.total_steps = 9;
    context = harness_context(SALF_BACKEND_REFERENCE, NULL);
    CHECK_OK(salf_model_create(&model, context, &o));
    CHECK_OK(salf_model_open(&opened, context, "examples/demo/model", NULL));
    CHECK_OK(salf_basis_create(&basis, model, labels, ROWS, NULL));
    CHECK_OK(salf_probe_create(&probe, basis, NULL));
    CHECK_OK(salf_loss_create(&loss, basis, NULL));
    CHECK_OK(salf_policy_create(&policy, context, SALF_POLICY_LINEAR, M, &of_policy));
    CHECK_OK(salf_signal_create(&signal_, context, &of_signal));
    CHECK_OK(salf_checkpoint_open(&checkpoint, context, harness_path("run"), NULL, 0));
}

static void close_all(void) {
    salf_checkpoint_destroy(checkpoint);
    salf_signal_destroy(signal_);
    salf_policy_destroy(policy);
    salf_loss_destroy(loss);
    salf_probe_destroy(probe);
    salf_basis_destroy(basis);
    salf_model_destroy(opened);
    salf_model_destroy(model);
    salf_context_destroy(context);
}

/* ---- structs ---- */

/* Each makes a call with its struct; what is made in spite of all is given back. */
#define MAKES(name, type, kind, ...)            \
    static salf_status name(void *s) {          \
        kind *made = NULL;                      \
        const type *o = s;                      \
        const salf_status status = __VA_ARGS__; \
        ck_assert(status == SALF_OK || !made);  \
        kind##_destroy(made);                   \
        return status;                          \
    }
MAKES(context_made, salf_context_options, salf_context, salf_context_create(&made, o))
MAKES(model_made, salf_model_options, salf_model, salf_model_create(&made, context, o))
MAKES(model_opened, salf_model_options, salf_model, salf_model_open(&made, context, "/nonexistent", o))
MAKES(basis_made, salf_basis_options, salf_basis, salf_basis_create(&made, model, labels, ROWS, o))
MAKES(builder_made, salf_basis_options, salf_basis_builder,
      salf_basis_builder_create(&made, context, V, D, labels, ROWS, o))
MAKES(probe_made, salf_probe_options, salf_probe, salf_probe_create(&made, basis, o))
MAKES(signal_made, salf_signal_options, salf_signal, salf_signal_create(&made, context, o))
MAKES(loss_made, salf_loss_options, salf_loss, salf_loss_create(&made, basis, o))
MAKES(planner_made, salf_planner_options, salf_planner, salf_planner_create(&made, context, M, 9, o))
MAKES(policy_made, salf_policy_options, salf_policy, salf_policy_create(&made, context, SALF_POLICY_LINEAR, M, o))
MAKES(blas_given, salf_blas, salf_context,
      salf_context_create(&made, &(salf_context_options){.struct_size = sizeof(salf_context_options), .blas = o}))

#define CALLS(name, ...)               \
    static salf_status name(void *s) { \
        return __VA_ARGS__;            \
    }
CALLS(model_updated, salf_model_update(model, s))
CALLS(context_told, salf_context_get_info(context, s))
CALLS(model_told, salf_model_get_info(model, s))
CALLS(decoder_told, salf_model_get_decoder(opened, s))
CALLS(basis_told, salf_basis_get_info(basis, s))
CALLS(signal_told, salf_signal_get(signal_, s))
CALLS(method_told, salf_method_find("lora[half]", s))
CALLS(checkpoint_told, salf_checkpoint_get_info(checkpoint, s))
CALLS(checkpoint_saved, salf_checkpoint_save(checkpoint, s))
CALLS(checkpoint_loaded, salf_checkpoint_load(checkpoint, s))
CALLS(cost_asked, salf_cost_estimate(s, &(salf_cost){.struct_size = sizeof(salf_cost)}))
CALLS(cost_told, salf_cost_estimate(&(salf_cost_options){.struct_size = sizeof(salf_cost_options),
                                                         .n_layers = M,
                                                         .hidden = D,
                                                         .ffn_hidden = D,
                                                         .n_heads = 1,
                                                         .n_kv_heads = 1,
                                                         .head_dim = D,
                                                         .rows = 1,
                                                         .row_tokens = 1,
                                                         .vocab = V},
                                    s))
CALLS(decision_asked, salf_policy_decide(policy, s, &(salf_decision){.struct_size = sizeof(salf_decision)}))
CALLS(decision_told, salf_policy_decide(policy, &(salf_observation){.struct_size = sizeof(salf_observation)}, s))

static const struct {
    const char *type;
    uint32_t size;
    salf_status (*call)(void *given);
} structs[] = {
#define ROW(type, call) \
    { #type, sizeof(type), call }
    ROW(salf_context_options, context_made),
    ROW(salf_blas, blas_given),
    ROW(salf_context_info, context_told),
    ROW(salf_model_options, model_made),
    ROW(salf_model_options, model_opened),
    ROW(salf_model_options, model_updated),
    ROW(salf_model_info, model_told),
    ROW(salf_decoder_info, decoder_told),
    ROW(salf_basis_options, basis_made),
    ROW(salf_basis_options, builder_made),
    ROW(salf_basis_info, basis_told),
    ROW(salf_probe_options, probe_made),
    ROW(salf_signal_options, signal_made),
    ROW(salf_signal_info, signal_told),
    ROW(salf_loss_options, loss_made),
    ROW(salf_planner_options, planner_made),
    ROW(salf_policy_options, policy_made),
    ROW(salf_observation, decision_asked),
    ROW(salf_decision, decision_told),
    ROW(salf_method, method_told),
    ROW(salf_cost_options, cost_asked),
    ROW(salf_cost, cost_told),
    ROW(salf_checkpoint_info, checkpoint_told),
    ROW(salf_checkpoint_content, checkpoint_saved),
    ROW(salf_checkpoint_content, checkpoint_loaded)};
enum { STRUCTS = sizeof structs / sizeof *structs };

/* Whole 8 bytes are a size that some version may have. Around the struct lies what must not be looked at or changed. */
START_TEST(sizes_that_cut_a_field_are_refused_by_every_call) {
    open_all();
    for (int i = 0; i < STRUCTS; i++) {
        for (uint32_t size = 0; size < structs[i].size + 24; size++) {
            unsigned char bytes[1024] __attribute__((aligned(8))), before[1024];
            char words[128];
            const uint32_t given = size < structs[i].size + 16 ? size : size == structs[i].size + 16 ? 65544 : ~size;
            if (given > 0 && given % 8 == 0 && given <= 65536) continue;
            memset(bytes, 0x5A, sizeof bytes);
            memcpy(bytes, &given, sizeof given);
            memcpy(before, bytes, sizeof bytes);
            const salf_status status = structs[i].call(bytes);
            snprintf(words, sizeof words, "%s: struct_size is %u; set it to sizeof(%s)", structs[i].type, given,
                     structs[i].type);
            CHECK_EACH(status == SALF_E_STRUCT && harness_contains(salf_last_error(), words), "%s of %u: %s: %s",
                       structs[i].type, given, salf_status_name(status), salf_last_error());
            ck_assert_mem_eq(bytes, before, sizeof bytes);
        }
    }
    close_all();
}
END_TEST

START_TEST(every_struct_of_the_header_is_among_them) {
    FILE *header = fopen("include/salf.h", "r");
    char line[512], name[64] = "";
    int found = 0;
    ck_assert(header != NULL);
    while (fgets(line, sizeof line, header)) {
        if (sscanf(line, "typedef struct %63[a-z_] {", name) == 1) continue;
        if (strncmp(line, "    uint32_t struct_size", 24) != 0) continue;
        int there = 0;
        for (int i = 0; i < STRUCTS; i++) there |= strcmp(structs[i].type, name) == 0;
        CHECK_EACH(there, "%s has a struct_size, and no call here", name);
        found++;
    }
    fclose(header);
    ck_assert_int_ge(found, 21);
}
END_TEST

/* ---- views ---- */

static salf_status with_head(const salf_tensor *t) {
    salf_model *made = NULL;
    salf_model_options o = shape();
    o.head = *t;
    const salf_status status = salf_model_create(&made, context, &o);
    salf_model_destroy(made);
    return status;
}
static salf_status with_embedding(const salf_tensor *t) {
    salf_model *made = NULL;
    salf_model_options o = shape();
    o.embedding = *t;
    const salf_status status = salf_model_create(&made, context, &o);
    salf_model_destroy(made);
    return status;
}
static salf_status with_norm(const salf_tensor *t) {
    salf_model *made = NULL;
    salf_model_options o = shape();
    o.norm_weight = *t;
    const salf_status status = salf_model_create(&made, context, &o);
    salf_model_destroy(made);
    return status;
}
static salf_status with_rows_of_basis(const salf_tensor *t) {
    return salf_basis_rows(basis, labels, ROWS, t);
}
static salf_status with_rows_of_head(const salf_tensor *t) {
    salf_basis_builder *builder;
    CHECK_OK(salf_basis_builder_create(&builder, context, V, D, labels, ROWS, NULL));
    const salf_status status = salf_basis_builder_add(builder, 0, t);
    salf_basis_builder_destroy(builder);
    return status;
}
static salf_status with_space(const salf_tensor *t) {
    CHECK_OK(salf_probe_begin(probe, labels, ROWS));
    return salf_probe_observe(probe, 0, t, SALF_STATE_RAW);
}
static salf_status with_states(const salf_tensor *t) {
    float values[ROWS];
    const salf_tensor losses = view(values, ROWS, 1);
    return salf_loss_compute(loss, labels, t, 1, &losses, NULL);
}
static salf_status with_losses(const salf_tensor *t) {
    const salf_tensor given = view(states, ROWS, D);
    return salf_loss_compute(loss, labels, &given, 1, t, NULL);
}
static salf_status with_gradient(const salf_tensor *t) {
    float values[ROWS];
    const salf_tensor losses = view(values, ROWS, 1), given = view(states, ROWS, D);
    return salf_loss_compute(loss, labels, &given, 1, &losses, t);
}
static salf_status with_tensor_of_a_file(const salf_tensor *t) {
    const salf_named_tensor named = {.name = "t", .view = *t};
    return salf_tensors_save(context, harness_path("file.safetensors"), &named, 1, NULL, 0);
}
static salf_status with_tensor_of_a_save(const salf_tensor *t) {
    const salf_named_tensor named = {.name = "t", .view = *t};
    salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &named, .n_tensors = 1};
    return salf_checkpoint_save(checkpoint, &content);
}
static salf_status with_place_of_a_load(const salf_tensor *t) {
    const salf_named_tensor named = {.name = "t", .view = *t};
    salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &named, .n_tensors = 1};
    return salf_checkpoint_load(checkpoint, &content);
}

/* An index beyond the extent, and more rows than it; a view in bounds passes. Vectors have one row, and an index of one.
 * The memory behind each view is enough for all of it, so that a call that does not look reads or writes quietly. */
START_TEST(rows_beyond_an_extent_are_refused_by_every_call) {
    static const struct {
        const char *what;
        int64_t rows, cols;
        salf_status (*call)(const salf_tensor *t);
        bool no_index; /* takes plain matrices alone */
    } views[] = {{"head", V, D, with_head, false},
                 {"embedding", V, D, with_embedding, false},
                 {"norm_weight", 1, D, with_norm, false},
                 {"out", ROWS, D, with_rows_of_basis, false},
                 {"rows", V, D, with_rows_of_head, false},
                 {"states", ROWS, D, with_space, false},
                 {"states", ROWS, D, with_states, false},
                 {"losses", ROWS, 1, with_losses, false},
                 {"gradient", ROWS, D, with_gradient, false},
                 {"t", ROWS, D, with_tensor_of_a_file, false},
                 {"t", ROWS, D, with_tensor_of_a_save, false},
                 {"t", ROWS, D, with_place_of_a_load, true}};
    open_all();
    const salf_named_tensor saved = {.name = "t", .view = view(states, ROWS, D)};
    const salf_checkpoint_content content = {.struct_size = sizeof content, .tensors = &saved, .n_tensors = 1};
    CHECK_OK(salf_checkpoint_save(checkpoint, &content));
    salf_checkpoint_destroy(checkpoint); /* what is loaded is what was there when the folder was opened */
    CHECK_OK(salf_checkpoint_open(&checkpoint, context, harness_path("run"), NULL, 0));
    for (size_t i = sizeof views / sizeof *views; i-- > 0;) { /* the load first, before something is saved */
        int64_t index[V];
        for (int64_t r = 0; r < V; r++) index[r] = r;
        memcpy(out, head, sizeof head);
        salf_tensor t = view(out, views[i].rows, views[i].cols);
        t.extent = (int32_t)t.rows;
        CHECK_EACH(views[i].call(&t) == SALF_OK, "%s: %s", views[i].what, salf_last_error());
        if (t.rows > 1) {
            t.extent = (int32_t)t.rows - 1;
            memset(out, 0x11, sizeof out);
            const salf_status status = views[i].call(&t);
            CHECK_EACH(status == SALF_E_SHAPE && strstr(salf_last_error(), "extent of"), "%s: more rows: %s: %s",
                       views[i].what, salf_status_name(status), salf_last_error());
            for (size_t k = 0; k < sizeof out; k++) ck_assert_int_eq(((unsigned char *)out)[k], 0x11);
        }
        t.extent = (int32_t)t.rows;
        index[t.rows - 1] = t.rows;
        t.row_index = index;
        const salf_status status = views[i].call(&t);
        CHECK_EACH(status == SALF_E_ARGUMENT && (views[i].no_index || strstr(salf_last_error(), "has an extent of")),
                   "%s: an index: %s: %s", views[i].what, salf_status_name(status), salf_last_error());
    }
    close_all();
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, sizes_that_cut_a_field_are_refused_by_every_call);
    HARNESS_ADD(suite, every_struct_of_the_header_is_among_them);
    HARNESS_ADD(suite, rows_beyond_an_extent_are_refused_by_every_call);
}
