"""The reference's layers in plain numpy, float64, from tensors by the reference's names."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import erf

STRIDES = {"audio": (10, 10), "imu": (8,)}


def norm(t, name, x, eps):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * t[f"{name}.weight"] + t[f"{name}.bias"]


def linear(t, name, x):
    return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]


def convolved(x, kernel, stride):
    """x [B, C, *n], kernel [O, C, *p] -> [B, tokens, O]"""
    rank = kernel.ndim - 2
    windows = sliding_window_view(x, kernel.shape[2:], tuple(range(2, 2 + rank)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
    axes = [1, *range(2 + rank, 2 + 2 * rank)]
    out = np.tensordot(windows, kernel, (axes, list(range(1, 2 + rank))))  # [B, *grid, O]
    return out.reshape(len(x), -1, kernel.shape[0])


def tokens(t, m, x):
    """What enters the trunk: [B, L, D]."""
    pre = f"modality_preprocessors.{m}"
    if m == "text":
        return t[f"{pre}.token_embedding.weight"][x] + t[f"{pre}.pos_embed"]
    if m == "imu":
        windows = x.reshape(len(x), 6, -1, 8).transpose(0, 2, 1, 3).reshape(len(x), -1, 48)
        y = windows @ t[f"{pre}.imu_stem.proj.weight"].T
        y, position = norm(t, f"{pre}.imu_stem.norm_layer", y, 1e-5), t[f"{pre}.pos_embed"]
    else:
        stem = "depth_stem" if m == "depth" else "rgbt_stem"
        name = f"{pre}.{stem}.proj.1.weight" if m == "vision" else f"{pre}.{stem}.proj.weight"
        kernel = t[name]
        y = convolved(x, kernel, STRIDES.get(m, kernel.shape[2:]))
        position = t[f"{pre}.pos_embedding_helper.pos_embed"]
        if m != "vision":
            y = norm(t, f"{pre}.{stem}.norm_layer", y, 1e-5)
    cls = np.broadcast_to(t[f"{pre}.cls_token"], (len(x), 1, y.shape[-1]))
    return np.concatenate([cls, y], 1) + position


def attention(t, name, x, heads, causal):
    batch, length, width = x.shape
    qkv = x @ t[f"{name}.in_proj_weight"].T + t[f"{name}.in_proj_bias"]
    q, k, v = np.split(qkv, 3, axis=-1)
    if f"{name}.bias_k" in t:
        k, v = (
            np.concatenate([y, np.broadcast_to(t[f"{name}.{b}"], (batch, 1, width))], 1)
            for y, b in ((k, "bias_k"), (v, "bias_v"))
        )
    q, k, v = (y.reshape(batch, -1, heads, width // heads).swapaxes(1, 2) for y in (q, k, v))
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(width // heads)
    if causal:
        logits = logits + np.triu(np.full((length, length), -np.inf), 1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    return linear(t, f"{name}.out_proj", y.swapaxes(1, 2).reshape(batch, length, width))


def block(t, m, i, x, heads):
    name = f"modality_trunks.{m}.blocks.{i}"
    x = x + attention(t, f"{name}.attn", norm(t, f"{name}.norm_1", x, 1e-6), heads, m == "text")
    hidden = linear(t, f"{name}.mlp.fc1", norm(t, f"{name}.norm_2", x, 1e-6))
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    return x + linear(t, f"{name}.mlp.fc2", hidden)


def pre_norm(t, m, x):
    return norm(t, f"modality_trunks.{m}.pre_transformer_layer.0", x, 1e-6) if m == "vision" else x
