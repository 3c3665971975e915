/*
 * none.c - what stands for open.c, and the files that it opens, in a library that is built without files: the call is
 * checked as there, and then refused.
 */
#include "model/model.h"

salf_status salf_model_open(salf_model **out, salf_context *context, const char *path,
                            const salf_model_options *options) {
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    salf_model_options o;
    SLF_TRY(slf_model_read_options(&o, options));
    return SLF_FAIL(SALF_E_UNSUPPORTED, "%s: this libsalf was built without files (IO=0)", path);
}
