/*
 * file.c - atomic replacement of a file: temporary name in the same folder, fsync, rename, fsync of the folder.
 *
 * In this order a crash at any point leaves the old file or the new one, whole. The same folder, because a rename
 * across file systems is a copy; the first fsync, because a rename may reach the disk before the bytes that it names
 * do; the second, because the name itself is data of the folder.
 *
 * What is not promised: two writers of one path both succeed, and the later rename counts.
 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Tells apart the files that threads of one process write at the same time; the process' number does the rest. */
static atomic_uint file_counter;

/* Full disks have a status of their own: a host can free space and try again. */
salf_status slf_fail_errno(const char *action, const char *path, int error) {
    char text[128];
    if (strerror_r(error, text, sizeof text) != 0) text[0] = 0;
    return slf_fail(error == ENOSPC || error == EDQUOT ? SALF_E_NO_SPACE : SALF_E_IO, "%s %s: %s", action, path, text);
}

/* Memory only; the descriptor and the temporary file are gone or renamed by then. */
static void file_release(slf_file *file) {
    slf_free(file->context, file->temporary);
    slf_free(file->context, file->path);
    *file = (slf_file){.descriptor = -1};
}

/* O_EXCL: a name that is there already belongs to somebody else, and a link in its place is not followed. 0666: the
 * host's umask decides, as for any file it writes. */
salf_status slf_file_create(slf_file *file, const salf_context *context, const char *path) {
    const size_t size = strlen(path) + 48; /* ".tmp.", a process' number of at most 20 digits, ".", 10 digits, 0 */
    *file = (slf_file){.context = context, .descriptor = -1};
    salf_status status = SALF_E_NO_MEMORY;
    file->path = slf_strdup(context, path);
    file->temporary = file->path ? slf_alloc(context, size, 1) : NULL;
    if (!file->temporary) goto fail;
    snprintf(file->temporary, size, "%s.tmp.%ld.%u", path, (long)getpid(), atomic_fetch_add(&file_counter, 1));
    file->descriptor = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file->descriptor >= 0) return SALF_OK;
    status = slf_fail_errno("cannot create", file->temporary, errno);
fail:
    file_release(file);
    return status;
}

/* The system may write less than it was asked for, or be interrupted by a signal of the host. */
salf_status slf_file_write(slf_file *file, const void *bytes, size_t n) {
    const char *next = bytes;
    while (n > 0) {
        const ssize_t written = write(file->descriptor, next, n);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return slf_fail_errno("cannot write", file->path, written < 0 ? errno : EIO);
        next += written;
        n -= (size_t)written;
    }
    return SALF_OK;
}

/* For a file that is not to be; a failed commit does it itself. What cannot be removed stays under its temporary
 * name, for nobody to mistake. */
void slf_file_abandon(slf_file *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    if (file->temporary) unlink(file->temporary);
    file_release(file);
}

/* Data first, then the name: a rename that reached the disk before its data would leave an empty file after a crash.
 * And a rename survives a crash of the machine only when the folder has been synced too. */
salf_status slf_file_commit(slf_file *file) {
    /* 1. the file, under its own name */
    salf_status status = SALF_OK;
    int error = fsync(file->descriptor) ? errno : 0;
    if (close(file->descriptor) && !error) error = errno;
    file->descriptor = -1;
    if (!error && rename(file->temporary, file->path)) error = errno;
    if (error) {
        status = slf_fail_errno("cannot save", file->path, error);
        slf_file_abandon(file);
        return status;
    }
    /* 2. its folder, whose path takes the place of the temporary name: that is at least as long and no longer needed */
    char *slash = strrchr(strcpy(file->temporary, file->path), '/');
    if (slash)
        slash[slash == file->temporary ? 1 : 0] = '\0'; /* "/x" lies in "/" */
    else
        strcpy(file->temporary, ".");
    const int folder = open(file->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        error = fsync(folder) ? errno : 0;
        close(folder);
        if (error && error != EINVAL) /* EINVAL: a file system that does not sync folders */
            status = slf_fail_errno("cannot sync folder", file->temporary, error);
    } else if (errno != EACCES) { /* EACCES: may be written to, not read; the file is there all the same */
        status = slf_fail_errno("cannot open folder", file->temporary, errno);
    }
    file_release(file);
    return status;
}
