/* files.c - files read whole, with a bound: nothing that a path leads to can keep the program waiting or fill its
 * memory. And places that are tried before the work whose result goes there. */
#define _GNU_SOURCE /* O_TMPFILE */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of a file that is read whole: tables of data and logs of long runs have some 100 MB. */
static const size_t bytes_most = 0x7FFFFFFF;
static const char no_memory[] = "out of memory";

/* What is to be read, opened, or -1 with *wrong. *size is what a regular file has, and 0 for a stream. The type is
 * asked of the open file: what the path names may change in between. Without O_NONBLOCK a pipe would wait for its
 * writer before it could be refused. */
static int open_input(const char *path, size_t *size, const char **wrong) {
    const int is_stream =
        !strcmp(path, "-") || !strcmp(path, "/dev/stdin") || !strncmp(path, "/dev/fd/", sizeof "/dev/fd/" - 1);
    const int file = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (is_stream ? 0 : O_NONBLOCK))
                                       : fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    struct stat about;
    *size = 0;
    if (file < 0 || fstat(file, &about) != 0) {
        *wrong = errno == ENXIO ? "a socket, not a file" : strerror(errno);
    } else if (S_ISDIR(about.st_mode)) {
        *wrong = "a folder, not a file";
    } else if (!is_stream && !S_ISREG(about.st_mode)) {
        *wrong = S_ISFIFO(about.st_mode) ? "a pipe, not a file" : "a device, not a file";
    } else if (S_ISREG(about.st_mode) && (size_t)about.st_size > bytes_most) {
        *wrong = "larger than 2 GiB";
    } else {
        if (S_ISREG(about.st_mode)) *size = (size_t)about.st_size;
        return file;
    }
    if (file >= 0) close(file);
    return -1;
}

/* A regular file is read in one piece, a stream in pieces that double. Reading goes on to the end whatever the size was
 * said to be: a file that grows meanwhile, or one of /proc, whose size is 0, is all there or refused. */
char *file_read(const char *path, size_t *size, char *message, size_t message_size) {
    const char *wrong = NULL;
    char *bytes = NULL;
    size_t room, used = 0;
    ssize_t n = 1;
    const int file = open_input(path, &room, &wrong);
    const size_t said = room;
    while (file >= 0 && !wrong && n > 0) {
        if (!bytes || used == room) {
            room = bytes ? (room < 32768 ? 65536 : 2 * room) : room + 1; /* one more tells the end of a file */
            char *larger = room - 1 <= bytes_most ? realloc(bytes, room + 1) : NULL;
            if (!larger) wrong = room - 1 <= bytes_most ? no_memory : "more than 2 GiB";
            if (!larger) break;
            bytes = larger;
        }
        do n = read(file, bytes + used, room - used);
        while (n < 0 && errno == EINTR);
        if (n < 0) wrong = strerror(errno);
        if (n > 0) used += (size_t)n;
    }
    if (!wrong && used < said) wrong = "became shorter while it was read";
    if (file >= 0) close(file);
    if (!wrong) {
        bytes[used] = 0;
        *size = used;
        return bytes;
    }
    free(bytes);
    snprintf(message, message_size, "%s: %s", path, wrong);
    errno = strcmp(wrong, no_memory) ? EIO : ENOMEM;
    return NULL;
}

/* Into a room of its own, and where that was too small, which the last flush tells, once more into a larger one. */
char *file_compose(void (*print)(FILE *file, const void *what), const void *what, size_t *size) {
    for (size_t room = 65536; room < bytes_most; room *= 4) {
        char *bytes = malloc(room);
        FILE *file = bytes ? fmemopen(bytes, room, "w") : NULL;
        if (!file) free(bytes);
        if (!file) return NULL;
        print(file, what);
        const long n = fflush(file) == 0 && !ferror(file) ? ftell(file) : -1;
        fclose(file);
        if (n >= 0) {
            *size = (size_t)n;
            return bytes;
        }
        free(bytes);
    }
    return NULL;
}

int file_is_same(const char *a, const char *b) {
    struct stat of_a, of_b;
    return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 && S_ISREG(of_a.st_mode) && of_a.st_dev == of_b.st_dev &&
           of_a.st_ino == of_b.st_ino;
}

/* The folder that a path lies in; "/x" lies in "/". */
static void parent_of(const char *path, char out[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        strcpy(out, ".");
    else
        snprintf(out, PATH_MAX, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* By how the name begins, or how it ends. */
static int is_known(const char *name) {
    static const char *const begins[] = {"model", "config", "generation_config", "tok", "pytorch_model"};
    static const char *const ends[] = {".json", ".model", ".txt", ".jinja", ".py", ".tiktoken", ".tsv", ".gguf"};
    const size_t n = strlen(name);
    int known = 0;
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) known |= !strncmp(name, begins[i], strlen(begins[i]));
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        known |= n > strlen(ends[i]) && !strcmp(name + n - strlen(ends[i]), ends[i]);
    return known;
}

/* Parts of a file in several lie beside it: "NAME-00002-of-00003.gguf". */
int file_is_input(const char *path, const char *named) {
    char name[PATH_MAX], folder[PATH_MAX];
    struct stat about;
    const struct dirent *entry;
    if (!named || strlen(named) >= sizeof folder || stat(named, &about) != 0) return 0;
    const int is_folder = S_ISDIR(about.st_mode);
    int found = file_is_same(path, named);
    parent_of(named, folder);
    DIR *listing = found ? NULL : opendir(is_folder ? named : folder);
    while (listing && !found && (entry = readdir(listing)) != NULL)
        if ((is_folder ? is_known(entry->d_name) : strstr(entry->d_name, "-of-") && is_known(named)) &&
            snprintf(name, sizeof name, "%s/%s", is_folder ? named : folder, entry->d_name) < PATH_MAX)
            found = file_is_same(path, name);
    if (listing) closedir(listing);
    return found;
}

int file_is_below(const char *path, const char *folder) {
    char in[PATH_MAX], parent[PATH_MAX], of_path[PATH_MAX];
    if (strlen(path) >= sizeof parent) return 0;
    parent_of(path, parent);
    if (!realpath(folder, in) || !realpath(parent, of_path)) return 0;
    const size_t deep = strlen(in);
    return !strncmp(in, of_path, deep) && (of_path[deep] == '/' || of_path[deep] == 0 || deep == 1);
}

const char *file_output(const char *path) {
    if (strcmp(path, "-") != 0) return path;
    fflush(stdout);
    return "/dev/stdout";
}

/* Whether a file can be made in a folder and take a name there; 0, or a number of errno. It is tried, as rights are not
 * all there is: the file system may be read-only, the folder immutable, a quota used up. A file without a name leaves
 * nothing behind whatever happens; where the system has none, rights have to do. */
static int try_folder(const char *folder) {
    struct stat about;
    const int file = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (file >= 0) {
        close(file);
        return 0;
    }
    if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) return errno;
    if (stat(folder, &about) != 0) return errno;
    if (!S_ISDIR(about.st_mode)) return ENOTDIR;
    return faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

/* A file that is there: a log has to take what is written, any other lets another take its place. That asks for more
 * than rights: salf_file_save replaces no file that may not be written to; in a folder like /tmp only the owner of the
 * file or of the folder may; and nobody may where a file is mounted, as containers do it. A program that runs cannot be
 * written to (ETXTBSY) but replaced. 0, or a number of errno. */
static int try_file(const char *path, const struct stat *about, int kind) {
    char target[PATH_MAX], folder[PATH_MAX];
    struct stat above;
    struct statx more;
    const uid_t own = geteuid();
    const int file = open(path, (kind == PLACE_LOG ? O_RDWR : O_WRONLY) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (file < 0 && (kind == PLACE_LOG || errno != ETXTBSY)) return errno;
    if (file >= 0) close(file);
    if (kind == PLACE_LOG) return 0;
    if (!realpath(path, target)) return errno;
    if (statx(AT_FDCWD, target, 0, 0, &more) == 0 && more.stx_attributes & STATX_ATTR_MOUNT_ROOT) return EBUSY;
    parent_of(target, folder);
    if (stat(folder, &above) != 0) return errno;
    if (above.st_mode & S_ISVTX && own != 0 && own != about->st_uid && own != above.st_uid) return EPERM;
    return try_folder(folder);
}

/* The number of a stream that the process has open, where a path names one; else -1. */
static int stream_of(const char *path) {
    int number;
    if (!strcmp(path, "-") || !strcmp(path, "/dev/stdout")) return STDOUT_FILENO;
    if (!strcmp(path, "/dev/stderr")) return STDERR_FILENO;
    return sscanf(path, "/dev/fd/%d", &number) == 1 || sscanf(path, "/proc/self/fd/%d", &number) == 1 ? number : -1;
}

/* 1. Streams are asked. 2. A link that leads to nothing names what is to be made, as for open(); mkdir() follows none,
 * and a circle is an error of stat(). 3. By what is there: a device and a pipe are not opened, since opening does
 * something to some, and a pipe would wait for its reader. */
int file_try(const char *path, int kind, char *message, size_t message_size) {
    char at[PATH_MAX], folder[PATH_MAX], link[PATH_MAX];
    struct stat about;
    const char *wrong = NULL;
    const int stream = kind == PLACE_FOLDER ? -1 : stream_of(path), flags = stream < 0 ? 0 : fcntl(stream, F_GETFL);
    int error = strlen(path) < sizeof at ? 0 : ENAMETOOLONG, exists = 0;
    strcpy(at, error ? "" : path);
    for (size_t n = strlen(at); kind == PLACE_FOLDER && n > 1 && at[n - 1] == '/';) at[--n] = 0;
    while (!error && stream < 0) {
        exists = stat(at, &about) == 0;
        if (!exists && errno != ENOENT) error = errno;
        const ssize_t n = exists || error ? -1 : readlink(at, link, sizeof link - 1);
        if (n < 0) break;
        link[n] = 0;
        parent_of(at, folder);
        const int size = snprintf(at, sizeof at, link[0] == '/' ? "%.0s%s" : "%s/%s", folder, link);
        if (kind == PLACE_FOLDER) error = ENOENT;
        if (size >= (int)sizeof at) error = ENAMETOOLONG;
    }
    if (stream >= 0) {
        error = flags < 0 ? errno : (flags & O_ACCMODE) == O_RDONLY ? EBADF : 0;
    } else if (!error && !exists) {
        parent_of(at, folder);
        error = try_folder(folder);
    } else if (!error && kind == PLACE_FOLDER) {
        error = S_ISDIR(about.st_mode) ? try_folder(path) : ENOTDIR;
    } else if (!error && S_ISREG(about.st_mode)) {
        error = try_file(path, &about, kind);
    } else if (!error && S_ISDIR(about.st_mode)) {
        wrong = "a folder, not a file";
    } else if (!error && S_ISSOCK(about.st_mode)) {
        wrong = "a socket, not a file";
    } else if (!error && S_ISBLK(about.st_mode)) {
        wrong = "a block device, whose contents are not replaced here";
    } else if (!error && faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0) {
        error = errno;
    }
    if (!error && !wrong) return 0;
    snprintf(message, message_size, "cannot write %s: %s", path, wrong ? wrong : strerror(error));
    errno = error;
    return -1;
}
