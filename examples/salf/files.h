/* files.h - how the program reads files whole, and where "-" leads. What it writes goes through salf_file_save. */
#ifndef SALF_EXAMPLE_FILES_H
#define SALF_EXAMPLE_FILES_H

#include <stddef.h>
#include <stdio.h>

/* The bytes of a file with a 0 behind them, for free(); NULL with a message that names the path. "-" is standard input.
 * A folder, a device and a pipe are refused, for reading one could wait for ever or never end; a stream that the
 * process has open already ("-", "/dev/stdin", "/dev/fd/N" of a shell's <(...)) is read whatever it is. At most 2 GiB.
 * errno is ENOMEM where memory is what lacks. */
char *file_read(const char *path, size_t *size, char *message, size_t message_size);
/* What print writes, which may be asked twice, for free(); NULL when memory lacks. Not open_memstream: it drops what it
 * finds no room for, and tells nobody. */
char *file_compose(void (*print)(FILE *file, const void *what), const void *what, size_t *size);
/* Whether two paths lead to one file that is there. */
int file_is_same(const char *a, const char *b);
/* Whether a file that is there is what an option names (NULL: nothing): a file, one of those beside it that a model in
 * several files is made of, or one of a folder that bears a name of models, tokenizers and data. */
int file_is_input(const char *path, const char *named);
/* Whether a file, there or not, lies in a folder or in one below. */
int file_is_below(const char *path, const char *folder);
/* What is to be written at a place. */
enum {
    PLACE_FILE = 1,  /* a file that takes the place of what is there */
    PLACE_LOG = 2,   /* a file that is written where it stands */
    PLACE_FOLDER = 3 /* files of a folder, which is made where it is not there; the one above has to be */
};
/* Tries whether it can be written, for before the work whose result goes there: a folder that is not there, rights, a
 * system that is read-only, what is immutable or mounted, names of something else. 0, or -1 with a message that names
 * the path, and errno, which is 0 where the system would have none. Nothing is changed. "-", pipes and devices are
 * places too. */
int file_try(const char *path, int kind, char *message, size_t message_size);
/* The path that salf_file_save takes for what the user has said: "-" is standard output, which is flushed. */
const char *file_output(const char *path);

#endif
