"""The residual stream of a Llama checkpoint at the last token, in every latent space: a plain forward pass in
float64."""

import numpy as np


def _norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def _rotated(x, theta):
    """[tokens, heads, dim], halves turned against each other."""
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def _attention(x, info, weight):
    n, dim, group = len(x), info.head_dim, info.n_heads // info.n_kv_heads
    q = _rotated((x @ weight("q_proj").T).reshape(n, -1, dim), info.rope_theta)
    k = _rotated((x @ weight("k_proj").T).reshape(n, -1, dim), info.rope_theta).repeat(group, axis=1)
    v = (x @ weight("v_proj").T).reshape(n, -1, dim).repeat(group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim) + np.triu(np.full((n, n), -np.inf), 1)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", share, v).reshape(n, -1) @ weight("o_proj").T


def last_states(model, tokens):
    """[n_layers + 1, hidden] float32."""
    info, tensors = model.info, model.tensors

    def weight(name):
        return tensors[name + ".weight"].numpy().astype(np.float64)

    embedding = "model.embed_tokens" if "model.embed_tokens.weight" in tensors else "lm_head"  # tied, under either name
    x = weight(embedding)[tokens]
    states = [x[-1]]
    for layer in range(info.n_layers):
        part = f"model.layers.{layer}."
        normed = _norm(x, weight(part + "input_layernorm"), info.norm_eps)
        x = x + _attention(normed, info, lambda name, part=part: weight(part + "self_attn." + name))
        normed = _norm(x, weight(part + "post_attention_layernorm"), info.norm_eps)
        gate = normed @ weight(part + "mlp.gate_proj").T
        gate = gate / (1 + np.exp(-gate)) * (normed @ weight(part + "mlp.up_proj").T)
        x = x + gate @ weight(part + "mlp.down_proj").T
        states.append(x[-1])
    return np.stack(states).astype(np.float32)
