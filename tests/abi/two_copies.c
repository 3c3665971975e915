/*
 * two_copies.c - one small use of the library, from a basis builder to a probe, through a table of its functions.
 *
 * Compiled twice by check_two_copies.sh: as a plugin, which is linked to one libsalf and exports use_linked(); and with
 * -DHOST as a program, which is linked to another, uses it, then each library and plugin that its arguments name as
 * "library:PATH" or "plugin:PATH", then its own once more. Each use prints the library's version and the deviations.
 */
#include <dlfcn.h>
#include <salf.h>
#include <stdio.h>
#include <string.h>

#define FUNCTIONS(X)              \
    X(salf_version_string)        \
    X(salf_last_error)            \
    X(salf_options_init)          \
    X(salf_context_create)        \
    X(salf_context_destroy)       \
    X(salf_model_create)          \
    X(salf_model_destroy)         \
    X(salf_basis_builder_create)  \
    X(salf_basis_builder_add)     \
    X(salf_basis_builder_finish)  \
    X(salf_basis_builder_destroy) \
    X(salf_basis_destroy)         \
    X(salf_probe_create)          \
    X(salf_probe_destroy)         \
    X(salf_probe_begin)           \
    X(salf_probe_observe)         \
    X(salf_probe_end)

#define FIELD(name) __typeof__(name) *name;
struct table {
    FUNCTIONS(FIELD)
};

enum { VOCAB = 24, HIDDEN = 6, LAYERS = 3, ROWS = 2 };

/* 0 when every call succeeds. The caller of finish gives the model, so that the library calls its own
 * salf_basis_check. */
static int use(const struct table *f) {
    float head[VOCAB * HIDDEN], states[ROWS * HIDDEN];
    const int32_t labels[ROWS] = {3, 17};
    salf_context *context = NULL;
    salf_model *model = NULL;
    salf_basis *basis = NULL;
    salf_basis_builder *builder = NULL;
    salf_probe *probe = NULL;
    salf_trace trace;
    salf_model_options o;
    salf_tensor view = {head, NULL, VOCAB, HIDDEN, 0, SALF_F32, SALF_MEMORY_HOST, SALF_MEMORY_HOST, 0};
    int failed, k, i;
    for (i = 0; i < VOCAB * HIDDEN; i++) head[i] = (float)((i * 37 + i * i % 11) % 53) / 26 - 1;
    f->salf_options_init(&o, sizeof o);
    o.n_layers = LAYERS;
    o.hidden = HIDDEN;
    o.vocab = VOCAB;
    o.norm_kind = SALF_NORM_RMS;
    o.head = view;
    failed = f->salf_context_create(&context, NULL) || f->salf_model_create(&model, context, &o) ||
             f->salf_basis_builder_create(&builder, context, VOCAB, HIDDEN, labels, ROWS, NULL) ||
             f->salf_basis_builder_add(builder, 0, &view) || f->salf_basis_builder_finish(&basis, builder, model) ||
             f->salf_probe_create(&probe, basis, NULL) || f->salf_probe_begin(probe, labels, ROWS);
    view.data = states;
    view.rows = ROWS;
    for (k = 0; k <= LAYERS && !failed; k++) {
        for (i = 0; i < ROWS * HIDDEN; i++) states[i] = (float)((i * 13 + k * 29) % 17) / 8 - 1;
        failed = f->salf_probe_observe(probe, k, &view, SALF_STATE_RAW) != SALF_OK;
    }
    failed = failed || f->salf_probe_end(probe, &trace);
    printf("%s", f->salf_version_string());
    if (failed) printf(" failed: %s", f->salf_last_error());
    for (i = 0; i < ROWS * (LAYERS + 1) && !failed; i++) printf(" %.12g", trace.deviations[i]);
    printf("\n");
    f->salf_probe_destroy(probe);
    f->salf_basis_builder_destroy(builder);
    f->salf_basis_destroy(basis);
    f->salf_model_destroy(model);
    f->salf_context_destroy(context);
    return failed;
}

#define LINKED(name) name,
int use_linked(void);
int use_linked(void) {
    static const struct table linked = {FUNCTIONS(LINKED)};
    return use(&linked);
}

#ifdef HOST
static int use_other(const char *what) {
    const char *path = strchr(what, ':') + 1;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    int (*plugin)(void);
    struct table found;
    if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
    if (*what == 'p') {
        *(void **)&plugin = dlsym(library, "use_linked");
        return plugin();
    }
#define FOUND(name) *(void **)&found.name = dlsym(library, #name);
    FUNCTIONS(FOUND)
    return use(&found);
}

int main(int n, char **arguments) {
    int failed = use_linked(), i;
    for (i = 1; i < n; i++) failed |= use_other(arguments[i]);
    return failed | use_linked();
}
#endif
