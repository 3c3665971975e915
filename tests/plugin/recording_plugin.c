/*
 * recording_plugin.c - a backend plugin that computes as the reference backend does, calls its memory a device's, and
 * notes down what it is asked: which slots in which order, what is copied where, and whether every pointer lies where
 * the table says. The call that the test names fails. See recording.h.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "recording.h"

__attribute__((visibility("default"))) const slf_backend *salf_backend_plugin(uint32_t abi_version);
__attribute__((visibility("default"))) recording *recording_plugin_state(void);

static recording record = {.fail_at = -1};
static const slf_backend *const real = &slf_backend_reference;
static salf_status (*fail)(salf_status status, const char *format, ...);

/* ---- "device" memory: blocks that are known ---- */

enum { MOST_BLOCKS = 1024 };
static struct {
    char *begin;
    uint64_t bytes;
} blocks[MOST_BLOCKS];

static void *device_alloc(uint64_t bytes) {
    for (int k = 0; k < MOST_BLOCKS; k++) {
        if (blocks[k].begin) continue;
        blocks[k].begin = malloc((size_t)bytes + 1);
        blocks[k].bytes = bytes + 1;
        if (blocks[k].begin) memset(blocks[k].begin, 0xA5, (size_t)bytes);
        return blocks[k].begin;
    }
    return NULL;
}

static int on_device(const void *pointer) {
    for (int k = 0; k < MOST_BLOCKS; k++)
        if (blocks[k].begin && (const char *)pointer >= blocks[k].begin &&
            (const char *)pointer < blocks[k].begin + blocks[k].bytes)
            return 1;
    return 0;
}

static void device_free(void *memory) {
    for (int k = 0; k < MOST_BLOCKS; k++)
        if (memory && blocks[k].begin == (char *)memory) {
            free(memory);
            blocks[k].begin = NULL;
        }
}

/* Where a pointer is expected; NULL lies anywhere. */
static void expect(const void *pointer, int32_t memory) {
    if (pointer && on_device(pointer) != (memory == SALF_MEMORY_DEVICE)) record.misplaced++;
}

static void expect_device(const void *pointer) {
    expect(pointer, SALF_MEMORY_DEVICE);
}

static void expect_view(const salf_tensor *view) {
    if (!view || view->rows == 0) return;
    expect(view->data, view->memory);
    expect(view->row_index, view->index_memory);
}

/* Notes a call; an error when it is the one to fail. */
static salf_status note_copy(const char *slot, int32_t to, int32_t from, uint64_t bytes) {
    const int64_t at = record.n_calls++;
    if (at < RECORDING_MOST) record.calls[at] = (recorded_call){slot, to, from, bytes};
    return at == record.fail_at ? fail(SALF_E_DEVICE, "%s: the device is of paper", slot) : SALF_OK;
}

static salf_status note(const char *slot) {
    return note_copy(slot, -1, -1, 0);
}

#define NOTE(slot)                             \
    do {                                       \
        const salf_status noted_ = note(slot); \
        if (noted_ != SALF_OK) return noted_;  \
    } while (0)

/* ---- capture: of a batch of cosines ---- */

typedef struct {
    slf_cosine_job cosine; /* without states: a copy, or a mark */
    salf_tensor states;
    const void *from;
    void *to;
    uint64_t bytes;
} captured_call;

static captured_call captured[RECORDING_MOST];
static void *live;

static int capture(const captured_call *call) {
    if (!record.capturing || record.n_captured == RECORDING_MOST) return 0;
    captured[record.n_captured++] = *call;
    return 1;
}

static void replay(void) {
    for (int32_t k = 0; k < record.n_captured; k++) {
        captured_call *call = &captured[k];
        if (call->cosine.states) {
            call->cosine.states = &call->states;
            real->cosine(live, &call->cosine);
        } else if (call->bytes > 0) {
            memcpy(call->to, call->from, (size_t)call->bytes);
        }
    }
}

/* ---- life and memory ---- */

static salf_status paper_open(void **self, const slf_services *services, const char **kernels) {
    fail = services->fail;
    NOTE("open");
    const salf_status status = real->open(self, services, kernels);
    live = *self;
    *kernels = "paper";
    return status;
}

static salf_status paper_alloc(void *self, int32_t kind, uint64_t bytes, void **memory) {
    (void)self;
    NOTE("alloc");
    *memory = kind == SLF_MEMORY_PINNED ? malloc((size_t)bytes + 1) : device_alloc(bytes);
    if (!*memory) return fail(SALF_E_NO_MEMORY, "no paper left");
    record.alive++;
    return SALF_OK;
}

static void paper_free(void *self, int32_t kind, void *memory) {
    (void)self;
    (void)note("free");
    expect(memory, kind == SLF_MEMORY_BACKEND ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST);
    if (memory) record.alive--;
    if (kind == SLF_MEMORY_BACKEND)
        device_free(memory);
    else
        free(memory);
}

static salf_status paper_copy(void *self, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                              uint64_t bytes) {
    const salf_status status = note_copy("copy", to_memory, from_memory, bytes);
    if (status != SALF_OK) return status;
    expect(to, to_memory);
    expect(from, from_memory);
    if (capture(&(captured_call){.from = from, .to = to, .bytes = bytes})) return SALF_OK;
    return real->copy(self, to, to_memory, from, from_memory, bytes);
}

static salf_status paper_fill(void *self, void *memory, int64_t count, double value) {
    NOTE("fill");
    expect_device(memory);
    return real->fill(self, memory, count, value);
}

static salf_status paper_sync(void *self) {
    NOTE("sync");
    return real->sync(self);
}

static salf_status paper_mark(void *self, void **event) {
    (void)self;
    NOTE(*event ? "mark" : "first_mark");
    if (!*event) {
        *event = malloc(1);
        if (!*event) return fail(SALF_E_NO_MEMORY, "no paper left");
        record.alive++;
    }
    (void)capture(&(captured_call){.to = *event});
    return SALF_OK;
}

static salf_status paper_wait(void *self, void *event, int32_t *ready) {
    (void)self, (void)event;
    NOTE(ready ? "poll" : "wait");
    if (ready) *ready = record.not_ready-- <= 0;
    return SALF_OK;
}

/* ---- jobs: whether their pointers are where the table says ---- */

static void expect_scan(const slf_scan_job *job) {
    expect_view(job->rows);
    expect_device(job->gram);
    expect(job->hash, SALF_MEMORY_HOST), expect(job->bad_row, SALF_MEMORY_HOST);
}

static void expect_matvec(const slf_matvec_job *job) {
    expect_device(job->a), expect_device(job->x), expect_device(job->y);
}

static void expect_potrf(const slf_potrf_job *job) {
    expect_device(job->a), expect_device(job->factor);
    expect(job->exists, SALF_MEMORY_HOST);
}

static void expect_potri(const slf_potri_job *job) {
    expect_device(job->factor), expect_device(job->inverse);
    expect(job->exists, SALF_MEMORY_HOST);
}

static void expect_syevd(const slf_syevd_job *job) {
    expect_device(job->a), expect_device(job->lambda);
}

static void expect_syrk(const slf_syrk_job *job) {
    expect_device(job->vectors), expect_device(job->weights), expect_device(job->out);
}

static void expect_apply(const slf_apply_job *job) {
    expect_view(job->rows);
    expect_device(job->p), expect_device(job->out), expect_device(job->norms), expect_device(job->rounded);
}

static void expect_norm(const slf_norm *norm) {
    if (norm) expect_device(norm->weight), expect_device(norm->bias);
}

static void expect_query(const slf_query_job *job) {
    expect_view(job->states);
    expect_norm(job->norm);
    expect_device(job->p), expect_device(job->z), expect_device(job->needs_f64);
}

static void expect_own(const slf_own_rows *own) {
    expect_device(own->rows), expect_device(own->norms), expect_device(own->row_of);
}

static void expect_losses(const slf_loss_out *losses) {
    expect_device(losses->loss);
    expect_view(losses->gradient);
}

static void expect_cosine(const slf_cosine_job *job) {
    expect_view(job->states);
    expect_norm(job->norm);
    expect_own(&job->own);
    expect_device(job->out);
    expect_losses(&job->losses);
}

static void expect_target(const slf_target_job *job) {
    expect_device(job->z), expect_device(job->w->data), expect_device(job->row_of), expect_device(job->place);
    expect_device(job->inverse_norms), expect_device(job->bias);
    expect_device(job->target), expect_device(job->reach), expect_device(job->needs_f64);
}

static void expect_sums(const slf_score_sums *sums) {
    expect_device(sums->sum), expect_device(sums->maximum), expect_device(sums->count);
    expect_device(sums->weighted), expect_device(sums->vector);
}

static void expect_score(const slf_score_job *job) {
    const slf_query *query = job->query;
    expect_view(job->block);
    expect_device(query->z), expect_device(query->target), expect_device(query->needs_f64);
    expect_device(query->reach), expect_device(query->own_of), expect_device(query->own->data);
    expect_device(job->inverse_norms), expect_device(job->bias);
    expect_sums(job->sums);
}

static void expect_score_loss(const slf_score_loss_job *job) {
    expect_view(job->states);
    expect_sums(job->sums);
    expect_device(job->p);
    expect_own(&job->own);
    expect_losses(&job->losses);
}

/* What a captured job is kept as; the others are run whether something is captured or not. */
static int keep_cosine(const slf_cosine_job *job) {
    return capture(&(captured_call){.cosine = *job, .states = *job->states});
}
#define KEEP(slot, job) (strcmp(#slot, "cosine") == 0 && keep_cosine((const void *)(job)))

#define PAPER(prefix, slot)                                                    \
    static salf_status paper_##slot(void *self, const slf_##slot##_job *job) { \
        NOTE(#slot);                                                           \
        expect_##slot(job);                                                    \
        return KEEP(slot, job) ? SALF_OK : real->slot(self, job);              \
    }
SLF_JOB_SLOTS(PAPER, )

static void paper_close(void *self) {
    real->close(self);
}

recording *recording_plugin_state(void) {
    record.replay = replay;
    record.alloc = device_alloc;
    record.free = device_free;
    return &record;
}

const slf_backend *salf_backend_plugin(uint32_t abi_version) {
    static const slf_backend table = {SLF_BACKEND_ABI, sizeof table, SALF_BACKEND_CUDA,
                                      SLF_CAN_DEVICE,  "cuda",       SLF_ROWS(paper_)};
    return abi_version == SLF_BACKEND_ABI ? &table : NULL;
}
