/* methods.c - method names (paper, section 4.1 and Appendix A.3) to configurations.
 *
 * A name is a base with a budget, from the table below, and for salf a metric: salf[half][ce]. The budget [half] of
 * salf is the uniform plan; of lift and lift* it is their plain schedule, in which every layer has its turn of steps /
 * m steps. */
#include "methods.h"

#include <stdio.h>
#include <string.h>

typedef struct entry {
    const char *name;
    int32_t policy;
    int32_t growth;
    int32_t infill;
    int32_t probes;
} entry;

static const entry entries[] = {
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

enum { N_ENTRIES = sizeof entries / sizeof entries[0] };

/* A metric suffix at the end of a name: its length, with the metric set; 0 where there is none. */
static size_t metric_suffix(const char *name, size_t length, int32_t *metric) {
    static const struct {
        const char *text;
        int32_t metric;
    } suffixes[] = {{"[cosine]", SALF_METRIC_COSINE}, {"[ce]", SALF_METRIC_CE}, {"[rank]", SALF_METRIC_RANK}};
    *metric = SALF_METRIC_COSINE;
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        size_t n = strlen(suffixes[i].text);
        if (length > n && memcmp(name + length - n, suffixes[i].text, n) == 0) {
            *metric = suffixes[i].metric;
            return n;
        }
    }
    return 0;
}

int method_parse(method *out, const char *name, size_t length) {
    int32_t metric;
    size_t suffix = metric_suffix(name, length, &metric);
    size_t base = length - suffix;
    for (int i = 0; i < N_ENTRIES; i++) {
        const entry *e = &entries[i];
        if (strlen(e->name) != base || memcmp(e->name, name, base) != 0) continue;
        if ((suffix && !e->probes) || length >= METHOD_NAME_SIZE) return -1;
        *out = (method){.policy = e->policy, .growth = e->growth, .infill = e->infill, .probes = e->probes};
        out->metric = metric;
        memcpy(out->name, name, length);
        return 0;
    }
    return -1;
}

void method_known_names(char *out, size_t size) {
    size_t used = 0;
    if (size) out[0] = '\0';
    for (int i = 0; i < N_ENTRIES && used < size; i++) {
        int n = snprintf(out + used, size - used, "%s%s", i ? " " : "", entries[i].name);
        used += n > 0 ? (size_t)n : 0;
    }
}

static int unknown(const char *name, size_t length, char *message, size_t message_size) {
    char known[512];
    method_known_names(known, sizeof known);
    snprintf(message, message_size, "unknown method '%.*s'; known: %s (salf... also with [ce] or [rank])", (int)length,
             name, known);
    return -1;
}

static int listed(const method *methods, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(methods[i].name, name) == 0) return 1;
    return 0;
}

int method_list_parse(method *out, int *count, const char *list, char *message, size_t message_size) {
    for (const char *at = list;;) {
        size_t length = strcspn(at, ",");
        method one;
        if (method_parse(&one, at, length) != 0) return unknown(at, length, message, message_size);
        if (listed(out, *count, one.name)) {
            snprintf(message, message_size, "method '%s' is given twice", one.name);
            return -1;
        }
        if (*count == METHODS_MAX) {
            snprintf(message, message_size, "more than %d methods", METHODS_MAX);
            return -1;
        }
        out[(*count)++] = one;
        if (at[length] == '\0') return 0;
        at += length + 1;
    }
}
