"""Cuts the reference's small checkpoint and its outputs down to what the tests need.

    python tests/golden/imagebind/make.py GOLDEN_FOLDER     (needs torch)

The reference implementation made `imagebind_tiny.pth` (random weights) and `imagebind_tiny_io.npz`.
Only tokens that occur are kept, numbered in ascending order, so that the end of a text is still the
largest id; only the first sample of pictures; inputs, which are exact in it, as float16.
"""

import pathlib
import sys

import numpy as np
import torch

EMBEDDING = "modality_preprocessors.text.token_embedding.weight"


def main(folder: pathlib.Path) -> None:
    here = pathlib.Path(__file__).parent
    io = dict(np.load(folder / "imagebind_tiny_io.npz"))
    ids = np.unique(io["in_text"])
    weights = torch.load(folder / "imagebind_tiny.pth", weights_only=True)
    weights[EMBEDDING] = weights[EMBEDDING][torch.from_numpy(ids)].clone()
    torch.save(weights, here / "imagebind_tiny.pth")

    io["in_text"] = np.searchsorted(ids, io["in_text"]).astype(np.int32)
    for name in ("vision_image", "depth", "thermal"):
        io[f"in_{name}"], io[f"out_{name}"] = io[f"in_{name}"][:1], io[f"out_{name}"][:1]
    for name in io:
        if name.startswith("in_") and name != "in_text":
            half = io[name].astype(np.float16)
            assert np.array_equal(half.astype(np.float32), io[name]), name
            io[name] = half
    np.savez_compressed(here / "imagebind_tiny_io.npz", **io)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
