/*
 * test_trainer_save.c - a trained model goes back into the form of the checkpoint that it came from: config.json byte
 * for byte but for the element type, files beside it, tensors that are not the decoder's; and what cannot be written
 * is refused before training.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decoder_internal.h"
#include "small_decoder.h"

/* harness_path reuses its memory. */
static void path_in(char *path, const char *folder, const char *name) {
    snprintf(path, 1024, "%s/%s", folder, name);
}

static void put_file(const char *folder, const char *name, const char *text) {
    char path[1024];
    path_in(path, folder, name);
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    ck_assert_int_eq(fclose(file), 0);
}

static void check_file(const char *folder, const char *name, const char *text) {
    char path[1024], found[4096] = "";
    path_in(path, folder, name);
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s", path);
    found[fread(found, 1, sizeof found - 1, file)] = '\0';
    fclose(file);
    ck_assert_str_eq(found, text);
}

static int exists(const char *folder, const char *name) {
    char path[1024];
    path_in(path, folder, name);
    return access(path, F_OK) == 0;
}

static const char *new_folder(const char *name) {
    static char folders[8][1024];
    static int next;
    char *folder = folders[next++ % 8];
    snprintf(folder, 1024, "%s", harness_path(name));
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    return folder;
}

START_TEST(a_configuration_keeps_all_but_the_element_type) {
    static const char *const pairs[][2] = {
        {"{\"dtype\": \"bfloat16\", \"hidden_size\": 64}", "{\"dtype\": \"float32\", \"hidden_size\": 64}"},
        {"{\n \"rms_norm_eps\":1e-05,\"torch_dtype\" : \"float16\"\n}\n",
         "{\n \"rms_norm_eps\":1e-05,\"torch_dtype\" : \"float32\"\n}\n"},
        {"{\"text_config\": {\"dtype\": \"bfloat16\", \"a\": [{\"dtype\": \"x\"}]}, \"dtype\": \"bfloat16\"}",
         "{\"text_config\": {\"dtype\": \"float32\", \"a\": [{\"dtype\": \"x\"}]}, \"dtype\": \"float32\"}"},
        {"{\"vision_config\": {\"dtype\": \"bfloat16\"}, \"x\": \"dtype\", \"dtype\": null}",
         "{\"vision_config\": {\"dtype\": \"bfloat16\"}, \"x\": \"dtype\", \"dtype\": null}"},
        {"{\"a\\\"dtype\": \"one\", \"b\": \"\\\\\", \"dtype\": \"bfloat16\", \"c\": Infinity, \"d\": 1e999}",
         "{\"a\\\"dtype\": \"one\", \"b\": \"\\\\\", \"dtype\": \"float32\", \"c\": Infinity, \"d\": 1e999}"},
        {"{\"dtype\": [\"bfloat16\"], \"dtype\": {\"dtype\": \"y\"}, \"z\": \"dtype\"}",
         "{\"dtype\": [\"bfloat16\"], \"dtype\": {\"dtype\": \"y\"}, \"z\": \"dtype\"}"},
        {"\xef\xbb\xbf{}", "\xef\xbb\xbf{}"},
    };
    const char *from = new_folder("from"), *to = new_folder("to");
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        put_file(from, "config.json", pairs[i][0]);
        ck_assert_msg(decoder_copy_files(from, to, "float32") == SALF_OK, "%s", decoder_error());
        check_file(to, "config.json", pairs[i][1]);
    }
}
END_TEST

START_TEST(files_beside_the_weights_go_along) {
    static const char *const kept[] = {"tokenizer.json", "tokenizer.model",     "generation_config.json",
                                       "merges.txt",     "chat_template.jinja", "modeling_own.py",
                                       "tok4096.bin",    "tokenizer.bin"};
    static const char *const left[] = {"model.safetensors",
                                       "model.safetensors.index.json",
                                       "pytorch_model.bin",
                                       "adapter_config.json",
                                       "trainer_state.json",
                                       ".hidden.json",
                                       "notes.md"};
    const char *from = new_folder("with_files"), *to = new_folder("without_files");
    char folder[1024];
    put_file(from, "config.json", "{}");
    path_in(folder, from, "original.json");
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) put_file(from, kept[i], kept[i]);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) put_file(from, left[i], left[i]);
    ck_assert_int_eq(decoder_copy_files(from, to, NULL), SALF_OK);
    ck_assert(!exists(to, "config.json"));
    ck_assert_int_eq(decoder_copy_files(from, to, "float32"), SALF_OK);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) check_file(to, kept[i], kept[i]);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) ck_assert_msg(!exists(to, left[i]), "%s", left[i]);
    ck_assert(!exists(to, "original.json"));
    CHECK_REFUSED(decoder_copy_files(to, "/nonexistent", "float32"), SALF_E_IO, "/nonexistent/config.json");
    CHECK_REFUSED(decoder_copy_files("/nonexistent", to, "float32"), SALF_E_IO, "/nonexistent/config.json");
}
END_TEST

/* A saved small model, and the decoder that was opened from it. */
static decoder *open_saved(salf_context *context, const char *folder, const decoder_training *training) {
    const decoder_config config = small_config(1, 1);
    decoder *fresh, *d;
    salf_model *model;
    ck_assert_int_eq(decoder_create(&fresh, context, &config, NULL, 3), SALF_OK);
    scramble(fresh);
    ck_assert_msg(decoder_save(fresh, folder, SALF_F32) == SALF_OK, "%s", decoder_error());
    decoder_free(fresh);
    CHECK_OK(salf_model_open(&model, context, folder, NULL));
    ck_assert_msg(decoder_open(&d, context, model, training) == SALF_OK, "%s", decoder_error());
    salf_model_destroy(model);
    return d;
}

/* Adds a tensor to a folder's file, or leaves one out. */
static void edit_tensors(salf_context *context, const char *folder, const salf_named_tensor *more, const char *less) {
    char path[1024];
    salf_tensors *file;
    salf_named_tensor *all;
    int64_t n = 0;
    path_in(path, folder, "model.safetensors");
    CHECK_OK(salf_tensors_open(&file, context, path));
    all = calloc((size_t)salf_tensors_count(file) + 1, sizeof *all);
    for (int64_t i = 0; i < salf_tensors_count(file); i++) {
        CHECK_OK(salf_tensors_at(file, i, &all[n]));
        if (!less || strcmp(all[n].name, less) != 0) n++;
    }
    if (more) all[n++] = *more;
    CHECK_OK(salf_tensors_save(context, path, all, n, NULL, 0));
    salf_tensors_destroy(file);
    free(all);
}

START_TEST(names_shapes_and_foreign_tensors_stay) {
    const decoder_training lora = {.lora_rank = 2};
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    const char *from = new_folder("trained_from"), *to = new_folder("trained_to");
    decoder *d = open_saved(context, from, &lora);
    float vision[6] = {1, 2, 3, 4, 5, 6};
    uint16_t halves[2] = {0x3c00, 0x4000};
    salf_named_tensor more = {.name = "vision_tower.patch", .shape = {1, 2, 3}, .n_dims = 3};
    more.view = (salf_tensor){.data = vision, .rows = 1, .cols = 6, .dtype = SALF_F32};
    edit_tensors(context, from, &more, NULL);
    more = (salf_named_tensor){.name = "a.half", .shape = {2}, .n_dims = 1};
    more.view = (salf_tensor){.data = halves, .rows = 2, .cols = 1, .dtype = SALF_F16};
    edit_tensors(context, from, &more, NULL);
    put_file(from, "tokenizer.json", "{}");
    for (int64_t i = 0; i < decoder_n_parameters(d); i++) {
        decoder_parameter *p = decoder_parameter_at(d, i);
        for (int64_t j = 0; p->role == DECODER_LORA_B && j < p->count; j++) p->values[j] = 0.1f * (float)(j % 5);
    }
    ck_assert_msg(decoder_check_source(d, from, to) == SALF_OK, "%s", decoder_error());
    ck_assert_msg(decoder_save_like(d, from, to, SALF_F32) == SALF_OK, "%s", decoder_error());
    check_file(to, "tokenizer.json", "{}");
    salf_tensors *before, *after;
    CHECK_OK(salf_tensors_open(&before, context, from));
    CHECK_OK(salf_tensors_open(&after, context, to));
    ck_assert_int_eq(salf_tensors_count(before), salf_tensors_count(after));
    ck_assert_str_eq(salf_tensors_metadata(after, "format"), "pt"); /* older versions of transformers ask for it */
    int changed = 0;
    for (int64_t i = 0; i < salf_tensors_count(before); i++) {
        salf_named_tensor a, b;
        CHECK_OK(salf_tensors_at(before, i, &a));
        CHECK_OK(salf_tensors_find(after, a.name, &b));
        ck_assert_int_eq(a.n_dims, b.n_dims);
        ck_assert_mem_eq(a.shape, b.shape, sizeof a.shape);
        ck_assert_int_eq(a.view.dtype, b.view.dtype);
        const size_t bytes = (size_t)(a.view.rows * a.view.cols) * (a.view.dtype == SALF_F32 ? 4 : 2);
        const int differs = memcmp(a.view.data, b.view.data, bytes) != 0;
        ck_assert_msg(differs == (strstr(a.name, "_proj.weight") != NULL), "%s", a.name);
        changed += differs;
    }
    ck_assert_int_eq(changed, 7 * N_LAYERS);
    salf_tensors_destroy(before);
    salf_tensors_destroy(after);
    decoder_free(d);
    salf_context_destroy(context);
}
END_TEST

START_TEST(what_cannot_be_written_is_refused_before_training) {
    const decoder_training lora = {.lora_rank = 2};
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    const char *from = new_folder("source"), *to = new_folder("target");
    decoder *d = open_saved(context, from, &lora);
    CHECK_REFUSED(decoder_check_source(d, from, from), SALF_E_ARGUMENT, "the model came from");
    CHECK_REFUSED(decoder_check_source(d, "/nonexistent", to), SALF_E_NOT_FOUND, "/nonexistent");
    CHECK_REFUSED(decoder_check_source(d, from, "/nonexistent/folder"), SALF_E_IO, "/nonexistent/folder");
    CHECK_REFUSED(decoder_save_like(d, from, to, SALF_F64), SALF_E_DTYPE, "type");
    put_file(to, "model.safetensors.index.json", "{}");
    CHECK_REFUSED(decoder_check_source(d, from, to), SALF_E_ARGUMENT, "another checkpoint");
    char path[1024];
    path_in(path, to, "model.safetensors.index.json");
    ck_assert_int_eq(remove(path), 0);
    ck_assert_int_eq(decoder_check_source(d, from, to), SALF_OK);
    edit_tensors(context, from, NULL, "model.layers.2.mlp.up_proj.weight");
    CHECK_REFUSED(decoder_check_source(d, from, to), SALF_E_NOT_FOUND, "model.layers.2.mlp.up_proj.weight");
    float few[4] = {0};
    salf_named_tensor more = {.name = "model.layers.2.mlp.up_proj.weight", .shape = {2, 2}, .n_dims = 2};
    more.view = (salf_tensor){.data = few, .rows = 2, .cols = 2, .dtype = SALF_F32};
    edit_tensors(context, from, &more, NULL);
    CHECK_REFUSED(decoder_save_like(d, from, to, SALF_F32), SALF_E_MISMATCH, "has 4 values, not 240");
    ck_assert(!exists(to, "model.safetensors") && !exists(to, "config.json"));
    decoder_free(d);

    decoder_config config = small_config(0, 1); /* made, not opened: no configuration to keep */
    config.layers.qk_norm = SALF_QK_NORM_HEAD;
    ck_assert_int_eq(decoder_create(&d, context, &config, NULL, 1), SALF_OK);
    CHECK_REFUSED(decoder_save(d, to, SALF_F32), SALF_E_UNSUPPORTED, "no configuration");
    decoder_free(d);
    salf_context_destroy(context);
}
END_TEST

/* A tensor under a layer that nobody takes, one of the head, one missing, one of a wrong shape or type. */
START_TEST(tensors_of_a_checkpoint_are_accounted_for) {
    static const struct {
        const char *name;
        int32_t dtype;
        salf_status status;
    } more[] = {{"model.layers.1.self_attn.sinks", SALF_F32, SALF_E_UNSUPPORTED},
                {"model.layers.4.mlp.up_proj.weight", SALF_F32, SALF_E_UNSUPPORTED},
                {"model.embed_positions.weight", SALF_F32, SALF_E_UNSUPPORTED},
                {"model.norm.weight", SALF_F32, SALF_E_MISMATCH},
                {"model.layers.0.mlp.down_proj.weight", SALF_I32, SALF_E_MISMATCH},
                {"model.layers.3.self_attn.rotary_emb.inv_freq", SALF_F32, SALF_OK},
                {"vision.layers.0.weight", SALF_F32, SALF_E_UNSUPPORTED}};
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    const char *from = new_folder("accounts");
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        float values[4] = {1, 1, 1, 1};
        decoder *d = open_saved(context, from, NULL);
        decoder_free(d);
        salf_named_tensor t = {.name = more[i].name, .shape = {2, 2}, .n_dims = 2};
        t.view = (salf_tensor){.data = values, .rows = 2, .cols = 2, .dtype = more[i].dtype};
        edit_tensors(context, from, NULL, more[i].name);
        edit_tensors(context, from, &t, NULL);
        salf_model *model = NULL;
        salf_status status = salf_model_open(&model, context, from, NULL);
        const char *message = salf_last_error();
        if (!status) status = decoder_open(&d, context, model, NULL), message = decoder_error();
        ck_assert_msg(status == more[i].status || (status && more[i].status), "%s: %s", more[i].name, message);
        const int beyond = strstr(more[i].name, "layers.4.") != NULL; /* the library's own refusal names the layer */
        if (status) ck_assert_msg(harness_contains(message, beyond ? "layer 4" : more[i].name), "%s", message);
        if (!status) decoder_free(d);
        salf_model_destroy(model);
    }
    salf_context_destroy(context);
}
END_TEST

/* The tensors of a saved model under another prefix, its head beside it or in front, and beside them another tower's,
 * all zeros, of which `less` is left out; its configuration as a text model's. */
static void save_as_part(salf_context *context, const char *from, const char *to, const char *prefix, const char *head,
                         const char *less) {
    enum { MOST = 128, LARGEST = 4096 };
    static char names[MOST][64];
    static const float zeros[LARGEST];
    char path[1024], config[4096], text[2048] = "";
    salf_tensors *file;
    salf_named_tensor all[MOST];
    int64_t n = 0;
    path_in(path, from, "model.safetensors");
    CHECK_OK(salf_tensors_open(&file, context, path));
    for (int64_t i = 0; i < salf_tensors_count(file); i++) {
        ck_assert_int_lt(n + 2, MOST);
        CHECK_OK(salf_tensors_at(file, i, &all[n]));
        const char *name = all[n].name, *rest = strncmp(name, "model.", 6) == 0 ? name + 6 : NULL;
        snprintf(names[n], sizeof names[n], "%s%s", rest ? prefix : head, rest ? rest : name);
        all[n].name = names[n];
        n++;
        if (!rest || strcmp(rest, less) == 0) continue;
        all[n] = all[n - 1];
        ck_assert_int_le(all[n].view.rows * all[n].view.cols, LARGEST);
        memcpy(&all[n].view.data, &(const void *){zeros}, sizeof(void *));
        snprintf(names[n], sizeof names[n], "aux.%s", rest);
        all[n].name = names[n];
        n++;
    }
    path_in(path, to, "model.safetensors");
    CHECK_OK(salf_tensors_save(context, path, all, n, NULL, 0));
    salf_tensors_destroy(file);
    path_in(path, from, "config.json");
    FILE *saved = fopen(path, "rb");
    ck_assert_ptr_nonnull(saved);
    ck_assert_uint_gt(fread(text, 1, sizeof text - 1, saved), 0);
    fclose(saved);
    snprintf(config, sizeof config, "{\"model_type\":\"llava\",\"text_config\":%s}", text);
    put_file(to, "config.json", config);
}

/* One file is read by the library and by the decoder, and both mean the same tensors in it. */
START_TEST(layers_are_those_that_the_library_means) {
    static const struct {
        const char *prefix, *head, *less;
    } places[] = {{"model.", "", ""},
                  {"in.model.", "in.", "norm.weight"},
                  {"vision_lm.", "vision_lm.", "norm.weight"},
                  {"a.b.c.", "a.b.", "norm.weight"},
                  {"", "", ""}};
    salf_context *context = harness_context(SALF_BACKEND_AUTO, NULL);
    const char *from = new_folder("whole"), *to = new_folder("part");
    for (int tied = 0; tied < 2; tied++) {
        const decoder_config config = small_config(1, tied);
        decoder *d, *opened;
        ck_assert_int_eq(decoder_create(&d, context, &config, NULL, 3), SALF_OK);
        scramble(d);
        ck_assert_msg(decoder_save(d, from, SALF_F32) == SALF_OK, "%s", decoder_error());
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            salf_model *model;
            save_as_part(context, from, to, places[i].prefix, places[i].head, places[i].less);
            CHECK_OK(salf_model_open(&model, context, to, NULL));
            ck_assert_msg(decoder_open(&opened, context, model, NULL) == SALF_OK, "%s", decoder_error());
            ck_assert_int_eq(decoder_n_parameters(opened), decoder_n_parameters(d));
            for (int64_t j = 0; j < decoder_n_parameters(d); j++) {
                const decoder_parameter *a = decoder_parameter_at(d, j), *b = decoder_parameter_at(opened, j);
                ck_assert_int_eq(a->count, b->count);
                ck_assert_msg(memcmp(a->values, b->values, (size_t)a->count * sizeof *a->values) == 0, "%s", b->name);
            }
            decoder_free(opened);
            salf_model_destroy(model);
        }
        decoder_free(d);
    }
    salf_context_destroy(context);
}
END_TEST

void harness_suite(Suite *suite) {
    HARNESS_ADD(suite, layers_are_those_that_the_library_means);
    HARNESS_ADD(suite, a_configuration_keeps_all_but_the_element_type);
    HARNESS_ADD(suite, files_beside_the_weights_go_along);
    HARNESS_ADD(suite, names_shapes_and_foreign_tensors_stay);
    HARNESS_ADD(suite, what_cannot_be_written_is_refused_before_training);
    HARNESS_ADD(suite, tensors_of_a_checkpoint_are_accounted_for);
}
