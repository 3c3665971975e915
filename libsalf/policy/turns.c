/*
 * turns.c - policies that follow the step alone: turns (LIFT, LIFT_STAR, BLOCK), draws (LISA) and schedules (FREEZEOUT,
 * LINEAR; RAMP, which is the same at every step). Time O(m) a decision.
 *
 * FREEZEOUT: layer i stops at t_i, linear from start (i = 0) to 1 (i = m-1), cubed if asked; its rate is
 * (1 + cos(pi x / t_i)) / 2 at x = step / total_steps, times 1 / t_i if asked; 0 and frozen from t_i on.
 * LINEAR: floor(level m (x - start) / (1 - start)) layers are frozen.
 */
#include <math.h>

#include "core/random.h"
#include "policy/policy.h"

/* Streams of the counter-based generator: "polturns" in ASCII. */
#define STREAM_TURNS 0x706F6C7475726E73u

/* Of m turns a round, so that place is 0 ... m-1. */
typedef struct policy_turn {
    int64_t round;
    int32_t place;
} policy_turn;

/* With an interval, turn step / interval. Without one, turn floor(step m / total_steps): exact where the steps of a
 * turn are no whole number, so that a run has m turns, each as long as the others or one step longer, and a longer run
 * goes on in a second round. The product may have 94 bits, and so the quotient is searched for: the largest place with
 * place total_steps <= step m. */
static policy_turn turn_of(const salf_policy *p, int64_t step) {
    const int64_t interval = p->options.interval, total = p->options.total_steps;
    if (interval > 0) return (policy_turn){step / interval / p->m, (int32_t)(step / interval % p->m)};
    int32_t place = 0, above = p->m; /* place fits, above does not */
    while (above - place > 1) {
        const int32_t middle = place + (above - place) / 2;
        if (slf_compare_products(middle, total, step % total, p->m) <= 0)
            place = middle;
        else
            above = middle;
    }
    return (policy_turn){step / total, place};
}

bool slf_policy_turns_between(const salf_policy *p, int64_t before, int64_t step) {
    const policy_turn a = turn_of(p, before), b = turn_of(p, step);
    return a.round != b.round || a.place != b.place;
}

/* Counter-based: the draw of place i in round `number` depends on the seed and these two alone, so that every rank and
 * every resumed run has the same. */
static void permute_layers(salf_policy *p, uint64_t number, int32_t count) {
    for (int32_t k = 0; k < p->m; k++) p->permuted[k] = k;
    slf_shuffle(p->permuted, p->m, count, p->options.seed, STREAM_TURNS ^ number << 1, 0);
}

/* The layer whose turn it is; a random order is drawn anew for each round. */
static int32_t layer_in_turn(salf_policy *p, int64_t step, int32_t usual_order) {
    const policy_turn t = turn_of(p, step);
    const int32_t order = p->options.order == SALF_ORDER_DEFAULT ? usual_order : p->options.order;
    if (order == SALF_ORDER_FORWARD) return t.place;
    if (order == SALF_ORDER_BACKWARD) return p->m - 1 - t.place;
    permute_layers(p, (uint64_t)t.round, p->m);
    return p->permuted[t.place];
}

/* These layers train, at full rate, and no others. */
static void train_layers(salf_policy *p, const int32_t *layers, int32_t count) {
    slf_policy_suffix(p, p->m);
    for (int32_t i = 0; i < count; i++) {
        p->next.trainable[layers[i]] = 1;
        p->rate_scale[layers[i]] = 1;
    }
}

/* LIFT: one layer trains. The backward still passes through all layers above it, which only carry the gradient; its
 * cut is this layer. */
salf_status slf_decide_lift(salf_policy *p, const salf_observation *seen) {
    const int32_t layer = layer_in_turn(p, seen->step, SALF_ORDER_FORWARD);
    train_layers(p, &layer, 1);
    return SALF_OK;
}

/* LIFT* (paper 4.1): the layers that LIFT passes through train as well, at the price of their weight gradients. */
salf_status slf_decide_lift_star(salf_policy *p, const salf_observation *seen) {
    slf_policy_suffix(p, layer_in_turn(p, seen->step, SALF_ORDER_FORWARD));
    return SALF_OK;
}

/* A phase begins with the first decision in a turn, also when the layer is the last phase's. A step that is asked again
 * after a load begins one as it did: the moments that come with the save may be those from before it. */
salf_status slf_decide_block(salf_policy *p, const salf_observation *seen) {
    const int32_t layer = layer_in_turn(p, seen->step, SALF_ORDER_RANDOM);
    const int64_t before = SLF_MIN(p->last.step, seen->step - 1);
    train_layers(p, &layer, 1);
    const bool begins = before < 0 || slf_policy_turns_between(p, before, seen->step);
    if (begins && !p->options.keep_moments) p->changes[2][p->n_reset++] = layer;
    return SALF_OK;
}

/* The number of a turn may exceed 64 bits after 2^63 steps; what counts is that neighbours differ. */
salf_status slf_decide_lisa(salf_policy *p, const salf_observation *seen) {
    const policy_turn t = turn_of(p, seen->step);
    permute_layers(p, (uint64_t)t.round * (uint64_t)p->m + (uint64_t)t.place, p->options.n_active);
    train_layers(p, p->permuted, p->options.n_active);
    return SALF_OK;
}

/* Share of the run that is over, at most 1. */
static double run_progress(const salf_policy *p, int64_t step) {
    return fmin((double)step / (double)p->options.total_steps, 1);
}

/* A t_i that should be a step's x comes out some units of 2^-53 too large, and would train the layer for a step more at
 * a rate of 0: 1e-12 of it is far more than that, and less than a step. */
salf_status slf_decide_freezeout(salf_policy *p, const salf_observation *seen) {
    const double x = run_progress(p, seen->step), start = p->options.start, pi = 3.14159265358979323846;
    for (int32_t i = 0; i < p->m; i++) {
        double stop = p->m == 1 ? 1 : start + (1 - start) * i / (p->m - 1);
        if (p->options.cubic) stop = stop * stop * stop;
        const bool trains = x < stop * (1 - 1e-12);
        p->next.trainable[i] = trains;
        p->rate_scale[i] = trains ? 0.5 * (1 + cos(pi * x / stop)) / (p->options.scale_rate ? stop : 1) : 0;
    }
    return SALF_OK;
}

/* A product that should be whole may come out a few units of 2^-53 m too small, which 1e-9 makes up for: far less than
 * one step, 1 / total_steps of a run, moves it. */
salf_status slf_decide_linear(salf_policy *p, const salf_observation *seen) {
    const double x = run_progress(p, seen->step), start = p->options.start;
    const double frozen = x <= start ? 0 : p->options.level * p->m * (x - start) / (1 - start);
    slf_policy_suffix(p, (int32_t)fmin(floor(frozen + 1e-9), p->m));
    return SALF_OK;
}

/* Every layer trains, at the share of a plan's data that would train it: layer k at C_k / N, C_k the sum of c_0 ...
 * c_k. Freezing by that plan moves the layers as much on average: this shows what of its effect is the ramp alone. */
salf_status slf_decide_ramp(salf_policy *p, const salf_observation *seen) {
    const salf_planner *planner = p->options.planner;
    double below = 0;
    (void)seen;
    slf_policy_suffix(p, 0);
    for (int32_t k = 0; k < p->m; k++) {
        below += planner ? (double)planner->counts[k] / (double)planner->n : 1.0 / p->m;
        p->rate_scale[k] = k == p->m - 1 ? 1 : below;
        p->next.trainable[k] = p->rate_scale[k] > 0;
    }
    return SALF_OK;
}
