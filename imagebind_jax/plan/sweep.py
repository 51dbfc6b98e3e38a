"""Other settings of the same run: which of them fit a slice, and which is fastest there."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from imagebind_jax.config import TrainConfig
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.losses import contrastive
from imagebind_jax.models.layers import REMAT_POLICIES
from imagebind_jax.plan import aot_compile, flops, step_estimate, table

FIELDS = ("micro_batches", "model.remat", "fsdp", "loss", "batch_size")


def candidate_values(config: TrainConfig, field: str, count: int) -> list[Any]:
    """What is worth trying for a field on `count` devices, besides what the config has."""
    rows, now = config.batch_size // count, step_estimate.swept_settings(config)[field]
    tried: dict[str, list[Any]] = {
        "batch_size": [config.batch_size // 2, config.batch_size * 2],
        "micro_batches": [n for n in (1, 2, 4, 8, 16) if rows % n == 0],
        "model.remat": ["none", *REMAT_POLICIES],
        "fsdp": [n for n in (1, 4, 16, count) if count % n == 0],
        "loss": [*contrastive.LOSS_IMPLEMENTATIONS],
    }
    same = {now, count if now is None and field == "fsdp" else now}
    return [value for value in dict.fromkeys(tried[field]) if value not in same]


def replace_field(config: TrainConfig, field: str, value: Any) -> TrainConfig:
    """The config with one of `FIELDS` set. Raises UserError."""
    of_model = field.removeprefix("model.")
    if of_model != field:
        return dataclasses.replace(
            config, model=dataclasses.replace(config.model, **{of_model: value})
        )
    return dataclasses.replace(config, **{field: value})


def sweep(
    config: TrainConfig,
    topology: str,
    devices: list[Any],
    fields: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> table.Numbers:
    """Tries one field after the other, each from the best so far; the costliest pair stands for all.

    Best is what makes the most samples a second among what fits with room to spare. Raises
    UserError on a field that it does not know.
    """
    if unknown := set(fields) - set(FIELDS):
        raise UserError(f"--sweep {sorted(unknown)[0]}: not one of {', '.join(FIELDS)}")
    shares = flops.trainable_fraction(config)
    pair = max(config.pairs, key=lambda each: flops.train_step_flops(config, each.encoded, shares))
    fields = [field for field in FIELDS if field in (fields or FIELDS)]
    about = 1 + sum(len(candidate_values(config, field, len(devices))) for field in fields)
    say(f"{pair.name} on {topology}, about {about} programs to compile; times are estimates")
    begun, trials = time.monotonic(), [_tried(config, pair, topology, devices)]
    say(_line(trials[0], 1, about, begun))
    best = trials[0]
    for field in fields:
        around = config
        for value in candidate_values(around, field, len(devices)):
            try:
                other = replace_field(around, field, value)
                aot_compile.check_plannable(other, len(devices))
            except UserError:
                continue  # of a batch that cannot be split so
            trial = _tried(other, pair, topology, devices)
            trials.append(trial)
            say(_line(trial, len(trials), max(about, len(trials)), begun))
            if trial["usable"] and (not best["usable"] or trial["rate"] > best["rate"]):
                best, config = trial, other
    say("")
    say("\n".join(format_trials(trials, best)))
    return {"topology": topology, "pair": pair.name, "trials": trials, "best": best}


def _tried(
    config: TrainConfig, pair: ModalityPair, topology: str, devices: list[Any]
) -> dict[str, Any]:
    trial: dict[str, Any] = {
        "settings": step_estimate.swept_settings(config),
        "usable": False,
        "rate": 0.0,
    }
    try:
        found = step_estimate.plan_pair(config, pair, topology, devices)
    except UserError as error:
        return trial | {"error": str(error)}
    return trial | {
        "usable": found["fits_with_room"],
        "rate": config.batch_size / found["seconds"],
        "numbers": found,
    }


def _line(trial: dict[str, Any], done: int, about: int, begun: float) -> str:
    left = (time.monotonic() - begun) / done * (about - done)
    return f"{done}/{about}  {_settings(trial)}: {_result(trial)}  ({left / 60:.0f} min left)"


def _settings(trial: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in trial["settings"].items())


def _result(trial: dict[str, Any]) -> str:
    if "error" in trial:
        return trial["error"].partition(";")[0]
    numbers = trial["numbers"]
    return (
        f"{trial['rate']:,.0f} samples/s, MFU {numbers['utilisation']:.2f}, "
        f"{numbers['of_chip']:.0%} of the memory"
    )


def format_trials(trials: Sequence[dict[str, Any]], best: dict[str, Any]) -> list[str]:
    """All trials, the fastest first; those that do not fit last."""
    ordered = sorted(trials, key=lambda trial: (not trial["usable"], -trial["rate"]))
    cells = [[*trials[0]["settings"], "samples/s", "MFU", "GB", "fits"]]
    for trial in ordered:
        numbers = trial.get("numbers")
        said = [str(value) for value in trial["settings"].values()]
        if numbers:
            gb = f"{numbers['memory']['total'] / 1e9:.1f}"
            room = "yes" if trial["usable"] else "barely" if numbers["fits"] else "no"
            said += [f"{trial['rate']:,.0f}", f"{numbers['utilisation']:.2f}", gb, room]
        else:
            said += ["–", "–", "–", "no"]
        cells.append(said)
    if not best["usable"]:
        return [*table.align_columns(cells), "nothing that was tried fits with room to spare"]
    return [*table.align_columns(cells), f"fastest that fits: {_settings(best)}"]
