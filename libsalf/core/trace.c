/* trace.c - checks of a trace that comes from outside. */
#include <inttypes.h>
#include <math.h>

#include "core/core.h"

/* A trace may come from the host's own code, so nothing in it is believed. Gains need not be numbers: those of rows
 * that are to train fully are none, and those of a row that trains nothing, eof m, must be none. */
salf_status slf_trace_check(const salf_trace *t, int32_t m, bool gains, int32_t most, const char *owner) {
    if (!t) return slf_fail(SALF_E_NULL, "the %s needs a trace, and trace is NULL", owner);
    if (t->n_layers != m)
        return slf_fail(SALF_E_SHAPE, "trace of %" PRId32 " layers for a %s of %" PRId32, t->n_layers, owner, m);
    if (t->rows < 0) return slf_fail(SALF_E_ARGUMENT, "trace of %" PRId64 " rows", t->rows);
    if (t->rows > 0 && (!t->eof || (gains && !t->gains)))
        return slf_fail(SALF_E_NULL, "%s of the trace is NULL", t->eof ? "gains" : "eof");
    for (int64_t r = 0; r < t->rows; r++)
        if (t->eof[r] < 0 || t->eof[r] > most || (t->eof[r] == m && t->gains && !isnan(t->gains[r * m])))
            return slf_fail(SALF_E_ARGUMENT, "eof of row %" PRId64 " is %" PRId32 ", not in 0 ... %" PRId32, r,
                            t->eof[r], m - 1);
    return SALF_OK;
}
