/* harness.c - see harness.h. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "harness.h"

#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool harness_contains(const char *text, const char *words) {
    return strstr(text, words) != NULL;
}

void *harness_alloc(void *user, size_t size, size_t align) {
    harness_memory *memory = user;
    if (__atomic_fetch_add(&memory->calls, 1, __ATOMIC_RELAXED) == memory->fail_at) return NULL;
    void *block = NULL;
    if (posix_memalign(&block, align, size) != 0) return NULL;
    memset(block, 0xA5, size); /* so that nothing relies on zeroed memory */
    __atomic_fetch_add(&memory->alive, 1, __ATOMIC_RELAXED);
    const int64_t bytes = __atomic_add_fetch(&memory->bytes, (int64_t)size, __ATOMIC_RELAXED);
    if (bytes > memory->most) memory->most = bytes;
    return block;
}

void harness_free(void *user, void *block, size_t size) {
    harness_memory *memory = user;
    __atomic_fetch_sub(&memory->alive, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&memory->bytes, (int64_t)size, __ATOMIC_RELAXED);
    memset(block, 0x5A, size); /* the size is the block's own, so this is legal, and use after free shows */
#ifdef _WIN32
    _aligned_free(block);
#else
    free(block);
#endif
}

const char *harness_plugin(void) {
    static char absolute[PATH_MAX];
    const char *path = getenv("SALF_TEST_PLUGIN");
    if (!path || !*path) return NULL;
    return realpath(path, absolute) ? absolute : path;
}

salf_status harness_context_or_status(salf_context **out, int32_t backend, harness_memory *memory) {
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = backend == SALF_BACKEND_CPU && getenv("SALF_TEST_CPU_IS_PLUGIN") ? SALF_BACKEND_CUDA : backend;
    if (options.backend == SALF_BACKEND_CUDA) options.plugin_path = harness_plugin();
    if (memory) {
        options.alloc = harness_alloc;
        options.free = harness_free;
        options.alloc_user = memory;
    }
    return salf_context_create(out, &options);
}

salf_context *harness_context(int32_t backend, harness_memory *memory) {
    salf_context *context = NULL;
    if (memory) *memory = (harness_memory){.fail_at = -1};
    CHECK_OK(harness_context_or_status(&context, backend, memory));
    return context;
}

void harness_fail_each_allocation(harness_body body, int32_t backend, void *user) {
    for (int64_t n = 0;; n++) {
        harness_memory memory = {.fail_at = n};
        const salf_status status = body(&memory, backend, user);
        ck_assert_msg(memory.alive == 0 && memory.bytes == 0, "allocation %lld failing: %lld blocks leak", (long long)n,
                      (long long)memory.alive);
        if (status == SALF_OK) {
            ck_assert_msg(memory.calls <= n, "allocation %lld failed and nobody noticed", (long long)n);
            ck_assert_msg(n > 0, "nothing was allocated");
            return;
        }
        ck_assert_msg(status == SALF_E_NO_MEMORY, "allocation %lld failing gives %s: %s", (long long)n,
                      salf_status_name(status), salf_last_error());
    }
}

const char *harness_shared(const char *name) {
    static char path[4096];
    const char *folder = getenv("SALF_SHARED");
    snprintf(path, sizeof path, "%s/%s", folder && *folder ? folder : "../shared", name);
    if (access(path, R_OK) == 0) return path;
    fprintf(stderr, "SKIPPED: %s is not there\n", path);
    return NULL;
}

static char scratch[64];
static pid_t scratch_owner;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_scratch(void) {
    if (scratch[0] && getpid() == scratch_owner) nftw(scratch, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

const char *harness_path(const char *name) {
    static char path[4096];
    if (!scratch[0] || getpid() != scratch_owner) {
        snprintf(scratch, sizeof scratch, "/tmp/salf-test-XXXXXX");
        ck_assert_msg(mkdtemp(scratch) != NULL, "no scratch folder");
        scratch_owner = getpid();
        atexit(remove_scratch);
    }
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

double harness_uniform(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

double harness_normal(uint64_t *state) {
    const double radius = sqrt(-2 * log(1 - harness_uniform(state)));
    return radius * cos(6.283185307179586 * harness_uniform(state));
}

uint16_t harness_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value)) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t harness_to_f16(float value) {
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const double magnitude = fabs((double)value);
    if (isnan(value)) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 65520) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x1p-14) return (uint16_t)(sign | (uint16_t)nearbyint(magnitude * 0x1p24));
    int exponent;
    const double fraction = frexp(magnitude, &exponent);            /* [0.5, 1) */
    const uint32_t mantissa = (uint32_t)nearbyint(fraction * 2048); /* 1024 ... 2048 */
    return (uint16_t)(sign | (((uint32_t)(exponent + 13) << 10) + mantissa));
}

int main(void) {
    Suite *suite = suite_create("salf");
    harness_suite(suite);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
