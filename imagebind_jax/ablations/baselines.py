"""What ablations are made of: the baselines, and rows and claims about both of them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from imagebind_jax.ablations.spec import AblationRow, Hypothesis, TrialConfig

# The paper's own baselines: a temperature of 0.2 for depth and 0.05 for audio, strong augmentation for
# depth alone, a batch of 512 for depth and of 2,048 for audio: 32 and 128 here.
DEPTH = TrialConfig("depth", temperature=0.2, batch_size=32, epochs=32)
AUDIO = TrialConfig(
    "audio", temperature=0.05, batch_size=128, epochs=32,
    augmentation="basic", erase=False, mask_bands=12,
)  # fmt: skip
THERMAL = TrialConfig("thermal", temperature=0.2, batch_size=32, epochs=32)
BASELINE = {"depth": DEPTH, "audio": AUDIO}
AUDIO_AND_DEPTH = ("depth", "audio")


def row(
    label: str,
    depth: float | None = None,
    audio: float | None = None,
    *,
    of: Iterable[str] = AUDIO_AND_DEPTH,
    paper: str = "",
    **changed: Any,
) -> AblationRow:
    """A row of the baselines with some fields changed. depth, audio: the paper's numbers."""
    numbers = {"depth": depth, "audio": audio}
    return AblationRow(
        label,
        {task: dataclasses.replace(BASELINE[task], **changed) for task in of},
        {task: n for task, n in numbers.items() if n is not None and task in of},
        paper,
    )


def claims(says: str, better: str, worse: str, *tasks: str, **more: Any) -> tuple[Hypothesis, ...]:
    return tuple(Hypothesis(says, task, better, worse, **more) for task in tasks)
