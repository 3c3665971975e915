/* fuzz_arguments.c - any words as the command line of a subcommand: refused with a message, or carried out. The first
 * byte chooses the subcommand, a byte 0 ends a word; @ at the front of a word stands for the folder of the target's
 * files, and no word reaches a file outside of it. */
#include "args.h"
#include "commands.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 150;

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} subcommands[] = {
    {"plan", cmd_plan}, {"basis", cmd_basis}, {"probe", cmd_probe}, {"report", cmd_report}, {"tokens", cmd_tokens}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { MOST = 24 };
    static char text[MOST][300];
    static int home;
    const char *words[MOST + 1];
    int n = 0;
    if (place_make()) {
        place_model(1);
        place_write("prompts", "7\t1,2,3\n9\t4,5\n", 14);
        MUST((home = open(".", O_RDONLY | O_DIRECTORY)) >= 0 && freopen("/dev/null", "r", stdin));
    }
    if (size == 0) return 0;
    const size_t which = data[0] % (sizeof subcommands / sizeof *subcommands);
    words[n++] = subcommands[which].name;
    for (size_t at = 1; at < size && n < MOST;) {
        const uint8_t *end = memchr(data + at, 0, size - at);
        const size_t length = end ? (size_t)(end - data) - at : size - at;
        /* a path that leaves the folder, or a number that makes a plan of hours, is none of this target's business */
        if (length >= 200 || memchr(data + at, '/', length)) return 0;
        size_t digits = 0;
        while (digits < length && data[at + digits] >= '0' && data[at + digits] <= '9') digits++;
        if (digits >= 5) return 0;
        snprintf(text[n], sizeof text[n], "%s%.*s", length && data[at] == '@' ? place : "",
                 (int)(length && data[at] == '@' ? length - 1 : length),
                 (const char *)data + at + (length && data[at] == '@'));
        words[n] = text[n];
        n++;
        at += length + 1;
    }
    words[n] = NULL;
    MUST(chdir(place) == 0);
    place_run(subcommands[which].run, words);
    MUST(fchdir(home) == 0);
    return 0;
}
