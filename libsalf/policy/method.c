/*
 * method.c - the methods of the paper by name (its 4.1 and Appendix A.3), in the constants of salf.h.
 *
 * A name is one of the table below or of a stream and, where data are probed, may have a metric behind it:
 * "salf[half][ce]", "salf[half][stream][ce]". [half] of salf is the uniform plan; of lift and lift* it is their plain
 * schedule, in which every layer has one turn. The words of policies are names too, so that a host needs one option for
 * all that it can run.
 */
#include <string.h>

#include "core/core.h"

typedef struct slf_named_method {
    const char *name;
    int32_t policy;
    int32_t growth, infill; /* BUDGET */
    int32_t probes;
} slf_named_method;

/* In the order of the paper's tables; a method of later work goes below them. */
static const slf_named_method methods[] = {
    {"lora[full]", SALF_POLICY_FULL, 0, 0, 0},
    {"lora[half]", SALF_POLICY_HALF, 0, 0, 0},
    {"lift[half]", SALF_POLICY_LIFT, 0, 0, 0},
    {"lift*[half]", SALF_POLICY_LIFT_STAR, 0, 0, 0},
    {"lift*[geom][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_BREADTH, 0},
    {"lift*[geom][df]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_DEPTH, 0},
    {"lift*[arith][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_BREADTH, 0},
    {"lift*[arith][df]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_DEPTH, 0},
    {"salf", SALF_POLICY_SALF, 0, 0, 1},
    {"salf[half]", SALF_POLICY_BUDGET, SALF_GROWTH_UNIFORM, SALF_INFILL_BREADTH, 1},
    {"salf[geom][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_BREADTH, 1},
    {"salf[geom][df]", SALF_POLICY_BUDGET, SALF_GROWTH_GEOMETRIC, SALF_INFILL_DEPTH, 1},
    {"salf[arith][bf]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_BREADTH, 1},
    {"salf[arith][df]", SALF_POLICY_BUDGET, SALF_GROWTH_ARITHMETIC, SALF_INFILL_DEPTH, 1},
};

/* What a stream makes of a budget, by who gets its cuts: salf's by eof, inside groups; lift*'s whoever comes while the
 * stage lasts; random's anybody at any time, the control of the other two. */
static const struct {
    const char *name;
    int32_t assignment, order;
} streams[] = {
    {"salf", SALF_ASSIGN_EOF, SALF_STREAM_STAGED},
    {"lift*", SALF_ASSIGN_RANDOM, SALF_STREAM_STAGED},
    {"random", SALF_ASSIGN_RANDOM, SALF_STREAM_MIXED},
};

enum { N_METHODS = sizeof methods / sizeof *methods, N_STREAMS = sizeof streams / sizeof *streams };

/* Takes "[word]" off the end of the first *n letters of a name, where it stands there behind something. */
static bool strip_suffix(const char *name, size_t *n, const char *word) {
    const size_t length = strlen(word) + 2;
    if (*n <= length || name[*n - length] != '[' || name[*n - 1] != ']') return false;
    if (memcmp(name + *n - length + 1, word, length - 2) != 0) return false;
    *n -= length;
    return true;
}

/* Whether n letters are a word. */
static bool is_word(const char *letters, size_t n, const char *word) {
    return strlen(word) == n && memcmp(letters, word, n) == 0;
}

/* A budget that probes: what a stream is of. */
static bool is_probed_plan(const slf_named_method *named) {
    return named->policy == SALF_POLICY_BUDGET && named->probes;
}

/* The method of the paper with this name or, for a stream, the plan that salf has under what follows its name. */
static const slf_named_method *find_named(const char *letters, size_t n, bool stream) {
    for (int32_t i = 0; i < N_METHODS; i++) {
        const char *word = methods[i].name + (stream ? strlen("salf") : 0);
        if ((!stream || is_probed_plan(&methods[i])) && is_word(letters, n, word)) return &methods[i];
    }
    return NULL;
}

const char *salf_method_name(int32_t index) {
    return index >= 0 && index < N_METHODS ? methods[index].name : NULL;
}

/* Names are compared as they stand: case counts, as in file names and logs that hold them. What the paper leaves to the
 * reader is a default here: data are matched online, the metric is cosine. */
salf_status salf_method_find(const char *name, salf_method *method) {
    SLF_REQUIRE(name, method);
    salf_method found = {.struct_size = sizeof found, .matching = SALF_MATCH_NONE, .metric = SALF_METRIC_COSINE};
    const char *word;
    /* 1. the metric that a suffix such as "[ce]" names, -1 without one; base is the length of what stands before it */
    size_t base = strlen(name);
    int32_t metric = -1;
    for (int32_t i = 0; metric < 0 && (word = salf_constant_word("SALF_METRIC", i)) != NULL; i++)
        if (strip_suffix(name, &base, word)) metric = i;
    /* 2. a method of the paper */
    const slf_named_method *named = find_named(name, base, false);
    if (named) {
        found.probes = named->probes;
        if (is_probed_plan(named)) found.matching = SALF_MATCH_ONLINE;
    }
    /* 3. or a stream, "NAME[plan][stream]" */
    const size_t bracket = strcspn(name, "[");
    if (!named && strip_suffix(name, &base, "stream") && bracket < base) {
        for (int32_t s = 0; s < N_STREAMS; s++) {
            if (!is_word(name, bracket, streams[s].name)) continue;
            named = find_named(name + bracket, base - bracket, true);
            found.matching = SALF_MATCH_STREAM;
            found.assignment = streams[s].assignment;
            found.stream_order = streams[s].order;
            found.probes = streams[s].assignment != SALF_ASSIGN_RANDOM;
        }
    }
    if (named && (metric < 0 || found.probes)) { /* what does not probe has no metric */
        found.policy = named->policy;
        found.growth = named->growth;
        found.infill = named->infill;
        if (metric >= 0) found.metric = metric;
        return slf_info_write(method, &found, sizeof found, "salf_method");
    }
    /* 4. or the word of a policy; "budget" by itself names no plan */
    for (int32_t kind = 0; (word = salf_constant_word("SALF_POLICY", kind)) != NULL; kind++) {
        if (strcmp(word, name) != 0 || kind == SALF_POLICY_BUDGET) continue;
        found.policy = kind;
        found.probes = kind == SALF_POLICY_SALF;
        return slf_info_write(method, &found, sizeof found, "salf_method");
    }
    /* 5. none of these: the names there are, as many as a message holds */
    char known[380] = "";
    for (int32_t i = 0; i < N_METHODS; i++) slf_list_word(known, sizeof known, " ", methods[i].name);
    for (int32_t kind = 0; (word = salf_constant_word("SALF_POLICY", kind)) != NULL; kind++)
        if (kind != SALF_POLICY_BUDGET) slf_list_word(known, sizeof known, " ", word);
    return SLF_FAIL(SALF_E_NOT_FOUND, "unknown method '%.48s'; known: %s, salf[half][stream]", name, known);
}
