"""The optimizer: AdamW per tower, warm-up and cosine, weight-decay mask, frozen parameters by path."""

import dataclasses
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from imagebind_jax.errors import UserError

SCALAR_PARAMS = {
    "log_logit_scale",
    "logit_bias",
}  # of an encoder: numbers, where all else are arrays
FREEZE_ALL_BUT_LORA = r"(?!.*_lora/)"  # for `frozen`: every parameter that belongs to no adapter


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Defaults are the paper's for AudioSet (Table 9), but for the schedule's shape: not stated there.

    `frozen` holds regular expressions; a parameter whose path ("vision/trunk/blocks/attn/...")
    matches one from its start gets no gradient and no optimizer state.
    """

    learning_rate: float = 1.6e-3  # at its peak
    warmup_steps: int = 500
    final_fraction: float = 0.0  # of the peak, at the end of the cosine
    weight_decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    frozen: tuple[str, ...] = ()
    # How many times faster a learned temperature (and the sigmoid's bias) moves than all else: by
    # `learning_rate` alone, a run of a thousand steps leaves it where it began.
    scale_rate: float = 1.0
    younger_fields = ("scale_rate",)

    def __post_init__(self):
        for name in ("learning_rate", "clip_norm", "epsilon", "scale_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "final_fraction"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for rule in self.frozen:
            try:
                re.compile(rule)
            except re.error as error:
                raise UserError(f"frozen {rule!r} is no regular expression: {error}") from None


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine down to `final_fraction` of the peak at `steps`."""
    warmup = min(config.warmup_steps, steps // 2)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.learning_rate * config.final_fraction,
    )


def weight_decay_mask(params: Mapping) -> Mapping:
    """Which leaves weight decay applies to: weights of products, and no vector, position or scale.

    An adapter's two matrices are such weights: decay pulls it towards adding nothing.
    """
    weight = re.compile(r"(.*/)?kernel|.*_lora/[ab]")
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({p: bool(weight.fullmatch("/".join(p))) for p in flat})


def split_frozen(params: Mapping, config: OptimizerConfig) -> tuple[dict, dict]:
    """(trained, frozen): the two parts of the parameters, each a nested dict."""
    rules = [re.compile(rule) for rule in config.frozen]
    trained: dict[tuple[str, ...], jax.Array] = {}
    frozen: dict[tuple[str, ...], jax.Array] = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        is_frozen = any(rule.match("/".join(path)) for rule in rules)
        (frozen if is_frozen else trained)[path] = leaf
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(frozen)


def cast_frozen(params: Mapping, config: OptimizerConfig, dtype: str) -> dict:
    """The parameters with frozen weights of products in the type in which products are computed.

    They are cast to it wherever they are used, so nothing changes but the memory they take.
    """
    trained, frozen = split_frozen(params, config)
    flat = traverse_util.flatten_dict(frozen)
    flat = {path: x.astype(dtype) if path[-1] == "kernel" else x for path, x in flat.items()}
    return merge_params(traverse_util.unflatten_dict(flat), trained)


def merge_params(a: Mapping, b: Mapping) -> dict:
    """The union of two nested dicts; where both have a leaf, b's."""
    return traverse_util.unflatten_dict(
        traverse_util.flatten_dict(a) | traverse_util.flatten_dict(b)
    )


def _tower(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=weight_decay_mask),
    )


def init(config: OptimizerConfig, params: Mapping) -> dict:
    """{tower: optimizer state} for the trained parameters.

    Raises UserError on a `frozen` rule that no parameter's path matches.
    """
    paths = ["/".join(path) for path in traverse_util.flatten_dict(params)]
    for rule in config.frozen:
        if not any(re.match(rule, path) for path in paths):
            raise UserError(f"frozen {rule!r} matches no parameter, e.g. not {paths[0]}")
    trained, _ = split_frozen(params, config)
    return {tower: _tower(config).init(leaves) for tower, leaves in trained.items()}


def update(
    config: OptimizerConfig, grads: Mapping, state: Mapping, params: Mapping, rate: jax.Array
) -> tuple[dict, dict, jax.Array]:
    """One step with gradients of some towers; the others, and their moments, stay untouched.

    A batch holds one pair of modalities: were the absent towers given zero gradients, their
    momentum and weight decay would go on moving them. Returns (params of these towers, the whole
    optimizer state, norm of the gradient before clipping).
    """
    norm = optax.tree.norm(grads)
    clip = jnp.minimum(1.0, config.clip_norm / jnp.maximum(norm, 1e-12))
    params, state = dict(params), dict(state)
    for tower, gradient in grads.items():
        gradient = jax.tree.map(lambda g: g * clip, gradient)
        updates, state[tower] = _tower(config).update(gradient, state[tower], params[tower])
        if config.scale_rate != 1:
            for name in SCALAR_PARAMS & updates.keys():
                updates[name] = updates[name] * config.scale_rate
        params[tower] = jax.tree.map(lambda p, u: p - rate * u, params[tower], updates)
    return {tower: params[tower] for tower in grads}, state, norm
