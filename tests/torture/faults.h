/*
 * faults.h - calls of the C library that fail when a test wants it. faults.c takes the place of them for the whole
 * process, so that those of libsalf, of the program and of the JSON library alike come there. It is linked to the
 * program calls.c, and is a library of its own to load before the program salf (LD_PRELOAD, SALF_FAULT).
 */
#ifndef SALF_TEST_FAULTS_H
#define SALF_TEST_FAULTS_H

#include <stdint.h>

/* Kinds of calls, each counted from 0: X(name, error it fails with). CLOSE and RENAME do their work or not as the
 * system would: a close that fails has closed all the same, a rename that fails has renamed nothing. */
#define FAULT_KINDS(X) \
    X(MALLOC, ENOMEM)  \
    X(OPEN, EMFILE)    \
    X(READ, EIO)       \
    X(WRITE, ENOSPC)   \
    X(SYNC, EIO)       \
    X(CLOSE, EDQUOT)   \
    X(RENAME, EACCES)  \
    X(MMAP, ENOMEM)    \
    X(TRUNCATE, EIO)   \
    X(STAT, EIO)
#define FAULT_ENUM(name, error) FAULT_##name,
enum { FAULT_KINDS(FAULT_ENUM) FAULT_N_KINDS };

/* From now on the n-th call of a kind fails, once; kind -1: none. Counts begin at 0 again. Only between these two do
 * calls count at all. */
void faults_begin(int kind, int64_t n);
void faults_end(void);
/* The errno that failing calls have from now on, whatever their kind; 0: that of their kind. */
void faults_set_error(int error);
int64_t faults_count(int kind);
const char *faults_name(int kind);
/* Whether the call that was to fail has come. */
int faults_struck(void);
/* Blocks of memory and descriptors that are there now, of all that went through here. */
int64_t faults_blocks(void);
int64_t faults_descriptors(void);

#endif
