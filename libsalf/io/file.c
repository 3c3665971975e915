/*
 * file.c - the one way in which anything here is written: a temporary name in the same folder, fsync, rename, fsync of
 * the folder.
 *
 * In this order a crash at any point leaves the old file or the new one, whole. The same folder, because a rename
 * across file systems is a copy; the first fsync, because a rename may reach the disk before the bytes that it names
 * do; the second, because the name itself is data of the folder.
 *
 * Only a file is replaced. What is none, a device or a pipe, is written to, as any program writes to /dev/null, and a
 * link is followed, so that it still leads to the file that people know behind it. A new file has the old one's access
 * rights: what somebody has closed to others stays closed.
 *
 * What is not promised: two writers of one path both succeed, and the later rename counts. Extended attributes and
 * further hard links of the old file do not come along.
 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/fingerprint.h"

enum {
    LINKS_MOST = 40,  /* as the kernel follows; a circle ends here */
    NAMES_TRIED = 64, /* of 2^60: the second is for the case that somebody guesses */
    NAME_MOST = 255   /* bytes of a name in a folder */
};

/* Full disks and a lack of memory have a status of their own: a host can free some and try again. */
salf_status slf_fail_errno(const char *action, const char *path, int error) {
    char words[128];
    if (strerror_r(error, words, sizeof words) != 0) words[0] = 0;
    return slf_fail(error == ENOSPC || error == EDQUOT ? SALF_E_NO_SPACE
                    : error == ENOMEM                  ? SALF_E_NO_MEMORY
                                                       : SALF_E_IO,
                    "%s %s: %s", action, path, words);
}

int slf_path_descriptor(const char *path) {
    static const char *const streams[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
    static const char *const folders[] = {"/dev/fd/", "/proc/self/fd/"};
    for (int i = 0; i < 3; i++)
        if (strcmp(path, streams[i]) == 0) return i;
    for (int i = 0; i < 2; i++) {
        const size_t n = strlen(folders[i]);
        if (strncmp(path, folders[i], n) != 0) continue;
        const size_t digits = strlen(path + n);
        if (digits > 0 && digits < 7 && strspn(path + n, "0123456789") == digits) return atoi(path + n);
    }
    return -1;
}

/* Where a path leads, link by link; 0, or a number of errno. A link that leads nowhere names a file to be made, as it
 * does for open(). */
static int follow_links(const char *path, char target[SLF_PATH_SIZE]) {
    char link[SLF_PATH_SIZE];
    if (strlen(path) >= SLF_PATH_SIZE) return ENAMETOOLONG;
    strcpy(target, path);
    for (int i = 0; i < LINKS_MOST; i++) {
        const ssize_t n = readlink(target, link, sizeof link - 1);
        if (n < 0) return errno == EINVAL || errno == ENOENT ? 0 : errno; /* EINVAL: no link */
        const char *slash = strrchr(target, '/');
        const size_t folder = link[0] == '/' || !slash ? 0 : (size_t)(slash - target) + 1;
        if (folder + (size_t)n >= SLF_PATH_SIZE) return ENAMETOOLONG;
        memcpy(target + folder, link, (size_t)n);
        target[folder + (size_t)n] = 0;
    }
    return ELOOP;
}

/* Makes the temporary file and its name, which nobody can foresee or has already: not a process with the same number
 * in another container, nor one before this that was killed, nor who lays a link in the way (O_EXCL follows none). Its
 * end is cut where a folder's names cannot be so long. 0, or a number of errno. */
static int create_temporary(slf_file *file, mode_t mode) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuv";
    const char *slash = strrchr(file->target, '/');
    const size_t folder = slash ? (size_t)(slash - file->target) + 1 : 0, whole = strlen(file->target) - folder;
    const size_t kept = SLF_MIN(whole, (size_t)NAME_MOST - (sizeof SLF_TEMPORARY - 1) - 12);
    for (int i = 0; i < NAMES_TRIED; i++) {
        uint64_t bits = 0;
        if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) != (ssize_t)sizeof bits) { /* a machine that has just begun */
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            bits = slf_hash_mix((uint64_t)now.tv_nsec ^ (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)file);
        }
        char *end = file->temporary + folder + kept + sizeof SLF_TEMPORARY - 1;
        memcpy(file->temporary, file->target, folder + kept);
        strcpy(file->temporary + folder + kept, SLF_TEMPORARY);
        for (int k = 0; k < 12; k++, bits >>= 5) *end++ = letters[bits & 31];
        *end = 0;
        file->descriptor = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, mode);
        if (file->descriptor >= 0 || (errno != EEXIST && errno != EINTR)) break;
    }
    return file->descriptor >= 0 ? 0 : errno;
}

/* 0666: the host's umask decides, as for any file that it writes. In the place of an old file the new one is nobody
 * else's until it has that one's rights. Who may not write to the old file does not replace it either. */
salf_status slf_file_create(slf_file *file, const salf_context *context, const char *path) {
    struct stat old, new;
    *file = (slf_file){.context = context, .descriptor = -1, .path = path};
    /* 1. streams that the process has open already */
    if (!*path) return slf_fail(SALF_E_IO, "cannot write to a file without a name");
    const int own = slf_path_descriptor(path);
    if (own >= 0) {
        file->descriptor = fcntl(own, F_DUPFD_CLOEXEC, 0);
        return file->descriptor >= 0 ? SALF_OK : slf_fail_errno("cannot write", path, errno);
    }
    /* 2. what is no file: opened as it is, which for a pipe waits for its reader */
    const bool exists = stat(path, &old) == 0;
    if (!exists && errno != ENOENT) return slf_fail_errno("cannot write", path, errno);
    if (exists && (S_ISBLK(old.st_mode) || S_ISSOCK(old.st_mode)))
        return slf_fail(SALF_E_IO, "cannot write %s: %s", path,
                        S_ISSOCK(old.st_mode) ? "a socket, not a file"
                                              : "a block device, whose contents are not replaced here");
    if (exists && !S_ISREG(old.st_mode)) {
        SLF_UNINTERRUPTED(file->descriptor, open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY));
        if (file->descriptor < 0) return slf_fail_errno("cannot write", path, errno);
        if (fstat(file->descriptor, &new) == 0 && !S_ISREG(new.st_mode)) return SALF_OK;
        slf_file_abandon(file);
        return slf_fail(SALF_E_IO, "cannot write %s: it became a file meanwhile", path);
    }
    /* 3. a file to be replaced, or made */
    int error = follow_links(path, file->target);
    if (!error && exists && faccessat(AT_FDCWD, file->target, W_OK, AT_EACCESS) != 0) error = errno;
    if (error) return slf_fail_errno("cannot write", path, error);
    error = create_temporary(file, exists ? 0600 : 0666);
    if (error) return slf_fail_errno("cannot create", path, error);
    if (exists && fstat(file->descriptor, &new) == 0) {
        mode_t mode = old.st_mode & 0777;
        const bool same = old.st_uid == new.st_uid &&old.st_gid == new.st_gid;
        if (!same && fchown(file->descriptor, old.st_uid, old.st_gid) != 0 && old.st_gid != new.st_gid)
            mode &= 0707; /* rights of a group are not another group's */
        if (fchmod(file->descriptor, mode) != 0) error = errno;
    }
    if (error) {
        slf_file_abandon(file);
        return slf_fail_errno("cannot keep the access rights of", path, error);
    }
    return SALF_OK;
}

/* The system may write less than it was asked for, or be interrupted by a signal of the host. A pipe that nobody reads
 * any more is an error like others: the signal that goes with it, and would end the host, is held back from this thread
 * and taken away, but for one that was waiting before. */
salf_status slf_file_write(slf_file *file, const void *bytes, size_t n) {
    const char *next = bytes;
    ssize_t written = 1;
    sigset_t broken, waiting, before;
    if (file->sum) slf_sum_add(file->sum, bytes, n);
    sigemptyset(&broken);
    sigaddset(&broken, SIGPIPE);
    sigpending(&waiting);
    pthread_sigmask(SIG_BLOCK, &broken, &before);
    while (n > 0 && written > 0) {
        SLF_UNINTERRUPTED(written, write(file->descriptor, next, n));
        if (written > 0) next += written, n -= (size_t)written;
    }
    const int error = written < 0 ? errno : EIO;
    if (written < 0 && error == EPIPE && !sigismember(&waiting, SIGPIPE))
        sigtimedwait(&broken, NULL, &(const struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return written > 0 ? SALF_OK : slf_fail_errno("cannot write", file->path, error);
}

/* For a file that is not to be; a failed commit does it itself. What cannot be removed stays under its temporary
 * name, for nobody to mistake. */
void slf_file_abandon(slf_file *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    if (*file->temporary) unlink(file->temporary);
    *file->temporary = 0;
    file->descriptor = -1;
}

salf_status slf_folder_sync(const char *path) {
    char folder[SLF_PATH_SIZE] = ".";
    const char *slash = strrchr(path, '/');
    const size_t n = slash == path ? 1 : slash ? (size_t)(slash - path) : 0; /* "/x" lies in "/" */
    if (n > 0) {
        memcpy(folder, path, n);
        folder[n] = 0;
    }
    int descriptor, code;
    SLF_UNINTERRUPTED(descriptor, open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (descriptor < 0) /* EACCES: may be written to, not read; the file is there all the same */
        return errno == EACCES ? SALF_OK : slf_fail_errno("cannot open folder", folder, errno);
    SLF_UNINTERRUPTED(code, fsync(descriptor));
    const int error = code ? errno : 0;
    close(descriptor);
    return !error || error == EINVAL ? SALF_OK /* EINVAL: a file system that does not sync folders */
                                     : slf_fail_errno("cannot sync folder", folder, error);
}

/* Data first, then the name: a rename that reached the disk before its data would leave an empty file after a crash.
 * And a rename survives a crash of the machine only when the folder has been synced too. What was written through has
 * neither name nor data of its own to sync; that it was closed well is all there is to know. */
salf_status slf_file_commit(slf_file *file) {
    const bool replaces = *file->temporary != 0;
    int code = 0;
    if (replaces) SLF_UNINTERRUPTED(code, fsync(file->descriptor));
    int error = code ? errno : 0;
    if (close(file->descriptor) && !error && errno != EINTR) error = errno;
    file->descriptor = -1;
    if (!error && replaces && rename(file->temporary, file->target)) error = errno;
    if (error) {
        slf_file_abandon(file);
        return slf_fail_errno("cannot save", file->path, error);
    }
    return replaces ? slf_folder_sync(file->target) : SALF_OK;
}

/* Nothing is kept of the bytes; all of them are written, or the path is as it was. */
salf_status salf_file_save(const char *path, const void *bytes, uint64_t n) {
    SLF_REQUIRE(path);
    if (!bytes && n > 0) return SLF_FAIL(SALF_E_NULL, "bytes is NULL");
    slf_file file;
    SLF_TRY(slf_file_create(&file, NULL, path));
    const salf_status status = slf_file_write(&file, bytes, (size_t)n);
    if (status == SALF_OK) return slf_file_commit(&file);
    slf_file_abandon(&file);
    return status;
}
