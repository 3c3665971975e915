/* methods.c - see methods.h. */
#include "methods.h"
#include "message.h"

#include <stdio.h>
#include <string.h>

int method_parse(method *out, const char *name, size_t length) {
    method found = {.how = {.struct_size = sizeof found.how}};
    /* What is cut off here is longer than any name, so that the rest is none either. */
    snprintf(found.name, sizeof found.name, "%.*s", (int)(length < METHOD_NAME_SIZE ? length : METHOD_NAME_SIZE - 1),
             name);
    if (salf_method_find(found.name, &found.how) != SALF_OK) return -1;
    *out = found;
    return 0;
}

/* A method twice in one run would be one line of the log and the table too many. */
int method_list_parse(method *out, int *count, const char *list, char *message, size_t message_size) {
    for (const char *at = list;;) {
        const size_t length = strcspn(at, ",");
        method one;
        if (method_parse(&one, at, length) != 0) return message_fail(message, message_size, "%s", salf_last_error());
        for (int i = 0; i < *count; i++) {
            if (strcmp(out[i].name, one.name) != 0) continue;
            return message_fail(message, message_size, "method '%s' is given twice", one.name);
        }
        if (*count == METHODS_MAX) return message_fail(message, message_size, "more than %d methods", METHODS_MAX);
        out[(*count)++] = one;
        if (!at[length]) return 0;
        at += length + 1;
    }
}

void method_describe_names(char *out, size_t size) {
    const char *word;
    size_t n = (size_t)snprintf(out, size, "Methods:");
    for (int32_t i = 0; (word = salf_method_name(i)) != NULL && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, " %s", word);
    if (n < size) n += (size_t)snprintf(out + n, size - n, "; those that probe also with a metric at the end:");
    for (int32_t i = 0; (word = salf_constant_word("SALF_METRIC", i)) != NULL && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, " [%s]", word);
    if (n < size)
        snprintf(out + n, size - n,
                 ". With [stream] behind a budget, as in salf[half][stream] or "
                 "random[half][stream], every datum trains when it comes. A policy's word, such as "
                 "lisa, is a method too.");
}
