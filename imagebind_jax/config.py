"""The configuration of a training run, and what of it a checkpoint remembers."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from imagebind_jax import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import pipeline
from imagebind_jax.inputs.sources import Cached
from imagebind_jax.model import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole training run; a config file returns one from `get_config()`."""

    model: ImageBindConfig
    inputs: Mapping[str, pipeline.Transform]  # modality -> record to model input
    pairs: tuple[pipeline.Pair, ...]
    steps: int
    batch_size: int  # global, over all devices and hosts
    optimizer: OptimizerConfig = OptimizerConfig()
    initial: tuple[str, ...] = ()  # checkpoints of any format to start from, later ones on top
    seed: int = 0
    in_memory: bool = False  # decode each record once, without augmentation, and keep it
    # How it is run: the same function is minimised, so a run may go on with others. (Sums change
    # their order, and under pmap each replica draws its own dropout.)
    parallel: str = "sharded"  # or pmap
    fsdp: int | None = None  # devices that share one copy of the parameters; None: all
    threads: int = 2  # reading and decoding
    workers: int = 0  # processes for it in place of threads
    patience: float = 60.0  # seconds that one record may take before the run ends, naming it
    bad_records: float = 0.01  # share of a pair's rows that may be unusable, and masked
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.workers < 0 or not self.patience > 0 or not 0 <= self.bad_records <= 1:
            raise UserError(
                f"workers {self.workers}, patience {self.patience}, bad_records {self.bad_records}: "
                "they must be at least 0, above 0, within [0, 1]"
            )
        if self.workers and self.in_memory:
            raise UserError("in_memory keeps inputs in one process: it goes with workers 0 only")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be in [0, 2**32), got {self.seed}")
        if isinstance(self.initial, str):
            raise UserError(f"initial must be a tuple of paths: ({self.initial!r},)")
        if not self.pairs:
            raise UserError("a run needs at least one pair of modalities")
        if self.parallel not in sharding.PARALLEL:
            raise UserError(
                f"parallel {self.parallel!r}: not one of {', '.join(sharding.PARALLEL)}"
            )
        for pair in self.pairs:
            for modality in pair.modalities:
                for name, known in (
                    ("model.encoders", self.model.encoders),
                    ("inputs", {**self.inputs, **pair.inputs}),
                ):
                    if modality not in known:
                        raise UserError(f"a pair needs {modality!r}, which {name} lacks")


HOW = ("parallel", "fsdp", "threads", "workers", "patience", "bad_records",
       "log_every", "checkpoint_every", "keep")  # fmt: skip


def cached(config: TrainConfig) -> list[Cached]:
    """The sources of a run that are made on this machine, to be made before training."""
    return [pair.source for pair in config.pairs if isinstance(pair.source, Cached)]


def facts(config: TrainConfig) -> dict[str, Any]:
    """What a checkpoint says of its run: every field that changes what is computed."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in HOW:
            _flatten(name, value, flat)
    return {"config": flat}


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if dataclasses.is_dataclass(value):
        into[name] = type(value).__name__
        for field in dataclasses.fields(value):
            _flatten(f"{name}.{field.name}", getattr(value, field.name), into)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, into)
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for i, item in enumerate(value):
            _flatten(f"{name}.{i}", item, into)
    else:
        # As it comes back from a file: JSON has no tuples.
        try:
            into[name] = json.loads(json.dumps(value))
        except TypeError:
            raise UserError(
                f"{name} is {value!r}: a config holds dataclasses, mappings, tuples, texts and numbers"
            ) from None
