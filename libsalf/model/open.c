/*
 * open.c - a model from what people have on disk: a checkpoint folder (open_folder.c) or a file of llama.cpp
 * (open_gguf.c).
 */
#include "io/gguf.h"
#include "io/io.h"
#include "model/model.h"

/* A field that the checkpoint decides is refused, not ignored: a host that sets it believes that it counts. */
salf_status salf_model_open(salf_model **out, salf_context *context, const char *path,
                            const salf_model_options *options) {
    SLF_OWN_ARITHMETIC;
    SLF_OUT(out);
    SLF_REQUIRE(context, path);
    salf_model_options o;
    SLF_TRY(slf_model_read_options(&o, options));
    if (o.n_layers || o.hidden || o.vocab || o.tied || o.norm_kind || o.head_rows || o.embedding_rows || o.head.data ||
        o.embedding.data || o.norm_weight.data || o.norm_bias.data || o.logit_bias.data || o.head_transposed ||
        o.embedding_transposed || o.shard_first || o.shard_rows)
        return SLF_FAIL(SALF_E_ARGUMENT,
                        "only valid_vocab, norm_eps, logit_scale, logit_softcap and accept may be set; "
                        "the checkpoint says everything else");
    const bool gguf = slf_path_is_gguf(path);
    if (gguf && o.accept)
        return SLF_FAIL(SALF_E_ARGUMENT, "accept is '%s', but a GGUF file has no config.json", o.accept);
    salf_model *model;
    SLF_TRY(slf_model_new(&model, context));
    const salf_status status = gguf ? slf_model_open_gguf(model, path, &o) : slf_model_open_folder(model, path, &o);
    if (status == SALF_OK)
        *out = model;
    else
        salf_model_destroy(model);
    return status;
}
