/*
 * status.c - status codes in words, and the message of the last error.
 *
 * The message lies in a fixed buffer of the thread: an error of another thread cannot overwrite it, and telling that
 * there is no memory takes none. A call that succeeds leaves it as it is, so that it says something only after a
 * failure.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/core.h"

static _Thread_local char last_error[sizeof((slf_message *)NULL)->text];

/* ---- statuses ---- */

typedef struct {
    salf_status value;
    const char *name;
    const char *text;
} status_entry;

#define STATUS_ENTRY(name, value, text) {value, #name, text},
static const status_entry status_table[] = {SALF_STATUS_LIST(STATUS_ENTRY)};

/* One after another: values need not be without gaps, and nobody asks for words in a loop. */
static const status_entry *find_status(salf_status status) {
    for (size_t i = 0; i < sizeof status_table / sizeof *status_table; i++)
        if (status_table[i].value == status) return &status_table[i];
    return NULL;
}

const char *salf_status_name(salf_status status) {
    const status_entry *entry = find_status(status);
    return entry ? entry->name : "SALF_E_UNKNOWN";
}

const char *salf_status_text(salf_status status) {
    const status_entry *entry = find_status(status);
    return entry ? entry->text : "unknown status";
}

/* ---- messages ---- */

/* Function (may be NULL) goes in front. The message is put together apart from last_error, since arguments may point
 * into that. Control characters, which come from file names and file contents, become '?': one line. Cut at the end of
 * the buffer: names of files and tensors may be longer. */
static void write_message(const char *function, const char *format, va_list arguments) {
    char message[sizeof last_error];
    int used = 0;
    if (function) used = snprintf(message, sizeof message, "%s: ", function); /* names of the API are short */
    vsnprintf(message + used, sizeof message - (size_t)used, format, arguments);
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    memcpy(last_error, message, sizeof last_error);
}

salf_status slf_fail(salf_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_message(NULL, format, arguments);
    va_end(arguments);
    return status;
}

salf_status slf_fail_in(const char *function, salf_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_message(function, format, arguments);
    va_end(arguments);
    return status;
}

const char *salf_last_error(void) {
    return last_error;
}

salf_status slf_require(const char *function, const char *names, const void *const *pointers, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const size_t length = strcspn(names, ",");
        if (!pointers[i]) return slf_fail_in(function, SALF_E_NULL, "%.*s is NULL", (int)length, names);
        names += length;
        names += strspn(names, ", ");
    }
    return SALF_OK;
}

void slf_list_word(char *list, size_t size, const char *separator, const char *word) {
    const size_t used = strlen(list);
    if (used == 0) separator = "";
    if (strlen(separator) + strlen(word) < size - used) snprintf(list + used, size - used, "%s%s", separator, word);
}

/* For calls within a call whose failure is no failure of the whole: the host is to read of what it asked for. */
slf_message slf_message_keep(void) {
    slf_message kept;
    memcpy(kept.text, last_error, sizeof kept.text);
    return kept;
}

void slf_message_restore(const slf_message *kept) {
    memcpy(last_error, kept->text, sizeof last_error);
}

/* ---- version ---- */

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x) /* of the value, not of the macro's name */

/* 10000 major + 100 minor + patch, so that versions compare as numbers. */
int32_t salf_version_number(void) {
    return SALF_VERSION_MAJOR * 10000 + SALF_VERSION_MINOR * 100 + SALF_VERSION_PATCH;
}

const char *salf_version_string(void) {
    return TEXT(SALF_VERSION_MAJOR) "." TEXT(SALF_VERSION_MINOR) "." TEXT(SALF_VERSION_PATCH);
}
