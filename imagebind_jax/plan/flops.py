"""Floating-point operations that a model needs, whatever a program does to compute it.

Products of matrices only, a multiplication and an addition being two operations. What a program
computes a second time (remat, micro-batches) is not counted: utilisation by these numbers cannot be
raised by doing more than needed. A causal mask is not taken into account.
"""

import functools
import math

import jax

from imagebind_jax import optimizer
from imagebind_jax.config import TrainConfig
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.training import step as training_step


def forward_flops(config: EncoderConfig, embed_dim: int) -> int:
    """Of one input through an encoder."""
    length, width = config.tokens, config.width
    hidden = round(config.mlp_ratio * width)
    keys = length + config.bias_kv
    ends = {  # the two ends of what an adapter stands beside
        "qkv": 4 * width,
        "out": 2 * width,
        "fc1": width + hidden,
        "fc2": width + hidden,
        "attn": 2 * width,
    }
    products = length * (4 * width * width + 2 * width * hidden)  # qkv, out, fc1, fc2
    attention = 2 * length * keys * width
    adapters = length * config.lora_rank * sum(ends[name] for name in config.lora)
    stem = (length - 1) * math.prod(config.patch) * config.shape[-1] * width if config.patch else 0
    head = width * embed_dim + config.mlp_head * width * width
    return 2 * (config.depth * (products + attention + adapters) + stem + head)


def trainable_fraction(config: TrainConfig) -> dict[str, float]:
    """{modality: which share of the encoder's parameters is trained}."""
    params = jax.eval_shape(functools.partial(training_step.create_state, config)).params
    trained, _ = optimizer.split_frozen(params, config.optimizer)

    def size(tree) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    return {
        modality: size(trained.get(modality, {})) / size(params[modality]) for modality in params
    }


def train_step_flops(
    config: TrainConfig, modalities: tuple[str, ...], shares: dict[str, float]
) -> int:
    """Of one training step on a global batch of a pair.

    A frozen encoder is run forwards. A trained one costs that three times over: forwards, the
    gradient by its activations, and by its weights; of the last, one that is trained in part costs
    that part; one that anchors stand for, and is not among the modalities, nothing. The loss is one
    product of all embeddings with all, and one for each gradient of it.
    """
    rows, total = config.batch_size, 0.0
    for modality in modalities:
        share = shares[modality]
        passes = 2 + share if share else 1
        total += (
            passes * rows * forward_flops(config.model.encoders[modality], config.model.embed_dim)
        )
    gradients = sum(shares[modality] > 0 for modality in modalities)
    return round(total + (1 + gradients) * 2 * rows * rows * config.model.embed_dim)
