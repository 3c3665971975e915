/* checkpoint.c - a checkpoint as one safetensors file, written atomically by salf_tensors_save.
 *
 * Arrays are rank-1 tensors, the state blobs of libsalf's handles U8 tensors, and the options of the run metadata. A
 * kill at any moment leaves the file before or the file after, never a part. */
#include "checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for one more element of size bytes in an array of n; arrays here hold tens of elements, so they grow one by one.
 */
static int grow_array(checkpoint_writer *writer, void **array, int64_t n, size_t size) {
    void *larger = realloc(*array, ((size_t)n + 1) * size);
    if (!larger) {
        writer->failed = 1;
        return -1;
    }
    *array = larger;
    return 0;
}

/* A copy that the writer frees; NULL when there is no memory. */
static void *own_copy(checkpoint_writer *writer, const void *bytes, size_t size) {
    void *array = writer->owned;
    if (grow_array(writer, &array, writer->n_owned, sizeof *writer->owned) != 0) return NULL;
    writer->owned = array;
    void *copy = malloc(size ? size : 1);
    if (!copy) {
        writer->failed = 1;
        return NULL;
    }
    if (size) memcpy(copy, bytes, size);
    writer->owned[writer->n_owned++] = copy;
    return copy;
}

/* The array stays the caller's until the file is written; only the name is copied. */
void checkpoint_put(checkpoint_writer *writer, const char *name, int32_t dtype, int64_t count, const void *data) {
    const char *kept = own_copy(writer, name, strlen(name) + 1);
    void *array = writer->tensors;
    if (!kept || grow_array(writer, &array, writer->n_tensors, sizeof *writer->tensors) != 0) return;
    writer->tensors = array;
    salf_named_tensor *t = &writer->tensors[writer->n_tensors++];
    *t = (salf_named_tensor){.name = kept, .n_dims = 1};
    t->shape[0] = count;
    union { /* a view takes a pointer that is not const; writing a file reads it only */
        const void *in;
        void *out;
    } borrowed = {.in = data};
    t->view = (salf_tensor){.data = borrowed.out, .rows = count, .cols = 1, .dtype = dtype};
}

void checkpoint_put_bytes(checkpoint_writer *writer, const char *name, const void *bytes, uint64_t size) {
    const void *copy = own_copy(writer, bytes, (size_t)size);
    if (copy) checkpoint_put(writer, name, SALF_U8, (int64_t)size, copy);
}

/* Metadata lie in one list, keys and values in turns. */
void checkpoint_put_text(checkpoint_writer *writer, const char *key, const char *value) {
    const char *texts[2] = {key, value};
    for (int i = 0; i < 2; i++) {
        void *array = writer->metadata;
        char *copy = own_copy(writer, texts[i], strlen(texts[i]) + 1);
        if (!copy || grow_array(writer, &array, writer->n_metadata, sizeof *writer->metadata) != 0) return;
        writer->metadata = array;
        writer->metadata[writer->n_metadata++] = copy;
    }
}

salf_status checkpoint_write(checkpoint_writer *writer, salf_context *context, const char *path) {
    salf_status status = SALF_E_NO_MEMORY;
    if (!writer->failed)
        status = salf_tensors_save(context, path, writer->tensors, writer->n_tensors,
                                   (const char *const *)writer->metadata, writer->n_metadata / 2);
    for (int64_t i = 0; i < writer->n_owned; i++) free(writer->owned[i]);
    free(writer->owned);
    free(writer->metadata);
    free(writer->tensors);
    *writer = (checkpoint_writer){0};
    return status;
}

/* A tensor of the file with this type and one dimension, or a message. */
static int find_array(const salf_tensors *file, const char *name, int32_t dtype, salf_named_tensor *out, char *message,
                      size_t message_size) {
    if (salf_tensors_find(file, name, out) != SALF_OK) {
        snprintf(message, message_size, "the checkpoint lacks '%s': %s", name, salf_last_error());
        return -1;
    }
    if (out->view.dtype != dtype || out->n_dims != 1) {
        snprintf(message, message_size, "'%s' in the checkpoint has another type or rank", name);
        return -1;
    }
    return 0;
}

/* Shapes are checked before anything is copied. */
int checkpoint_get(const salf_tensors *file, const char *name, int32_t dtype, int64_t count, void *out, char *message,
                   size_t message_size) {
    salf_named_tensor t;
    if (find_array(file, name, dtype, &t, message, message_size) != 0) return -1;
    if (t.shape[0] != count) {
        snprintf(message, message_size, "'%s' in the checkpoint has %lld elements instead of %lld", name,
                 (long long)t.shape[0], (long long)count);
        return -1;
    }
    size_t size = dtype == SALF_U8 ? 1 : dtype == SALF_F32 || dtype == SALF_I32 ? 4 : 8;
    if (count) memcpy(out, t.view.data, (size_t)count * size);
    return 0;
}

int checkpoint_get_bytes(const salf_tensors *file, const char *name, const void **bytes, uint64_t *size, char *message,
                         size_t message_size) {
    salf_named_tensor t;
    if (find_array(file, name, SALF_U8, &t, message, message_size) != 0) return -1;
    *bytes = t.view.data;
    *size = (uint64_t)t.shape[0];
    return 0;
}

/* An option that the file lacks differs too: an older program did not know it. */
int checkpoint_check_text(const salf_tensors *file, const char *const *pairs, int64_t n_pairs, char *message,
                          size_t message_size) {
    for (int64_t i = 0; i < n_pairs; i++) {
        const char *key = pairs[2 * i], *now = pairs[2 * i + 1];
        const char *then = salf_tensors_metadata(file, key);
        if (then && strcmp(then, now) == 0) continue;
        snprintf(message, message_size, "the checkpoint was made with --%s %s, this run has --%s %s", key,
                 then ? then : "(unknown)", key, now);
        return -1;
    }
    return 0;
}
