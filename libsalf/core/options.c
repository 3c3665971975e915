/* options.c - structs that grow: options read from callers of other versions, results written to them; constants by
 * name. */
#include <string.h>

#include "core/core.h"

/* No struct of the API is near this; a larger struct_size is an uninitialised one. */
#define LARGEST_STRUCT 65536u

void salf_options_init(void *options, uint32_t struct_size) {
    if (!options || struct_size < sizeof struct_size) return;
    memset(options, 0, struct_size);
    memcpy(options, &struct_size, sizeof struct_size);
}

static salf_status read_size(const void *theirs, const char *type, uint32_t *size) {
    memcpy(size, theirs, sizeof *size);
    if (*size >= sizeof *size && *size <= LARGEST_STRUCT) return SALF_OK;
    return slf_fail(SALF_E_STRUCT, "%s: struct_size is %u; set it to sizeof(%s)", type, *size, type);
}

salf_status slf_options_read(void *own, uint32_t own_size, const void *theirs, const char *type) {
    salf_options_init(own, own_size);
    if (!theirs) return SALF_OK;
    uint32_t size;
    SLF_TRY(read_size(theirs, type, &size));
    const unsigned char *bytes = theirs;
    for (uint32_t i = own_size; i < size; i++)
        if (bytes[i] != 0)
            return slf_fail(SALF_E_STRUCT,
                            "%s: byte %u of %u is set, but this version of libsalf (%s) knows only %u bytes", type, i,
                            size, salf_version_string(), own_size);
    memcpy(own, theirs, size < own_size ? size : own_size);
    memcpy(own, &own_size, sizeof own_size);
    return SALF_OK;
}

salf_status slf_info_write(void *theirs, const void *own, uint32_t own_size, const char *type) {
    uint32_t size;
    SLF_TRY(read_size(theirs, type, &size));
    const uint32_t common = size < own_size ? size : own_size;
    memset(theirs, 0, size);
    memcpy(theirs, own, common);
    memcpy(theirs, &size, sizeof size);
    return SALF_OK;
}

typedef struct {
    const char *name;
    int64_t value;
} named_constant;

#define NAMED(name)                     {#name, name},
#define NAMED_STATUS(name, value, text) {#name, value},
/* Every public constant, in the order of salf.h; a test compares this list with the header. */
/* clang-format off */
static const named_constant constants[] = {
    SALF_STATUS_LIST(NAMED_STATUS)
    NAMED(SALF_VERSION_MAJOR) NAMED(SALF_VERSION_MINOR) NAMED(SALF_VERSION_PATCH) NAMED(SALF_SOVERSION)
    NAMED(SALF_F32) NAMED(SALF_BF16) NAMED(SALF_F16) NAMED(SALF_F64) NAMED(SALF_I8) NAMED(SALF_U8) NAMED(SALF_I32)
    NAMED(SALF_I64)
    NAMED(SALF_MEMORY_HOST) NAMED(SALF_MEMORY_DEVICE)
    NAMED(SALF_BACKEND_AUTO) NAMED(SALF_BACKEND_REFERENCE) NAMED(SALF_BACKEND_CPU) NAMED(SALF_BACKEND_CUDA)
    NAMED(SALF_LOG_ERROR) NAMED(SALF_LOG_WARNING) NAMED(SALF_LOG_INFO) NAMED(SALF_LOG_DEBUG)
    NAMED(SALF_ALL_REDUCE_SUM) NAMED(SALF_ALL_REDUCE_MIN)
    NAMED(SALF_NORM_NONE) NAMED(SALF_NORM_LAYER) NAMED(SALF_NORM_RMS) NAMED(SALF_NORM_RMS1P)
    NAMED(SALF_FAMILY_OTHER) NAMED(SALF_FAMILY_LLAMA) NAMED(SALF_FAMILY_QWEN2) NAMED(SALF_FAMILY_GEMMA2)
    NAMED(SALF_FAMILY_MISTRAL) NAMED(SALF_FAMILY_GPT2)
    NAMED(SALF_BASIS_RTOL) NAMED(SALF_BASIS_EXACT) NAMED(SALF_BASIS_RIDGE)
    NAMED(SALF_SIDE_OUTPUT) NAMED(SALF_SIDE_INPUT)
    NAMED(SALF_PREPARE_LABELS) NAMED(SALF_PREPARE_VOCABULARY) NAMED(SALF_PREPARE_TABLE)
    NAMED(SALF_METHOD_NONE) NAMED(SALF_METHOD_CHOLESKY) NAMED(SALF_METHOD_EIGEN)
    NAMED(SALF_METRIC_COSINE) NAMED(SALF_METRIC_CE) NAMED(SALF_METRIC_RANK)
    NAMED(SALF_LENS_HF) NAMED(SALF_LENS_NORMED) NAMED(SALF_LENS_RAW)
    NAMED(SALF_SCORE_BASIS) NAMED(SALF_SCORE_LOGITS)
    NAMED(SALF_STATE_RAW) NAMED(SALF_STATE_NORMED)
    NAMED(SALF_EOF_MOST_GAIN) NAMED(SALF_EOF_LEAST_GAIN) NAMED(SALF_EOF_LEAST_DEVIATION) NAMED(SALF_EOF_MOST_DEVIATION)
    NAMED(SALF_NONFINITE_ERROR) NAMED(SALF_NONFINITE_TRAIN_FULLY)
    NAMED(SALF_LOSS_COSINE) NAMED(SALF_LOSS_CE)
    NAMED(SALF_GROWTH_UNIFORM) NAMED(SALF_GROWTH_GEOMETRIC) NAMED(SALF_GROWTH_ARITHMETIC) NAMED(SALF_GROWTH_CUSTOM)
    NAMED(SALF_INFILL_BREADTH) NAMED(SALF_INFILL_DEPTH)
    NAMED(SALF_MATCH_ONLINE) NAMED(SALF_MATCH_OFFLINE) NAMED(SALF_MATCH_NONE)
    NAMED(SALF_TASK_DONE) NAMED(SALF_TASK_PROBE) NAMED(SALF_TASK_TRAIN)
    NAMED(SALF_POLICY_FULL) NAMED(SALF_POLICY_SUFFIX) NAMED(SALF_POLICY_HALF) NAMED(SALF_POLICY_SALF)
    NAMED(SALF_POLICY_BUDGET) NAMED(SALF_POLICY_LIFT) NAMED(SALF_POLICY_LIFT_STAR) NAMED(SALF_POLICY_LISA)
    NAMED(SALF_POLICY_BLOCK) NAMED(SALF_POLICY_FREEZEOUT) NAMED(SALF_POLICY_LINEAR) NAMED(SALF_POLICY_AUTOFREEZE)
    NAMED(SALF_POLICY_RGN) NAMED(SALF_POLICY_RANDOM) NAMED(SALF_POLICY_SCRIPTED) NAMED(SALF_POLICY_CALLBACK)
    NAMED(SALF_ORDER_DEFAULT) NAMED(SALF_ORDER_FORWARD) NAMED(SALF_ORDER_BACKWARD) NAMED(SALF_ORDER_RANDOM)
    NAMED(SALF_REDUCE_MEAN_GAIN) NAMED(SALF_REDUCE_SMALLEST) NAMED(SALF_REDUCE_MEDIAN) NAMED(SALF_REDUCE_MODE)
    NAMED(SALF_REDUCE_PREFIX)
    NAMED(SALF_MATRIX_Q) NAMED(SALF_MATRIX_K) NAMED(SALF_MATRIX_V) NAMED(SALF_MATRIX_O) NAMED(SALF_MATRIX_GATE)
    NAMED(SALF_MATRIX_UP) NAMED(SALF_MATRIX_DOWN) NAMED(SALF_MATRIX_ALL)
};
/* clang-format on */

salf_status salf_constant(const char *name, int64_t *value) {
    SLF_REQUIRE(name);
    SLF_REQUIRE(value);
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (strcmp(constants[i].name, name) == 0) {
            *value = constants[i].value;
            return SALF_OK;
        }
    return slf_fail(SALF_E_NOT_FOUND, "salf_constant: no constant is called '%s'", name);
}
