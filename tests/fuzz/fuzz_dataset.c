/* fuzz_dataset.c - any bytes as a data set: labels, training data, test data, words and template, with a byte 0 between
 * them. Refused with a message that names the file, or each example has a class, a text and a prompt. */
#include "dataset.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 500;

static void use(const dataset *d, const tokenizer *t) {
    char message[512] = "";
    int64_t n, least;
    int32_t *tokens = malloc((size_t)d->n_classes * sizeof *tokens + 1);
    for (int64_t i = 0; i < d->n_train + d->n_test && i < 50; i++) {
        const dataset_example *e = i < d->n_train ? d->train + i : d->test + (i - d->n_train);
        MUST(e->label >= 0 && e->label < d->n_classes && e->text[0]);
        if (dataset_check_template(d->template_text, message, sizeof message) != 0) continue;
        char *prompt = dataset_prompt(d->template_text, e);
        const dataset_example bare = {.text = "", .text2 = e->text2 ? "" : NULL};
        int32_t *own = dataset_prompt_ids(t, d->template_text, &bare, 0, &least);
        int32_t *ids = dataset_prompt_ids(t, d->template_text, e, 12, &n);
        MUST(prompt && own && ids && n <= (least > 12 ? least : 12));
        free(prompt), free(own), free(ids);
    }
    MUST(tokens);
    message[0] = '\0';
    MUST(dataset_tokens(d, t, d->template_text, NULL, tokens, message, sizeof message) == 0 || message[0]);
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"labels.txt", "train.tsv", "test.tsv", "words.txt", "template.txt"};
    static tokenizer *t;
    char message[1024] = "";
    if (place_make()) MUST(tokenizer_load(&t, "examples/demo/tokenizer.bin", message, sizeof message) == 0);
    for (int i = 0; i < 5; i++) {
        const uint8_t *end = size ? memchr(data, 0, size) : NULL;
        const size_t n = end ? (size_t)(end - data) : size;
        if (i < 3 || n > 0)
            place_write(names[i], data, n);
        else
            unlink(place_path(names[i]));
        data += n + (end != NULL);
        size -= n + (end != NULL);
    }
    dataset d;
    if (dataset_load(&d, place, message, sizeof message) == 0)
        use(&d, t);
    else
        MUST(strstr(message, ".t") && !d.train && !d.memory[0]);
    dataset_destroy(&d);
    return 0;
}
