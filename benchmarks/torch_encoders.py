"""The six encoders written with PyTorch's own modules: what cpu.py and gpu.py are measured against.

Written from the same facts as `imagebind_jax.models.encoder`, channels last like it; `fill` copies our
parameters over, after which both give the same embeddings (tests/benchmarks/test_torch_encoders.py).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import EncoderConfig

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class QuickGelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: str) -> nn.Module:
    if name == "quick_gelu":
        return QuickGelu()
    return nn.GELU("tanh" if name == "gelu_tanh" else "none")


def encoder(config: EncoderConfig, embed_dim: int) -> "Encoder":
    """Any encoder of a model, with PyTorch's random parameters, in training mode as modules are."""
    if config.lora:
        raise UserError("the encoders that are measured against have no adapters")
    return Encoder(config, embed_dim)


class Encoder(nn.Module):
    """[B, *shape], channels last (text: whole numbers [B, L]) -> unit vectors [B, E]."""

    def __init__(self, config: EncoderConfig, embed_dim: int):
        super().__init__()
        c = self.config = config
        if c.vocab_size:
            self.embed = nn.Embedding(c.vocab_size, c.width)
        else:
            convolution = CONVOLUTIONS[len(c.patch) - 1]
            self.stem = convolution(
                c.shape[-1], c.width, c.patch, stride=c.stride or c.patch, bias=False
            )
            self.stem_norm = nn.LayerNorm(c.width) if c.stem_norm else nn.Identity()
            self.cls = nn.Parameter(torch.randn(1, 1, c.width) * c.width**-0.5)
        self.position = nn.Parameter(torch.randn(1, c.tokens, c.width) * c.width**-0.5)
        self.pre_norm = nn.LayerNorm(c.width, c.norm_eps) if c.pre_norm else nn.Identity()
        rates = np.linspace(0, c.drop_path, c.depth).tolist()
        self.blocks = nn.ModuleList(Block(c, rate) for rate in rates)
        self.norm = nn.LayerNorm(c.width, c.norm_eps)
        self.dropout = nn.Dropout(c.head_dropout)
        self.head = nn.Linear(c.width, embed_dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.head(self.dropout(self.norm(self.pooled(x)))).float()
        return functional.normalize(z, dim=-1)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x
        if self.config.vocab_size:
            x = self.embed(tokens)  # [B, L, D]
        else:
            x = self.stem(x.movedim(-1, 1)).flatten(2).transpose(1, 2)  # [B, L - 1, D]
            x = self.stem_norm(x)
            x = torch.cat([self.cls.to(x.dtype).expand(len(x), -1, -1), x], dim=1)  # [B, L, D]
        x = self.pre_norm(x + self.position.to(x.dtype))
        for block in self.blocks:
            x = block(x)
        if self.config.vocab_size:  # the end-of-text token has the largest id
            return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)]
        return x[:, 0]


class Block(nn.Module):
    """Pre-norm residual block; in training each branch is dropped per sample."""

    def __init__(self, config: EncoderConfig, rate: float):
        super().__init__()
        c = config
        self.rate, hidden = rate, round(c.mlp_ratio * c.width)
        self.causal = c.causal and c.vocab_size > 0
        mask = torch.full((c.tokens, c.tokens), -math.inf).triu(1) if self.causal else None
        self.register_buffer("mask", mask, persistent=False)
        self.norm_1 = nn.LayerNorm(c.width, c.norm_eps)
        self.attn = nn.MultiheadAttention(c.width, c.heads, add_bias_kv=c.bias_kv, batch_first=True)
        self.norm_2 = nn.LayerNorm(c.width, c.norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(c.width, hidden), activation(c.activation), nn.Linear(hidden, c.width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_1(x)
        mask = None if self.mask is None else self.mask.to(y.dtype)
        y, _ = self.attn(y, y, y, need_weights=False, attn_mask=mask, is_causal=self.causal)
        x = x + self.dropped(y)
        return x + self.dropped(self.mlp(self.norm_2(x)))

    def dropped(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.rate
        return branch * keep / (1 - self.rate)


def fill(module: Encoder, params: Mapping[str, Any]) -> None:
    """Copies the parameters of our encoder of the same config, one {name: {...}} tower, into it."""
    state: dict[str, np.ndarray] = {"position": np.asarray(params["position"])[None]}

    def norm(theirs: str, ours: Mapping[str, Any]) -> None:
        state[f"{theirs}.weight"] = np.asarray(ours["scale"])
        state[f"{theirs}.bias"] = np.asarray(ours["bias"])

    if "embed" in params:
        state["embed.weight"] = np.asarray(params["embed"]["embedding"])
    else:
        kernel = np.asarray(params["stem"]["kernel"])
        state["stem.weight"] = np.moveaxis(kernel, (-1, -2), (0, 1))
        state["cls"] = np.asarray(params["cls"])[None, None]
        if "norm" in params["stem"]:
            norm("stem_norm", params["stem"]["norm"])
    if "pre_norm" in params["trunk"]:
        norm("pre_norm", params["trunk"]["pre_norm"])
    for i in range(len(module.blocks)):
        _block(f"blocks.{i}", params["trunk"]["blocks"], i, norm, state)
    norm("norm", params["norm"])
    state["head.weight"] = np.asarray(params["head"]["kernel"]).T
    module.load_state_dict({name: torch.tensor(array) for name, array in state.items()})


def _block(at, stacked, i, norm, state) -> None:
    """One layer of our stacked blocks: every leaf has the layer as its first axis."""

    def layer(tree):
        if isinstance(tree, Mapping):
            return {name: layer(leaf) for name, leaf in tree.items()}
        return np.asarray(tree)[i]

    block = layer(stacked)
    attention, width = block["attn"], len(block["norm_1"]["scale"])
    norm(f"{at}.norm_1", block["norm_1"])
    norm(f"{at}.norm_2", block["norm_2"])
    state |= {
        f"{at}.attn.in_proj_weight": attention["qkv"]["kernel"].reshape(width, -1).T,
        f"{at}.attn.in_proj_bias": attention["qkv"]["bias"].reshape(-1),
        f"{at}.attn.out_proj.weight": attention["out"]["kernel"].reshape(-1, width).T,
        f"{at}.attn.out_proj.bias": attention["out"]["bias"],
    }
    if "bias_k" in attention:
        for name in ("bias_k", "bias_v"):
            state[f"{at}.attn.{name}"] = attention[name].reshape(1, 1, width)
    for theirs, ours in (("0", "fc1"), ("2", "fc2")):
        state[f"{at}.mlp.{theirs}.weight"] = block["mlp"][ours]["kernel"].T
        state[f"{at}.mlp.{theirs}.bias"] = block["mlp"][ours]["bias"]
