"""One step of training: the state before it, a batch, and the state after."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from imagebind_jax import optimizer
from imagebind_jax.config import TrainConfig
from imagebind_jax.models.imagebind import init
from imagebind_jax.training import gradients, injected_faults, skip_step


class TrainState(flax.struct.PyTreeNode):
    """Everything a checkpoint holds; batches and random keys are functions of (seed, step)."""

    step: Any  # an int32; any leaf, as JAX builds trees of shapes and shardings too
    params: Any
    opt_state: Any
    health: Any  # counters of steps that were skipped


def create_state(config: TrainConfig) -> TrainState:
    """The state before the first step."""
    params = init(config.model, jax.random.key(config.seed))
    params = optimizer.cast_frozen(params, config.optimizer, config.model.dtype)
    moments = optimizer.init(config.optimizer, params)
    return TrainState(jnp.int32(0), params, moments, skip_step.init_step_guard(config))


def train_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    config: TrainConfig,
    over_devices: Callable,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on a batch of one modality pair, {modality: inputs, "weight": [B]}.

    "anchor:vision" in place of "vision" holds embeddings, [B, E]: that tower is not run.
    `over_devices` runs on each device what there is to do with its rows (`sharding`).

    A step whose loss or gradient is not finite is skipped, and so is one whose loss is a spike by
    `config.skip_spikes`: parameters and optimizer state stay what they are, bit for bit, and only
    the counters go on.
    """
    present = {modality: state.params[modality] for modality in batch if modality in state.params}
    trained, frozen = optimizer.split_frozen(present, config.optimizer)
    # Of this kind, a row's numbers do not depend on how many are drawn at once.
    key = jax.random.fold_in(jax.random.key(config.seed, impl="threefry2x32"), state.step)
    of_pair = over_devices(functools.partial(gradients.pair_loss_and_grad, config=config))
    loss, numbers, gradient = of_pair(trained, frozen, batch, key)
    loss, gradient = injected_faults.inject_loss_grad_fault(loss, gradient, state.step)
    rate = optimizer.learning_rate(config.optimizer, config.steps)(state.step)
    updated, opt_state, norm = optimizer.update(
        config.optimizer, gradient, state.opt_state, trained, rate
    )
    good, counters = skip_step.should_apply_step(
        state.health, loss, norm, skip_step.pair_name(batch), config.skip_spikes
    )
    updated, opt_state = jax.tree.map(
        functools.partial(jnp.where, good), (updated, opt_state), (trained, state.opt_state)
    )
    params = state.params | optimizer.merge_params(frozen, updated)
    numbers |= {
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": norm,
        "skipped": 1 - good.astype(jnp.float32),
        "skipped_steps": counters["skipped"],
        "skipped_in_a_row": counters["in_a_row"],
    }
    return TrainState(state.step + 1, params, opt_state, counters), numbers
