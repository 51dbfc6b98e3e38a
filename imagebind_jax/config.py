"""The configuration of a training run, what of it a checkpoint remembers, and config files."""

import contextlib
import dataclasses
import importlib.util
import io
import numbers
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import EvalConfig
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.sources import CachedSource
from imagebind_jax.losses import contrastive
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.storage.fingerprint import fingerprint_fields, flatten_config, json_sha256


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole training run; a config file returns one from `get_config()`."""

    model: ImageBindConfig
    inputs: Mapping[str, batches.Transform]  # modality -> record to model input
    pairs: tuple[batches.ModalityPair, ...]
    steps: int
    batch_size: int  # global, over all devices and hosts
    optimizer: OptimizerConfig = OptimizerConfig()
    initial: tuple[str, ...] = ()  # checkpoints of any format to start from, later ones on top
    seed: int = 0
    # Standard deviations above the last 128 losses of a pair of modalities from which on a step is
    # skipped; 0: never. (A step that is not finite always is.)
    skip_spikes: float = 0.0
    objective: str = "info_nce"  # what is minimised: or sigmoid, regression, joint (`losses`)
    in_memory: bool = False  # decode each record once, without augmentation, and keep it
    # How it is run: the same function is minimised, so a run may go on with others. (Sums change
    # their order.)
    parallel: str = "sharded"  # or pmap
    fsdp: int | None = None  # devices that share one copy of the parameters; None: all
    micro_batches: int = 1  # parts of a device's rows, one after the other: less memory, more time
    frozen_rows: int | None = None  # at once through a frozen encoder; None: as the trained ones
    loss: str = "auto"  # or gathered, chunked, ring (`losses`): the same number, by memory
    threads: int = 2  # reading and decoding
    workers: int = 0  # processes for it in place of threads
    patience: float = 60.0  # seconds that one record may take before the run ends, naming it
    bad_records: float = 0.01  # share of a pair's rows that may be unusable, and masked
    stop_after_skipped: int = 10  # steps in a row
    patience_of_step: float = 60.0  # seconds, at least, that a step may take before all ends
    compare_every: int = 1000  # steps: do replicas of the state still agree? 0: never
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2
    evaluation: EvalConfig | None = None  # measured while training, into the same metrics
    evaluate_every: int = 1000  # steps

    younger_fields = ("skip_spikes", "objective")  # than runs that may go on

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and not isinstance(value, numbers.Real):
                raise UserError(f"{field.name} must be a number, got {value!r}")
        for name in (
            "steps",
            "batch_size",
            "log_every",
            "checkpoint_every",
            "evaluate_every",
            "threads",
            "micro_batches",
            "stop_after_skipped",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.frozen_rows is not None and self.frozen_rows < 1:
            raise UserError(f"frozen_rows must be at least 1, or None, got {self.frozen_rows}")
        for name in ("workers", "compare_every", "skip_spikes"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("patience", "patience_of_step"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.bad_records <= 1:
            raise UserError(f"bad_records must be within [0, 1], got {self.bad_records}")
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
        if self.loss not in ("auto", *contrastive.LOSS_IMPLEMENTATIONS):
            raise UserError(
                f"loss {self.loss!r}: not one of auto, {', '.join(contrastive.LOSS_IMPLEMENTATIONS)}"
            )
        if self.objective not in contrastive.OBJECTIVES:
            raise UserError(
                f"objective {self.objective!r}: not one of {', '.join(contrastive.OBJECTIVES)}"
            )
        if self.objective == "sigmoid" and self.loss not in ("auto", "gathered"):
            raise UserError(
                f"loss {self.loss!r} is a form of info_nce: the sigmoid objective has auto and "
                "gathered only"
            )
        for pair in self.pairs:
            if pair.views and self.in_memory:
                raise UserError(f"in_memory keeps no random views, which {pair.name} has")
            # What stands for an encoder's embeddings needs no encoder.
            anchored = {pair.modalities[0]: None} if pair.anchors else {}
            for modality in pair.modalities:
                for name, known in (
                    ("model.encoders", {**self.model.encoders, **anchored}),
                    ("inputs", {**self.inputs, **pair.inputs}),
                ):
                    if modality not in known:
                        raise UserError(f"a pair needs {modality!r}, which {name} lacks")


EXECUTION_FIELDS = ("parallel", "fsdp", "micro_batches", "frozen_rows", "loss", "threads", "workers", "patience", "bad_records",
       "stop_after_skipped", "patience_of_step", "compare_every", "log_every", "checkpoint_every", "keep", "evaluation", "evaluate_every")  # fmt: skip

EXECUTION_FIELDS_OF_MODEL = ("model.remat", "model.unroll")


def cached_sources(config: TrainConfig) -> list[CachedSource]:
    """The sources of a run that are made on this machine, to be made before training."""
    return [pair.source for pair in config.pairs if isinstance(pair.source, CachedSource)]


def run_fingerprint(config: TrainConfig) -> dict[str, Any]:
    """What a checkpoint says of its run: every field that changes what is computed."""
    found = flatten_config(
        {
            name: value
            for name, value in fingerprint_fields(config).items()
            if name not in EXECUTION_FIELDS
        }
    )
    found = {name: value for name, value in found.items() if name not in EXECUTION_FIELDS_OF_MODEL}
    return {"config": found | precomputed_fingerprint(config)}


def precomputed_fingerprint(config: TrainConfig) -> dict[str, Any]:
    """What is in the folders of a config's anchors, of which it says only where they are."""
    return {
        f"pairs.{i}.anchors.made": json_sha256(pair.anchors.facts())
        for i, pair in enumerate(config.pairs)
        if pair.anchors is not None
    }


Config = TypeVar("Config")


def load_config(
    path: str | os.PathLike,
    kind: type[Config],
    overrides: Sequence[str] = (),
    command: str | None = None,
) -> Config:
    """What a config file's `get_config()` returns, with `--any.field VALUE` overrides applied.

    kind: TrainConfig or EvalConfig. command: what help calls this (default: the kind's own).
    Raises UserError where it is another, and with the nearest name on an unknown field or a value
    of the wrong type.
    """
    import cloudpickle  # which grain sends transforms to its processes with
    import tyro

    if not pathlib.Path(path).is_file():
        raise UserError(f"no config file {path}")
    # A module, so that classes it defines have a source and can be sent to other processes.
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file: its name must end with .py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    cloudpickle.register_pickle_by_value(module)  # other processes could not import it by its name
    try:
        spec.loader.exec_module(module)  # a config is code: run only those you would run
        get_config = getattr(module, "get_config", None)
        config = get_config() if get_config else None
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    if get_config is None:
        raise UserError(f"{path} does not define get_config()")
    command = command or ("train" if kind is TrainConfig else "evaluate")
    if not isinstance(config, kind):
        other = "evaluate" if isinstance(config, EvalConfig) else "train"
        hint = f": imagebind-jax {other}" if isinstance(config, (TrainConfig, EvalConfig)) else ""
        found, wanted = type(config).__name__, kind.__name__
        raise UserError(f"get_config() of {path} returned {found}, not {wanted}{hint}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind,
                default=config,
                args=overrides,
                prog=f"imagebind-jax {command} {path}",
                # Of a field that may be None; and without those that only a file can say.
                config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(said.getvalue())) from None


def _one_line(box: str) -> str:
    """The message out of the box that tyro draws around it."""
    lines = [re.sub(r"^[│|\s]+|[│|\s]+$", "", line) for line in box.splitlines()]
    text = " ".join(line for line in lines if line and not re.match(r"^[╭╰─]", line))
    text = re.sub(r"\s*(Argument helptext:|For full helptext,).*", "", text)
    return text or "the config's fields could not be read"
