/* status.c - status codes in words, and the message of the last error, kept per thread in a fixed buffer. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/core.h"

static _Thread_local char last_error[512];

typedef struct {
    salf_status value;
    const char *name;
    const char *text;
} status_entry;

#define STATUS_ENTRY(name, value, text) {value, #name, text},
static const status_entry status_table[] = {SALF_STATUS_LIST(STATUS_ENTRY)};

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

const char *salf_last_error(void) {
    return last_error;
}

/* Control characters come from file names and file contents; in a one-line message they become '?'. */
static void make_one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

salf_status slf_fail(salf_status status, const char *format, ...) {
    char message[sizeof last_error]; /* arguments may point into last_error */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    make_one_line(message);
    memcpy(last_error, message, sizeof last_error);
    return status;
}

slf_message slf_message_keep(void) {
    slf_message kept;
    memcpy(kept.text, last_error, sizeof kept.text);
    return kept;
}

void slf_message_restore(const slf_message *kept) {
    memcpy(last_error, kept->text, sizeof last_error);
}

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

int32_t salf_version_number(void) {
    return SALF_VERSION_MAJOR * 10000 + SALF_VERSION_MINOR * 100 + SALF_VERSION_PATCH;
}

const char *salf_version_string(void) {
    return TEXT(SALF_VERSION_MAJOR) "." TEXT(SALF_VERSION_MINOR) "." TEXT(SALF_VERSION_PATCH);
}
