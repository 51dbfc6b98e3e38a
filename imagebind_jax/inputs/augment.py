"""Random choices of training: those that the modalities of one sample share, and each one's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class View:
    """What is drawn once for a sample and holds for all its modalities.

    The pipeline puts one into record["view"] of every training sample, so a transform need not
    know which modalities it goes with. A choice is made when it is first asked for (by the pair's
    first modality) and kept, so later ones follow it even where their sizes differ slightly.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._made: dict[str, Any] = {}

    def _rng(self, stream: int) -> np.random.Generator:
        """Each kind of choice has its own stream: none depends on which others are asked for."""
        return np.random.default_rng([self._seed, stream])

    def start(self, duration: float, seconds: float) -> float:
        """Where in a recording of `duration` seconds a clip of `seconds` starts.

        The first call draws a clip uniformly; later ones, with other durations and lengths, get
        the clip with the same centre, moved inwards where their recording ends earlier.
        """
        slack = max(duration - seconds, 0.0)
        if "moment" not in self._made:
            self._made["moment"] = slack * self._rng(0).random() + seconds / 2
        return float(np.clip(self._made["moment"] - seconds / 2, 0.0, slack))


def view_of(record: Mapping[str, Any], rng: np.random.Generator) -> View:
    """The record's shared view or, if modalities are not to be aligned, one of this one's own."""
    view = record.get("view")
    return view if view is not None else View(int(rng.integers(2**63)))
