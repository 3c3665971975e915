/* fuzz_decoder.c - any bytes as a checkpoint whose layers are run: a configuration up to the first byte 0, then a
 * safetensors file. Refused with a message, or a forward and a backward of three tokens end. */
#include "decoder.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 150;

/* A small step: what a hostile size could make large was refused by then. */
static void train(decoder *d) {
    const int32_t tokens[3] = {0, 1, 0}, label = 0;
    const int64_t offsets[2] = {0, 3}, row = 2;
    const decoder_batch batch = {
        .tokens = tokens, .offsets = offsets, .n_sequences = 1, .head_rows = &row, .n_head_rows = 1};
    const int64_t hidden = decoder_get_config(d)->hidden;
    float *gradient = calloc((size_t)hidden + 1, sizeof *gradient);
    float loss;
    MUST(gradient);
    decoder_clear_gradients(d);
    if (decoder_forward(d, &batch, 1, NULL, NULL) != SALF_OK) {
        MUST(decoder_error()[0]);
    } else if (decoder_cross_entropy(d, &label, 1.0, 0, &loss, gradient) == SALF_OK) {
        const decoder_plan plan = {0};
        MUST(decoder_backward(d, gradient, &plan) == SALF_OK || decoder_error()[0]);
    }
    free(gradient);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static salf_context *context;
    const uint8_t *end = size ? memchr(data, 0, size) : NULL;
    if (!end) return 0;
    if (place_make()) {
        salf_context_options options;
        salf_options_init(&options, sizeof options);
        options.backend = SALF_BACKEND_CPU;
        MUST(mkdir(place_path("it"), 0700) == 0 && salf_context_create(&context, &options) == SALF_OK);
    }
    place_write("it/config.json", data, (size_t)(end - data));
    place_write("it/model.safetensors", end + 1, size - (size_t)(end + 1 - data));
    salf_model *model;
    decoder *d;
    const decoder_training training = {.lora_rank = (int32_t)(size & 2)};
    if (salf_model_open(&model, context, place_path("it"), NULL) != SALF_OK) {
        MUST(!model && salf_last_error()[0]);
        return 0;
    }
    const salf_status status = decoder_open(&d, context, model, &training);
    salf_model_destroy(model);
    MUST(status == SALF_OK || decoder_error()[0]);
    if (status == SALF_OK) {
        train(d);
        decoder_free(d);
    }
    return 0;
}
