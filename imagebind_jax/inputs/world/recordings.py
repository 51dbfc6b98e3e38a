"""Recordings of several moments: one object seen from elsewhere and struck anew, and some with a cut."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from imagebind_jax.inputs.world import impact_sounds, scene, world
from imagebind_jax.inputs.world.attributes import MATERIALS, SHAPES, Attributes, sample_attributes

MOMENTS = 3  # of one recording, two seconds each
CUT = 0.25  # share of recordings that cut to another scene somewhere
# Loudness of an object that is struck out of sight, over that of the one in sight.
BESIDE = (0.3, 0.9)
NOISE_LEVEL = (0.01, 0.1)  # of the recording, over full scale; log-uniform
STREAMS = {n: 200 + k for k, n in enumerate(("cut", "concept", "scene", "camera", "sound"))}


@dataclass(frozen=True)
class MomentSequences(world.World):
    """index -> moment index % MOMENTS of recording index // MOMENTS, from a camera that stands still.

    The moments of a recording show one object in one place, but in a share CUT of the recordings
    another scene begins at the second or the third. A record has one picture, as nothing moves, and
    its sound is harder to tell: another object is struck beside the one in sight, less loud, and the
    recording hisses. Otherwise it is as the world's.
    """

    def record(self, split: str, index: int, modalities: Sequence[str] = world.MODALITIES) -> dict:
        made = super().record(split, index, tuple(m for m in modalities if m != "audio"))
        if "audio" in modalities:
            made["audio"] = world._flac(self.sound(split, index))
        return made

    def sound(self, split: str, index: int) -> np.ndarray:
        """2 s at 16 kHz in -1..1: the object in sight, another one, and hiss."""
        rng, concept = self._of(split, index, "sound"), self.concept(split, index)
        scale = self.scene(split, index).items[0].scale
        own = impact_sounds.synthesize(
            SHAPES[concept.shape], MATERIALS[concept.material], scale, rng
        )
        shape, material = SHAPES[rng.integers(len(SHAPES))], MATERIALS[rng.integers(len(MATERIALS))]
        other = impact_sounds.synthesize(shape, material, rng.uniform(0.9, 1.15), rng)
        other *= np.float32(rng.uniform(*BESIDE) * np.abs(own).max() / np.abs(other).max())
        level = np.exp(rng.uniform(*np.log(NOISE_LEVEL)))
        hiss = rng.standard_normal(len(own), dtype=np.float32)
        return np.clip(own + other + np.float32(level) * hiss, -1, 1)

    def concept(self, split: str, index: int) -> Attributes:
        """That of the scene that is seen at this moment."""
        return sample_attributes(
            self._of(split, self.number(split, index), "concept"), test=split == "test"
        )

    def scene(self, split: str, index: int) -> scene.Scene:
        rng = self._of(split, self.number(split, index), "scene")
        made = scene.make_scene(self.concept(split, index), rng)
        first, _ = scene._cameras(made.items[0], "still", self._of(split, index, "camera"))
        return replace(made, cameras=(first,))

    def number(self, split: str, index: int) -> int:
        """Of the scene that is seen at this moment: moments with the same number show the same one."""
        recording, moment = divmod(index, MOMENTS)
        rng = self._of(split, recording, "cut")
        cut = int(rng.integers(1, MOMENTS)) if rng.uniform() < CUT else MOMENTS
        return 2 * recording + int(moment >= cut)

    def _of(self, split: str, number: int, stream: str) -> np.random.Generator:
        if split not in world.SPLITS:
            raise ValueError(f"unknown split {split!r}: choose from {', '.join(world.SPLITS)}")
        place = world.SPLITS.index(split)
        return np.random.default_rng([self.seed, place, number, STREAMS[stream]])
