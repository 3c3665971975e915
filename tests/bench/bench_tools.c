/* bench_tools.c - see bench.h. */
#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "salf.h"

static bool is_group(const char *name, const char *groups) {
    const size_t length = strlen(name);
    for (const char *at = groups; *at; at += strcspn(at, " "), at += *at == ' ')
        if (strcspn(at, " ") == length && strncmp(at, name, length) == 0) return true;
    return false;
}

bench_options bench_read_options(int argc, char **argv, const char *groups) {
    bench_options options = {0};
    bool good = true;
    for (int i = 1; i < argc && good; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            options.quick = true;
        else if (strcmp(argv[i], "--row") == 0 && i + 1 < argc)
            good = is_group(options.row = argv[++i], groups);
        else
            good = false;
    }
    if (good) return options;
    fprintf(stderr, "usage: %s [--quick] [--row NAME], NAME one of: %s\n", argv[0], groups);
    exit(EXIT_FAILURE);
}

bool bench_wants(const bench_options *options, const char *group) {
    return !options->row || strcmp(options->row, group) == 0;
}

double bench_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_once(bench_fn run, void *user) {
    const double start = bench_now();
    run(user);
    return bench_now() - start;
}

double bench_middle(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return values[n / 2];
}

double bench_median(bench_fn run, void *user, int repeats) {
    return bench_beside(run, user, repeats, 0, NULL);
}

void bench_header(void) {
    printf("| %-46s | %10s | %9s | %-24s | %9s | %-28s |\n", "what", "time", "x floor", "floor", "peer/time", "peer");
    printf("|%.48s|%.12s|%.11s|%.26s|%.11s|%.30s|\n", "------------------------------------------------",
           "-----------:", "----------:", "--------------------------",
           "----------:", "------------------------------");
}

static void print_ratio(double ratio) {
    if (ratio > 0)
        printf(" %9.2f |", ratio);
    else
        printf(" %9s |", "-");
}

void bench_row(const char *what, double seconds, double floor, const char *floor_text, double peer,
               const char *peer_text) {
    printf("| %-46s | %7.3f ms |", what, seconds * 1e3);
    print_ratio(floor > 0 ? seconds / floor : 0);
    printf(" %-24s |", floor > 0 ? floor_text : "-");
    print_ratio(peer > 0 ? peer / seconds : 0);
    printf(" %-28s |\n", peer > 0 ? peer_text : "-");
    fflush(stdout);
}

void *bench_alloc(uint64_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes ? bytes : 1) != 0) {
        fprintf(stderr, "bench: no memory for %llu bytes\n", (unsigned long long)bytes);
        exit(EXIT_FAILURE);
    }
    return memory;
}

float *bench_random(uint64_t count) {
    float *values = bench_alloc(count * sizeof *values);
    uint64_t state = 88172645463325252u;
    for (uint64_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        values[i] = (float)(state >> 40) * 0x1p-24f - 0.5f;
    }
    return values;
}

void bench_check(int32_t status, const char *what) {
    if (status == SALF_OK) return;
    fprintf(stderr, "bench: %s: %s: %s\n", what, salf_status_name(status), salf_last_error());
    exit(EXIT_FAILURE);
}

double bench_torch(const char *arguments) {
    const char *python = getenv("SALF_BENCH_PYTHON");
    char command[512], line[256];
    snprintf(command, sizeof command, "SALF_BENCH_THREADS=%d %s tests/bench/peer_torch.py %s 2>/dev/null",
             bench_threads(), python && *python ? python : "python3", arguments);
    FILE *pipe = popen(command, "r");
    if (!pipe) return 0;
    double seconds = 0;
    if (fgets(line, sizeof line, pipe)) {
        const char *tab = strchr(line, '\t');
        if (tab) seconds = strtod(tab + 1, NULL);
    }
    pclose(pipe);
    return seconds;
}

/* ---- what the machine can do ---- */

typedef struct {
    float *a, *b, *c;
    double *g, *x;
    int n;
    uint64_t bytes;
} limits_work;

static void run_sgemm(void *user) {
    limits_work *w = user;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, w->n, w->n, w->n, 1, w->a, w->n, w->b, w->n, 0, w->c, w->n);
}

static void run_dsyrk(void *user) {
    limits_work *w = user;
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, w->n, w->n, 1, w->x, w->n, 0, w->g, w->n);
}

int bench_threads(void) {
    const char *wish = getenv("SALF_BENCH_THREADS");
    const long n = wish && *wish ? strtol(wish, NULL, 10) : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 64 ? 64 : (int)n;
}

/* A share of the memory, read by one thread. */
typedef struct {
    const float *values;
    uint64_t n;
    volatile float sink;
} read_share;

static void *read_all(void *argument) {
    read_share *share = argument;
    float sums[64] = {0}; /* enough independent chains to wait for memory, not for additions */
    for (uint64_t i = 0; i + 64 <= share->n; i += 64)
        for (int lane = 0; lane < 64; lane++) sums[lane] += share->values[i + (uint64_t)lane];
    for (int lane = 0; lane < 64; lane++) share->sink = share->sink + sums[lane];
    return NULL;
}

static void run_read(void *user) {
    const limits_work *w = user;
    const int threads = bench_threads();
    const uint64_t n = w->bytes / sizeof(float) / (uint64_t)threads;
    pthread_t others[64];
    read_share shares[64];
    for (int t = 0; t < threads; t++) shares[t] = (read_share){.values = w->a + (uint64_t)t * n, .n = n};
    for (int t = 1; t < threads; t++)
        if (pthread_create(&others[t], NULL, read_all, &shares[t]) != 0) exit(EXIT_FAILURE);
    read_all(&shares[0]);
    for (int t = 1; t < threads; t++) pthread_join(others[t], NULL);
}

static void run_copy(void *user) {
    limits_work *w = user;
    memcpy(w->c, w->a, w->bytes);
}

static const limits_work *limits_room(void) {
    static limits_work w;
    if (w.a) return &w;
    w = (limits_work){.n = 1536, .bytes = (uint64_t)256 << 20};
    w.a = bench_random(w.bytes / sizeof(float));
    w.b = bench_random((uint64_t)w.n * (uint64_t)w.n);
    w.c = bench_alloc(w.bytes);
    memset(w.c, 0, w.bytes);
    w.x = bench_alloc((uint64_t)w.n * (uint64_t)w.n * sizeof(double));
    w.g = bench_alloc((uint64_t)w.n * (uint64_t)w.n * sizeof(double));
    for (int64_t i = 0; i < (int64_t)w.n * w.n; i++) w.x[i] = (double)w.a[i];
    return &w;
}

double bench_beside(bench_fn run, void *user, int repeats, unsigned which, bench_limits *limits) {
    static const bench_fn fns[] = {run_sgemm, run_dsyrk, run_read, run_copy};
    double times[64], limit_times[4][64];
    limits_work w = which ? *limits_room() : (limits_work){0};
    if (repeats > 64) repeats = 64;
    for (int i = repeats > 1 ? -1 : 0; i < repeats; i++) { /* one to warm up */
        const int at = i < 0 ? 0 : i;
        for (int k = 0; k < 4; k++)
            if (which >> k & 1) limit_times[k][at] = time_once(fns[k], &w);
        times[at] = time_once(run, user);
    }
    const double n = w.n, bytes = (double)w.bytes, work[] = {2 * n * n * n, n * n * n, bytes, bytes};
    for (int k = 0; k < 4; k++) {
        if (!(which >> k & 1)) continue;
        double *const rates[] = {&limits->sgemm, &limits->dsyrk, &limits->read, &limits->copy};
        *rates[k] = work[k] / bench_middle(limit_times[k], repeats);
    }
    return bench_middle(times, repeats);
}
