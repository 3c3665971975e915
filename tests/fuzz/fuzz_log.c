/* fuzz_log.c - any bytes as the log of a run: `salf report` refuses it with a message, or makes a page that is bounded by
 * the log's size and in which nothing of the log is markup. */
#define _GNU_SOURCE /* strcasestr */
#include "commands.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 500;

/* What a log must not be able to write: its tags would run, or load, something. Words that are no markup may come from
 * a log that has them, in a method's name; numbers never look so. */
static void look_at_page(const char *log, size_t log_size) {
    static const char *const tags[] = {"<script", "<img", "<iframe", "<blink"};
    static const struct {
        const char *word, *in_log;
    } words[] = {{"javascript:", "script"}, {"NaN", "nan"},  {"=\"nan", "nan"}, {"=\"-nan", "nan"},
                 {"=\"inf", "inf"},         {",nan", "nan"}, {",-nan", "nan"},  {" nan ", "nan"}};
    FILE *file = fopen(place_path("page.html"), "rb");
    MUST(file && fseek(file, 0, SEEK_END) == 0);
    const long size = ftell(file);
    /* Frame, style and a chart for each method are some 40 KiB; a number of the log becomes a few in a chart. */
    MUST(size > 0 && (size_t)size < ((size_t)1 << 20) + 64 * log_size);
    rewind(file);
    char *page = malloc((size_t)size + 1);
    MUST(page && fread(page, 1, (size_t)size, file) == (size_t)size);
    page[size] = '\0';
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) MUST(!strstr(page, tags[i]));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        MUST(!strstr(page, words[i].word) || strstr(log, "\\u") || strcasestr(log, words[i].in_log));
    free(page);
    fclose(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    place_make();
    place_write("log", data, size);
    unlink(place_path("page.html"));
    const char *const words[] = {"report", place_path("log"), "-o", place_path("page.html"), NULL};
    const int code = place_run(cmd_report, words);
    MUST((code == 0) == (access(place_path("page.html"), F_OK) == 0));
    char *log = calloc(size + 1, 1); /* as text */
    MUST(log);
    for (size_t i = 0; i < size; i++) log[i] = data[i] ? (char)data[i] : ' ';
    if (code == 0) look_at_page(log, size);
    free(log);
    return 0;
}
