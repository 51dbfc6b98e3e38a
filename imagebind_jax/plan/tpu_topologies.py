"""Official names of TPU slices, and what a device of each generation can do.

Figures are one device's as the compiler counts devices. That is a chip, but for v4, where it is one
of a chip's two cores and each figure is half of the chip's. GB are 10^9 bytes. `links` is what a
device can send over all its links at once: half of the bidirectional bandwidth that is advertised.
Clocks are no official figures: they turn the compiler's cycles into seconds.
"""

import dataclasses
import difflib
import math

from imagebind_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device: bfloat16 FLOP/s, bytes of memory, bytes/s to it, bytes/s sent, cycles/s."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    clock: float
    source: str


_PAGES = "docs.cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        # Links: an all-reduce bandwidth of 1.1 PB/s over a pod's 4,096 chips.
        Chip("v4", 137.5e12, 16e9, 600e9, 134e9, 1.05e9, f"{_PAGES}/v4, halved"),
        Chip("v5e", 197e12, 16e9, 819e9, 200e9, 1.5e9, f"{_PAGES}/v5e"),
        Chip("v5p", 459e12, 95e9, 2765e9, 600e9, 1.75e9, f"{_PAGES}/v5p"),
        Chip("v6e", 918e12, 32e9, 1638e9, 400e9, 1.75e9, f"{_PAGES}/v6e"),
    )
}
# No slice to plan for: what benchmarks/gpu.py is measured against. Links: NVLink, one direction.
H100 = Chip("h100", 989e12, 80e9, 3350e9, 450e9, 1.83e9, "nvidia.com/en-us/data-center/h100, SXM")

SLICES = (
    *("v4:2x2x1", "v4:2x2x2", "v4:4x4x4"),
    *("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16"),
    *("v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:4x4x4", "v5p:4x4x8", "v5p:8x8x8", "v5p:8x8x16"),
    *("v6e:1x1", "v6e:2x2", "v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16"),
)


def chip_of_slice(name: str) -> Chip:
    """The chip of a slice. Raises UserError, with the nearest names, where there is no such slice."""
    if name in SLICES:
        return CHIPS[name.partition(":")[0]]
    same = [each for each in SLICES if each.startswith(name.partition(":")[0] + ":")]
    near = difflib.get_close_matches(name, SLICES, n=3, cutoff=0.5)
    raise UserError(
        f"no TPU slice {name!r}: one of {', '.join(dict.fromkeys([*near, *same]) or SLICES)}"
    )


def device_count(name: str) -> int:
    """How many devices a slice has."""
    generation, _, sizes = name.partition(":")
    return math.prod(map(int, sizes.split("x"))) * (2 if generation == "v4" else 1)
