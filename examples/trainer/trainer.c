/*
 * trainer.c - fine-tunes a Llama model on a classification task, with libsalf saying where each backward may stop.
 *
 *     build/examples/trainer --method salf
 *
 * Read this file first: `train` is the loop, and the lines that salf adds to it are marked "salf 1" to "salf 10". The
 * other files are what any trainer has. What is computed, with all defaults, is what `salf finetune` computes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "trainer.h"

typedef struct options {
    const char *model, *tokenizer, *data, *method, *checkpoint;
    int64_t batch, epochs, limit_train, limit_test, rank, seed;
    double rate, alpha, clip, warmup;
} options;

enum { PARTS = 7 };

/* One run. Counters are of data, not of steps, for methods differ in how many data they train at a time. */
typedef struct run {
    const options *o;
    llama llama;
    adamw optimizer;
    dataset data;
    batch batch;
    salf_method method;
    salf_probe *probe;
    salf_planner *planner; /* NULL without a budget */
    salf_policy *policy;
    salf_observation seen;  /* what the policy may look at */
    salf_decision decision; /* the last; its arrays are the policy's */
    int64_t total;          /* data of the run: epochs * training data */
    uint32_t *order;        /* [total] which prompt each of them is */
    uint32_t *ids, *rows;   /* [total] 0, 1, 2, ...; [batch] prompts of the task */
    int32_t *cuts;          /* [batch] lowest layer that each row's backward reaches; m: none */
    uint8_t *accepted;      /* [batch] rows of a PROBE task that the planner takes */
    float *losses;          /* [batch] */
    double *norms;          /* [3][m] L1 norms of turn, L2 norms of gradients and of parameters, of the last update */
    float *turn;            /* [m][adapters] gradients summed over a turn of AUTOFREEZE */
    union {
        struct {
            int64_t tasks, updates; /* so far */
            int64_t taken, trained; /* data handed out, data trained */
            int64_t turned;         /* 1: the last update ended a turn, and norms has its sums */
        };
        int64_t counts[5];
    };
    int64_t pending;    /* trained rows that wait for their update */
    double *reach;      /* [m] of the pending rows, the sum of rate_scale over those that train the layer */
    double loss, depth; /* sums over the pending rows, of losses and of cuts / m */
    double forward_s, probe_s, backward_s;
    salf_checkpoint *checkpoint; /* NULL: the run is not kept */
    salf_named_tensor parts[PARTS];
    salf_checkpoint_content state; /* what is kept of it, where it lies */
    memory *memory;
} run;

/* Seconds since *clock, which moves to now. */
static double lap(double *clock) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    const double before = *clock;
    *clock = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    return *clock - before;
}

/* ---- which data come next ---- */

/* The planner's next task, of what the batch at hand lacks; without a planner simply the next data. */
static salf_task next_task(run *r) {
    salf_task task = {.kind = SALF_TASK_TRAIN, .layer = -1, .data = r->ids + r->taken};
    if (r->planner) {
        check(salf_planner_next(r->planner, r->o->batch - r->pending, &task), "planner");
    } else {
        task.n_data = r->total - r->taken < r->o->batch ? r->total - r->taken : r->o->batch;
        if (task.n_data == 0) task.kind = SALF_TASK_DONE;
    }
    return task;
}

/* ---- update ---- */

/* Rate for the rows at hand: it rises over the first share of the run, and falls in a line from there to 0. */
static double learning_rate(const run *r) {
    const double share = ((double)r->trained - 0.5 * (double)r->pending) / (double)r->total, warmup = r->o->warmup;
    if (share < warmup) return r->o->rate * share / warmup;
    return warmup < 1 ? r->o->rate * (1 - share) / (1 - warmup) : 0;
}

/* What RGN looks at, norms of each layer's gradients and parameters, and AUTOFREEZE, when the decision has asked for
 * it: norms of the gradients summed over a turn. */
static void note_norms(run *r) {
    const int64_t m = r->llama.n_layers, n = r->llama.n_adapters;
    double *l1 = r->norms, *l2 = l1 + m, *parameters = l2 + m;
    for (int64_t k = 0; k < m; k++) {
        const layer *y = &r->llama.layers[k];
        l2[k] = sqrt((double)dot(n, y->gradients, y->gradients));
        parameters[k] = sqrt((double)dot(n, y->adapters, y->adapters));
    }
    if (r->method.policy != SALF_POLICY_AUTOFREEZE) return;
    memset(l1, 0, (size_t)m * sizeof *l1);
    for (int64_t i = 0; i < m * n; i++) {
        r->turn[i] += r->llama.layers[i / n].gradients[i % n];
        l1[i / n] += (double)fabsf(r->turn[i]);
    }
    r->turned = r->decision.gradients_wanted;
    if (r->turned) memset(r->turn, 0, (size_t)(m * n) * sizeof *r->turn);
}

/* Makes the gradients the mean over the pending rows, and steps the layers that some of them train; the others do not
 * move. A layer moves by the share of the rows that reached it: AdamW, which divides by the gradient's size, would
 * otherwise take as long a step from one row's gradient as from all. (Where every update has one decision, its
 * rate_scale says this already; here rows of several may add up, so that the policy is told to leave rates alone.) */
static void update(run *r) {
    const salf_decision *d = &r->decision;
    const double rate = learning_rate(r);
    scale_gradients(&r->llama, 1 / (double)r->pending, 0);
    note_norms(r); /* of the gradients as they are, not as they are clipped */
    scale_gradients(&r->llama, 1, r->o->clip);
    for (int32_t i = 0; i < d->n_reset; i++) adamw_reset(&r->optimizer, &r->llama, d->reset[i]);
    for (int32_t k = 0; k < r->llama.n_layers; k++) {
        const double share = r->reach[k] / (double)r->pending;
        if (share > 0) adamw_step(&r->optimizer, &r->llama, k, rate * share);
        memset(r->llama.layers[k].gradients, 0, (size_t)r->llama.n_adapters * sizeof(float));
    }
    printf("step %4lld  data %6lld  loss %.7f  cut %d  saving %.6f\n", (long long)r->updates++, (long long)r->trained,
           r->loss / (double)r->pending, (int)d->cut, r->depth / (double)r->pending);
    r->pending = 0;
    r->loss = r->depth = 0;
    memset(r->reach, 0, (size_t)r->llama.n_layers * sizeof *r->reach);
}

/* ---- one batch: forward, probe, decision, backward ---- */

static void train_on(run *r, const salf_task *task) {
    const int32_t m = r->llama.n_layers;
    const int by_trace = r->method.policy == SALF_POLICY_SALF, probing = by_trace || task->kind == SALF_TASK_PROBE;
    const int64_t rows = task->n_data;
    int64_t n_train = 0;
    double clock = 0;

    /* 1. forward; it leaves all latent spaces in r->llama.spaces */
    for (int64_t i = 0; i < rows; i++) r->rows[i] = r->order[task->data[i]];
    batch_gather(&r->batch, &r->data.train, r->rows, rows);
    lap(&clock);
    llama_forward(&r->llama, &r->batch);
    r->forward_s += lap(&clock);

    /* 2. probe: at which layer does each prompt's last state come closest to the right next token's basis? */
    salf_trace trace;
    if (probing) {
        salf_tensor view = {.row_index = r->batch.last, .rows = rows, .cols = r->llama.hidden, .dtype = SALF_F32};
        check(salf_probe_begin(r->probe, r->batch.labels, rows), "probe"); /* salf 6 */
        for (int32_t space = 0; space <= m; space++) {
            view.data = llama_space(&r->llama, space);
            check(salf_probe_observe(r->probe, space, &view, SALF_STATE_RAW), "probe"); /* salf 7 */
        }
        check(salf_probe_end(r->probe, &trace), "probe"); /* salf 8 */
    }

    /* 3. decision. A stream trains every row, each with its cut: a random one, which was known before the forward (a
     * trainer with less memory would have kept nothing of the row below it), or one that the probe now finds. A PROBE
     * task of a plan asks which rows belong to its layer: those that it accepts train at once, the others wait. */
    const int streams = r->method.matching == SALF_MATCH_STREAM;
    salf_task cut = *task;
    memset(r->accepted, 1, (size_t)rows);
    if (task->kind == SALF_TASK_PROBE && streams)
        check(salf_planner_assign(r->planner, &trace, r->batch.labels, &cut), "planner");
    else if (task->kind == SALF_TASK_PROBE)
        check(salf_planner_report(r->planner, trace.eof, rows, r->accepted), "planner");
    for (int64_t i = 0; i < rows; i++) n_train += r->accepted[i];
    if (n_train > 0) {
        r->seen.step = r->tasks;
        r->seen.trace = by_trace ? &trace : NULL;
        r->seen.gradient_l1 = r->turned ? r->norms : NULL;
        r->seen.gradient_norm = r->updates ? r->norms + m : NULL;
        r->seen.parameter_norm = r->updates ? r->norms + 2 * m : NULL;
        check(salf_policy_decide(r->policy, &r->seen, &r->decision), "policy"); /* salf 9 */
    }
    for (int64_t i = 0; i < rows; i++)
        r->cuts[i] = !r->accepted[i] ? m : by_trace || streams ? r->decision.eof[i] : r->decision.cut;
    r->probe_s += lap(&clock);

    /* 4. loss, and the backward of each row, no further down than its cut. A host that runs a layer's backward on many
     * rows at once sorts them by decision.order and gives layer k the first decision.active_rows[k]: the same rows. */
    if (n_train > 0) {
        llama_losses(&r->llama, &r->batch, r->losses);
        llama_backward(&r->llama, &r->batch, r->cuts, r->decision.trainable); /* salf 10 */
    }
    r->backward_s += lap(&clock);

    /* 5. accounts */
    for (int64_t i = 0; i < rows; i++) {
        r->loss += r->accepted[i] ? (double)r->losses[i] : 0;
        r->depth += r->accepted[i] ? (double)r->cuts[i] / m : 0;
        for (int32_t k = r->cuts[i]; k < m; k++)
            if (r->decision.trainable[k]) r->reach[k] += r->decision.rate_scale[k];
    }
    r->pending += n_train;
    r->trained += n_train;
    r->taken += rows;
    r->tasks++;
    if (r->planner) check(salf_planner_done(r->planner), "planner");
}

/* The loop. Gradients add up until a batch of rows has been trained, also over the end of a plan's layer: so every
 * method makes as many updates. */
static void train(run *r) {
    for (int ends = 0; !ends;) {
        const salf_task task = next_task(r);
        ends = task.kind == SALF_TASK_DONE;
        if (!ends) train_on(r, &task);
        if (r->pending == 0 || (!ends && r->pending < r->o->batch)) continue;
        update(r);
        if (r->checkpoint) check(salf_checkpoint_save(r->checkpoint, &r->state), "--checkpoint");
    }
}

/* Share of the test data whose class's word is the likeliest of the words. */
static double accuracy(run *r) {
    int64_t right = 0, n;
    for (int64_t at = 0; at < r->data.test.n; at += n) {
        n = r->data.test.n - at < r->o->batch ? r->data.test.n - at : r->o->batch;
        for (int64_t i = 0; i < n; i++) r->rows[i] = (uint32_t)(at + i);
        batch_gather(&r->batch, &r->data.test, r->rows, n);
        llama_forward(&r->llama, &r->batch);
        llama_logits(&r->llama, &r->batch);
        for (int64_t s = 0; s < n; s++) {
            const float *logits = r->llama.logits + s * r->llama.vocab;
            int32_t best = 0;
            for (int32_t c = 1; c < r->data.n_classes; c++)
                if (logits[r->data.words[c]] > logits[r->data.words[best]]) best = c;
            right += best == r->batch.classes[s];
        }
    }
    return (double)right / (double)r->data.test.n;
}

/* ---- a run that may be killed ---- */

static salf_named_tensor part(const char *name, void *data, int64_t bytes) {
    return (salf_named_tensor){.name = name, .view = {.data = data, .rows = 1, .cols = bytes, .dtype = SALF_U8}};
}

/* Opens the folder, lists what is kept there after each update, when no gradient is pending, and goes on from the last
 * save that is whole. With another model, other data or other options that is refused. */
static void open_checkpoint(run *r, salf_context *context, const salf_tensors *weights, int64_t n_tokens) {
    const options *o = r->o;
    const batch *b = &r->data.train;
    const int64_t m = r->llama.n_layers, n = m * r->llama.n_adapters;
    char text[512], config[4096];
    salf_named_tensor w;
    snprintf(text, sizeof text, "%.200s %lld %lld %lld %lld %.17g %.17g %.17g %.17g", o->method, (long long)o->batch,
             (long long)o->epochs, (long long)o->rank, (long long)o->seed, o->rate, o->alpha, o->clip, o->warmup);
    uint64_t model = (uint64_t)n_tokens, data = salf_hash(0, b->tokens, (uint64_t)b->first[b->n] * sizeof *b->tokens);
    snprintf(config, sizeof config, "%s/config.json", o->model); /* heads, eps, theta: weights may fit several */
    check(salf_hash_file(config, &model), "--model");
    for (int64_t i = 0; i < salf_tensors_count(weights); i++)
        if (salf_tensors_at(weights, i, &w) == SALF_OK && w.view.dtype <= SALF_F16) /* as llama_open takes them */
            model = salf_hash(model, w.view.data,
                              (uint64_t)(w.view.rows * w.view.cols) * (w.view.dtype == SALF_F32 ? 4 : 2));
    data = salf_hash(data, b->first, (uint64_t)(b->n + 1) * sizeof *b->first);
    data = salf_hash(data, b->labels, (uint64_t)b->n * sizeof *b->labels);
    const salf_identity made_of[] = {{"options", text, 0}, {"--model", o->model, model}, {"--data", o->data, data}};
    check(salf_checkpoint_open(&r->checkpoint, context, o->checkpoint, made_of, 3), "--checkpoint");
    const salf_named_tensor parts[PARTS] = {part("adapters", r->llama.layers[0].adapters, 4 * n),
                                            part("first", r->optimizer.first[0], 4 * n),
                                            part("second", r->optimizer.second[0], 4 * n),
                                            part("steps", r->optimizer.steps, 8 * m),
                                            part("norms", r->norms, 3 * 8 * m),
                                            part("turn", r->turn, 4 * n),
                                            part("counts", r->counts, sizeof r->counts)};
    memcpy(r->parts, parts, sizeof parts);
    r->state = (salf_checkpoint_content){sizeof r->state, .tensors = r->parts, .n_tensors = PARTS, .policy = r->policy,
                                         .planner = r->planner};
    salf_checkpoint_info info = {.struct_size = sizeof info};
    check(salf_checkpoint_get_info(r->checkpoint, &info), "--checkpoint");
    if (info.damage) fprintf(stderr, "trainer: %s\n", info.damage);
    if (info.saves > 0) check(salf_checkpoint_load(r->checkpoint, &r->state), "--checkpoint");
}

/* ---- from options to a run ---- */

static void open_run(run *r, const options *o, const salf_model *model, salf_basis *basis, salf_context *context) {
    llama_open(&r->llama, model, o->rank, o->alpha, (uint64_t)o->seed);
    llama_reserve(&r->llama, o->batch, r->data.longest);
    adamw_open(&r->optimizer, &r->llama);
    batch_open(&r->batch, &r->memory, o->batch, o->batch * r->data.longest);
    r->total = r->data.train.n * o->epochs;
    r->order = shuffled_epochs(&r->memory, r->data.train.n, o->epochs, (uint64_t)o->seed);
    r->ids = take(&r->memory, r->total, sizeof *r->ids);
    for (int64_t i = 0; i < r->total; i++) r->ids[i] = (uint32_t)i;
    r->rows = take(&r->memory, o->batch, sizeof *r->rows);
    r->cuts = take(&r->memory, o->batch, sizeof *r->cuts);
    r->accepted = take(&r->memory, o->batch, 1);
    r->losses = take(&r->memory, o->batch, sizeof *r->losses);
    r->reach = take(&r->memory, r->llama.n_layers, sizeof *r->reach);
    r->norms = take(&r->memory, 3 * r->llama.n_layers, sizeof *r->norms);
    r->turn = take(&r->memory, r->llama.n_layers * r->llama.n_adapters, sizeof *r->turn);
    salf_options_init(&r->seen, sizeof r->seen);
    salf_options_init(&r->decision, sizeof r->decision);

    salf_probe_options probe = {.struct_size = sizeof probe, .metric = r->method.metric};
    if (r->method.probes) check(salf_probe_create(&r->probe, basis, &probe), "probe"); /* salf 4: once a run */
    salf_planner_options plan = {.struct_size = sizeof plan, .seed = (uint64_t)o->seed};
    plan.growth = r->method.growth;
    plan.infill = r->method.infill;
    plan.matching = r->method.matching;
    plan.assignment = r->method.assignment;
    plan.stream_order = r->method.stream_order;
    if (r->method.policy == SALF_POLICY_BUDGET) /* a budget also has a plan, which then says what data come next */
        check(salf_planner_create(&r->planner, context, r->llama.n_layers, r->total, &plan), "planner");
    if (plan.assignment !=
        SALF_ASSIGN_RANDOM) { /* each class gets its share of every depth: by its word, and its size */
        int64_t *sizes = take(&r->memory, r->data.n_classes, sizeof *sizes), n = 0;
        int32_t *groups = take(&r->memory, r->data.n_classes, sizeof *groups);
        for (int64_t i = 0; i < r->data.train.n; i++) sizes[r->data.train.classes[i]] += o->epochs;
        for (int32_t c = 0; c < r->data.n_classes; c++) {
            groups[n] = r->data.words[c];
            sizes[n] = sizes[c];
            n += sizes[c] > 0;
        }
        check(salf_planner_set_groups(r->planner, groups, sizes, n), "planner");
    }
    salf_policy_options policy = {.struct_size = sizeof policy, .seed = (uint64_t)o->seed, .planner = r->planner};
    policy.reduction = SALF_REDUCE_PREFIX; /* every row stops at its own layer */
    policy.rates = SALF_RATES_WHOLE;       /* see update */
    policy.total_steps = (r->total + o->batch - 1) / o->batch;
    check(salf_policy_create(&r->policy, context, r->method.policy, r->llama.n_layers, &policy), "method"); /* salf 5 */
}

static options read_options(int argc, char **argv) {
    options o = {
        .model = "examples/demo/model", .tokenizer = "examples/demo/tokenizer.bin", .data = "examples/demo/data"};
    o.method = "salf";
    o.batch = 16, o.epochs = 1, o.rank = 8, o.seed = 42;
    o.rate = 2e-3, o.alpha = 16, o.clip = 1, o.warmup = 0.05;
    const struct {
        const char *name;
        const char **text;
        int64_t *whole;
        double *real;
    } all[] = {{"--model", &o.model, NULL, NULL},
               {"--tokenizer", &o.tokenizer, NULL, NULL},
               {"--data", &o.data, NULL, NULL},
               {"--method", &o.method, NULL, NULL},
               {"--checkpoint", &o.checkpoint, NULL, NULL},
               {"--batch", NULL, &o.batch, NULL},
               {"--epochs", NULL, &o.epochs, NULL},
               {"--limit-train", NULL, &o.limit_train, NULL},
               {"--limit-test", NULL, &o.limit_test, NULL},
               {"--rank", NULL, &o.rank, NULL},
               {"--seed", NULL, &o.seed, NULL},
               {"--lr", NULL, NULL, &o.rate},
               {"--alpha", NULL, NULL, &o.alpha},
               {"--clip", NULL, NULL, &o.clip},
               {"--warmup", NULL, NULL, &o.warmup}};
    const size_t n = sizeof all / sizeof *all;
    for (int i = 1; i < argc; i += 2) {
        size_t at = 0;
        while (at < n && strcmp(all[at].name, argv[i]) != 0) at++;
        if (at == n || i + 1 == argc) fail("'%s' is no option, or lacks its value", argv[i]);
        char *end = "";
        if (all[at].text) *all[at].text = argv[i + 1];
        if (all[at].whole) *all[at].whole = strtoll(argv[i + 1], &end, 10);
        if (all[at].real) *all[at].real = strtod(argv[i + 1], &end);
        if (*end || !*argv[i + 1]) fail("%s: '%s' is no number", argv[i], argv[i + 1]);
    }
    if (o.batch < 1 || o.epochs < 1 || o.rank < 1) fail("--batch, --epochs and --rank are 1 at least");
    return o;
}

int main(int argc, char **argv) {
    const options o = read_options(argc, argv);
    run r = {.o = &o};
    salf_context *context;
    salf_model *model;
    salf_basis *basis;
    salf_model_info info = {.struct_size = sizeof info};
    salf_options_init(&r.method, sizeof r.method);
    check(salf_method_find(o.method, &r.method), "--method");
    check(salf_context_create(&context, NULL), "context");             /* salf 1: what everything else runs on */
    check(salf_model_open(&model, context, o.model, NULL), "--model"); /* salf 2: head and shape of the model */
    check(salf_model_get_info(model, &info), "--model");
    tokenizer *t = tokenizer_open(o.tokenizer, info.vocab);
    dataset_open(&r.data, o.data, t, o.limit_train, o.limit_test);
    if (r.data.longest > info.max_positions)
        fail("a prompt has %lld tokens, the model %lld positions", (long long)r.data.longest,
             (long long)info.max_positions);
    /* salf 3: the semantic basis of the tokens that are to be right; it holds as long as the head is frozen */
    check(salf_basis_create(&basis, model, r.data.words, r.data.n_classes, NULL), "basis");
    open_run(&r, &o, model, basis, context);
    if (o.checkpoint) open_checkpoint(&r, context, salf_model_get_tensors(model), info.valid_vocab);
    train(&r);
    printf("%s: accuracy %.4f, forward %.2f s, probe %.3f s, backward %.2f s\n", o.method, accuracy(&r), r.forward_s,
           r.probe_s, r.backward_s);

    salf_checkpoint_destroy(r.checkpoint);
    salf_policy_destroy(r.policy);
    salf_planner_destroy(r.planner);
    salf_probe_destroy(r.probe);
    salf_basis_destroy(basis);
    salf_model_destroy(model);
    salf_context_destroy(context);
    tokenizer_free(t);
    llama_free(&r.llama);
    free_chain(&r.optimizer.memory);
    free_chain(&r.data.memory);
    free_chain(&r.memory);
    return 0;
}
