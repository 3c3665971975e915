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

#define NOTE(slot)                                             \
    do {                                                       \
        const salf_status noted_ = note_copy(slot, -1, -1, 0); \
        if (noted_ != SALF_OK) return noted_;                  \
    } while (0)

/* ---- capture ---- */

typedef struct {
    const char *slot;
    salf_tensor states;
    const slf_norm *norm;
    const void *a, *b, *c;
    void *to;
    int64_t n;
    int32_t flag;
} captured_call;

static captured_call captured[RECORDING_MOST];
static void *live_state;

static int capture(const captured_call *call) {
    if (!record.capturing || record.n_captured == RECORDING_MOST) return 0;
    captured[record.n_captured++] = *call;
    return 1;
}

static void replay(void) {
    for (int32_t k = 0; k < record.n_captured; k++) {
        const captured_call *call = &captured[k];
        if (strcmp(call->slot, "cosine") == 0)
            real->cosine(live_state, &call->states, call->norm, call->a, call->b, call->c, call->flag, call->to,
                         call->n);
        else if (strcmp(call->slot, "copy") == 0)
            memcpy(call->to, call->a, (size_t)call->n);
    }
}

/* ---- life and memory ---- */

static salf_status fake_open(void **state, const slf_services *services) {
    fail = services->fail;
    NOTE("open");
    const salf_status status = real->open(state, services);
    live_state = *state;
    return status;
}

static const char *fake_kernels(const void *state) {
    (void)state;
    return "paper";
}

static salf_status fake_alloc(void *state, uint64_t bytes, void **memory) {
    (void)state;
    NOTE("alloc");
    *memory = device_alloc(bytes);
    if (!*memory) return fail(SALF_E_NO_MEMORY, "no paper left");
    record.alive++;
    return SALF_OK;
}

static void fake_free(void *state, void *memory) {
    (void)state;
    (void)note_copy("free", -1, -1, 0);
    expect_device(memory);
    if (memory) record.alive--;
    device_free(memory);
}

static salf_status fake_host_alloc(void *state, uint64_t bytes, void **memory) {
    (void)state;
    NOTE("host_alloc");
    *memory = malloc((size_t)bytes + 1);
    if (!*memory) return fail(SALF_E_NO_MEMORY, "no paper left");
    record.alive++;
    return SALF_OK;
}

static void fake_host_free(void *state, void *memory) {
    (void)state;
    (void)note_copy("host_free", -1, -1, 0);
    expect(memory, SALF_MEMORY_HOST);
    if (memory) record.alive--;
    free(memory);
}

static salf_status fake_copy(void *state, void *to, int32_t to_memory, const void *from, int32_t from_memory,
                             uint64_t bytes) {
    const salf_status status = note_copy("copy", to_memory, from_memory, bytes);
    if (status != SALF_OK) return status;
    expect(to, to_memory);
    expect(from, from_memory);
    if (capture(&(captured_call){.slot = "copy", .a = from, .to = to, .n = (int64_t)bytes})) return SALF_OK;
    return real->copy(state, to, to_memory, from, from_memory, bytes);
}

static salf_status fake_zero(void *state, void *memory, uint64_t bytes) {
    NOTE("zero");
    expect_device(memory);
    return real->zero(state, memory, bytes);
}

static salf_status fake_fill(void *state, double *memory, int64_t count, double value) {
    NOTE("fill");
    expect_device(memory);
    return real->fill(state, memory, count, value);
}

static salf_status fake_sync(void *state) {
    NOTE("sync");
    return real->sync(state);
}

static salf_status fake_event_create(void *state, void **event) {
    (void)state;
    NOTE("event_create");
    *event = malloc(1);
    if (!*event) return fail(SALF_E_NO_MEMORY, "no paper left");
    record.alive++;
    return SALF_OK;
}

static void fake_event_destroy(void *state, void *event) {
    (void)state;
    (void)note_copy("event_destroy", -1, -1, 0);
    if (event) record.alive--;
    free(event);
}

static salf_status fake_event_record(void *state, void *event) {
    (void)state;
    NOTE("event_record");
    (void)capture(&(captured_call){.slot = "event_record", .a = event});
    return SALF_OK;
}

static salf_status fake_event_wait(void *state, void *event) {
    (void)state, (void)event;
    NOTE("event_wait");
    return SALF_OK;
}

static salf_status fake_event_poll(void *state, void *event, int32_t *ready) {
    (void)state, (void)event;
    NOTE("event_poll");
    *ready = record.not_ready <= 0;
    record.not_ready--;
    return SALF_OK;
}

/* ---- basis ---- */

static salf_status fake_scan(void *state, const salf_tensor *rows, int64_t first_row, uint64_t *hash,
                             int64_t *bad_row) {
    NOTE("scan");
    expect_view(rows);
    return real->scan(state, rows, first_row, hash, bad_row);
}

static salf_status fake_gram(void *state, const salf_tensor *rows, double *gram) {
    NOTE("gram");
    expect_view(rows);
    expect_device(gram);
    return real->gram(state, rows, gram);
}

static salf_status fake_factor(void *state, int64_t dim, double *gram, const slf_factor_request *request,
                               slf_factor_result *result) {
    NOTE("factor");
    expect_device(gram);
    return real->factor(state, dim, gram, request, result);
}

static salf_status fake_apply(void *state, const double *p, const salf_tensor *rows, double *out) {
    NOTE("apply");
    expect_device(p);
    expect_view(rows);
    expect_device(out);
    return real->apply(state, p, rows, out);
}

static salf_status fake_apply_norms(void *state, const double *p, const salf_tensor *rows, double *norms) {
    NOTE("apply_norms");
    expect_device(p);
    expect_view(rows);
    expect_device(norms);
    return real->apply_norms(state, p, rows, norms);
}

static salf_status fake_narrow(void *state, const double *b, int64_t rows, int64_t dim, const double *w_norms,
                               double noise, float *out, double *norms) {
    NOTE("narrow");
    expect_device(b), expect_device(w_norms), expect_device(out), expect_device(norms);
    return real->narrow(state, b, rows, dim, w_norms, noise, out, norms);
}

/* ---- probe ---- */

static salf_status fake_cosine(void *state, const salf_tensor *states, const slf_norm *norm, const float *basis,
                               const double *norms, const int32_t *which, int32_t similarity, double *out,
                               int64_t out_stride) {
    NOTE("cosine");
    expect_view(states);
    if (norm) expect_device(norm->weight), expect_device(norm->bias);
    expect_device(basis), expect_device(norms), expect_device(which), expect_device(out);
    if (capture(&(captured_call){"cosine", *states, norm, basis, norms, which, out, out_stride, similarity}))
        return SALF_OK;
    return real->cosine(state, states, norm, basis, norms, which, similarity, out, out_stride);
}

static salf_status fake_normalise(void *state, const salf_tensor *states, const slf_norm *norm, int32_t unit,
                                  double *out) {
    NOTE("normalise");
    expect_view(states);
    expect_device(out);
    return real->normalise(state, states, norm, unit, out);
}

static salf_status fake_judge(void *state, const double *z, int64_t rows, int64_t dim, double most, int32_t *wide) {
    NOTE("judge");
    expect_device(z), expect_device(wide);
    return real->judge(state, z, rows, dim, most, wide);
}

static salf_status fake_logit_targets(void *state, const double *z, int64_t rows, const salf_tensor *w,
                                      const int32_t *which, const float *bias, const slf_score_rule *rule,
                                      double *target) {
    NOTE("logit_targets");
    expect_device(z), expect_device(w->data), expect_device(which), expect_device(bias), expect_device(target);
    return real->logit_targets(state, z, rows, w, which, bias, rule, target);
}

static void expect_sums(const slf_score_sums *sums) {
    expect_device(sums->sum), expect_device(sums->maximum), expect_device(sums->count);
    expect_device(sums->weighted), expect_device(sums->vector);
}

static salf_status fake_score(void *state, const slf_query *query, const salf_tensor *block, int64_t first,
                              const int32_t *ids, const double *inverse_norm, const float *bias,
                              const slf_score_rule *rule, const slf_score_sums *sums) {
    NOTE("score");
    expect_view(block);
    expect_device(query->z), expect_device(query->label), expect_device(query->target), expect_device(query->wide);
    expect_device(ids), expect_device(inverse_norm), expect_device(bias);
    expect_sums(sums);
    return real->score(state, query, block, first, ids, inverse_norm, bias, rule, sums);
}

/* ---- losses ---- */

static salf_status fake_cosine_loss(void *state, const salf_tensor *states, const float *basis, const double *norms,
                                    const int32_t *which, double scale, float *loss, const salf_tensor *gradient) {
    NOTE("cosine_loss");
    expect_view(states), expect_view(gradient);
    expect_device(basis), expect_device(norms), expect_device(which), expect_device(loss);
    return real->cosine_loss(state, states, basis, norms, which, scale, loss, gradient);
}

static salf_status fake_score_loss(void *state, const salf_tensor *states, const slf_query *query,
                                   const slf_score_rule *rule, const slf_score_sums *sums, const double *p,
                                   const float *basis, const double *norms, const int32_t *which, double scale,
                                   float *loss, const salf_tensor *gradient) {
    NOTE("score_loss");
    expect_view(states), expect_view(gradient);
    expect_sums(sums);
    expect_device(p), expect_device(basis), expect_device(norms), expect_device(which), expect_device(loss);
    return real->score_loss(state, states, query, rule, sums, p, basis, norms, which, scale, loss, gradient);
}

recording *recording_plugin_state(void) {
    record.replay = replay;
    record.alloc = device_alloc;
    record.free = device_free;
    return &record;
}

const slf_backend *salf_backend_plugin(uint32_t abi_version) {
    static slf_backend table;
    if (abi_version != SLF_BACKEND_ABI) return NULL;
    table = (slf_backend){.abi_version = SLF_BACKEND_ABI,
                          .size = sizeof table,
                          .id = SALF_BACKEND_CUDA,
                          .capabilities = SLF_CAN_DEVICE,
                          .name = "cuda",
                          .open = fake_open,
                          .close = real->close,
                          .kernels = fake_kernels,
                          .alloc = fake_alloc,
                          .free = fake_free,
                          .host_alloc = fake_host_alloc,
                          .host_free = fake_host_free,
                          .copy = fake_copy,
                          .zero = fake_zero,
                          .fill = fake_fill,
                          .sync = fake_sync,
                          .event_create = fake_event_create,
                          .event_destroy = fake_event_destroy,
                          .event_record = fake_event_record,
                          .event_wait = fake_event_wait,
                          .event_poll = fake_event_poll,
                          .scan = fake_scan,
                          .gram = fake_gram,
                          .factor = fake_factor,
                          .apply = fake_apply,
                          .apply_norms = fake_apply_norms,
                          .narrow = fake_narrow,
                          .cosine = fake_cosine,
                          .normalise = fake_normalise,
                          .judge = fake_judge,
                          .logit_targets = fake_logit_targets,
                          .score = fake_score,
                          .cosine_loss = fake_cosine_loss,
                          .score_loss = fake_score_loss};
    return &table;
}
