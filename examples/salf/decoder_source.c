/*
 * decoder_source.c - what a checkpoint folder holds beside its weights goes along with a model trained from it.
 *
 * config.json keeps every key and every byte but the element type of the weights (dtype, in older files torch_dtype, of
 * the model and of its text model), which is edited in the text: a parser would not give back numbers as they were
 * written. Files of the tokenizer, of generation, code that the configuration refers to and texts are copied.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "decoder_internal.h"
#include "files.h"
#include "memory.h"

#define MOST_PATH   4096
#define MOST_LEVELS 64

/* A file's text with a zero behind it, for free(); NULL with the message set. */
static char *read_file(const char *path, size_t *size, salf_status *status) {
    char message[512];
    char *text = file_read(path, size, message, sizeof message);
    *status = SALF_OK;
    if (!text) *status = decoder_fail(errno == ENOMEM ? SALF_E_NO_MEMORY : SALF_E_IO, "%s", message);
    return text;
}

/* Writes a file of a folder, or only tries its place. */
static salf_status write_file(const char *folder, const char *name, const char *text, size_t size, int only_tries) {
    char path[MOST_PATH], message[MOST_PATH + 128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (only_tries && file_try(path, PLACE_FILE, message, sizeof message) != 0)
        return decoder_fail(SALF_E_IO, "%s", message);
    const salf_status status = only_tries ? SALF_OK : salf_file_save(path, text, size);
    return status ? decoder_fail_library(status) : SALF_OK;
}

/* ---- config.json ---- */

/* A walk over JSON's tokens. The library has read the file before: what is not JSON was refused there. */
typedef struct json_walk {
    const char *text;
    size_t at;
    size_t size;
    int level;
    char open[MOST_LEVELS];       /* { or [ of each level; deeper ones are of no interest */
    int32_t is_text[MOST_LEVELS]; /* 1: the object is the model's or its text model's */
    int32_t names_text;           /* the last key was that of a text model */
    int32_t names_type;           /* the last key was dtype or torch_dtype */
    int32_t expects_key;
} json_walk;

/* The string at the walk's place is `name`, n bytes of it being between the quotes. */
static int is_string(const json_walk *w, size_t n, const char *name) {
    return n == strlen(name) && memcmp(w->text + w->at + 1, name, n) == 0;
}

static void open_level(json_walk *w, char c) {
    if (w->level < MOST_LEVELS) {
        w->open[w->level] = c;
        w->is_text[w->level] = c == '{' && (w->level == 0 || (w->names_text && w->level == 1));
    }
    w->level++;
    w->expects_key = c == '{';
    w->names_type = 0;
}

/* Goes on behind the next string that is an element type, whose place and length with quotes it gives; 0 at the end. */
static size_t next_type(json_walk *w, size_t *begin) {
    for (; w->at < w->size; w->at++) {
        const char c = w->text[w->at];
        const int inside = w->level > 0 && w->level <= MOST_LEVELS;
        if (c == '{' || c == '[') open_level(w, c);
        if ((c == '}' || c == ']') && w->level > 0) w->level--;
        if (c == ',') w->expects_key = inside && w->open[w->level - 1] == '{';
        if (c != '"') continue;
        size_t end = w->at + 1;
        while (end < w->size && w->text[end] != '"') end += w->text[end] == '\\' ? 2 : 1;
        const size_t n = end - w->at - 1;
        const int found = inside && !w->expects_key && w->names_type && w->is_text[w->level - 1];
        if (w->expects_key) {
            w->names_text =
                is_string(w, n, "text_config") || is_string(w, n, "language_config") || is_string(w, n, "llm_config");
            w->names_type = is_string(w, n, "dtype") || is_string(w, n, "torch_dtype");
            w->expects_key = 0;
        }
        *begin = w->at;
        w->at = end;
        if (!found) continue;
        w->names_type = 0;
        w->at++;
        return n + 2;
    }
    return 0;
}

/* The text with other element types, of *size bytes, for free(); NULL: no memory. */
static char *edit_config(const char *text, size_t *size, const char *type) {
    json_walk w = {.text = text, .size = *size};
    size_t begin, copied = 0, used = 0, n, edits = 1;
    while (next_type(&w, &begin) > 0) edits++;
    char *edited = memory_take((int64_t)(*size + edits * (strlen(type) + 2)), 1);
    if (!edited) return NULL;
    w = (json_walk){.text = text, .size = *size};
    while ((n = next_type(&w, &begin)) > 0) {
        memcpy(edited + used, text + copied, begin - copied);
        used += begin - copied;
        used += (size_t)sprintf(edited + used, "\"%s\"", type);
        copied = begin + n;
    }
    memcpy(edited + used, text + copied, *size - copied);
    *size += used - copied;
    return edited;
}

static salf_status copy_config(const char *source, const char *folder, const char *type) {
    char path[MOST_PATH];
    size_t size = 0;
    salf_status status;
    snprintf(path, sizeof path, "%s/config.json", source);
    char *text = read_file(path, &size, &status);
    if (!text) return status;
    char *edited = edit_config(text, &size, type ? type : "");
    free(text);
    if (!edited) return decoder_fail(SALF_E_NO_MEMORY, "no memory for %s", path);
    status = write_file(folder, "config.json", edited, size, !type);
    free(edited);
    return status;
}

/* ---- other files ---- */

static int ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

/* Files of the tokenizer and the like: by their ends, but for the configuration, indexes of weights, states of trainers
 * and adapters; and tokenizers in the form of llama2.c. */
static int goes_along(const char *name) {
    static const char *const ends[] = {".json", ".model", ".txt", ".jinja", ".py", ".tiktoken"};
    static const char *const not_these[] = {"config.json", "adapter_config.json", "trainer_state.json"};
    for (size_t i = 0; i < sizeof not_these / sizeof *not_these; i++) {
        if (strcmp(name, not_these[i]) == 0) return 0;
    }
    if (name[0] == '.' || ends_with(name, ".index.json")) return 0;
    if (strncmp(name, "tok", 3) == 0 && ends_with(name, ".bin")) return 1;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (ends_with(name, ends[i])) return 1;
    }
    return 0;
}

salf_status decoder_copy_files(const char *source, const char *folder, const char *type) {
    const char *longest = strlen(source) > strlen(folder) ? source : folder;
    if (strlen(longest) + 300 > MOST_PATH) return decoder_fail(SALF_E_ARGUMENT, "name of folder too long: %s", longest);
    salf_status status = copy_config(source, folder, type);
    DIR *listing = status ? NULL : opendir(source);
    if (!status && !listing) status = decoder_fail(SALF_E_IO, "%s: %s", source, strerror(errno));
    const struct dirent *entry;
    while (!status && (entry = readdir(listing)) != NULL) {
        char path[MOST_PATH];
        struct stat about;
        size_t size = 0;
        snprintf(path, sizeof path, "%s/%s", source, entry->d_name);
        if (!goes_along(entry->d_name) || stat(path, &about) != 0 || !S_ISREG(about.st_mode)) continue;
        char *text = read_file(path, &size, &status);
        if (!text) break;
        status = write_file(folder, entry->d_name, text, size, !type);
        free(text);
    }
    if (listing) closedir(listing);
    return status;
}

/* Files come in any order, so that their hashes are added up. */
salf_status decoder_hash_source(const char *source, uint64_t *hash) {
    DIR *listing = opendir(source);
    const struct dirent *entry;
    salf_status status = SALF_OK;
    if (!listing) return decoder_fail(SALF_E_IO, "%s: %s", source, strerror(errno));
    for (*hash = 0; !status && (entry = readdir(listing)) != NULL;) {
        char path[MOST_PATH];
        struct stat about;
        uint64_t one = salf_hash(0, entry->d_name, strlen(entry->d_name));
        const int is_read = goes_along(entry->d_name) || strcmp(entry->d_name, "config.json") == 0;
        snprintf(path, sizeof path, "%s/%s", source, entry->d_name);
        if ((!is_read && !ends_with(entry->d_name, ".safetensors")) || stat(path, &about) != 0 ||
            !S_ISREG(about.st_mode))
            continue;
        const int64_t file[] = {(int64_t)about.st_dev, (int64_t)about.st_ino, (int64_t)about.st_size,
                                (int64_t)about.st_mtim.tv_sec, (int64_t)about.st_mtim.tv_nsec};
        if (is_read && (status = salf_hash_file(path, &one)) != SALF_OK) decoder_fail_library(status);
        *hash += is_read ? one : salf_hash(one, file, sizeof file);
    }
    closedir(listing);
    return status;
}
