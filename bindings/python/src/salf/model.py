"""What the library must know of a language model: sizes, head, final norm, how logits are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Tuple

from salf import _callbacks, views
from salf._dtypes import TENSOR_DTYPES
from salf._ffi import NULL, Name, check, encoded, ffi, lib, names, new_struct, record_of, set_fields
from salf._handles import Handle, Owner, create
from salf.context import Context
from salf.tensors import Tensors

Rows = Callable[[int, int, Any], Any]


@dataclass(frozen=True)
class ModelInfo:
    """Shape and settings. From rope_theta on, what only a checkpoint tells: 0 for a described model."""

    family: str
    n_layers: int
    tied: bool
    hidden: int
    vocab: int
    valid_vocab: int
    fingerprint: int
    head_dtype: Optional[str]
    norm_kind: str
    norm_eps: float
    logit_scale: float
    logit_softcap: float
    rope_theta: float
    embedding_scale: float
    ffn_hidden: int
    max_positions: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    attention_bias: bool
    bos_token: int
    eos_token: int
    model_type: str
    vocab_from: str


@dataclass(frozen=True)
class DecoderInfo:
    """What the layers of a checkpoint compute. Where unsupported is not None it names what this does not say."""

    activation: str
    gated_ffn: bool
    block: str
    qk_norm: str
    norm_kind: str
    biases: Tuple[str, ...]
    fused: Tuple[str, ...]
    rope: str
    rotary_dims: int
    rope_theta: float
    local_rope_theta: float
    rope_factor: float
    rope_low_factor: float
    rope_high_factor: float
    rope_beta_fast: float
    rope_beta_slow: float
    rope_attention_factor: float
    rope_original_positions: int
    attention_scale: float
    attention_softcap: float
    residual_scale: float
    sliding_window: int
    sliding: Tuple[bool, ...]
    unsupported: Optional[str]
    prefix: Optional[str]


def _matrices(mask: int) -> Tuple[str, ...]:
    """The projections of a mask, without the one that stands for all."""
    return tuple(name for name, bit in names("MATRIX").items() if bit & mask and bit & (bit - 1) == 0)


class Model(Handle):
    """A model from a description. Its head and embedding stay borrowed: they are not copied, and kept alive.

    head, embedding: [vocab, hidden] tensors; or head_rows, embedding_rows: functions (first, count, out) that fill out,
    a float32 array [count, hidden], for matrices that are quantised or not in memory. valid_vocab: rows beyond it are
    padding; 0 for none. tied: one matrix serves as both. norm_kind: "none", "layer", "rms" or "rms1p" of the final
    norm; norm_weight, norm_bias [hidden] and logit_bias [vocab] are copied, and read in host memory: update() when they
    change. head_transposed, embedding_transposed: the tensor is [hidden, vocab], in host memory. shard_first,
    shard_rows: the head has these rows of vocab, and the context's other ranks the others; vocab has to be given then.
    """

    def __init__(
        self,
        context: Context,
        *,
        n_layers: int,
        head: Any = None,
        embedding: Any = None,
        head_rows: Optional[Rows] = None,
        embedding_rows: Optional[Rows] = None,
        hidden: Optional[int] = None,
        vocab: Optional[int] = None,
        valid_vocab: int = 0,
        tied: bool = False,
        norm_kind: Name = "rms",
        norm_eps: float = 0.0,
        norm_weight: Any = None,
        norm_bias: Any = None,
        logit_bias: Any = None,
        logit_scale: float = 0.0,
        logit_softcap: float = 0.0,
        head_transposed: bool = False,
        embedding_transposed: bool = False,
        shard_first: int = 0,
        shard_rows: int = 0,
    ) -> None:
        options = new_struct("salf_model_options")
        keep: List[Any] = [Context._of(context, "context")]
        tensors = {
            "head": head,
            "embedding": embedding,
            "norm_weight": norm_weight,
            "norm_bias": norm_bias,
            "logit_bias": logit_bias,
        }
        for name, source in tensors.items():
            if source is not None:
                keep.append(views.fill(getattr(options, name), source, name, context._device))
        known = options.head if head is not None else options.embedding
        turned = head_transposed if head is not None else embedding_transposed
        set_fields(
            options,
            {
                "n_layers": n_layers,
                "hidden": (known.rows if turned else known.cols) if hidden is None else hidden,
                "vocab": (known.cols if turned else known.rows) if vocab is None else vocab,
                "valid_vocab": valid_vocab,
                "tied": tied,
                "norm_kind": norm_kind,
                "norm_eps": norm_eps,
                "logit_scale": logit_scale,
                "logit_softcap": logit_softcap,
                "head_transposed": head_transposed,
                "embedding_transposed": embedding_transposed,
                "shard_first": shard_first,
                "shard_rows": shard_rows,
            },
        )
        for name, function in (("head_rows", head_rows), ("embedding_rows", embedding_rows)):
            if function is not None:
                keep.append(_callbacks.rows(function, options.hidden, name))
                setattr(options, name, keep[-1])
        self._start(context, keep, lambda pointer, out: lib.salf_model_create(out, pointer, options))

    def _start(self, context: Context, keep: List[Any], call: Callable[[Any, Any], int]) -> None:
        self.context = context
        with Context._of(context, "context") as pointer:
            self._owner: Optional[Owner] = create("model", tuple(keep), lambda out: call(pointer, out))

    @classmethod
    def open(
        cls,
        context: Context,
        path: Any,
        *,
        valid_vocab: Optional[int] = None,
        norm_eps: Optional[float] = None,
        logit_scale: Optional[float] = None,
        logit_softcap: Optional[float] = None,
        accept: Optional[str] = None,
    ) -> Model:
        """A model from a Hugging Face folder or a GGUF file, memory-mapped. What is given replaces what the file says.

        accept: keys of config.json, comma-separated, that may stay unread because they change nothing.
        """
        options = new_struct("salf_model_options")
        set_fields(
            options,
            {
                "valid_vocab": valid_vocab,
                "norm_eps": norm_eps,
                "logit_scale": logit_scale,
                "logit_softcap": logit_softcap,
            },
        )
        name, model = encoded(path, "path"), cls.__new__(cls)
        keep: List[Any] = [Context._of(context, "context")]
        if accept is not None:
            keep.append(ffi.new("char[]", encoded(accept, "accept")))
            options.accept = keep[-1]
        model._start(context, keep, lambda pointer, out: lib.salf_model_open(out, pointer, name, options))
        return model

    def update(self, norm_weight: Any = None, norm_bias: Any = None, logit_bias: Any = None) -> None:
        """Takes vectors that a run has trained in place of the copies. Probes follow at their next begin.

        Those with logits over candidates then read the candidates' rows of the head again: call it, with nothing given,
        when the head has changed. Nothing may use the model meanwhile.
        """
        options = new_struct("salf_model_options")
        keep: List[Any] = []
        given = {"norm_weight": norm_weight, "norm_bias": norm_bias, "logit_bias": logit_bias}
        for name, source in given.items():
            if source is not None:
                keep.append(views.fill(getattr(options, name), source, name, self.context._device))
        with self._use() as pointer:
            check(lib.salf_model_update(pointer, options))

    @property
    def info(self) -> ModelInfo:
        """Shape and settings."""
        info = new_struct("salf_model_info")
        with self._use() as pointer:
            check(lib.salf_model_get_info(pointer, info))
        kind = TENSOR_DTYPES.get(info.head_dtype)  # none for rows from a callback
        return record_of(ModelInfo, info, head_dtype=kind and kind.name)

    @property
    def decoder(self) -> DecoderInfo:
        """What the checkpoint's layers compute. UnsupportedError for a described model, whose layers are not known."""
        info = new_struct("salf_decoder_info")
        with self._use() as pointer:
            check(lib.salf_model_get_decoder(pointer, info))
            layers = self.info.n_layers if info.sliding != NULL else 0
            return record_of(
                DecoderInfo,
                info,
                biases=_matrices(info.biases),
                fused=_matrices(info.fused),
                sliding=tuple(bool(info.sliding[k]) for k in range(layers)),
            )

    def fingerprint(self) -> int:
        """Fingerprint of the head's valid rows, which does not depend on their type. Reads the whole head."""
        value = ffi.new("uint64_t *")
        with self._use() as pointer:
            check(lib.salf_model_fingerprint(pointer, value))
        return int(value[0])

    @property
    def tensors(self) -> Optional[Tensors]:
        """All tensors of the checkpoint the model was opened from; None for a described model."""
        owner = self._use()
        with owner as pointer:
            found = lib.salf_model_get_tensors(pointer)
        return None if found == NULL else Tensors(Owner("tensors", found, None, (owner,)))

    def __repr__(self) -> str:
        if self.closed:
            return "<salf.Model (closed)>"
        info = self.info
        return f"<salf.Model {info.family}: {info.n_layers} layers, hidden {info.hidden}, vocab {info.vocab}>"
