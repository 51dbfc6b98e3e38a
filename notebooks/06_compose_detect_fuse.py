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
# # 06 Composition, detection and fusion
#
# Embeddings of one space can be added, looked for in a part of a picture, and read together.

# %%
import dataclasses
import io

import matplotlib.pyplot as plt
import numpy as np
import plots
import small_world
from PIL import Image

import imagebind_jax as ib
from imagebind_jax.demo import run
from imagebind_jax.evaluation.benchmark import EvalConfig, EvalInputs
from imagebind_jax.evaluation.metrics.similarity import top_k
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.evaluation.tasks.arithmetic import Arithmetic, compose
from imagebind_jax.evaluation.tasks.detection import boxes_from_heat_map, heat_map, iou
from imagebind_jax.evaluation.trained.fit_classifier import TrainingSchedule
from imagebind_jax.evaluation.trained.fusion import Fusion
from imagebind_jax.inputs import world
from imagebind_jax.inputs.transforms.tiles import Tiles
from imagebind_jax.inputs.world.multi_object import MultiObjectWorld
from imagebind_jax.inputs.world.world import world_source
from imagebind_jax.training import fit

# %% [markdown]
# The model is the small world's, trained here in about a minute or found where another notebook has
# left it.

# %%
fit.fit(small_world.get_config(), small_world.RUN, say=lambda line: None)
model, params = ib.load(small_world.RUN)
bench = ModelEmbedder(EvalConfig((), batch_size=128), model, params)
held_out = small_world.HeldOut("material", count=256)

# %% [markdown]
# ## Composition
#
# A depth map plus a sound: the sum of their unit vectors asks for the shape that one sees, in the
# material that one hears.

# %%
depths, sounds, clips = (
    EvalInputs(held_out, m, run.INPUTS[m]) for m in ("depth", "audio", "vision")
)
z = {items.modality: bench.embed(items) for items in (depths, sounds, clips)}
records = held_out.open()
labels = np.array([[r["labels"]["shape"], r["labels"]["material"]] for r in records])


def named(record):
    shape, material = record["labels"]["shape"], record["labels"]["material"]
    return f"{world.SHAPES[shape]} of {world.MATERIALS[material]}"


# %% [markdown]
# Three such sums and the pictures closest to them, as they come; what has the shape and the
# material is framed.

# %%
figure, axes = plt.subplots(3, 5, figsize=(9, 5.6))
for row, (seen, heard) in zip(axes, ((0, 100), (1, 101), (2, 102))):
    shape, material = world.SHAPES[labels[seen, 0]], world.MATERIALS[labels[heard, 1]]
    plots.medium(row[0], "depth", records[seen], shape)
    plots.medium(row[1], "audio", records[heard], f"+ {material}")
    best, cosines = top_k(compose(z["depth"][seen], z["audio"][heard])[None], z["vision"], 3)
    for ax, found in zip(row[2:], best[0]):
        plots.medium(ax, "vision", records[found], named(records[found]))
        if tuple(labels[found]) == (labels[seen, 0], labels[heard, 1]):
            ax.spines[:].set(visible=True, color=plots.COLOURS["depth"], lw=3)
plt.show()

# %% [markdown]
# Over all of them, beside what the depth map or the sound finds alone:

# %%
arithmetic = Arithmetic(depths, sounds, clips, ("shape", "material")).measure(bench)
for name, number in arithmetic.numbers.items():
    print(f"{name:13} {number.value:6.1%} ({number.low:.1%} to {number.high:.1%}), "
          f"by chance {arithmetic.chance[name]:.1%}")  # fmt: skip

# %% [markdown]
# A picture can stand in place of the depth map, but brings its own material along, from which the
# sum has to get away.

# %%
number = Arithmetic(clips, sounds, clips, ("shape", "material")).measure(bench).numbers["top1"]
print(f"picture plus sound: {number.value:.1%} ({number.low:.1%} to {number.high:.1%})")

# %% [markdown]
# ## Detection
#
# Where in a picture is what one hears? Scenes of several objects are cut into overlapping windows of
# the size of the model's own pictures, and each is compared with the sound.

# %%
gatherings = MultiObjectWorld(seed=0, size=192)
windows = Tiles(size=run.SIZE, picture=256, stride=16)


def seen(picture):
    """Unit vectors of the windows around 13 x 13 places of a picture."""
    views = ib.embed(model, params, {"vision": windows(picture, None)})["vision"]
    return np.asarray(views).reshape(13, 13, -1)


# %% [markdown]
# The first two scenes of three objects, each of which is asked for by the sound of it alone; the box is around what
# hangs together above half of the way from the map's median to its peak.


# %%
def asked(thing):
    """The vector of an object's sound."""
    return np.asarray(
        ib.embed(model, params, {"audio": run.INPUTS["audio"](thing, None)[None]})["audio"][0]
    )


def found_box(views, query):
    """(heat map, box) of a query; the map goes on level to the picture's edges."""
    heat = np.pad(heat_map(views, query), 2, mode="edge")
    return heat, boxes_from_heat_map(heat, 192, 192, most=1)[0][0]


def frame(ax, box, **line):
    left, top, right, bottom = box
    ax.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, **line))


things = [gatherings.record("test", index) for index in range(54)]
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8))
for row, scene in zip(axes, (1, 4)):
    picture = gatherings.picture("test", scene)
    shown = np.asarray(Image.open(io.BytesIO(picture["vision"][0])))
    row[0].imshow(shown)
    row[0].set_title("the scene")
    for ax, thing in zip(row[1:], (each for each in things if each["scene"] == scene)):
        heat, box = found_box(seen(picture), asked(thing))
        ax.imshow(shown, alpha=0.55)
        ax.imshow(
            heat,
            cmap="inferno",
            alpha=0.55,
            vmin=np.median(heat),
            extent=(0, 192, 192, 0),
            interpolation="bilinear",
        )
        frame(ax, box, color="white", lw=2)
        frame(ax, thing["box"], color=plots.COLOURS["depth"], lw=1.5, ls="--")
        ax.set_title("sound of " + named(thing).split()[-1])
    for ax in row:
        ax.set_xticks([])
        ax.set_yticks([])
plt.show()

# %% [markdown]
# White is the box that was found, dashed the true one, which no encoder ever saw: glass and ice, which
# let the sky shine through, are the hard ones.

# %% [markdown]
# How often is the hottest place on the right object?

# %%
scenes = [seen(gatherings.picture("test", number)) for number in range(18)]
pointing, overlaps, by_chance = [], [], []
for thing in things:
    heat, box = found_box(scenes[thing["scene"]], asked(thing))
    y, x = (
        192 * (np.array(np.unravel_index(heat.argmax(), heat.shape)) + 0.5) / len(heat)
    ).tolist()
    left, top, right, bottom = thing["box"]
    pointing.append(left <= x <= right and top <= y <= bottom)
    overlaps.append(iou(box[None], np.array([thing["box"]], float))[0, 0])
    by_chance.append((right - left) * (bottom - top) / 192**2)
print(
    f"{len(things)} objects: peak in the true box {np.mean(pointing):.0%}, "
    f"by chance {np.mean(by_chance):.0%}; mean overlap of the boxes {np.mean(overlaps):.2f}"
)

# %% [markdown]
# Windows are the simple way, and coarse. A model whose patches are small can be asked patch by
# patch (`imagebind_jax/models/patch_embeddings.py`), which is slower to train and finds more:
#
# ```
# imagebind-jax train configs/world_detection.py --out detection
# imagebind-jax evaluate configs/eval_world_detection.py --checkpoint detection
# ```

# %% [markdown]
# ## Fusion
#
# Some questions need two modalities: here the class is the sum of the material, which one hears, and
# the camera's motion, which a motion trace tells, modulo 4, so that either alone tells nothing.


# %%
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sounds and motion traces, labelled by what only both together tell."""

    split: str
    count: int
    name: str

    def open(self):
        made = world_source(
            run.demo_world(0), self.split, self.count, modalities=("audio", "imu")
        ).open()
        told = [(r["labels"]["material"] + r["labels"]["motion"]) % 4 for r in made]
        return [{**record, "label": label} for record, label in zip(made, told)]


learned, tested = Sums("probe", 1024, "sums-probe"), Sums("test", 384, "sums-test")
parts = [
    tuple(EvalInputs(source, modality, run.INPUTS[modality]) for modality in ("audio", "imu"))
    for source in (learned, tested)
]

# %% [markdown]
# A small head learns from the frozen embeddings of both, and the same head from those of each
# alone; samples to stop by are held out.

# %%
fusion = Fusion(
    train=parts[0],
    test=parts[1],
    head="transformer",
    seeds=1,
    classes=("0", "1", "2", "3"),
    learning=TrainingSchedule(epochs=30, patience=6),
)
measured = fusion.measure(bench)
figure, ax = plt.subplots(figsize=(6, 1.7))
for place, name in enumerate(("fusion", "audio", "imu")):
    number = measured.numbers[name]
    ax.barh(place, number.value, color=plots.COLOURS.get(name, plots.SOFT), alpha=0.85)
    ax.plot([number.low, number.high], [place, place], color="black", lw=1)
ax.axvline(1 / 4, color=plots.SOFT, ls=":", lw=1.5)
ax.set_yticks(range(3), ["audio and imu", "audio", "imu"])
ax.invert_yaxis()
ax.set_xlim(0, 1)
ax.set_title("accuracy on held-out combinations; dotted: chance")
plt.show()

# %% [markdown]
# What this notebook promised: the sum of a depth map and a sound finds more than either part, a sound
# points at its object, and two modalities together know what neither knows alone.

# %%
alone = [arithmetic.numbers[name].value for name in ("first_alone", "second_alone")]
assert arithmetic.numbers["top1"].value > max(alone)
assert np.mean(pointing) > 3 * np.mean(by_chance)
assert measured.numbers["gain"].low > 0
