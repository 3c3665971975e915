/*
 * replay.c - runs a fuzz target without libFuzzer: over every file of the folders given as arguments, over a bounded
 * number of mutations of each, and over bytes drawn at random. The same inputs in the same order on every machine.
 *
 * A target that finds something ends the process by abort or by a sanitizer; the seed it came from is the last one
 * printed.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of each seed. A target whose inputs take long says fewer. */
extern int fuzz_mutations;
int fuzz_mutations __attribute__((weak)) = 2000;
#define LARGEST ((size_t)1 << 16)

typedef struct {
    uint8_t *bytes;
    size_t size;
} input;

static uint64_t random_state;
static int64_t n_inputs;

static uint64_t draw(uint64_t bound) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return bound ? (random_state >> 33) % bound : 0;
}

/* The copy has exactly the input's size, so that a sanitizer sees a read past its end. */
static void run(const uint8_t *bytes, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) abort();
    if (size) memcpy(copy, bytes, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    n_inputs++;
}

/* ---- mutations; each works in place within LARGEST bytes ---- */

static void flip_bit(input *in) {
    if (in->size) in->bytes[draw(in->size)] ^= (uint8_t)(1u << draw(8));
}

static void set_byte(input *in) {
    static const uint8_t values[] = {0, 1, '"', '{', '}', '[', ']', ',', '-', '9', 0x7f, 0x80, 0xff};
    if (in->size) in->bytes[draw(in->size)] = values[draw(sizeof values)];
}

static void truncate_input(input *in) {
    in->size = (size_t)draw(in->size + 1);
}

/* Writes a piece of the input over another place, which may lengthen it. */
static void splice(input *in) {
    if (!in->size) return;
    const size_t from = (size_t)draw(in->size), to = (size_t)draw(in->size);
    size_t n = (size_t)draw(in->size - from) + 1;
    if (n > LARGEST - to) n = LARGEST - to;
    memmove(in->bytes + to, in->bytes + from, n);
    if (to + n > in->size) in->size = to + n;
}

/* Takes a piece out, or doubles it. */
static void move_tail(input *in) {
    if (!in->size) return;
    const size_t from = (size_t)draw(in->size);
    size_t n = (size_t)draw(in->size - from < 32 ? in->size - from : 32) + 1;
    if (n > in->size - from) n = in->size - from;
    if (draw(2) || in->size + n > LARGEST) {
        memmove(in->bytes + from, in->bytes + from + n, in->size - from - n);
        in->size -= n;
    } else {
        memmove(in->bytes + from + n, in->bytes + from, in->size - from);
        in->size += n;
    }
}

/* Replaces a decimal number by another one, keeping the length of the input where the new one is as long. */
static void edit_number(input *in) {
    static const char *const numbers[] = {"0",     "1",          "-1",         "7",           "255",
                                          "65536", "2147483648", "4294967296", "1e999",       "9223372036854775807",
                                          "0.5",   "true",       "null",       "99999999999", "18446744073709551616"};
    size_t at = (size_t)draw(in->size), end;
    while (at < in->size && (in->bytes[at] < '0' || in->bytes[at] > '9')) at++;
    for (end = at; end < in->size && in->bytes[end] >= '0' && in->bytes[end] <= '9';) end++;
    if (at == end) return;
    char text[32];
    if (draw(3))
        snprintf(text, sizeof text, "%s", numbers[draw(sizeof numbers / sizeof *numbers)]);
    else
        snprintf(text, sizeof text, "%llu", (unsigned long long)draw(300));
    const size_t n = strlen(text);
    if (in->size - (end - at) + n > LARGEST) return;
    memmove(in->bytes + at + n, in->bytes + end, in->size - end);
    memcpy(in->bytes + at, text, n);
    in->size = in->size - (end - at) + n;
}

/* Gives the first eight bytes, a length in some formats, a value near the size of the input. */
static void edit_length(input *in) {
    if (in->size < 8) return;
    const uint64_t value = draw(8) ? in->size - draw(in->size + 1) : ~(uint64_t)0 >> draw(64);
    for (int i = 0; i < 8; i++) in->bytes[i] = (uint8_t)(value >> 8 * i);
}

static void mutate(input *in) {
    static void (*const kinds[])(input *) = {flip_bit,  set_byte,    truncate_input, splice,
                                             move_tail, edit_number, edit_number,    edit_length};
    for (uint64_t n = 1 + draw(3); n > 0; n--) kinds[draw(sizeof kinds / sizeof *kinds)](in);
}

/* ---- seeds ---- */

static void replay_seed(const uint8_t *bytes, size_t size) {
    static uint8_t room[LARGEST];
    run(bytes, size);
    if (size > LARGEST) return;
    random_state = size * 2654435761u + 1;
    for (size_t i = 0; i < size; i++) random_state = random_state * 31 + bytes[i]; /* not the order of the folder */
    for (int i = 0; i < fuzz_mutations; i++) {
        input in = {room, size};
        if (size) memcpy(room, bytes, size);
        mutate(&in);
        run(in.bytes, in.size);
    }
}

static void replay_random(void) {
    uint8_t bytes[64];
    for (int i = 0; i < fuzz_mutations; i++) {
        random_state = (uint64_t)i;
        const size_t size = (size_t)draw(sizeof bytes + 1);
        for (size_t k = 0; k < size; k++) bytes[k] = (uint8_t)draw(256);
        run(bytes, size);
    }
}

/* Returns whether the file could be read. */
static int replay_file(const char *path) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    int fine = file && fseek(file, 0, SEEK_END) == 0;
    const long size = fine ? ftell(file) : -1;
    fine = size >= 0 && (bytes = malloc((size_t)size + 1)) != NULL;
    if (fine) rewind(file);
    fine = fine && fread(bytes, 1, (size_t)size, file) == (size_t)size;
    if (file) fclose(file);
    fprintf(stderr, "%s\n", path);
    if (fine) replay_seed(bytes, (size_t)size);
    free(bytes);
    return fine;
}

/* Returns how many files could not be read. */
static int replay_folder(const char *folder) {
    struct dirent **names;
    const int n = scandir(folder, &names, NULL, alphasort);
    int failed = 0, seeds = 0;
    for (int i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        if (names[i]->d_name[0] != '.') {
            seeds++;
            if (!replay_file(path)) {
                printf("not ok - %s cannot be read\n", path);
                failed++;
            }
        }
        free(names[i]);
    }
    if (n >= 0) free(names);
    if (seeds == 0) printf("skip - %s has no seeds\n", folder);
    return failed;
}

int main(int argc, char **argv) {
    int failed = 0;
    replay_random();
    for (int i = 1; i < argc; i++) failed += replay_folder(argv[i]);
    if (!failed) printf("ok - %lld inputs\n", (long long)n_inputs);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
