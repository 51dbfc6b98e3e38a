"""One config on one slice: the step of each of its pairs, compiled and estimated."""

import dataclasses
from typing import Any

from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.plan import aot_compile, flops, hlo_schedule, table, tpu_topologies
from imagebind_jax.plan.roofline import estimate_step
from imagebind_jax.runtime.progress import Progress


def plan_config(config: TrainConfig, topology: str, devices: list[Any]) -> table.Numbers:
    """The numbers of every pair of a config, and of the mean of its steps. Raises UserError."""
    chip = tpu_topologies.chip_of_slice(topology)
    by_name = {pair.name: pair for pair in config.pairs}  # of several sources, one step
    pairs: dict[str, table.Numbers] = {}
    with Progress("plan", len(by_name), every=10.0) as progress:
        for name, pair in by_name.items():
            progress.say(f"compiling the step of {name}")
            pairs[name] = plan_pair(config, pair, topology, devices)
            progress.update(len(pairs))
    weights = dict.fromkeys(by_name, 0.0)
    for pair in config.pairs:
        weights[pair.name] += pair.weight
    return {
        "topology": topology,
        "devices": len(devices),
        "chip": dataclasses.asdict(chip),
        "batch_size": config.batch_size,
        "settings": swept_settings(config),
        "pairs": pairs,
        "run": table.run_report(pairs, weights, chip, config.batch_size, len(devices)),
        "remedy": aot_compile.memory_advice(config, len(devices)),
    }


def plan_pair(
    config: TrainConfig, pair: ModalityPair, topology: str, devices: list[Any]
) -> table.Numbers:
    """The numbers of one pair's step. Raises UserError, OutOfMemoryError among them."""
    chip = tpu_topologies.chip_of_slice(topology)
    compiled = aot_compile.compile_step(config, pair, devices)
    needed = flops.train_step_flops(config, pair.encoded, flops.trainable_fraction(config))
    found = estimate_step(hlo_schedule.read_schedule(compiled.text), chip, needed / len(devices))
    return table.pair_report(compiled, found, chip)


def swept_settings(config: TrainConfig) -> dict[str, Any]:
    """The fields that decide how fast a step is, and that a sweep may change."""
    return {
        "batch_size": config.batch_size,
        "micro_batches": config.micro_batches,
        "model.remat": config.model.remat,
        "fsdp": config.fsdp,
        "loss": config.loss,
    }
