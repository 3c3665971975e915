/* message.h - what is wrong, in the caller's words. */
#ifndef SALF_EXAMPLE_MESSAGE_H
#define SALF_EXAMPLE_MESSAGE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

/* Writes one line into the caller's buffer, cut where that ends; returns -1, as calls do that fail. */
__attribute__((format(printf, 3, 4))) static inline int message_fail(char *message, size_t size, const char *format,
                                                                     ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, size, format, arguments);
    va_end(arguments);
    return -1;
}

#endif
