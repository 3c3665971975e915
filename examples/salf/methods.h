/* methods.h - a list of fine-tuning methods by name. What a name means the library says (salf_method_find). */
#ifndef SALF_EXAMPLE_METHODS_H
#define SALF_EXAMPLE_METHODS_H

#include <stddef.h>
#include <stdint.h>

#include "salf.h"

#define METHOD_NAME_SIZE 48 /* the longest name there is, "lift*[arith][df]" with a metric, has 24 */
#define METHODS_MAX      32 /* in one list */

typedef struct method {
    char name[METHOD_NAME_SIZE];
    salf_method how;
} method;

/* One name, such as "salf[geom][df]" or "salf[half][ce]". Returns 0, or -1 when there is no such method, which
 * salf_last_error says. */
int method_parse(method *out, const char *name, size_t length);

/* Appends the methods of a comma-separated list to out [METHODS_MAX], of which *count are in use. Returns 0, or -1 with
 * a one-line message that names the part at fault. */
int method_list_parse(method *out, int *count, const char *list, char *message, size_t message_size);

/* A sentence for the help: the paper's names, and what may follow them. */
void method_describe_names(char *out, size_t size);

#endif
