/*
 * checkpoint.c - a run in a folder: what it is made of, two generations of its state, and a lock.
 *
 * Save number s goes to checkpoint-K.safetensors with K = s mod 2, in the place of save s - 2, so that save s - 1 is
 * whole whatever happens meanwhile; a reader takes the newer of those that are whole. Each file ends with the hash of
 * all its other bytes: no bit can turn unseen. Its metadata hold what the run is made of, the host's words and hashes
 * of contents; a run of other things is refused before anything of the file is used.
 *
 * Two locks keep processes apart, and the system gives them back when the process ends, however it ends. flock() on the
 * file "lock" also keeps a process from opening its own folder twice, but whatever the process has forked holds it as
 * well. So there is fcntl()'s on "lock.process", which no forked process has: where it is free, and the process whose
 * name stands in "lock" is dead, only its children are left, and the folder is taken. The name alone would not do:
 * processes of another container are not seen. Nor would that lock: a process loses it when it closes the file
 * anywhere, as in copying the folder. (They are files apart, since NFS makes both locks of one kind.)
 */
#define _DEFAULT_SOURCE /* gethostname, flock */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/system.h"
#include "io/io.h"

#define RESERVED "salf." /* beginning of our own keys and names */
#define IDENTITY RESERVED "identity."
#define CONTENT  RESERVED "content."
#define SEAL     RESERVED "checksum"
#define VERSION  "1"

enum { OWN_KEYS = 3, OWN_TENSORS = 3 }; /* format, version, saves; policy, planner, checksum */

struct salf_checkpoint {
    salf_context *context;
    char *folder;
    int lock, process_lock; /* descriptors */
    int32_t process;        /* the one that has the folder: not what it forks */
    bool locked;
    char **pairs; /* [2 * n_pairs] what the run is made of, as metadata */
    int64_t n_pairs;
    int64_t saves;         /* number of the save in use; 0: none */
    salf_tensors *tensors; /* of it, as the folder was opened; NULL: none, or one of our own followed */
    slf_message damage;    /* why another file was passed over; "" */
};

/* ---- the folder ---- */

static char *path_of(const salf_checkpoint *c, int64_t save) {
    return slf_path_join(c->context, c->folder, save & 1 ? "checkpoint-1.safetensors" : "checkpoint-0.safetensors");
}

/* The lock of this process alone: 1 when it has it, 0 when another has, -1 where there are none. */
static int lock_process(salf_checkpoint *c) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (c->process_lock >= 0 && fcntl(c->process_lock, F_SETLK, &whole) == 0) return 1;
    return c->process_lock >= 0 && (errno == EAGAIN || errno == EACCES) ? 0 : -1;
}

/* Puts the name of this process into the lock's file, for the messages of others. */
static void sign_lock(salf_checkpoint *c) {
    char text[300], host[100] = "";
    gethostname(host, sizeof host - 1);
    c->process = slf_process();
    const int n = snprintf(text, sizeof text, "process %ld on host %s\n", (long)c->process, host);
    const bool named = ftruncate(c->lock, 0) == 0 && pwrite(c->lock, text, (size_t)n, 0) == n;
    (void)named; /* the lock holds without it */
}

/* Whether the name in a lock that is held is that of a process of this machine which is dead. */
static bool is_dead(const char *name) {
    char host[100] = "", its_host[100] = "";
    long process = 0;
    gethostname(host, sizeof host - 1);
    return sscanf(name, "process %ld on host %99s", &process, its_host) == 2 && strcmp(host, its_host) == 0 &&
           process > 0 && process <= INT32_MAX && getpgid((pid_t)process) < 0 && errno == ESRCH;
}

/* Whether the folder's name still leads to the lock that is held. Where the folder or the lock's file was moved,
 * removed or replaced, or the host has changed its own folder, another run may lie there, with a lock of its own. */
static salf_status check_folder(const salf_checkpoint *c) {
    struct stat held, there;
    char *path = slf_path_join(c->context, c->folder, "lock");
    if (!path) return SALF_E_NO_MEMORY;
    const bool same = fstat(c->lock, &held) == 0 && stat(path, &there) == 0 && held.st_dev == there.st_dev &&
                      held.st_ino == there.st_ino;
    slf_free(c->context, path);
    return same ? SALF_OK
                : slf_fail(SALF_E_IO,
                           "%s is not the folder that was opened: it, or the file lock in it, was moved, removed or "
                           "replaced meanwhile",
                           c->folder);
}

/* What was being written when an earlier process was killed goes: with the lock nobody else writes here. */
static void remove_leftovers(const salf_checkpoint *c) {
    static const char *const names[] = {"checkpoint-0.safetensors" SLF_TEMPORARY,
                                        "checkpoint-1.safetensors" SLF_TEMPORARY};
    const struct dirent *entry;
    DIR *listing = opendir(c->folder);
    while (listing && (entry = readdir(listing)) != NULL)
        for (int i = 0; i < 2; i++)
            if (strncmp(entry->d_name, names[i], strlen(names[i])) == 0) unlinkat(dirfd(listing), entry->d_name, 0);
    if (listing) closedir(listing);
}

/* Makes the folder where it is not there, and takes its lock. Who has it is told by what that process has written. A
 * file system without locks is no reason to lose a run; the host learns of it. */
static salf_status take_folder(salf_checkpoint *c) {
    char text[300] = "";
    /* 1. the folder, and in it the file that is locked: one that stays, since a lock on a file that is replaced is no
     * lock. No link is followed, and a pipe in its place does not wait (O_NONBLOCK) */
    if (mkdir(c->folder, 0777) != 0 && errno != EEXIST) return slf_fail_errno("cannot make folder", c->folder, errno);
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    char *path = slf_path_join(c->context, c->folder, "lock");
    char *path_of_process = slf_path_join(c->context, c->folder, "lock.process");
    salf_status status = SALF_E_NO_MEMORY;
    if (!path || !path_of_process) goto done;
    status = SALF_OK;
    SLF_UNINTERRUPTED(c->lock, open(path, flags, 0666));
    /* 2. the locks; their holder by name where they are taken. The second is opened only where this process does not
     * hold it by another handle, as it would lose it by closing the file */
    const bool is_free = c->lock >= 0 && flock(c->lock, LOCK_EX | LOCK_NB) == 0;
    const int error = c->lock >= 0 && !is_free ? errno : 0;
    const ssize_t n = error == EWOULDBLOCK ? pread(c->lock, text, sizeof text - 1, 0) : 0;
    text[n > 0 ? n : 0] = 0;
    for (char *at = text; *at; at++)
        if (*at < ' ' || *at > '~') *at = 0; /* one line of plain letters, whatever stands there */
    if (is_free || is_dead(text)) {
        SLF_UNINTERRUPTED(c->process_lock, open(path_of_process, flags, 0666));
        if (c->process_lock < 0) SLF_DO(slf_fail_errno("cannot lock", path_of_process, errno));
    }
    const int own = lock_process(c);
    if (c->lock < 0)
        status = slf_fail_errno("cannot lock", path, errno);
    else if ((is_free && own != 0) || (error == EWOULDBLOCK && own == 1))
        c->locked = true;
    else if (is_free || error == EWOULDBLOCK)
        status = slf_fail(SALF_E_BUSY, "%s is in use by %s", c->folder, *text ? text : "another process");
    else if (error != ENOSYS && error != EOPNOTSUPP && error != ENOLCK)
        status = slf_fail_errno("cannot lock", path, error);
    /* 3. the folder is ours, unless its lock was removed between opening and locking it */
    if (status != SALF_OK) goto done;
    SLF_DO(check_folder(c));
    if (c->locked) {
        sign_lock(c);
        remove_leftovers(c);
    }
done:
    SLF_FREE(c->context, path, path_of_process);
    return status;
}

/* ---- what the run is made of ---- */

/* A pair of metadata, whose key is prefix and name together. */
static salf_status add_pair(salf_checkpoint *c, const char *prefix, const char *name, const char *value) {
    char **pair = c->pairs + 2 * c->n_pairs++;
    const size_t room = strlen(prefix) + strlen(name) + 1;
    pair[0] = slf_alloc(c->context, room, 1);
    pair[1] = slf_strdup(c->context, value);
    if (!pair[0] || !pair[1]) return SALF_E_NO_MEMORY;
    snprintf(pair[0], room, "%s%s", prefix, name);
    return SALF_OK;
}

/* Keys of the metadata: "salf.identity.NAME" for the value, "salf.content.NAME" for the hash. A path need not be UTF-8,
 * which metadata are: as information it may lose a byte. */
static salf_status note_identities(salf_checkpoint *c, const salf_identity *identities, int64_t n) {
    SLF_TRY(SLF_ALLOC_ZERO(c->context, c->pairs, 4 * n));
    for (int64_t i = 0; i < n; i++) {
        const salf_identity *id = &identities[i];
        const char *value = id->value ? id->value : "";
        char hash[17];
        if (!id->name || !*id->name || !slf_is_utf8(id->name))
            return slf_fail(SALF_E_ARGUMENT, "identity %" PRId64 " has no usable name", i);
        for (int64_t k = 0; k < i; k++) /* a run has some ten of them */
            if (strcmp(identities[k].name, id->name) == 0)
                return slf_fail(SALF_E_ARGUMENT, "two identities are called '%s'", id->name);
        const bool utf8 = slf_is_utf8(value);
        if (!utf8 && !id->content) return slf_fail(SALF_E_ARGUMENT, "the value of '%s' is not UTF-8", id->name);
        SLF_TRY(add_pair(c, IDENTITY, id->name, value));
        for (char *at = c->pairs[2 * c->n_pairs - 1]; !utf8 && *at; at++)
            if (*at & 0x80) *at = '?';
        if (!id->content) continue;
        snprintf(hash, sizeof hash, "%016" PRIx64, id->content);
        SLF_TRY(add_pair(c, CONTENT, id->name, hash));
    }
    return SALF_OK;
}

/* The value that now has a key; NULL: none. */
static const char *value_now(const salf_checkpoint *c, const char *key) {
    for (int64_t i = 0; i < c->n_pairs; i++)
        if (strcmp(c->pairs[2 * i], key) == 0) return c->pairs[2 * i + 1];
    return NULL;
}

/* Whether both runs have the same under a key that one of them has. What has a content is the same where that is,
 * wherever it lies; all else where the words are. Other keys are the host's. */
static salf_status check_identity(const salf_checkpoint *c, const salf_tensors *file, const char *key) {
    char beside[512]; /* the key of the other kind, of the same name */
    const bool is_value = strncmp(key, IDENTITY, strlen(IDENTITY)) == 0;
    const bool is_content = strncmp(key, CONTENT, strlen(CONTENT)) == 0;
    if (!is_value && !is_content) return SALF_OK;
    const char *now = value_now(c, key), *then = salf_tensors_metadata(file, key);
    if (now && then && strcmp(now, then) == 0) return SALF_OK;
    const char *name = key + strlen(is_value ? IDENTITY : CONTENT);
    snprintf(beside, sizeof beside, "%s%s", is_value ? CONTENT : IDENTITY, name);
    const char *now_beside = value_now(c, beside), *then_beside = salf_tensors_metadata(file, beside);
    if (is_content) /* hashes say nothing to a reader; the paths or words beside them do */
        return slf_fail(SALF_E_MISMATCH, "%s was made with another %s: the content of %s is not what that of %s was",
                        c->folder, name, now_beside ? now_beside : name, then_beside ? then_beside : name);
    if (now && then && now_beside && then_beside) return SALF_OK; /* of what has a content the value is information */
    if (now && then)
        return slf_fail(SALF_E_MISMATCH, "%s was made with %s %s, this run has %s %s", c->folder, name, then, name,
                        now);
    return slf_fail(SALF_E_MISMATCH, "%s was made %s %s %s, this run is %s it", c->folder, then ? "with" : "without",
                    name, then ? then : now, then ? "without" : "with");
}

/* ---- reading ---- */

/* Whether a file's bytes are those that were written, so that the reader of tensors meets no others. Read, not mapped:
 * what a disk cannot give back is damage like any other, and no signal. */
static salf_status check_seal(const salf_checkpoint *c, const char *path) {
    uint8_t bytes[8192];
    uint64_t size = 0, seal = 0;
    slf_sum sum = {0};
    salf_status status = SALF_OK;
    ssize_t got = sizeof seal;
    int file, error = 0;
    SLF_TRY(slf_file_open(&file, path, &size));
    const uint64_t n = size > sizeof seal ? size - sizeof seal : 0;
    for (uint64_t at = 0, asked = 0; at < n && got > 0 && status == SALF_OK; at += (uint64_t)got) {
        if (at >= asked) {
            status = slf_proceed(c->context, "checksum", (int64_t)at, (int64_t)n);
            asked = at + SLF_PATIENCE;
        }
        SLF_UNINTERRUPTED(got, pread(file, bytes, (size_t)SLF_MIN(n - at, sizeof bytes), (off_t)at));
        if (got > 0) slf_sum_add(&sum, bytes, (uint64_t)got);
    }
    if (n > 0 && got > 0) SLF_UNINTERRUPTED(got, pread(file, &seal, sizeof seal, (off_t)n));
    if (got < 0) error = errno;
    close(file);
    SLF_TRY(status);
    if (error && error != EIO) return slf_fail_errno("cannot read", path, error);
    if (n > 0 && got == sizeof seal && slf_sum_end(&sum) == seal) return SALF_OK;
    return slf_fail(SALF_E_CORRUPT, "%s is damaged: its bytes %s", path,
                    error ? "cannot be read back" : "are not those that were written");
}

/* One of the two files. The handle keeps it where it is newer than what it has. SALF_E_NOT_FOUND: there is none;
 * SALF_E_CORRUPT: it is not whole, or not what belongs there. */
static salf_status read_slot(salf_checkpoint *c, int64_t slot) {
    salf_tensors *file = NULL;
    salf_status status;
    char *path = path_of(c, slot), *end = NULL;
    if (!path) return SALF_E_NO_MEMORY;
    SLF_DO(check_seal(c, path));
    SLF_DO(salf_tensors_open(&file, c->context, path));
    const char *format = salf_tensors_metadata(file, RESERVED "format");
    const char *version = salf_tensors_metadata(file, RESERVED "version");
    const char *number = salf_tensors_metadata(file, RESERVED "saves");
    if (!format || strcmp(format, "salf-checkpoint") != 0 || !version)
        SLF_DO(slf_fail(SALF_E_CORRUPT, "%s is no checkpoint of a run", path));
    if (strcmp(version, VERSION) != 0)
        SLF_DO(slf_fail(SALF_E_VERSION, "%s has version %s; this library reads %s", path, version, VERSION));
    /* A file that somebody renamed or copied into the other's place has a number of the wrong parity: it would be
     * overwritten while it is the only whole one */
    const int64_t saves = number ? strtoll(number, &end, 10) : 0;
    if (saves < 1 || *end || saves == INT64_MAX || (saves & 1) != slot)
        SLF_DO(slf_fail(SALF_E_CORRUPT, "%s holds save '%s', which belongs elsewhere", path, number ? number : ""));
    if (saves > c->saves) {
        salf_tensors *older = c->tensors;
        c->tensors = file;
        file = older;
        c->saves = saves;
    }
done:
    salf_tensors_destroy(file);
    slf_free(c->context, path);
    return status;
}

/* The newer of the files that are whole, which each is found to be before anything of it is read. Where one is damaged,
 * or not there although there must have been one, the other is used and the host told; which of them was newer the
 * damage may have hidden. */
static salf_status read_newest(salf_checkpoint *c) {
    bool damaged = false;
    for (int64_t slot = 0; slot < 2; slot++) {
        const salf_status status = read_slot(c, slot);
        if (status == SALF_E_CORRUPT) {
            damaged = true;
            c->damage = slf_message_keep();
        } else if (status != SALF_OK && status != SALF_E_NOT_FOUND) {
            return status;
        }
    }
    if (damaged && !c->tensors) return slf_fail(SALF_E_CORRUPT, "%s, and %s holds no other", c->damage.text, c->folder);
    /* from the second save on there are two files: one that lacks has been lost */
    if (damaged || c->saves < 2) return SALF_OK;
    char *other = path_of(c, c->saves + 1);
    if (!other) return SALF_E_NO_MEMORY;
    if (!slf_path_exists(other)) snprintf(c->damage.text, sizeof c->damage.text, "%.400s is missing", other);
    slf_free(c->context, other);
    return SALF_OK;
}

/* In this order: names cost nothing and may be wrong; the lock comes before anything is read, as another run might be
 * writing; and what the run is made of is compared last, with the file that would be used. A folder that was made here
 * stays also after a failure: it is empty but for the lock's file. */
salf_status salf_checkpoint_open(salf_checkpoint **out, salf_context *context, const char *folder,
                                 const salf_identity *identities, int64_t n_identities) {
    SLF_OUT(out);
    SLF_REQUIRE(context, folder);
    if (n_identities < 0 || n_identities > INT32_MAX || (n_identities > 0 && !identities))
        return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " identities are not given", n_identities);
    salf_checkpoint *c;
    SLF_TRY(SLF_ALLOC_ZERO(context, c, 1));
    c->context = SLF_RETAIN(context);
    c->lock = c->process_lock = -1;
    c->process = slf_process();
    salf_status status = SALF_E_NO_MEMORY;
    if (!(c->folder = slf_strdup(context, folder))) goto done;
    SLF_DO(note_identities(c, identities, n_identities));
    SLF_DO(take_folder(c));
    SLF_DO(read_newest(c));
    /* is the run that wrote the file this one? What only one of the two knows is another run, too */
    for (int64_t i = 0; c->tensors && i < c->n_pairs; i++) SLF_DO(check_identity(c, c->tensors, c->pairs[2 * i]));
    for (int64_t i = 0; c->tensors && i < c->tensors->n_metadata / 2; i++)
        SLF_DO(check_identity(c, c->tensors, c->tensors->metadata[2 * i]));
    *out = c;
    c = NULL;
done:
    salf_checkpoint_destroy(c);
    return status;
}

/* The lock goes with its last descriptor; it is not undone here, since a forked child that destroys its copy of the
 * handle would undo the parent's. fcntl()'s, which the child has not, goes with this process's descriptor. */
void salf_checkpoint_destroy(salf_checkpoint *c) {
    if (!c) return;
    salf_context *context = c->context;
    salf_tensors_destroy(c->tensors);
    for (int64_t i = 0; i < 2 * c->n_pairs; i++) slf_free(context, c->pairs[i]);
    if (c->process_lock >= 0) close(c->process_lock);
    if (c->lock >= 0) close(c->lock);
    SLF_FREE(context, c->pairs, c->folder, c);
    salf_context_destroy(context);
}

/* damage is NULL where there is none, which is easier to ask for than "". */
salf_status salf_checkpoint_get_info(const salf_checkpoint *c, salf_checkpoint_info *info) {
    SLF_REQUIRE(c, info);
    const salf_checkpoint_info own = {.locked = c->locked,
                                      .saves = c->saves,
                                      .tensors = c->tensors,
                                      .damage = *c->damage.text ? c->damage.text : NULL};
    return slf_info_write(info, &own, sizeof own, "salf_checkpoint_info");
}

/* ---- writing ---- */

/* The saved bytes of a planner or policy as a tensor; *block owns them. Asked for twice, as hosts do: once for the
 * size. */
static salf_status put_state(const salf_checkpoint *c, const salf_checkpoint_content *content, bool planner,
                             void **block, salf_named_tensor *out) {
    uint64_t size = 0;
    SLF_TRY(planner ? salf_planner_save(content->planner, NULL, &size)
                    : salf_policy_save(content->policy, NULL, &size));
    if (!(*block = slf_alloc(c->context, size, 1))) return SALF_E_NO_MEMORY;
    SLF_TRY(planner ? salf_planner_save(content->planner, *block, &size)
                    : salf_policy_save(content->policy, *block, &size));
    *out = (salf_named_tensor){.name = planner ? RESERVED "planner" : RESERVED "policy", .n_dims = 1};
    out->shape[0] = (int64_t)size;
    out->view = slf_tensor_host(*block, SALF_U8, 1, (int64_t)size);
    return SALF_OK;
}

/* Until the new file is whole and renamed, neither of the two that are there is touched: a save that fails costs
 * nothing. What was open of the older one goes with it, so that a load after a save is refused and not stale. */
salf_status salf_checkpoint_save(salf_checkpoint *c, const salf_checkpoint_content *content) {
    SLF_REQUIRE(c, content);
    SLF_OPTIONS(salf_checkpoint_content, own, content);
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(&own, reserved, 0, 0)));
    if (own.n_tensors < 0 || own.n_metadata < 0 || own.n_tensors > INT32_MAX || own.n_metadata > INT32_MAX ||
        (own.n_tensors > 0 && !own.tensors) || (own.n_metadata > 0 && !own.metadata))
        return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " tensors and %" PRId64 " pairs of metadata are not given",
                        own.n_tensors, own.n_metadata);
    if (c->saves == INT64_MAX - 1) /* the next is the first that no reader takes; only a forged file comes near */
        return slf_fail(SALF_E_SEQUENCE, "%s holds save %" PRId64 ", behind which there is none", c->folder, c->saves);
    /* A forked process saves where the one that has opened the folder is gone, whose place it takes. */
    if (c->process != slf_process()) {
        if (lock_process(c) == 0)
            return slf_fail(SALF_E_BUSY, "%s is in use by process %ld, which has forked this one", c->folder,
                            (long)c->process);
        if (c->locked) sign_lock(c);
    }
    SLF_TRY(check_folder(c));
    /* 1. the host's tensors and pairs, then ours, the seal at the end */
    salf_named_tensor *tensors = NULL;
    const char **pairs = NULL;
    void *blocks[2] = {NULL, NULL};
    uint64_t seal = 0;
    char number[24];
    int64_t n = own.n_tensors, n_pairs = own.n_metadata;
    char *path = path_of(c, c->saves + 1);
    salf_status status = SALF_E_NO_MEMORY;
    if (!path) goto done;
    SLF_DO(SLF_ALLOC(c->context, tensors, n + OWN_TENSORS));
    SLF_DO(SLF_ALLOC(c->context, pairs, 2 * (n_pairs + c->n_pairs + OWN_KEYS)));
    for (int64_t i = 0; i < n; i++) tensors[i] = own.tensors[i];
    for (int64_t i = 0; i < 2 * n_pairs; i++) pairs[i] = own.metadata[i];
    for (int64_t i = 0; i < n + n_pairs; i++) {
        const char *name = i < n ? tensors[i].name : pairs[2 * (i - n)];
        if (name && strncmp(name, RESERVED, strlen(RESERVED)) == 0)
            SLF_DO(slf_fail(SALF_E_ARGUMENT, "'%s': names that begin with '" RESERVED "' are the library's", name));
    }
    if (own.policy) SLF_DO(put_state(c, &own, false, &blocks[0], &tensors[n++]));
    if (own.planner) SLF_DO(put_state(c, &own, true, &blocks[1], &tensors[n++]));
    tensors[n] = (salf_named_tensor){.name = SEAL, .n_dims = 1, .shape = {sizeof seal}};
    tensors[n++].view = slf_tensor_host(&seal, SALF_U8, 1, sizeof seal);
    snprintf(number, sizeof number, "%" PRId64, c->saves + 1);
    const char *const ours[2 * OWN_KEYS] = {RESERVED "format", "salf-checkpoint", RESERVED "version",
                                            VERSION,           RESERVED "saves",  number};
    memcpy(pairs + 2 * n_pairs, ours, sizeof ours);
    for (int64_t i = 0; i < 2 * c->n_pairs; i++) pairs[2 * (n_pairs + OWN_KEYS) + i] = c->pairs[i];
    /* 2. the file, in the place of the older of the two */
    SLF_DO(slf_tensors_save(c->context, path, tensors, n, pairs, n_pairs + OWN_KEYS + c->n_pairs, &seal));
    c->saves++;
    c->damage.text[0] = 0;
    salf_tensors_destroy(c->tensors);
    c->tensors = NULL;
done:
    SLF_FREE(c->context, blocks[0], blocks[1], tensors, pairs, path);
    return status;
}

/* ---- into the host's memory ---- */

/* A place of the host's, against what the file has for it: the same shape and type, and memory that can be written. */
static salf_status check_place(const salf_checkpoint *c, const salf_named_tensor *place) {
    const salf_tensor *v = &place->view;
    const int64_t plain[2] = {v->rows, v->cols}; /* the shape of a place without one */
    const int64_t *shape = place->n_dims ? place->shape : plain;
    const int32_t n_dims = place->n_dims ? place->n_dims : 2;
    salf_named_tensor found;
    SLF_TRY(salf_tensors_find(c->tensors, place->name, &found));
    bool same = n_dims == found.n_dims && slf_shape_elements(plain, 2) == found.view.rows * found.view.cols;
    for (int32_t d = 0; same && d < n_dims; d++) same = shape[d] == found.shape[d];
    if (!same)
        return slf_fail(SALF_E_SHAPE, "tensor '%s' has another shape in the checkpoint than [%" PRId64 "][%" PRId64 "]",
                        place->name, v->rows, v->cols);
    if (v->dtype != found.view.dtype)
        return slf_fail(SALF_E_DTYPE, "tensor '%s' is %s in the checkpoint, not %s", place->name,
                        slf_dtype_name(found.view.dtype), slf_dtype_name(v->dtype));
    if (v->memory != SALF_MEMORY_HOST || v->row_index)
        return slf_fail(SALF_E_ARGUMENT, "tensor '%s' is no plain matrix in host memory", place->name);
    SLF_TRY(SLF_CHECK_RANGES({"reserved of a tensor", place->reserved, 0, 0}));
    SLF_TRY(slf_tensor_check_places(v, place->name)); /* its extent: rows are written */
    if (!v->data && found.view.rows * found.view.cols > 0)
        return slf_fail(SALF_E_NULL, "tensor '%s' has no data", place->name);
    return SALF_OK;
}

/* Planner and policy, both or neither: the policy comes first, and gets back what it was where the planner then fails.
 * (A policy has some bytes a layer, a planner as many as data.) */
static salf_status load_states(const salf_checkpoint *c, const salf_checkpoint_content *own) {
    salf_named_tensor plan = {0}, policy = {0}, before = {0};
    void *block = NULL;
    salf_status status = SALF_OK;
    if (own->planner) SLF_TRY(salf_tensors_find(c->tensors, RESERVED "planner", &plan));
    if (own->policy) SLF_TRY(salf_tensors_find(c->tensors, RESERVED "policy", &policy));
    if (own->policy && own->planner) SLF_DO(put_state(c, own, false, &block, &before));
    if (own->policy) SLF_DO(salf_policy_load(own->policy, policy.view.data, (uint64_t)policy.shape[0]));
    if (own->planner) status = salf_planner_load(own->planner, plan.view.data, (uint64_t)plan.shape[0]);
    if (status != SALF_OK && own->policy) (void)salf_policy_load(own->policy, block, (uint64_t)before.shape[0]);
done:
    slf_free(c->context, block);
    return status;
}

/* All is checked before anything is changed; planner and policy check their bytes themselves, so they come before the
 * tensors are copied. */
salf_status salf_checkpoint_load(salf_checkpoint *c, const salf_checkpoint_content *content) {
    SLF_REQUIRE(c, content);
    SLF_OPTIONS(salf_checkpoint_content, own, content);
    SLF_TRY(SLF_CHECK_RANGES(SLF_RANGE(&own, reserved, 0, 0)));
    salf_named_tensor found;
    if (!c->tensors)
        return SLF_FAIL(c->saves ? SALF_E_SEQUENCE : SALF_E_NOT_FOUND, "%s %s", c->folder,
                        c->saves ? "has been saved to since it was opened" : "holds no checkpoint");
    if (own.n_tensors < 0 || (own.n_tensors > 0 && !own.tensors))
        return SLF_FAIL(SALF_E_ARGUMENT, "%" PRId64 " tensors are not given", own.n_tensors);
    /* 1. every place of the host's */
    for (int64_t i = 0; i < own.n_tensors; i++) {
        if (!own.tensors[i].name) return slf_fail(SALF_E_ARGUMENT, "tensor %" PRId64 " has no name", i);
        SLF_TRY(check_place(c, &own.tensors[i]));
    }
    /* 2. the library's own state; a failure there leaves the host's tensors as they were */
    SLF_TRY(load_states(c, &own));
    /* 3. the host's tensors, row by row: theirs may have a stride, those of the file lie close */
    for (int64_t i = 0; i < own.n_tensors; i++) {
        const salf_tensor *to = &own.tensors[i].view;
        SLF_TRY(salf_tensors_find(c->tensors, own.tensors[i].name, &found));
        const char *from = found.view.data;
        const size_t row = (size_t)(to->cols * slf_dtype_size(to->dtype));
        for (int64_t r = 0; row > 0 && r < to->rows; r++, from += row) {
            const size_t offset = (size_t)(slf_tensor_offset(to, r) * slf_dtype_size(to->dtype));
            memcpy((char *)to->data + offset, from, row);
        }
    }
    return SALF_OK;
}
