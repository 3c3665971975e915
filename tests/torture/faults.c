/*
 * faults.c - see faults.h. Before a program of its own: SALF_FAULT=KIND:N makes its N-th call fail (KIND in lower
 * case, as in FAULT_KINDS), and SALF_FAULT_COUNTS=FILE has it leave the counts of all kinds there when it ends. With
 * SALF_FAULT_TRACE set the calls that lead to the one that fails are shown.
 *
 * What OpenBLAS, CUDA and their run-time libraries ask for does not fail: they end the process when memory is short, the
 * former before main. So calls count from main on, and by where they come from. Needs glibc.
 */
#define _GNU_SOURCE
#include "faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name;
    int error;
} kinds[FAULT_N_KINDS] = {
#define FAULT_ROW(name, error) {#name, error},
    FAULT_KINDS(FAULT_ROW)};

static bool counting;
static int kind_to_fail = -1, struck, set_error;
static int64_t number_to_fail, counts[FAULT_N_KINDS], blocks, descriptors;

/* ---- whose calls count ---- */

enum { MOST_RANGES = 32 };
static struct { uintptr_t first, last; } foreign[MOST_RANGES];
static int n_foreign;

static int note_range(struct dl_phdr_info *module, size_t size, void *user) {
    static const char *const names[] = {"openblas", "gomp", "gfortran", "quadmath", "ld-linux", "libcuda"};
    (void)size, (void)user;
    bool ours = true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) ours = ours && !strstr(module->dlpi_name, names[i]);
    for (int i = 0; !ours && i < module->dlpi_phnum && n_foreign < MOST_RANGES; i++) {
        const ElfW(Phdr) *part = &module->dlpi_phdr[i];
        if (part->p_type != PT_LOAD) continue;
        foreign[n_foreign].first = module->dlpi_addr + part->p_vaddr;
        foreign[n_foreign++].last = module->dlpi_addr + part->p_vaddr + part->p_memsz;
    }
    return 0;
}

static int error_of(int kind) {
    return set_error ? set_error : kinds[kind].error;
}

static bool fails(int kind, const void *caller) {
    if (!counting) return false;
    for (int i = 0; i < n_foreign; i++)
        if ((uintptr_t)caller - foreign[i].first < foreign[i].last - foreign[i].first) return false;
    const int64_t number = __atomic_fetch_add(&counts[kind], 1, __ATOMIC_RELAXED);
    if (kind != kind_to_fail || number != number_to_fail) return false;
    Dl_info from; /* the plugin is opened later, and CUDA's run-time library is in it */
    if (dladdr(caller, &from) && from.dli_fname && strstr(from.dli_fname, "salf-cuda")) return false;
    struck = 1;
    if (getenv("SALF_FAULT_TRACE")) { /* who called, for whoever looks for the reason */
        void *frames[24];
        counting = false;
        backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
        counting = true;
    }
    errno = error_of(kind);
    return true;
}
#define FAILS(kind) fails((kind), __builtin_return_address(0))

void faults_begin(int kind, int64_t n) {
    if (n_foreign == 0) dl_iterate_phdr(note_range, NULL);
    kind_to_fail = kind;
    number_to_fail = n;
    struck = 0;
    memset(counts, 0, sizeof counts);
    counting = true;
}
void faults_end(void) {
    counting = false;
}
void faults_set_error(int error) {
    set_error = error;
}
int64_t faults_count(int kind) {
    return counts[kind];
}
const char *faults_name(int kind) {
    return kinds[kind].name;
}
int faults_struck(void) {
    return struck;
}
int64_t faults_blocks(void) {
    return __atomic_load_n(&blocks, __ATOMIC_RELAXED);
}
int64_t faults_descriptors(void) {
    return __atomic_load_n(&descriptors, __ATOMIC_RELAXED);
}

/* ---- memory ---- */

/* glibc's own names for its functions: to look up "malloc" would itself allocate. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *block);

static void *counted(void *block) {
    if (block) __atomic_fetch_add(&blocks, 1, __ATOMIC_RELAXED);
    return block;
}

void *malloc(size_t size) {
    return FAILS(FAULT_MALLOC) ? NULL : counted(__libc_malloc(size));
}
void *calloc(size_t count, size_t size) {
    return FAILS(FAULT_MALLOC) ? NULL : counted(__libc_calloc(count, size));
}
void *realloc(void *block, size_t size) {
    if (FAILS(FAULT_MALLOC)) return NULL;
    void *now = __libc_realloc(block, size);
    return block ? now : counted(now);
}
void *aligned_alloc(size_t align, size_t size) {
    return FAILS(FAULT_MALLOC) ? NULL : counted(__libc_memalign(align, size));
}
void *memalign(size_t align, size_t size);
void *memalign(size_t align, size_t size) {
    return FAILS(FAULT_MALLOC) ? NULL : counted(__libc_memalign(align, size));
}
int posix_memalign(void **out, size_t align, size_t size) {
    void *block = FAILS(FAULT_MALLOC) ? NULL : counted(__libc_memalign(align, size));
    if (!block) return ENOMEM;
    *out = block;
    return 0;
}
void free(void *block) {
    if (block) __atomic_fetch_sub(&blocks, 1, __ATOMIC_RELAXED);
    __libc_free(block);
}

/* ---- files ---- */

/* The next definition of a function behind this one, found once. */
#define NEXT(result, name, ...)                                          \
    static result (*next)(__VA_ARGS__);                                  \
    if (!next) {                                                         \
        void *found = dlsym(RTLD_NEXT, #name);                           \
        memcpy(&next, &found, sizeof next); /* ISO C has no other way */ \
    }

static int opened(int descriptor) {
    if (descriptor >= 0) __atomic_fetch_add(&descriptors, 1, __ATOMIC_RELAXED);
    return descriptor;
}

static mode_t mode_of(int flags, va_list more) {
    return flags & O_CREAT ? (mode_t)va_arg(more, int) : 0;
}

int open(const char *path, int flags, ...) {
    NEXT(int, open, const char *, int, ...)
    va_list more;
    va_start(more, flags);
    const mode_t mode = mode_of(flags, more);
    va_end(more);
    return FAILS(FAULT_OPEN) ? -1 : opened(next(path, flags, mode));
}
int openat(int folder, const char *path, int flags, ...) {
    NEXT(int, openat, int, const char *, int, ...)
    va_list more;
    va_start(more, flags);
    const mode_t mode = mode_of(flags, more);
    va_end(more);
    return FAILS(FAULT_OPEN) ? -1 : opened(next(folder, path, flags, mode));
}
FILE *fopen(const char *path, const char *mode) {
    NEXT(FILE *, fopen, const char *, const char *)
    if (FAILS(FAULT_OPEN)) return NULL;
    FILE *file = next(path, mode);
    opened(file ? 0 : -1);
    return file;
}
FILE *fdopen(int descriptor, const char *mode) {
    NEXT(FILE *, fdopen, int, const char *)
    return FAILS(FAULT_OPEN) ? NULL : next(descriptor, mode);
}
DIR *opendir(const char *path) {
    NEXT(DIR *, opendir, const char *)
    if (FAILS(FAULT_OPEN)) return NULL;
    const bool before = counting;
    counting = false; /* its own memory is a way in which it fails */
    DIR *folder = next(path);
    counting = before;
    return folder;
}

ssize_t read(int descriptor, void *bytes, size_t n) {
    NEXT(ssize_t, read, int, void *, size_t)
    return FAILS(FAULT_READ) ? -1 : next(descriptor, bytes, n);
}
ssize_t pread(int descriptor, void *bytes, size_t n, off_t at) {
    NEXT(ssize_t, pread, int, void *, size_t, off_t)
    return FAILS(FAULT_READ) ? -1 : next(descriptor, bytes, n, at);
}

/* A stream's own error is one that ferror knows, which a function in its place cannot set; so streams fail where they
 * are flushed and closed. Standard error is left alone: what it says of a failure is looked at. */
ssize_t write(int descriptor, const void *bytes, size_t n) {
    NEXT(ssize_t, write, int, const void *, size_t)
    return descriptor != STDERR_FILENO && FAILS(FAULT_WRITE) ? -1 : next(descriptor, bytes, n);
}
ssize_t pwrite(int descriptor, const void *bytes, size_t n, off_t at) {
    NEXT(ssize_t, pwrite, int, const void *, size_t, off_t)
    return FAILS(FAULT_WRITE) ? -1 : next(descriptor, bytes, n, at);
}
int fflush(FILE *file) {
    NEXT(int, fflush, FILE *)
    return file != stderr && FAILS(FAULT_WRITE) ? EOF : next(file);
}

int fsync(int descriptor) {
    NEXT(int, fsync, int)
    return FAILS(FAULT_SYNC) ? -1 : next(descriptor);
}
int fdatasync(int descriptor) {
    NEXT(int, fdatasync, int)
    return FAILS(FAULT_SYNC) ? -1 : next(descriptor);
}

int close(int descriptor) {
    NEXT(int, close, int)
    const bool failed = FAILS(FAULT_CLOSE);
    const int code = next(descriptor);
    if (code == 0) __atomic_fetch_sub(&descriptors, 1, __ATOMIC_RELAXED);
    if (failed) errno = error_of(FAULT_CLOSE);
    return failed ? -1 : code;
}
int fclose(FILE *file) {
    NEXT(int, fclose, FILE *)
    const bool failed = FAILS(FAULT_CLOSE);
    const int code = next(file);
    __atomic_fetch_sub(&descriptors, 1, __ATOMIC_RELAXED);
    if (failed) errno = error_of(FAULT_CLOSE);
    return failed ? EOF : code;
}

int rename(const char *from, const char *to) {
    NEXT(int, rename, const char *, const char *)
    return FAILS(FAULT_RENAME) ? -1 : next(from, to);
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    NEXT(int, renameat, int, const char *, int, const char *)
    return FAILS(FAULT_RENAME) ? -1 : next(from_folder, from, to_folder, to);
}

void *mmap(void *address, size_t n, int protection, int flags, int descriptor, off_t at) {
    NEXT(void *, mmap, void *, size_t, int, int, int, off_t)
    return FAILS(FAULT_MMAP) ? MAP_FAILED : next(address, n, protection, flags, descriptor, at);
}

int ftruncate(int descriptor, off_t size) {
    NEXT(int, ftruncate, int, off_t)
    return FAILS(FAULT_TRUNCATE) ? -1 : next(descriptor, size);
}

int fstat(int descriptor, struct stat *about) {
    NEXT(int, fstat, int, struct stat *)
    return FAILS(FAULT_STAT) ? -1 : next(descriptor, about);
}
int stat(const char *path, struct stat *about) {
    NEXT(int, stat, const char *, struct stat *)
    return FAILS(FAULT_STAT) ? -1 : next(path, about);
}
int lstat(const char *path, struct stat *about) {
    NEXT(int, lstat, const char *, struct stat *)
    return FAILS(FAULT_STAT) ? -1 : next(path, about);
}

/* ---- before a program of its own ---- */

static int (*program_main)(int, char **, char **);

static void tell_counts(void) {
    const char *path = getenv("SALF_FAULT_COUNTS");
    counting = false;
    FILE *file = path ? fopen(path, "w") : NULL;
    for (int k = 0; file && k < FAULT_N_KINDS; k++) fprintf(file, "%s %lld\n", kinds[k].name, (long long)counts[k]);
    if (file) fclose(file);
}

static int begin_main(int argc, char **argv, char **environment) {
    const char *fault = getenv("SALF_FAULT"), *colon = fault ? strchr(fault, ':') : NULL;
    int kind = -1;
    for (int k = 0; colon && k < FAULT_N_KINDS; k++)
        if (strlen(kinds[k].name) == (size_t)(colon - fault) &&
            !strncasecmp(fault, kinds[k].name, (size_t)(colon - fault)))
            kind = k;
    if (colon && kind < 0) abort(); /* a misspelt kind would be a test that tests nothing */
    if (getenv("SALF_FAULT_COUNTS")) atexit(tell_counts);
    if (fault || getenv("SALF_FAULT_COUNTS")) faults_begin(kind, colon ? strtoll(colon + 1, NULL, 10) : -1);
    return program_main(argc, argv, environment);
}

/* Where a program starts, with the run-time libraries' own starts behind it. */
int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack);
int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack) {
    NEXT(int, __libc_start_main, int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
         void (*)(void), void *)
    program_main = main;
    return next(begin_main, argc, argv, init, fini, rtld_fini, stack);
}
