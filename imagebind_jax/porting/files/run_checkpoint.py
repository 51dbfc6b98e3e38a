"""The weights that a training run has reached: its newest whole checkpoint, read while it may go on."""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from flax import traverse_util

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.porting.files.own_checkpoint import OrbaxReader, check_regular_files
from imagebind_jax.porting.files.parameter_source import ParameterSource, select_encoders

_NUMBER = re.compile("[0-9]{1,18}")
_MAX_META = 64 << 20  # bytes
COMMITTED = "commit_success.txt"  # written last by orbax


class RunCheckpoint(ParameterSource):
    """The parameters of a run folder or of one step in it; each leaf is verified when it is read."""

    def __init__(self, folder: pathlib.Path, modalities: Sequence[str], dtype: str):
        """Nothing in the folder is changed. Raises UserError where no checkpoint is committed."""
        step = _newest(folder)
        meta = _meta(step)
        config = _model(meta["config"], step)
        super().__init__(
            select_encoders(config, modalities, folder),
            dtype,
            {"file": f"{folder.name}, step {step.name}", "licence": _licence(meta["config"])},
        )
        self._digests, self._step = meta["digest"], step
        self.inputs = {k: v for k, v in meta["config"].items() if k.startswith("inputs.")}
        self._reader = OrbaxReader(step / "state", below=("params",))
        self._reader.check({path: spec.shape for path, spec in self.specs.items()})

    def pieces(self, path: str) -> Iterator[np.ndarray]:
        """As of `ParameterSource`. Raises UserError on a leaf that is not what was saved."""
        leaf = self._reader.read(path)
        found, _ = checkpointer.tree_checksums({path: leaf})
        if found[path] != self._digests.get(f"params/{path}"):
            raise UserError(f"{self._step}: {path} is damaged: it is not what was saved")
        yield from self._layers(path, leaf)


def _licence(facts: dict[str, Any]) -> str:
    begun = [pathlib.PurePath(str(path)).name for path in facts.get("initial") or ()]
    started = f", and those of what it started from: {', '.join(begun)}" if begun else ""
    return f"that of its training data{started}"


def is_run(folder: pathlib.Path) -> bool:
    """Whether this is a folder of `imagebind-jax train`, its checkpoints, or one of them."""
    return bool(_steps(folder)) or (folder / "checkpoints").is_dir()


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
    found = [folder]
    for parent in (folder, folder / "checkpoints"):
        found += [step for step in parent.glob("*") if _NUMBER.fullmatch(step.name)]
    return [step for step in found if (step / COMMITTED).is_file() and (step / "state").is_dir()]


def _newest(folder: pathlib.Path) -> pathlib.Path:
    steps = _steps(folder)
    if not steps:
        raise UserError(f"{folder}: no checkpoint is committed there yet")
    return max(steps, key=lambda step: int(step.name) if _NUMBER.fullmatch(step.name) else -1)


def _meta(step: pathlib.Path) -> dict[str, Any]:
    try:
        check_regular_files(step)
        with (step / "meta" / "metadata").open("rb") as file:
            meta = json.loads(file.read(_MAX_META))
        if not isinstance(meta["config"], dict) or not isinstance(meta["digest"], dict):
            raise TypeError("no objects in it")
        return meta
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{step} is damaged: its meta cannot be read ({error})") from error


def _model(facts: dict[str, Any], step: pathlib.Path) -> ImageBindConfig:
    """The model's config out of `config.run_fingerprint`, where it stands flattened with dots."""
    prefix = "model."
    flat = {
        tuple(name.removeprefix(prefix).split(".")): value
        for name, value in facts.items()
        if name.startswith(prefix)
    }
    # A dataclass's own name stands where its fields begin.
    parents = {path[:length] for path in flat for length in range(len(path))}
    fields = {path: value for path, value in flat.items() if path not in parents}
    try:
        return msgspec.convert(traverse_util.unflatten_dict(fields), ImageBindConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"{step} holds no model that this version knows: {error}") from error
