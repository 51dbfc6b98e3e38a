"""A run's health: which steps are skipped, and how that is counted."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.precomputed import PRECOMPUTED_PREFIX

LOSS_WINDOW = 128  # accepted losses of a pair of modalities, as MaxText has it, after OLMo
MIN_LOSSES = 32  # of them, before which no loss is called a spike
MIN_RELATIVE_STD = 1e-3  # of the mean: losses that hardly differ have no spikes


def pair_name(names: Iterable[str]) -> str:
    """The modalities of a pair, or of a batch, in one order: "audio+vision"."""
    return "+".join(
        sorted(name.removeprefix(PRECOMPUTED_PREFIX) for name in names if name != "weight")
    )


def init_step_guard(config: TrainConfig) -> dict[str, Any]:
    """The counters before the first step; checkpoints of older versions lack them.

    {"skipped": steps in all, "in_a_row": those up to now} and, with `config.skip_spikes`, of each
    pair of modalities "recent", its last accepted losses, and "accepted", how many there were.
    """
    health: dict[str, Any] = {"skipped": jnp.int32(0), "in_a_row": jnp.int32(0)}
    if config.skip_spikes:
        names = sorted({pair_name(pair.modalities) for pair in config.pairs})
        health["recent"] = {name: jnp.zeros(LOSS_WINDOW, jnp.float32) for name in names}
        health["accepted"] = {name: jnp.int32(0) for name in names}
    return health


def should_apply_step(
    health: Mapping[str, Any], loss: jax.Array, norm: jax.Array, pair: str, deviations: float
) -> tuple[jax.Array, dict[str, Any]]:
    """(whether a step may be taken, the counters after it).

    It may not where its loss or its gradient's norm is no number, nor, with `deviations` > 0, where
    the loss is so many standard deviations (at least 0.1 % of the mean each) above the mean of the
    pair's recent ones. All of these are the same on every device, and so is the answer.
    """
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    after = dict(health)
    if deviations:
        recent, accepted = health["recent"][pair], health["accepted"][pair]
        loss = loss.astype(recent.dtype)
        count = jnp.minimum(accepted, LOSS_WINDOW)
        seen = jnp.arange(LOSS_WINDOW) < count
        mean = jnp.sum(jnp.where(seen, recent, 0)) / jnp.maximum(count, 1)
        square = jnp.sum(jnp.where(seen, (recent - mean) ** 2, 0)) / jnp.maximum(count, 1)
        deviation = jnp.maximum(jnp.sqrt(square), MIN_RELATIVE_STD * jnp.abs(mean))
        good &= (count < MIN_LOSSES) | (loss <= mean + deviations * deviation)
        kept = jnp.where(good, recent.at[accepted % LOSS_WINDOW].set(loss), recent)
        after["recent"] = {**health["recent"], pair: kept}
        after["accepted"] = {**health["accepted"], pair: accepted + good.astype(jnp.int32)}
    skipped = 1 - good.astype(jnp.int32)
    after["skipped"] = health["skipped"] + skipped
    after["in_a_row"] = (health["in_a_row"] + 1) * skipped
    return good, after
