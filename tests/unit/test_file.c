/* The one writer: what is no file is written to and stays what it is, links are followed, access rights are kept, and
 * no name that was there before is in the way. */
#define _DEFAULT_SOURCE /* mknod */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/io.h"
#include "unit/files.h"
#include "unit/harness.h"

static char *folder; /* a fresh one for each test */

static void open_folder(const char *name) {
    folder = files_path(name);
    ck_assert_int_eq(mkdir(folder, 0777), 0);
}

/* A path in it, in one of four static buffers in turn. */
static const char *in(const char *name) {
    static char paths[4][4096];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int entries(void) {
    char command[4200], text[16] = "";
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    FILE *pipe = popen(command, "r");
    ck_assert(pipe && fgets(text, sizeof text, pipe));
    pclose(pipe);
    return atoi(text);
}

#define HOLDS(path, text)                                              \
    do {                                                               \
        uint8_t bytes_[64];                                            \
        ck_assert_uint_eq(files_read(path, bytes_, 64), strlen(text)); \
        ck_assert_mem_eq(bytes_, text, strlen(text));                  \
    } while (0)

static mode_t mode_of(const char *path) {
    struct stat about;
    ck_assert_int_eq(lstat(path, &about), 0);
    return about.st_mode;
}

START_TEST(new_and_old_files) {
    open_folder("plain");
    CHECK_OK(salf_file_save(in("a"), "one", 3));
    HOLDS(in("a"), "one");
    CHECK_OK(salf_file_save(in("a"), "other", 5));
    HOLDS(in("a"), "other");
    CHECK_OK(salf_file_save(in("a"), NULL, 0));
    HOLDS(in("a"), "");
    ck_assert_int_eq(entries(), 1);
    CHECK_FAILS(salf_file_save(NULL, "x", 1), SALF_E_NULL, "path");
    CHECK_FAILS(salf_file_save(in("a"), NULL, 1), SALF_E_NULL, "bytes");
    CHECK_FAILS(salf_file_save("", "x", 1), SALF_E_IO, "cannot");
    CHECK_FAILS(salf_file_save(in("none/x"), "x", 1), SALF_E_IO, "No such file or directory");
    CHECK_FAILS(salf_file_save(in("a/x"), "x", 1), SALF_E_IO, "Not a directory");
    CHECK_FAILS(salf_file_save(folder, "x", 1), SALF_E_IO, "Is a directory");
    ck_assert_int_eq(entries(), 1);
    free(folder);
}
END_TEST

/* The signal of such a pipe would end the host. One that was waiting before the call is the host's, and stays. */
START_TEST(a_pipe_that_nobody_reads_is_an_error) {
    int ends[2];
    char path[64];
    sigset_t set, broken;
    ck_assert_int_eq(pipe(ends), 0);
    close(ends[0]);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[1]);
    sigemptyset(&broken);
    sigaddset(&broken, SIGPIPE);
    for (int waits = 0; waits <= 1; waits++) {
        if (waits) {
            ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &broken, NULL), 0);
            raise(SIGPIPE);
        }
        CHECK_FAILS(salf_file_save(path, "hello", 5), SALF_E_IO, "Broken pipe");
        ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, NULL, &set), 0);
        ck_assert_int_eq(sigismember(&set, SIGPIPE), waits);
        ck_assert_int_eq(sigpending(&set), 0);
        ck_assert_int_eq(sigismember(&set, SIGPIPE), waits);
    }
    ck_assert_int_eq(sigtimedwait(&broken, NULL, &(const struct timespec){0}), SIGPIPE);
    pthread_sigmask(SIG_UNBLOCK, &broken, NULL);
    close(ends[1]);
}
END_TEST

START_TEST(what_is_no_file_is_written_to) {
    open_folder("devices");
    uint8_t bytes[8] = {0};
    ck_assert_int_eq(mkfifo(in("pipe"), 0600), 0);
    const int reader = open(in("pipe"), O_RDONLY | O_NONBLOCK);
    CHECK_OK(salf_file_save(in("pipe"), "hello", 5));
    ck_assert(S_ISFIFO(mode_of(in("pipe"))));
    ck_assert_int_eq(read(reader, bytes, 8), 5);
    ck_assert_mem_eq(bytes, "hello", 5);
    close(reader);
    /* Root makes devices of its own: a writer with a fault would take the machine's. */
    const bool root = geteuid() == 0 && mknod(in("null"), S_IFCHR | 0600, 1 << 8 | 3) == 0 &&
                      mknod(in("full"), S_IFCHR | 0600, 1 << 8 | 7) == 0;
    char null[4096], full[4096];
    snprintf(null, sizeof null, "%s", root ? in("null") : "/dev/null");
    snprintf(full, sizeof full, "%s", root ? in("full") : "/dev/full");
    if (geteuid() != 0 || root) {
        CHECK_OK(salf_file_save(null, "x", 1));
        ck_assert(S_ISCHR(mode_of(null)));
        CHECK_FAILS(salf_file_save(full, "x", 1), SALF_E_NO_SPACE, "No space left");
        ck_assert(S_ISCHR(mode_of(full)));
        ck_assert_int_eq(symlink(null, in("link")), 0);
        CHECK_OK(salf_file_save(in("link"), "x", 1));
        ck_assert(S_ISLNK(mode_of(in("link"))) && S_ISCHR(mode_of(null)));
    }
    if (root && mknod(in("disk"), S_IFBLK | 0600, 7 << 8 | 200) == 0)
        CHECK_FAILS(salf_file_save(in("disk"), "x", 1), SALF_E_IO, "block device");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(name.sun_path, sizeof name.sun_path, "%.100s", in("socket"));
    ck_assert_int_eq(bind(listener, (const struct sockaddr *)&name, sizeof name), 0);
    uint64_t hash = 7;
    CHECK_FAILS(salf_file_save(in("socket"), "x", 1), SALF_E_IO, "a socket, not a file");
    CHECK_FAILS(salf_hash_file(in("socket"), &hash), SALF_E_IO, "not a regular file");
    ck_assert(hash == 7 && S_ISSOCK(mode_of(in("socket"))));
    close(listener);
    free(folder);
}
END_TEST

/* Also where they are files: a shell's >> must not lose what was there. */
START_TEST(streams_of_the_process) {
    open_folder("streams");
    char path[64];
    files_write(in("out"), "before ", 7);
    const int file = open(in("out"), O_WRONLY | O_APPEND);
    snprintf(path, sizeof path, "/dev/fd/%d", file);
    CHECK_OK(salf_file_save(path, "after", 5));
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    CHECK_OK(salf_file_save(path, "!", 1));
    HOLDS(in("out"), "before after!");
    close(file);
    CHECK_FAILS(salf_file_save(path, "x", 1), SALF_E_IO, "Bad file descriptor");
    ck_assert_int_eq(slf_path_descriptor("/dev/stdout"), 1);
    ck_assert_int_eq(slf_path_descriptor("/dev/stderr"), 2);
    const char *const others[] = {"/dev/fd/",  "/dev/fd/1x", "/dev/fd/99999999999",
                                  "/dev/null", "dev/fd/1",   "/dev/fd/-1"};
    for (int i = 0; i < 6; i++) ck_assert_int_eq(slf_path_descriptor(others[i]), -1);
    ck_assert_int_eq(entries(), 1);
    free(folder);
}
END_TEST

START_TEST(links_are_followed) {
    open_folder("links");
    ck_assert_int_eq(mkdir(in("deep"), 0777), 0);
    files_write(in("deep/file"), "old", 3);
    ck_assert_int_eq(symlink("deep/second", in("first")), 0);
    ck_assert_int_eq(symlink("file", in("deep/second")), 0);
    CHECK_OK(salf_file_save(in("first"), "new", 3));
    ck_assert(S_ISLNK(mode_of(in("first"))) && S_ISLNK(mode_of(in("deep/second"))));
    HOLDS(in("deep/file"), "new");
    ck_assert_int_eq(symlink(in("deep/made"), in("absolute")), 0); /* to what is not there yet */
    CHECK_OK(salf_file_save(in("absolute"), "made", 4));
    HOLDS(in("deep/made"), "made");
    ck_assert_int_eq(symlink("circle", in("circle")), 0);
    CHECK_FAILS(salf_file_save(in("circle"), "x", 1), SALF_E_IO, "symbolic links");
    ck_assert_int_eq(symlink("nowhere/x", in("astray")), 0);
    CHECK_FAILS(salf_file_save(in("astray"), "x", 1), SALF_E_IO, "No such file");
    ck_assert_int_eq(entries(), 5);
    free(folder);
}
END_TEST

START_TEST(access_rights_stay) {
    open_folder("rights");
    files_write(in("mine"), "old", 3);
    ck_assert_int_eq(chmod(in("mine"), 0640), 0);
    CHECK_OK(salf_file_save(in("mine"), "new", 3));
    ck_assert_int_eq(mode_of(in("mine")) & 07777, 0640);
    const mode_t mask = umask(027);
    CHECK_OK(salf_file_save(in("fresh"), "new", 3));
    umask(mask);
    ck_assert_int_eq(mode_of(in("fresh")) & 07777, 0640);
    if (geteuid() == 0) { /* a file of another keeps its owner */
        struct stat about;
        ck_assert_int_eq(chown(in("mine"), 1, 2), 0);
        CHECK_OK(salf_file_save(in("mine"), "root's", 6));
        ck_assert_int_eq(stat(in("mine"), &about), 0);
        ck_assert_int_eq((int)about.st_uid, 1);
        ck_assert_int_eq((int)about.st_gid, 2);
        ck_assert_int_eq(mode_of(in("mine")) & 07777, 0640);
    }
    /* Who may not write to a file does not replace it, and who cannot give it the old group opens it to no other. */
    ck_assert_int_eq(chmod(folder, 0777), 0);
    ck_assert_int_eq(chmod(harness_path("."), 0755), 0);
    ck_assert_int_eq(chmod(in("fresh"), 0444), 0);
    if (geteuid() != 0 || seteuid(65534) == 0) {
        CHECK_FAILS(salf_file_save(in("fresh"), "x", 1), SALF_E_IO, "Permission denied");
        ck_assert_int_eq(seteuid(getuid()), 0);
        HOLDS(in("fresh"), "new");
        ck_assert_int_eq(chmod(in("mine"), 0666), 0);
        if (geteuid() == 0 && seteuid(65534) == 0) {
            CHECK_OK(salf_file_save(in("mine"), "theirs", 6));
            ck_assert_int_eq(seteuid(getuid()), 0);
            ck_assert_int_eq(mode_of(in("mine")) & 07777, 0606);
        }
    }
    ck_assert_int_eq(entries(), 2);
    free(folder);
}
END_TEST

/* A process whose number was that of one that was killed, a hundred times; and a name that leaves no room for more. */
START_TEST(names_do_not_collide) {
    open_folder("names");
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    CHECK_OK(salf_file_save(in(name), "x", 1));
    ck_assert_int_eq(entries(), 1);
    slf_file file, twin;
    CHECK_OK(slf_file_create(&file, NULL, in("x")));
    CHECK_OK(slf_file_create(&twin, NULL, in("x")));
    ck_assert_str_ne(file.temporary, twin.temporary);
    ck_assert_ptr_nonnull(strstr(file.temporary, "/x" SLF_TEMPORARY));
    for (int i = 0; i < 100; i++) CHECK_OK(salf_file_save(in("x"), "y", 1));
    slf_file_abandon(&twin);
    CHECK_OK(slf_file_write(&file, "whole", 5));
    CHECK_OK(slf_file_commit(&file));
    HOLDS(in("x"), "whole");
    ck_assert_int_eq(entries(), 2);
    char path[SLF_PATH_SIZE + 2];
    memset(path, 'p', SLF_PATH_SIZE + 1);
    for (int i = 0; i < SLF_PATH_SIZE; i += 100) path[i] = '/';
    path[SLF_PATH_SIZE + 1] = 0;
    CHECK_FAILS(salf_file_save(path, "x", 1), SALF_E_IO, "cannot write"); /* and no room for the reason */
    free(folder);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, new_and_old_files);
    HARNESS_ADD(suite, a_pipe_that_nobody_reads_is_an_error);
    HARNESS_ADD(suite, what_is_no_file_is_written_to);
    HARNESS_ADD(suite, streams_of_the_process);
    HARNESS_ADD(suite, links_are_followed);
    HARNESS_ADD(suite, access_rights_stay);
    HARNESS_ADD(suite, names_do_not_collide);
}
