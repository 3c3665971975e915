/*
 * ranks.c - several processes that must decide alike: collectives, and the agreement that each begins with.
 *
 * A rank that was configured otherwise than the others would, without a check, get other cuts or a wrong basis, or let
 * the communicator read past the end of a shorter buffer. So ranks compare before they exchange: for each number x its
 * minimum and that of -x over all ranks, which are x and -x where all have the same. An agreement has 107 numbers of
 * 8 bytes, whoever calls it: what a collective of that size costs is its latency.
 */
#include "core/ranks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/fingerprint.h"

salf_status slf_all_reduce(const salf_context *context, void *buffer, int64_t count, int32_t dtype, int32_t operation) {
    const salf_context_options *o = &context->options;
    if (!slf_has_ranks(context) || count == 0) return SALF_OK;
    const int32_t result = o->all_reduce(o->communicator_user, buffer, count, dtype, operation);
    if (result == 0) return SALF_OK;
    return slf_fail(SALF_E_CALLBACK, "all_reduce of %" PRId64 " elements returned %d on rank %d", count, (int)result,
                    (int)o->rank);
}

/* ---- what is compared ---- */

void slf_agreement_add(slf_agreement *a, const char *name, uint64_t value) {
    a->fields[a->n++] = (slf_field){name, value};
}

/* Mixed at the end: it has to find mistakes, not adversaries. */
void slf_agreement_add_array(slf_agreement *a, const char *name, const void *values, uint64_t bytes) {
    slf_agreement_add(a, name, slf_hash_mix(slf_fnv1a(SLF_FNV_BEGIN, values, bytes)));
}

/* A number that can be negated, and is the value itself where that is small enough for a message. Others, seeds and
 * hashes mostly, are hashed to 2^60 ... 2^62, where no value is. */
static int64_t comparable(uint64_t value) {
    const int64_t number = (int64_t)value, most = (int64_t)1 << 53;
    return number >= -most && number <= most ? number : (int64_t)(slf_hash_mix(value) >> 2 | (uint64_t)1 << 60);
}

/* ---- the agreement ---- */

static const char *const meetings[] = {
#define MEETING_NAME(name) #name,
    SLF_MEETINGS(MEETING_NAME)};

/* Places in the vector that is exchanged. Pairs are (x, -x). */
enum {
    FAILED = 0,    /* 100 times this rank's number, and its status without the sign; NOBODY where nothing failed */
    LAST = 1,      /* - this rank's number where it failed, else NOBODY */
    LEAST = 2,     /* the caller's number */
    RANK = 3,      /* a pair: all numbers from 0 on have to occur, so at least the ends */
    PAIRS = 5,     /* from here on pairs: the call, the version of the library, how many ranks there are, fields */
    OWN_PAIRS = 3, /* those that every agreement has */
    NUMBERS = PAIRS + 2 * (OWN_PAIRS + SLF_AGREEMENT_FIELDS)
};
#define NOBODY INT64_MAX

/* One message, whatever it finds: a second one, to name what a first one has found, would have to be made by all ranks
 * too, at a cost that only failures need. What it finds goes in order of what a reader can do about it: a rank's own
 * failure, a communicator that does not work, another rank's failure, ranks that are in other calls, and then the first
 * field that differs. All ranks see the same numbers, and so agree on which of these it is. */
salf_status slf_agree(const salf_context *context, salf_status local, slf_agreement *a) {
    const salf_context_options *o = &context->options;
    if (!slf_has_ranks(context)) return local;
    const slf_field own[OWN_PAIRS] = {{"the call", (uint64_t)a->meeting},
                                      {"version of libsalf", (uint64_t)salf_version_number()},
                                      {"ranks of the context", (uint64_t)o->ranks}};
    int64_t numbers[NUMBERS] = {0};
    numbers[FAILED] = local == SALF_OK ? NOBODY : 100 * (int64_t)o->rank - local;
    numbers[LAST] = local == SALF_OK ? NOBODY : -(int64_t)o->rank;
    numbers[LEAST] = a->least;
    numbers[RANK] = o->rank;
    numbers[RANK + 1] = -(int64_t)o->rank;
    /* Fields that a call does not use stay 0, equal on all ranks. */
    for (int i = 0; i < OWN_PAIRS + a->n; i++) {
        const int64_t x = comparable(i < OWN_PAIRS ? own[i].value : a->fields[i - OWN_PAIRS].value);
        numbers[PAIRS + 2 * i] = x;
        numbers[PAIRS + 2 * i + 1] = -x;
    }
    const salf_status joined = slf_all_reduce(context, numbers, NUMBERS, SALF_I64, SALF_ALL_REDUCE_MIN);
    SLF_TRY(local);
    SLF_TRY(joined);
    /* Another rank failed: which, and of what. MIN finds the first and the last of them. */
    if (numbers[FAILED] != NOBODY) {
        char others[64] = "";
        if (-numbers[LAST] != numbers[FAILED] / 100)
            snprintf(others, sizeof others, "; the last that failed is rank %" PRId64, -numbers[LAST]);
        return slf_fail(SALF_E_MISMATCH, "rank %" PRId64 " failed with %s%s", numbers[FAILED] / 100,
                        salf_status_name((salf_status) - (numbers[FAILED] % 100)), others);
    }
    /* Before the fields, since ranks in different calls have different ones, and other sizes of what follows. */
    const int64_t call = numbers[PAIRS], other = -numbers[PAIRS + 1];
    if (call != other && call >= 0 && other < SLF_MEETINGS_END_)
        return slf_fail(SALF_E_MISMATCH, "one rank is in %s, another in %s", meetings[call], meetings[other]);
    for (int i = 0; i < OWN_PAIRS + a->n; i++) {
        const slf_field *field = i < OWN_PAIRS ? &own[i] : &a->fields[i - OWN_PAIRS];
        const int64_t low = numbers[PAIRS + 2 * i], high = -numbers[PAIRS + 2 * i + 1];
        if (low == high) continue;
        if (strchr(field->name, '(')) return slf_fail(SALF_E_MISMATCH, "the ranks differ in %s", field->name);
        return slf_fail(SALF_E_MISMATCH,
                        "the ranks differ in %s: %" PRId64 " on rank %d, %" PRId64 " ... %" PRId64 " on all",
                        field->name, comparable(field->value), (int)o->rank, low, high);
    }
    /* Two ranks of one number would train the same rows; the ends show what a host forgets, all of them 0. */
    if (numbers[RANK] != 0 || -numbers[RANK + 1] != o->ranks - 1)
        return slf_fail(SALF_E_MISMATCH,
                        "%d ranks have the numbers %" PRId64 " ... %" PRId64 "; each has its own, from 0 on",
                        (int)o->ranks, numbers[RANK], -numbers[RANK + 1]);
    a->least = numbers[LEAST];
    return SALF_OK;
}

/* For what goes wrong, or goes well, outside of the library's own collectives: any rank may come here while the others
 * are in another meeting, and the error then says who failed. */
salf_status salf_context_agree(salf_context *context, salf_status status) {
    SLF_REQUIRE(context);
    if (status > 0 || status <= -100) /* the others are told all the same: they would wait for ever */
        status = SLF_FAIL(SALF_E_ARGUMENT, "status is %" PRId32 ", none of the library's", status);
    slf_agreement a = {.meeting = SLF_MEET_salf_context_agree};
    return slf_agree(context, status, &a);
}
