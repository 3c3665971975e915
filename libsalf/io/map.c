/*
 * map.c - files mapped into memory for reading, and paths.
 *
 * A checkpoint may be larger than memory: mapped, only the pages that are read take any, and the system may drop them
 * again. What is not promised: that the file stays as it is. A file that is shortened under a mapping ends the process
 * by SIGBUS, one that is written over changes the values. So small files are read, and all of them where the host wants
 * that (read_files).
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

/* A path that leads nowhere has a status of its own: hosts try one place after another. */
static salf_status map_fail(const char *path, int error) {
    const salf_status status = slf_fail_errno("cannot read", path, error);
    return error == ENOENT || error == ENOTDIR ? SALF_E_NOT_FOUND : status;
}

/* The type is asked of the open file, not of the path: what the path names may change in between. */
salf_status slf_file_open(int *descriptor, const char *path, uint64_t *size) {
    struct stat info;
    salf_status status = SALF_OK;
    /* O_NONBLOCK: not to wait for the writer of a fifo. ENXIO: a socket */
    SLF_UNINTERRUPTED(*descriptor, open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (*descriptor < 0 ? errno != ENXIO : fstat(*descriptor, &info) != 0)
        status = map_fail(path, errno);
    else if (*descriptor < 0 || !S_ISREG(info.st_mode))
        status = slf_fail(SALF_E_IO, "%s: not a regular file", path);
    else if (size)
        *size = (uint64_t)info.st_size;
    if (status != SALF_OK && *descriptor >= 0) close(*descriptor);
    return status;
}

/* What is read goes into pages of its own, which are given back as a mapping is. */
salf_status slf_map_open(slf_map *map, const salf_context *context, const char *path, uint64_t read_most) {
    int descriptor;
    uint64_t size = 0;
    *map = (slf_map){0};
    SLF_TRY(slf_file_open(&descriptor, path, &size));
    const bool reads = size <= read_most;
    const int flags = reads ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
    salf_status status = SALF_OK;
    if (size > 0) { /* mmap refuses a length of 0 */
        uint8_t *bytes =
            mmap(NULL, (size_t)size, reads ? PROT_READ | PROT_WRITE : PROT_READ, flags, reads ? -1 : descriptor, 0);
        if (bytes == MAP_FAILED)
            status = map_fail(path, errno);
        else
            *map = (slf_map){.bytes = bytes, .size = size};
        for (uint64_t have = 0; reads && status == SALF_OK && have < size;) {
            SLF_DO(slf_proceed(context, "reading", (int64_t)have, (int64_t)size));
            ssize_t n;
            SLF_UNINTERRUPTED(n, read(descriptor, bytes + have, (size_t)SLF_MIN(size - have, SLF_PATIENCE)));
            if (n == 0)
                status = slf_fail(SALF_E_TRUNCATED, "%s became shorter while it was read", path);
            else if (n > 0)
                have += (uint64_t)n;
            else
                status = map_fail(path, errno);
        }
    }
done:
    if (status != SALF_OK) slf_map_close(map);
    close(descriptor); /* the mapping stays */
    return status;
}

/* Also of a map that is not there, or was closed. */
void slf_map_close(slf_map *map) {
    union { /* munmap takes a pointer that is not const */
        const uint8_t *in;
        void *out;
    } bytes = {.in = map->bytes};
    if (map->size > 0) munmap(bytes.out, (size_t)map->size);
    *map = (slf_map){0};
}

/* Read, not mapped: a file that is cut meanwhile is a shorter one and no signal. */
salf_status salf_hash_file(const char *path, uint64_t *hash) {
    SLF_REQUIRE(path, hash);
    uint8_t bytes[8192];
    slf_sum sum = {.hash = *hash};
    ssize_t n = 1;
    int file, error = 0;
    SLF_TRY(slf_file_open(&file, path, NULL));
    while (n > 0) {
        SLF_UNINTERRUPTED(n, read(file, bytes, sizeof bytes));
        if (n > 0) slf_sum_add(&sum, bytes, (uint64_t)n);
        if (n < 0) error = errno;
    }
    close(file);
    if (error) return slf_fail_errno("cannot read", path, error);
    *hash = slf_sum_end(&sum);
    return SALF_OK;
}

/* An empty folder gives the name alone; no second slash is put behind one. */
char *slf_path_join(const salf_context *context, const char *folder, const char *name) {
    const size_t before = strlen(folder), after = strlen(name) + 1;
    const size_t slash = before > 0 && folder[before - 1] != '/';
    char *path = slf_alloc(context, before + slash + after, 1);
    if (!path) return NULL;
    memcpy(path, folder, before);
    if (slash) path[before] = '/';
    memcpy(path + before + slash, name, after);
    return path;
}

/* Links are followed in both: folders of the hub's cache hold nothing but links. */
bool slf_path_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* What cannot be looked at counts as there: whoever opens it then learns why. */
bool slf_path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

/* No empty part, no "." and "..", no backslash, which some systems take for a slash. */
bool slf_path_is_inside(const char *path) {
    if (!*path || strchr(path, '\\')) return false;
    for (const char *part = path; *part;) {
        const size_t length = strcspn(part, "/");
        if (length == 0 || strncmp(part, "./", length + 1) == 0 || strncmp(part, "../", length + 1) == 0) return false;
        if (strcmp(part, ".") == 0 || strcmp(part, "..") == 0) return false;
        part += length;
        if (*part == '/' && !*++part) return false; /* a slash at the end */
    }
    return true;
}
