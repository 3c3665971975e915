/*
 * place.h - what fuzz targets of files and of the program share: a folder of their own, in memory where the system has
 * a place for that, a small model in it, and a run of a subcommand that nobody hears.
 */
#ifndef SALF_FUZZ_PLACE_H
#define SALF_FUZZ_PLACE_H

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "salf.h"

#define MUST(condition) \
    if (!(condition)) abort()

/* Fewer mutations than replay.c makes otherwise: a target defines it where an input takes a millisecond or more. */
extern int fuzz_mutations;

enum { PLACE_V = 16, PLACE_D = 8 };
static char place[64];

static inline const char *place_path(const char *name) { /* good for the next seven calls */
    static char paths[8][192];
    static int turn;
    char *path = paths[turn++ & 7];
    snprintf(path, sizeof *paths, "%s/%s", place, name);
    return path;
}

static inline void place_clear(const char *folder) {
    DIR *opened = opendir(folder);
    for (struct dirent *each; opened && (each = readdir(opened));) {
        char path[512];
        struct stat about;
        if (snprintf(path, sizeof path, "%s/%s", folder, each->d_name) >= (int)sizeof path) continue;
        if (!strcmp(each->d_name, ".") || !strcmp(each->d_name, "..") || lstat(path, &about) != 0) continue;
        if (S_ISDIR(about.st_mode)) place_clear(path);
        remove(path);
    }
    if (opened) closedir(opened);
}
static inline void place_remove(void) {
    place_clear(place);
    rmdir(place);
}

/* A context that lasts: making one takes longer than reading a small file. */
static inline salf_context *place_context(void) {
    static salf_context *context;
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_REFERENCE;
    MUST(context || salf_context_create(&context, &options) == SALF_OK);
    return context;
}

/* One folder for a run of the program: thousands of files are written. False when it is there already. */
static inline int place_make(void) {
    if (place[0]) return 0;
    snprintf(place, sizeof place, "%s/salf-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    MUST(mkdtemp(place) && atexit(place_remove) == 0);
    return 1;
}

static inline void place_write(const char *name, const void *bytes, size_t n) {
    FILE *file = fopen(place_path(name), "wb");
    MUST(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

/* A checkpoint of these many layers, at most 4, as the folder "model". */
static inline void place_model(int layers) {
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj",    "input_layernorm",  "post_attention_layernorm"};
    static float values[PLACE_V * PLACE_D];
    char config[512], text[4 * 9][64];
    salf_tensor head = {.data = values, .rows = PLACE_V, .cols = PLACE_D, .dtype = SALF_F32}, square = head, one = head;
    square.rows = PLACE_D;
    one.rows = 1;
    uint64_t state = 5;
    for (int i = 0; i < PLACE_V * PLACE_D; i++)
        values[i] = (float)((state = state * 6364136223846793005u + 1) >> 40) / 8e6f - 1;
    salf_named_tensor all[2 + 4 * 9] = {{.name = "model.embed_tokens.weight", .view = head},
                                        {.name = "model.norm.weight", .shape = {PLACE_D}, .n_dims = 1, .view = one}};
    MUST(layers <= 4);
    for (int i = 0; i < 9 * layers; i++) {
        snprintf(text[i], sizeof text[i], "model.layers.%d.%s.weight", i / 9, names[i % 9]);
        all[2 + i] = (salf_named_tensor){.name = text[i], .view = i % 9 < 7 ? square : one};
        if (i % 9 >= 7) all[2 + i].n_dims = 1, all[2 + i].shape[0] = PLACE_D;
    }
    salf_context *context;
    MUST(mkdir(place_path("model"), 0700) == 0 && salf_context_create(&context, NULL) == SALF_OK);
    MUST(salf_tensors_save(context, place_path("model/model.safetensors"), all, 2 + 9 * layers, NULL, 0) == SALF_OK);
    salf_context_destroy(context);
    const int n = snprintf(config, sizeof config,
                           "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":8,"
                           "\"vocab_size\":16,\"intermediate_size\":8,\"num_hidden_layers\":%d,"
                           "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"
                           "\"hidden_act\":\"silu\",\"max_position_embeddings\":32,\"tie_word_embeddings\":true}",
                           layers);
    place_write("model/config.json", config, (size_t)n);
}

/* Runs a subcommand with its words, NULL behind the last. What it says on standard error goes to the file "said", and
 * is there when it fails; the rest goes nowhere. Returns its exit code, which is 0, 1 or 2. */
static inline int place_run(int (*command)(int argc, char **argv), const char *const *words) {
    char *argv[64];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)(uintptr_t)words[argc]; /* parsing moves them about, no more */
    argv[argc] = NULL;
    fflush(stdout);
    const int out = dup(1), err = dup(2), nowhere = open("/dev/null", O_WRONLY);
    const int said = open(place_path("said"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(out >= 0 && err >= 0 && dup2(nowhere, 1) >= 0 && dup2(said, 2) >= 0);
    const int code = command(argc, argv);
    fflush(stdout);
    MUST(dup2(out, 1) >= 0 && dup2(err, 2) >= 0);
    close(out), close(err), close(nowhere), close(said);
    struct stat about;
    MUST(code >= 0 && code <= 2 && (code == 0 || (stat(place_path("said"), &about) == 0 && about.st_size > 0)));
    return code;
}

#endif
