/* fuzz_prompts.c - any bytes as the prompts of `salf probe`: refused with a message, or probed. The first byte chooses
 * metric and lens. */
#include "commands.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 150;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const metrics[] = {"cosine", "ce", "rank"}, *const lenses[] = {"hf", "normed", "raw"};
    if (place_make()) place_model(1);
    if (size == 0) return 0;
    place_write("prompts", data + 1, size - 1);
    const char *const words[] = {"probe",
                                 "--model",
                                 place_path("model"),
                                 "--prompts",
                                 place_path("prompts"),
                                 "--metric",
                                 metrics[data[0] % 3],
                                 "--lens",
                                 lenses[data[0] / 3 % 3],
                                 "--backend",
                                 "cpu",
                                 NULL};
    place_run(cmd_probe, words);
    return 0;
}
