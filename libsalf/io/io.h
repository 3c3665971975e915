/* io.h - prototypes of the io folder: files written whole or not at all. */
#ifndef SALF_IO_H
#define SALF_IO_H

#include "../internal.h"

/* A file on its way to path, under a temporary name in the same folder. */
typedef struct slf_file {
    const salf_context *context;
    char *path;
    char *temporary;
    int descriptor;
} slf_file;

/* On failure nothing is left behind, neither memory nor a temporary file. */
salf_status slf_file_begin(slf_file *file, const salf_context *context, const char *path);
/* After a failed write the caller calls slf_file_abandon. */
salf_status slf_file_write(slf_file *file, const void *bytes, size_t n);
/* Syncs, renames over path, syncs the folder; ends the file whatever the result. */
salf_status slf_file_commit(slf_file *file);
void slf_file_abandon(slf_file *file);

#endif
