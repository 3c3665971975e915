/*
 * fuzz_resume.c - any bytes over what `salf finetune` keeps of a run: with --resume it refuses them with a message and
 * leaves the file as it was, or trains on to the end. Policy and planner in it are those of fuzz_state.c.
 *
 * Runs of some methods are stopped in their middle once; an input changes the file that one of them has left. Its first
 * byte chooses the run, the second says how many bytes of the file's header it replaces (two bytes each say which, the
 * third is the new one); the rest is laid over the tensors' data by exclusive or, so that zeros change nothing. The
 * file's hash is put right. Compiled with -DWRITE_SEEDS it writes seeds instead: fuzz_resume FOLDER.
 */
#include <sys/wait.h>

#include "commands.h"
#include "place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int fuzz_mutations = 40;

static const char *const methods[] = {"lift*[half],lora[half]", "salf[half][stream]", "autofreeze", "salf[half]",
                                      "lisa"};
enum { METHODS = sizeof methods / sizeof *methods, MOST = 1 << 16 };

/* What a stopped run has left, and where the parts of its file begin. */
static struct kept {
    uint8_t *file, *log;
    size_t n, n_log, data;
    int odd;
} kept[METHODS];

/* 16 pieces, as many as the model's vocabulary; texts and labels of them. */
static void write_data(void) {
    static const char *const pieces[PLACE_V] = {"<unk>", "<s>", "</s>", " ", "a",  "b",  "ab", " a",
                                                " ab",   "c",   " c",   "d", " d", " b", "ac", "bd"};
    static const struct {
        const char *name, *text;
    } files[] = {
        {"labels.txt", "x\ny\nz\n"},
        {"words.txt", "x\ta\ny\tc\nz\td\n"},
        {"template.txt", "{text}\n"},
        {"train.tsv", "x\tab a\ny\tc d\nz\td b\nx\ta\ny\tac c\nz\tbd d\nx\tab\ny\tc\nz\td\nx\ta b\ny\td c\nz\tb d\n"},
        {"test.tsv", "x\ta b\nz\td\n"}};
    uint8_t bytes[512] = {5}, *at = bytes + 4;
    for (uint32_t i = 0; i < PLACE_V; i++) {
        const float score = -(float)i;
        const uint32_t length = (uint32_t)strlen(pieces[i]);
        memcpy(at, &score, 4), memcpy(at + 4, &length, 4), memcpy(at + 8, pieces[i], length);
        at += 8 + length;
    }
    place_write("tokenizer.bin", bytes, (size_t)(at - bytes));
    MUST(mkdir(place_path("data"), 0700) == 0 && mkdir(place_path("run"), 0700) == 0);
    for (int i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof name, "data/%s", files[i].name);
        place_write(name, files[i].text, strlen(files[i].text));
    }
}

static int train(int method, const char *more, const char *value) {
    const char *const words[] = {"finetune",
                                 "--model",
                                 place_path("model"),
                                 "--tokenizer",
                                 place_path("tokenizer.bin"),
                                 "--data",
                                 place_path("data"),
                                 "--method",
                                 methods[method],
                                 "--log",
                                 place_path("log"),
                                 "--checkpoint",
                                 place_path("run"),
                                 "--checkpoint-every",
                                 value ? "1" : "100",
                                 "--batch",
                                 "2",
                                 "--rank",
                                 "1",
                                 "--threads",
                                 "1",
                                 "--backend",
                                 "cpu",
                                 "--quiet",
                                 more,
                                 value,
                                 NULL};
    return place_run(cmd_finetune, words);
}

static uint8_t *read_whole(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(MOST);
    MUST(file && bytes);
    *n = fread(bytes, 1, MOST, file);
    MUST(*n > 0 && *n < MOST && fclose(file) == 0);
    return bytes;
}

/* A run that ends as if killed, behind an odd number of updates; what it leaves. */
static void stop_run(int method) {
    struct kept *k = &kept[method];
    int status;
    const pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        train(method, "--stop-after", method == 0 ? "4" : "3");
        _exit(1); /* it has not stopped */
    }
    MUST(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 137);
    salf_context *context;
    salf_tensors *tensors[2];
    int64_t saves[2];
    MUST(salf_context_create(&context, NULL) == SALF_OK);
    for (int i = 0; i < 2; i++) {
        const char *path = place_path(i ? "run/checkpoint-1.safetensors" : "run/checkpoint-0.safetensors");
        MUST(salf_tensors_open(&tensors[i], context, path) == SALF_OK);
        saves[i] = atoll(salf_tensors_metadata(tensors[i], "salf.saves"));
        salf_tensors_destroy(tensors[i]);
    }
    salf_context_destroy(context);
    k->odd = saves[1] > saves[0];
    k->file = read_whole(place_path(k->odd ? "run/checkpoint-1.safetensors" : "run/checkpoint-0.safetensors"), &k->n);
    k->log = read_whole(place_path("log"), &k->n_log);
    k->data = 8 + ((size_t)k->file[0] | (size_t)k->file[1] << 8);
    MUST(k->data + 8 < k->n);
    place_clear(place_path("run"));
    unlink(place_path("log"));
}

static void prepare(void) {
    if (!place_make()) return;
    place_model(3);
    write_data();
    for (int i = 0; i < METHODS; i++) stop_run(i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t file[MOST];
    prepare();
    if (size < 2) return 0;
    const int method = data[0] % METHODS;
    const struct kept *k = &kept[method];
    /* 1. the file of the run, changed */
    memcpy(file, k->file, k->n);
    const uint8_t *at = data + 2, *end = data + size;
    for (int i = data[1] % 5; i > 0 && end - at >= 3; i--, at += 3)
        file[8 + ((size_t)at[0] | (size_t)at[1] << 8) % (k->data - 8)] = at[2];
    for (size_t i = k->data; i < k->n - 8 && at < end; i++) file[i] ^= *at++;
    const uint64_t seal = salf_hash(0, file, k->n - 8);
    memcpy(file + k->n - 8, &seal, 8);
    /* 2. the folder as a run that was killed leaves it, but for the other generation */
    char name[64];
    snprintf(name, sizeof name, "run/checkpoint-%d.safetensors", k->odd);
    place_clear(place_path("run"));
    place_write(name, file, k->n);
    place_write("log", k->log, k->n_log);
    /* 3. the run goes on, or is refused */
    if (train(method, "--resume", NULL) != 0) {
        size_t n;
        uint8_t *now = read_whole(place_path(name), &n);
        MUST(n == k->n && !memcmp(now, file, n));
        free(now);
    } else if (size == 2) { /* nothing was changed, and nothing is lost */
        size_t n;
        free(read_whole(place_path("log"), &n));
        MUST(n > k->n_log);
    }
    return 0;
}

#ifdef WRITE_SEEDS
/* Each run as it is; a byte of its first numbers turned over; a letter of its header replaced. */
int main(int argc, char **argv) {
    MUST(argc == 2);
    for (int method = 0; method < METHODS; method++)
        for (int kind = 0; kind < 3; kind++) {
            char path[4096];
            uint8_t bytes[512] = {(uint8_t)method, kind == 2, 90, 0, '7'};
            const size_t n = kind == 0 ? 2 : kind == 1 ? 400 : 5;
            for (size_t i = 2; kind == 1 && i < n; i += 9 + (size_t)method) bytes[i] = 0x40;
            snprintf(path, sizeof path, "%s/%s_%d", argv[1],
                     kind == 0   ? "as_it_is"
                     : kind == 1 ? "numbers"
                                 : "header",
                     method);
            FILE *file = fopen(path, "wb");
            MUST(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
        }
    return 0;
}
#endif
