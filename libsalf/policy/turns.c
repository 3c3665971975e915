/*
 * turns.c - policies that follow the step alone: turns (LIFT, LIFT*, BLOCK), draws (LISA) and schedules
 * (FREEZEOUT, LINEAR). Cost O(m) a decision.
 *
 * Turn t = step / interval; round t / m, place t mod m. The order of a round is a permutation drawn from (seed, round).
 * FREEZEOUT: layer i stops at t_i, linear from start (i = 0) to 1 (i = m-1), cubed if asked; its rate is
 * (1 + cos(pi x / t_i)) / 2 at x = step / total_steps, times 1 / t_i if asked; 0 and frozen from t_i on.
 * LINEAR: floor(level m (x - start) / (1 - start)) layers are frozen.
 */
#include <math.h>
#include <string.h>

#include "policy/policy.h"

static int32_t layer_of_turn(salf_policy *p, int64_t turn, int32_t order) {
    const int32_t place = (int32_t)(turn % p->m);
    if (order == SALF_ORDER_FORWARD) return place;
    if (order == SALF_ORDER_BACKWARD) return p->m - 1 - place;
    slf_policy_draw(p, turn / p->m, p->m);
    return p->turns[place];
}

static void only(salf_policy *p, int32_t layer) {
    slf_policy_suffix(p, p->m);
    p->trainable[layer] = 1;
    p->rate_scale[layer] = 1;
}

/* LIFT, LIFT_STAR and BLOCK. A phase of BLOCK begins with the first decision in it, also when its layer is the last
 * phase's. */
salf_status slf_decide_lift(salf_policy *p, const salf_observation *seen) {
    const bool block = p->kind == SALF_POLICY_BLOCK;
    int32_t order = p->options.order;
    if (order == SALF_ORDER_DEFAULT) order = block ? SALF_ORDER_RANDOM : SALF_ORDER_FORWARD;
    const int64_t turn = seen->step / p->turn_steps;
    const int32_t layer = layer_of_turn(p, turn, order);
    if (p->kind == SALF_POLICY_LIFT_STAR)
        slf_policy_suffix(p, layer);
    else
        only(p, layer);
    const bool begins = p->memory.last_step < 0 || p->memory.last_step / p->turn_steps != turn;
    if (block && begins && !p->options.keep_moments) p->added[2 * (int64_t)p->m + p->n_reset++] = layer;
    return SALF_OK;
}

salf_status slf_decide_lisa(salf_policy *p, const salf_observation *seen) {
    slf_policy_draw(p, seen->step / p->turn_steps, p->options.n_active);
    slf_policy_suffix(p, p->m);
    for (int32_t i = 0; i < p->options.n_active; i++) {
        p->trainable[p->turns[i]] = 1;
        p->rate_scale[p->turns[i]] = 1;
    }
    return SALF_OK;
}

static double progress(const salf_policy *p, int64_t step) {
    return fmin((double)step / (double)p->options.total_steps, 1);
}

salf_status slf_decide_freezeout(salf_policy *p, const salf_observation *seen) {
    const double x = progress(p, seen->step), start = p->options.start, pi = 3.14159265358979323846;
    for (int32_t i = 0; i < p->m; i++) {
        double stop = p->m == 1 ? 1 : start + (1 - start) * i / (p->m - 1);
        if (p->options.cubic) stop = stop * stop * stop;
        p->trainable[i] = x < stop;
        p->rate_scale[i] = x < stop ? 0.5 * (1 + cos(pi * x / stop)) / (p->options.scale_rate ? stop : 1) : 0;
    }
    return SALF_OK;
}

salf_status slf_decide_linear(salf_policy *p, const salf_observation *seen) {
    const double x = progress(p, seen->step), start = p->options.start;
    const double frozen = x <= start ? 0 : p->options.level * p->m * (x - start) / (1 - start);
    slf_policy_suffix(p, (int32_t)fmin(floor(frozen + 1e-9), p->m)); /* 1e-9: a product that should be whole */
    return SALF_OK;
}
