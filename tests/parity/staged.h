/* staged.h - a device backend behind a table whose slots take host memory, so that one suite tests all backends. */
#ifndef SALF_TEST_STAGED_H
#define SALF_TEST_STAGED_H

#include "backend/backend.h"

/* The table of a context's backend as tests call it: as it is, or staged where it computes on a device. One device
 * backend in a process. */
const slf_backend *staged_table(const slf_backend *backend);

#endif
