/*
 * fuzz_run.c - any bytes as the files of a run's folder (salf_checkpoint_open): refused with a message, or read, loaded,
 * saved over and found again. The hash of a file is put right when the input asks for it, so that it does not hide what
 * lies behind.
 *
 * The first byte says what is there (enum), two bytes give the length of the first of two files; files follow. Compiled
 * with -DWRITE_SEEDS it writes seeds instead, files of runs at work: fuzz_run FOLDER.
 */
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 500;

enum {
    ODD = 1,     /* the first file is that of odd saves */
    TWO = 2,     /* both files are there */
    SEALED = 4,  /* as they are, the hash put right */
    NAMED = 8,   /* the run is opened with what it is made of */
    READ = 16,   /* files are read, not mapped */
    STREAM = 32, /* the planner is that of a stream */
};
enum { LAYERS = 3, DATA = 20 };

/* A host's own state, and where it is in memory. */
typedef struct host {
    salf_planner *planner;
    salf_policy *policy;
    float weights[6];
    int64_t steps[2];
    uint8_t own[5];
    salf_named_tensor tensors[3];
    salf_checkpoint_content content;
} host;

static void open_host(host *h, salf_context *context, int stream) {
    *h = (host){.weights = {1, 2, 3, 4, 5, 6}, .steps = {7, 8}, .own = "host"};
    salf_planner_options planner;
    salf_policy_options policy;
    salf_options_init(&planner, sizeof planner);
    salf_options_init(&policy, sizeof policy);
    planner.matching = stream ? SALF_MATCH_STREAM : SALF_MATCH_ONLINE;
    MUST(salf_planner_create(&h->planner, context, LAYERS, DATA, &planner) == SALF_OK);
    policy.total_steps = 9;
    policy.interval = 2;
    MUST(salf_policy_create(&h->policy, context, SALF_POLICY_LISA, LAYERS, &policy) == SALF_OK);
    void *const places[] = {h->weights, h->steps, h->own};
    static const char *const names[] = {"weights", "steps", "own"};
    static const int32_t types[] = {SALF_F32, SALF_I64, SALF_U8};
    static const int64_t rows[] = {2, 1, 1}, cols[] = {3, 2, sizeof h->own};
    for (int i = 0; i < 3; i++)
        h->tensors[i] = (salf_named_tensor){
            .name = names[i], .view = {.data = places[i], .rows = rows[i], .cols = cols[i], .dtype = types[i]}};
    h->tensors[2].n_dims = 1;
    h->tensors[2].shape[0] = sizeof h->own;
    salf_options_init(&h->content, sizeof h->content);
    h->content.tensors = h->tensors;
    h->content.n_tensors = 3;
    h->content.planner = h->planner;
    h->content.policy = h->policy;
}

static void close_host(host *h) {
    salf_planner_destroy(h->planner);
    salf_policy_destroy(h->policy);
}

static salf_status open_run(salf_checkpoint **out, salf_context *context, int named) {
    static const salf_identity made_of[] = {{"data", "a/path", 0x1234567890ABCDEF}, {"rate", "0.002", 0}};
    return salf_checkpoint_open(out, context, place_path("run"), made_of, named ? 2 : 0);
}

static salf_context *make_context(int read) {
    salf_context *context;
    salf_context_options options;
    salf_options_init(&options, sizeof options);
    options.backend = SALF_BACKEND_REFERENCE;
    options.read_files = read;
    MUST(salf_context_create(&context, &options) == SALF_OK);
    return context;
}

/* Every byte and word of what was found. */
static void look(const salf_tensors *tensors) {
    static volatile uint8_t sink;
    for (int64_t i = 0; i < salf_tensors_count(tensors); i++) {
        salf_named_tensor at, found;
        if (salf_tensors_at(tensors, i, &at) != SALF_OK) continue; /* a type without a view */
        MUST(salf_tensors_find(tensors, at.name, &found) == SALF_OK && found.view.data == at.view.data);
        if (at.view.dtype != SALF_U8 && at.view.dtype != SALF_I8) continue; /* others: fuzz_safetensors.c */
        for (int64_t b = 0; b < at.view.rows * at.view.cols; b++) sink = ((const uint8_t *)at.view.data)[b];
    }
    MUST(salf_tensors_metadata(tensors, "salf.format") && salf_tensors_metadata(tensors, "salf.saves"));
    (void)sink;
}

/* What was found is loaded, or refused with the host's numbers as they were; and the run goes on from there. */
static void go_on(salf_checkpoint *run, salf_context *context, int flags) {
    host h, again;
    salf_checkpoint_info info = {.struct_size = sizeof info}, now = {.struct_size = sizeof now};
    open_host(&h, context, flags & STREAM);
    open_host(&again, context, flags & STREAM);
    MUST(salf_checkpoint_get_info(run, &info) == SALF_OK && info.saves >= 0 && (!info.saves == !info.tensors));
    if (info.tensors) look(info.tensors);
    if (salf_checkpoint_load(run, &h.content) != SALF_OK)
        MUST(salf_last_error()[0] && !memcmp(h.weights, again.weights, sizeof h.weights) && h.steps[1] == 8 &&
             !memcmp(h.own, again.own, sizeof h.own));
    /* the next save takes the place of a file that is damaged or of the older one, and is what is found then; behind
     * the last number there is none */
    const salf_status saved = salf_checkpoint_save(run, &h.content);
    salf_checkpoint_destroy(run);
    MUST(saved == (info.saves == INT64_MAX - 1 ? SALF_E_SEQUENCE : SALF_OK));
    if (saved != SALF_OK) {
        close_host(&h);
        close_host(&again);
        return;
    }
    MUST(open_run(&run, context, flags & NAMED) == SALF_OK && salf_checkpoint_get_info(run, &now) == SALF_OK);
    MUST(now.saves == info.saves + 1 && !now.damage && salf_checkpoint_load(run, &again.content) == SALF_OK);
    MUST(!memcmp(h.weights, again.weights, sizeof h.weights) && !memcmp(h.steps, again.steps, sizeof h.steps) &&
         !memcmp(h.own, again.own, sizeof h.own));
    salf_checkpoint_destroy(run);
    close_host(&h);
    close_host(&again);
}

static void put_file(int odd, const uint8_t *bytes, size_t n, int sealed) {
    uint8_t *copy = calloc(n + 1, 1);
    MUST(copy);
    if (n) memcpy(copy, bytes, n);
    const uint64_t seal = salf_hash(0, copy, n > 8 ? n - 8 : 0);
    if (sealed && n > 8) memcpy(copy + n - 8, &seal, 8);
    place_write(odd ? "run/checkpoint-1.safetensors" : "run/checkpoint-0.safetensors", copy, n);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static salf_context *contexts[2];
    if (place_make()) {
        MUST(mkdir(place_path("run"), 0700) == 0);
        for (int i = 0; i < 2; i++) contexts[i] = make_context(i);
    }
    if (size < 3) return 0;
    const int flags = data[0], odd = flags & ODD;
    salf_context *context = contexts[flags & READ ? 1 : 0];
    size_t first = (size_t)data[1] | (size_t)data[2] << 8;
    if (!(flags & TWO) || first > size - 3) first = size - 3;
    put_file(odd, data + 3, first, flags & SEALED);
    if (flags & TWO)
        put_file(!odd, data + 3 + first, size - 3 - first, flags & SEALED);
    else
        unlink(place_path(odd ? "run/checkpoint-0.safetensors" : "run/checkpoint-1.safetensors"));
    salf_checkpoint *run;
    const salf_status status = open_run(&run, context, flags & NAMED);
    if (status == SALF_OK)
        go_on(run, context, flags);
    else
        MUST(!run && salf_last_error()[0] && status != SALF_E_BUSY); /* who had it before has given it back */
    return 0;
}

#ifdef WRITE_SEEDS
/* The files as they are after some saves; named: by a run that says what it is made of. */
static void write_seed(const char *folder, const char *name, int flags, int saves) {
    char path[4096];
    uint8_t files[2][1 << 14];
    size_t n[2];
    salf_context *context = make_context(0);
    salf_checkpoint *run;
    host h;
    open_host(&h, context, flags & STREAM);
    MUST(open_run(&run, context, flags & NAMED) == SALF_OK);
    for (int i = 0; i < saves; i++) MUST(salf_checkpoint_save(run, &h.content) == SALF_OK);
    salf_checkpoint_destroy(run);
    close_host(&h);
    salf_context_destroy(context);
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(place_path(i ? "run/checkpoint-1.safetensors" : "run/checkpoint-0.safetensors"), "rb");
        n[i] = file ? fread(files[i], 1, sizeof *files, file) : 0;
        if (file) fclose(file);
    }
    place_clear(place_path("run"));
    flags |= n[0] && n[1] ? TWO : ODD;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    const uint8_t head[3] = {(uint8_t)flags, (uint8_t)n[0], (uint8_t)(n[0] >> 8)};
    MUST(file && fwrite(head, 1, 3, file) == 3 && fwrite(files[0], 1, n[0], file) == n[0]);
    MUST(fwrite(files[1], 1, n[1], file) == n[1] && fclose(file) == 0);
}

int main(int argc, char **argv) {
    MUST(argc == 2 && place_make() && mkdir(place_path("run"), 0700) == 0);
    write_seed(argv[1], "one", SEALED, 1);
    write_seed(argv[1], "two", SEALED | NAMED, 2);
    write_seed(argv[1], "three_stream", SEALED | NAMED | STREAM | READ, 3);
    write_seed(argv[1], "unsealed", NAMED, 4);
    return 0;
}
#endif
