# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 Port a checkpoint
#
# A PyTorch checkpoint of ImageBind is read without PyTorch, gives the same outputs, and goes out
# again bit for bit.

# %%
import json
import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np
import plots
from flax import traverse_util

import imagebind_jax as ib
from imagebind_jax import cli

# %% [markdown]
# The file here has the layout of the released `imagebind_huge.pth`, tensor for tensor, with few and
# random numbers in it.

# %%
tests = pathlib.Path(ib.__file__).parents[1] / "tests/golden/imagebind"
checkpoint = tests / "imagebind_tiny.pth"
print(f"{checkpoint.name}: {checkpoint.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# One line loads it: the sizes are read off the tensors, and nothing in the file is ever run.

# %%
model, params = ib.load(checkpoint)
for modality, encoder in model.config.encoders.items():
    print(f"{modality:8} {encoder.shape!s:18} width {encoder.width}, {encoder.depth} blocks")

# %% [markdown]
# Parameters are a plain nested dict, in which the blocks of a trunk are stacked: the first axis is
# the layer.

# %%
audio = traverse_util.flatten_dict(params["audio"], sep="/")
for path, leaf in sorted(audio.items()):
    print(f"audio/{path:40} {leaf.shape}")

# %% [markdown]
# The names on the PyTorch side are others, and a table of rules says which becomes which; every
# tensor of the file must be used and every leaf filled, or the load fails with the list.

# %%
count = sum(leaf.size for leaf in jax.tree.leaves(params))
print(f"{len(jax.tree.leaves(params))} leaves, {count:,} parameters")

# %% [markdown]
# Is it the same model? Beside the file lie inputs, and the outputs that the reference
# implementation gave for them in PyTorch.

# %%
expected = np.load(tests / "imagebind_tiny_io.npz")
inputs = sorted(name.removeprefix("in_") for name in expected if name.startswith("in_"))
print(*inputs)

# %% [markdown]
# PyTorch keeps channels first and JAX keeps them last, so each input is turned once; several clips
# of a recording, or of a video, have an axis of their own.

# %%
CHANNELS = {"text": None, "imu": -2, "vision_multiclip": -4}


def ours(name):
    x = expected[f"in_{name}"]
    if name == "text":
        return x
    x = np.moveaxis(x.astype(np.float32), CHANNELS.get(name, -3), -1)
    return x[:, None] if name == "vision_image" else x  # an image is a video of one frame


# %% [markdown]
# `scaled=True` multiplies by the logit scale, as the reference does.

# %%
worst = {}
for name in inputs:
    modality = name.split("_")[0]
    z = ib.embed(model, params, {modality: ours(name)}, scaled=True)[modality]
    worst[name] = np.abs(np.asarray(z) - expected[f"out_{name}"]).max()

figure, ax = plt.subplots(figsize=(6.5, 2.4))
ax.barh(list(worst), list(worst.values()), color=[plots.COLOURS[n.split("_")[0]] for n in worst])
ax.axvline(1e-5, color=plots.SOFT, ls="--", lw=1)
ax.text(0.9e-5, 7.3, "1e-5", color=plots.SOFT, ha="right", va="top")
ax.set_xscale("log")
ax.set_xlim(1e-8, 3e-5)
ax.set_title("largest difference from PyTorch's outputs")
plt.show()

# %% [markdown]
# An encoder alone is read without the others, which saves the time and the memory of those: of the
# full 4.8 GB file the smallest takes under two seconds.

# %%
_, alone = ib.load(checkpoint, modalities=["depth"])
print({modality: len(jax.tree.leaves(tower)) for modality, tower in alone.items()})

# %% [markdown]
# Now out again: `imagebind-jax convert` writes a folder for orbax, a safetensors file or a PyTorch
# state dict, and tells the target's kind by its name.

# %%
out = pathlib.Path("runs/converted")
out.mkdir(parents=True, exist_ok=True)
for source, target in (
    (checkpoint, out / "tiny"),
    (out / "tiny", out / "tiny.safetensors"),
    (out / "tiny.safetensors", out / "back.pth"),
):
    assert cli.main(["convert", str(source), str(target), "--overwrite"]) == 0

# %% [markdown]
# After all three, is every number the one it was?

# %%
_, back = ib.load(out / "back.pth")
equal = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), params, back)
print(
    f"{sum(jax.tree.leaves(equal))} of {len(jax.tree.leaves(params))} leaves are equal bit for bit"
)

# %% [markdown]
# The folder says where it came from, and under what licence: converting changes none.

# %%
note = json.loads((out / "tiny" / "model.json").read_text())
print(json.dumps(note["origin"], indent=1))

# %% [markdown]
# The released model is ported by the same commands, and so are OpenCLIP's, CLIP's and LoRA's files
# (`docs/porting.md`).
#
# ```
# imagebind-jax convert imagebind_huge.pth imagebind --verify
# imagebind-jax convert imagebind back.pth
# ```

# %% [markdown]
# What this notebook promised: outputs within 1e-5 of the reference's, and a way there and back that
# loses nothing.

# %%
assert max(worst.values()) < 1e-5
assert all(jax.tree.leaves(equal))
