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
# # 05 A seventh modality
#
# Touch joins in by one file and one row: it is learned against pictures alone, and then found by
# words.

# %%
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import plots
import small_world
import tactile

import imagebind_jax as ib
from imagebind_jax.demo import run
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.similarity import top_k
from imagebind_jax.evaluation.tasks import zero_shot
from imagebind_jax.inputs import world
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import TINY
from imagebind_jax.training import fit

# %% [markdown]
# ## The file
#
# [`tactile.py`](tactile.py) lets a finger slide over each object of the world, and holds the
# transform `Touch`, from a record to an encoder's input: the pressure on the finger (dark), and how
# the surface makes it tremble (light).

# %%
records = tactile.Touches(run.demo_world(0), "test", first=0, count=192).open()
touch = tactile.Touch()
figure, axes = plt.subplots(2, 4, figsize=(9, 3.4), height_ratios=(1.2, 1))
for (above, below), record in zip(axes.T, records):
    shape, material = record["labels"]["shape"], record["labels"]["material"]
    title = f"{world.SHAPES[shape]}, {world.MATERIALS[material]}"
    plots.medium(above, "vision", record, title)
    plots.touch(below, touch(record, None))
    below.set_xlabel("seconds")
plt.show()

# %% [markdown]
# ## The row
#
# An encoder is told by its sizes: what one input is, and how it is cut into patches.

# %%
row = EncoderConfig(
    (400, 2), patch=(20,), width=96, depth=2, heads=3, mlp_ratio=2.0, bias_kv=True, logit_scale=10.0
)
model = dataclasses.replace(TINY, encoders={**TINY.encoders, "tactile": row})

# %% [markdown]
# ## The run
#
# The six encoders are those of the small world, trained here if no other notebook has left them.

# %%
before = small_world.get_config()
fit.fit(before, small_world.RUN, say=lambda line: None)
print(*before.model.encoders)

# %% [markdown]
# The seventh starts afresh, and sees touches with pictures of them: the encoder of vision is
# frozen, and no other takes part.

# %%
config = dataclasses.replace(
    before,
    model=model,
    inputs={**run.INPUTS, "tactile": touch},
    pairs=(
        ModalityPair(
            ("vision", "tactile"), tactile.Touches(run.demo_world(0), "train", 10_000, 960)
        ),
    ),
    initial=(small_world.RUN,),
    optimizer=dataclasses.replace(before.optimizer, frozen=("vision/",)),
    steps=350,
    evaluation=None,
)
fit.fit(config, "runs/tactile", say=lambda line: None)
model, params = ib.load("runs/tactile")
print(*model.config.encoders)

# %% [markdown]
# ## By words
#
# Held-out touches are asked of what they are, by sentences that no touch has ever met; vision
# itself, through which all of it had to pass, stands beside.

# %%
inputs = {
    "tactile": np.stack([touch(record, None) for record in records]),
    "vision": np.stack([run.INPUTS["vision"](record, None) for record in records]),
}
z = {modality: np.asarray(each) for modality, each in ib.embed(model, params, inputs).items()}


def text(sentences):
    tokens = ib.tokenize(sentences, context_length=32)
    return np.asarray(ib.embed(model, params, {"text": tokens})["text"])


found = {}
for task in ("material", "shape"):
    labels = np.array([record["labels"][task] for record in records])
    classes = zero_shot.zero_shot_weights(text, world.CLASS_NAMES[task], world.PROMPTS[task])
    for modality in ("tactile", "vision"):
        right = zero_shot.predict_class(z[modality], classes) == labels
        found[modality, task] = bootstrap.bootstrap_mean(right.astype(float))

figure, ax = plt.subplots(figsize=(6.5, 1.9))
for place, ((modality, _), top1) in enumerate(found.items()):
    ax.barh(place, top1.value, color=plots.COLOURS[modality], alpha=0.85)
    ax.plot([top1.low, top1.high], [place, place], color="black", lw=1)
ax.axvline(1 / 8, color=plots.SOFT, ls=":", lw=1.5)
ax.set_yticks(range(4), [f"{modality}: {task}" for modality, task in found])
ax.invert_yaxis()
ax.set_xlim(0, 1)
ax.set_title("accuracy by sentences, with 95 % intervals; dotted: chance")
plt.show()

# %% [markdown]
# And the other way round: of which material are the three touches closest to each sentence?

# %%
best, cosines = top_k(
    text([f"something made of {name}." for name in world.MATERIALS]), z["tactile"], 3
)
for name, rows in zip(world.MATERIALS, best):
    print(f"{name:8} ->", *(world.MATERIALS[records[row]["labels"]["material"]] for row in rows))

# %% [markdown]
# Three of these answers, as a finger felt them:

# %%
figure, axes = plt.subplots(3, 3, figsize=(9, 4.2), sharex=True, sharey=True)
for line, material in zip(axes, ("wood", "rubber", "metal")):
    place = world.MATERIALS.index(material)
    for ax, row, cosine in zip(line, best[place], cosines[place]):
        named = records[row]["labels"]
        plots.touch(ax, inputs["tactile"][row])
        ax.set_title(
            f"{world.SHAPES[named['shape']]}, {world.MATERIALS[named['material']]}   {cosine:.2f}"
        )
    line[0].set_ylabel(f"something\nmade of {material}.", rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# Touch has never met sound either; which sounds are closest to each touch, and are they of the same
# material?

# %%
heard = [run.demo_world(0).record("test", index, ("audio",)) for index in range(200, 296)]
sounds = ib.embed(
    model, params, {"audio": np.stack([run.INPUTS["audio"](record, None) for record in heard])}
)["audio"]
closest, _ = top_k(z["tactile"], np.asarray(sounds), 1)
material = np.array([record["labels"]["material"] for record in heard])
same = material[closest[:, 0]] == np.array([record["labels"]["material"] for record in records])
print(f"touch finds a sound of its material: {same.mean():.0%}, by chance 12.5 %")

# %% [markdown]
# What this notebook promised: a modality that the package has never heard of is found by words,
# well above chance.

# %%
assert found["tactile", "material"].low > 1 / 8
assert same.mean() > 1 / 8
