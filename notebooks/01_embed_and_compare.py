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
# # 01 Embed and compare
#
# Whatever comes in, a picture, a sound or a sentence, comes out as a unit vector of one space, and
# two things are alike if their vectors point the same way.

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import plots
import small_world

import imagebind_jax as ib
from imagebind_jax import cli
from imagebind_jax.demo import run
from imagebind_jax.inputs import world
from imagebind_jax.training import fit

# %% [markdown]
# First a model: six small encoders, trained here on a procedural world in about a minute, unless
# another notebook has left them already (04 shows how they learn).

# %%
fit.fit(small_world.get_config(), small_world.RUN, say=lambda line: None)
model, params = ib.load(small_world.RUN)
{modality: encoder.shape for modality, encoder in model.config.encoders.items()}

# %% [markdown]
# This is one thing of that world in all six modalities, in a combination of shape, material and
# motion that training never saw.

# %%
records = [run.demo_world(0).record("test", index) for index in range(96)]
figure, axes = plt.subplots(1, 6, figsize=(9, 1.9))
for ax, modality in zip(axes, world.MODALITIES):
    plots.medium(ax, modality, records[1])
plt.show()

# %% [markdown]
# A transform makes an encoder's input of each medium, and `ib.embed` takes any number of
# modalities at once.

# %%
inputs = {
    modality: np.stack([run.INPUTS[modality](record, None) for record in records])
    for modality in world.MODALITIES
}
z = ib.embed(model, params, inputs)
for modality in world.MODALITIES:
    print(f"{modality:8} {inputs[modality].shape!s:20} -> {z[modality].shape}")

# %% [markdown]
# All vectors have length 1, so that the product of two is the cosine of the angle between them: 1
# is the same direction, 0 is nothing in common.

# %%
lengths = np.concatenate([np.linalg.norm(z[modality], axis=-1) for modality in world.MODALITIES])
print(f"lengths from {lengths.min():.6f} to {lengths.max():.6f}")

# %% [markdown]
# Do the six agree about a thing? Left, the mean cosine between two modalities of the same thing;
# right, between two of different things.

# %%
cosines = {
    (a, b): np.asarray(ib.similarity(z[a], z[b]))
    for a in world.MODALITIES
    for b in world.MODALITIES
}
other = ~np.eye(len(records), dtype=bool)
same = np.array(
    [[np.diag(cosines[a, b]).mean() for b in world.MODALITIES] for a in world.MODALITIES]
)
apart = np.array(
    [[cosines[a, b][other].mean() for b in world.MODALITIES] for a in world.MODALITIES]
)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
for ax, values, title in zip(axes, (same, apart), ("of the same thing", "of different things")):
    plots.table(ax, values, world.MODALITIES, world.MODALITIES, title, low=0, high=1)
plt.show()

# %% [markdown]
# Only the row and the column of vision were ever trained; sound and sentences never met, and agree all
# the same, as far as both tell of one thing (a sound tells the material, a depth map the shape, and
# those two have nothing to agree about).

# %%
agreement = {
    (a, b): np.diag(cosines[a, b]).mean() - cosines[a, b][other].mean()
    for a in world.MODALITIES
    for b in world.MODALITIES
    if a < b and "vision" not in (a, b)
}
(strongest, most), *_ = sorted(agreement.items(), key=lambda each: -each[1])
print(f"closest of the pairs that never met: {' and '.join(strongest)}, {most:.2f} above strangers")

# %% [markdown]
# Now a question: of which material is the thing that one hears? Eight sentences against eight
# sounds, one of each material.

# %%
materials = world.MATERIALS
sentences = [f"something made of {name}." for name in materials]
tokens = ib.tokenize(sentences, context_length=32)
asked = ib.embed(model, params, {"text": tokens})["text"]
labels = np.array([record["labels"]["material"] for record in records])
heard = np.stack([z["audio"][np.flatnonzero(labels == each)[0]] for each in range(8)])
cosine = np.asarray(ib.similarity(heard, asked))

figure, ax = plt.subplots(figsize=(4.6, 3.8))
rows = [f"sound of {name}" for name in materials]
plots.table(ax, cosine, rows, materials, "cosines with “something made of ...”")
plt.show()

# %% [markdown]
# A cosine compares strangers, but its size says little; a softmax over the sentences turns a row
# into shares of 1, and a scale says how sure that is to sound.

# %%
figure, axes = plt.subplots(1, 4, figsize=(9, 2.2), sharey=True)
glass = materials.index("glass")
order = np.argsort(cosine[glass])
axes[0].barh([materials[i] for i in order], cosine[glass][order], color=plots.COLOURS["audio"])
axes[0].set_title("the sound of glass: cosines")
for ax, scale in zip(axes[1:], (1, 10, 100)):
    share = ib.similarity(heard[glass : glass + 1], asked, softmax_scale=scale)[0]
    ax.barh([materials[i] for i in order], np.asarray(share)[order], color=plots.COLOURS["text"])
    ax.set_title(f"softmax, scale {scale}")
    ax.set_xlim(0, 1)
plt.show()

# %% [markdown]
# The order is the same in all four: the scale is a temperature, learned in training for each
# modality, and only shares among exactly these sentences depend on it.

# %% [markdown]
# Files work just as well, and their embeddings can be kept: here are the first of those things as
# files in a folder.

# %%
media = pathlib.Path("runs/media")
media.mkdir(parents=True, exist_ok=True)
for index, record in enumerate(records[:48]):
    name = "-".join(
        world.ATTRIBUTES[task][record["labels"][task]] for task in ("material", "shape")
    )
    (media / f"{index:02}-{name}.jpg").write_bytes(record["vision"][0])
    (media / f"{index:02}-{name}.flac").write_bytes(record["audio"])
print(*sorted(path.name for path in media.iterdir())[:4], "...")

# %% [markdown]
# `imagebind-jax embed` puts whatever it finds there into a store, to which files can be added at
# any time.

# %%
assert cli.main(["embed", "--checkpoint", small_world.RUN, "--out", "runs/store", str(media)]) == 0

# %% [markdown]
# `imagebind-jax search` asks it, by a sentence ...

# %%
question = ["--text", "something made of metal.", "-k", "5"]
assert cli.main(["search", "--index", "runs/store", *question]) == 0

# %% [markdown]
# ... or by a sound, which finds pictures.

# %%
sound = sorted(media.glob("*-glass-*.flac"))[0]
print("asked by", sound.name)
question = ["--audio", str(sound), "--modality", "vision", "-k", "5"]
assert cli.main(["search", "--index", "runs/store", *question]) == 0

# %% [markdown]
# With the released model the lines are the same: download `imagebind_huge.pth` (4.8 GB, for
# non-commercial use), and name your own files.
#
# ```python
# model, params = ib.load("imagebind_huge.pth")
# z = ib.embed(model, params, {
#     "text":   ib.tokenize(["a dog.", "a car", "a bird"]),
#     "vision": ib.load_images(["dog.jpg", "car.jpg", "bird.jpg"]),
#     "audio":  ib.load_audio(["dog.wav", "car.wav", "bird.wav"]),
# })
# ib.similarity(z["audio"], z["text"])                     # cosines
# ib.similarity(z["audio"], z["text"], softmax_scale=100)  # shares
# ```

# %% [markdown]
# What this notebook promised: sounds find their sentences far more often than one in eight, and
# modalities of one thing are closer than those of different things, also where they never met.

# %%
right = np.mean(np.asarray(ib.similarity(z["audio"], asked)).argmax(-1) == labels)
print(f"{len(records)} sounds, material by sentences: {right:.0%} right, by chance 12.5 %")
assert right > 3 / 8
assert (same > apart)[0].all()  # vision and each other
assert most > 0.1
