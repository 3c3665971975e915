/*
 * bench.h - measuring: medians of repeated runs, and rows that compare with a floor and a peer of the same run.
 *
 * Machines are shared and their speed drifts, so a row quotes ratios: time over floor (what the hardware, measured
 * between the runs of that row, would need at least) and peer over time. Times are shown to make the ratios checkable,
 * not to be quoted.
 */
#ifndef SALF_BENCH_H
#define SALF_BENCH_H

#include <stdbool.h>
#include <stdint.h>

typedef void (*bench_fn)(void *user);

/* What the command line asks for. */
typedef struct bench_options {
    bool quick;      /* --quick: smaller shapes, no PyTorch */
    const char *row; /* --row NAME: that group of rows alone; NULL: all */
} bench_options;
/* Ends the program with a message when an argument is none of these, or the name none of groups (separated by spaces).
 */
bench_options bench_read_options(int argc, char **argv, const char *groups);
bool bench_wants(const bench_options *options, const char *group);

/* Median seconds of one call over `repeats` runs after one warm-up. */
double bench_median(bench_fn run, void *user, int repeats);
double bench_now(void);
/* Median of values, which become ordered. */
double bench_middle(double *values, int n);

/* A row of the table; floor, peer 0: none. floor_text and peer_text say what they are. */
void bench_header(void);
void bench_row(const char *what, double seconds, double floor, const char *floor_text, double peer,
               const char *peer_text);

/* What the machine can do, measured: multiply-add rates in FLOP/s and bandwidths in bytes/s. */
typedef struct bench_limits {
    double sgemm;
    double dsyrk;
    double read;
    double copy;
} bench_limits;
enum { BENCH_SGEMM = 1, BENCH_DSYRK = 2, BENCH_READ = 4, BENCH_COPY = 8 };
/* As bench_median, with the limits in `which` measured before every run; *limits receives their medians. */
double bench_beside(bench_fn run, void *user, int repeats, unsigned which, bench_limits *limits);
/* Threads that the library's context, BLAS, the limits and PyTorch use: SALF_BENCH_THREADS, else the number of
 * processors. */
int bench_threads(void);

/* Median seconds that tests/bench/peer_torch.py prints for these arguments, or 0 when PyTorch is not there. */
double bench_torch(const char *arguments);

/* Memory, aborting the benchmark with a message when there is none; filled with uniform numbers in [-0.5, 0.5). */
void *bench_alloc(uint64_t bytes);
float *bench_random(uint64_t count);

/* Ends the benchmark with the library's message when a call failed. */
void bench_check(int32_t status, const char *what);
#define BENCH_OK(call) bench_check((call), #call)

#endif
