/* ranks.h - collectives over the ranks of a context, and what all ranks must have in common. Not installed. */
#ifndef SALF_RANKS_H
#define SALF_RANKS_H

#include "core/blob.h"

static inline bool slf_has_ranks(const salf_context *context) {
    return context->options.ranks > 1;
}
/* A collective; nothing with one rank. What a failed one leaves in buffer is not known: the caller gives up its result.
 */
salf_status slf_all_reduce(const salf_context *context, void *buffer, int64_t count, int32_t dtype, int32_t operation);

/* The calls in which ranks meet; agreements of all have one size, so that ranks in different calls find that out
 * instead of reading each other's numbers. A new one is a row here. */
#define SLF_MEETINGS(X)              \
    X(salf_context_agree)            \
    X(salf_basis_builder_all_reduce) \
    X(salf_planner_assign)           \
    X(salf_planner_report)           \
    X(salf_policy_decide)            \
    X(salf_model_fingerprint)        \
    X(slf_basis_norms)               \
    X(salf_probe_begin)              \
    X(salf_loss_compute)             \
    X(slf_score_run_walk)
#define SLF_MEETING_ENUM_(name) SLF_MEET_##name,
enum { SLF_MEETINGS(SLF_MEETING_ENUM_) SLF_MEETINGS_END_ };

/* What must be equal on all ranks: named numbers, reals as their bits, arrays as their hash. Names end in "(hash)" or
 * "(bits)" where the number itself says nothing. */
enum { SLF_AGREEMENT_FIELDS = 48 };
typedef struct slf_agreement {
    int32_t meeting; /* SLF_MEET_* */
    int32_t n;
    slf_field fields[SLF_AGREEMENT_FIELDS];
    int64_t least; /* a number of this rank; becomes the least of all */
} slf_agreement;
void slf_agreement_add(slf_agreement *agreement, const char *name, uint64_t value);
void slf_agreement_add_array(slf_agreement *agreement, const char *name, const void *values, uint64_t bytes);

/* The beginning of every collective: a rank comes here whatever is wrong with its own call (local), since the others
 * would wait for it for ever. Its own error goes before what is wrong elsewhere, as it says more. SALF_E_MISMATCH on
 * the others, naming the rank; and on all where a field differs, naming it. One minimum of numbers of a fixed size. */
salf_status slf_agree(const salf_context *context, salf_status local, slf_agreement *agreement);

#endif
