"""Evaluation during training: chosen benchmarks every so many steps, which change nothing of the run."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import lockstep
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import requirements
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.models.imagebind import ImageBind
from imagebind_jax.storage.fingerprint import flatten_config


def check_requirements(config: TrainConfig) -> None:
    """Raises UserError where a benchmark's records or encoder are missing: before the first step."""
    if (settings := config.evaluation) is None:
        return
    for benchmark in settings.benchmarks:
        if why := requirements.missing_requirement(
            benchmark, settings, config.model.encoders, "the model"
        ):
            raise UserError(f"evaluation of {benchmark.name}: {why}")


def process_invariant_fields(config: TrainConfig) -> dict[str, Any]:
    """What must be the same on all hosts: everything but how each reads. Raises UserError."""
    if (settings := config.evaluation) is None:
        return {}
    own = ("threads", "workers", "patience")
    fields = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return flatten_config({name: value for name, value in fields.items() if name not in own})


class PeriodicEval:
    """What `TrainConfig.evaluation` asks for, measured with the parameters of the moment.

    It draws no random numbers of the run's, and reads its own records: the run is bitwise the same
    with and without it.
    """

    def __init__(
        self,
        config: TrainConfig,
        place: Any,
        tell: Callable[[str], None],
        say: Callable[[str], None] = print,
    ):
        """place: where the run's parameters are (`sharding`). tell: what is being done; say: failures."""
        self.config, self.place, self.tell, self.say = config, place, tell, say
        self.seconds = 0.0  # spent so far
        self._bench: ModelEmbedder | None = None

    def due(self, done: int) -> bool:
        """After so many steps; always after the last one."""
        config = self.config
        return config.evaluation is not None and (
            done % config.evaluate_every == 0 or done == config.steps
        )

    def measure(self, params: Mapping) -> dict[str, float]:
        """{"evaluation/ESC/top1": 0.669, ...}: shares of 1, and ranks."""
        begun = time.monotonic()
        settings = self.config.evaluation
        assert settings is not None  # it is due
        params = self.place.gather(params)
        if self._bench is None:
            self._bench = ModelEmbedder(
                settings, ImageBind(self.config.model), params, tell=self.tell, place=self.place
            )
        else:
            self._bench.replace(params)
        values = {}
        for benchmark in settings.benchmarks:
            self.tell(f"evaluating {benchmark.name}")
            try:
                with lockstep.lockstep(benchmark.name):
                    measured = benchmark.evaluation.measure(self._bench)
            except Exception as error:  # which is no reason to lose the run
                if lockstep.is_device_error(error):
                    raise
                why = lockstep.describe_error(error)
                self.say(f"evaluation of {benchmark.name} failed, training goes on: {why}")
                continue
            for name, number in measured.numbers.items():
                values[f"evaluation/{benchmark.name}/{name}"] = number.value
        self.seconds += time.monotonic() - begun
        return values
