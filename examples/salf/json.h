/* json.h - Jansson for the program: what it lacks memory for is told as that. */
#ifndef SALF_EXAMPLE_JSON_H
#define SALF_EXAMPLE_JSON_H

#include <jansson.h>
#include <stddef.h>

/* json_loadb, but for memory: where there is none, the message is "out of memory" and never that the text is no JSON.
 * For one thread at a time. You release the value. */
json_t *json_read(const char *text, size_t n, size_t flags, json_error_t *error);

#endif
