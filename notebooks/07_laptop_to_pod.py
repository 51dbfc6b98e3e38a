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
# # 07 From laptop to pod
#
# The step that a laptop takes is the step that 256 chips take, and what it will cost there can be
# known before any of them is rented.

# %% [markdown]
# JAX pretends that this machine has eight devices, if it is told so before it starts.

# %%
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import functools
import pathlib

import jax
import matplotlib.pyplot as plt
import numpy as np
import plots

import imagebind_jax as ib
from imagebind_jax import config
from imagebind_jax.distributed import sharding
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBindConfig, count_parameters
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.plan import flops, tpu_topologies
from imagebind_jax.training import step as training_step

print(len(jax.devices()), "devices, all of them this processor")

# %% [markdown]
# ## One step, three ways
#
# A model so small that its steps compile in seconds, and a batch of 64 pairs of random numbers.

# %%
small = {"width": 128, "depth": 2, "heads": 4}
model = ImageBindConfig(
    {
        "vision": EncoderConfig((2, 32, 32, 3), patch=(2, 8, 8), **small),
        "audio": EncoderConfig((128, 100, 1), patch=(128, 10), logit_scale=20.0, **small),
    },
    embed_dim=64,
)
step_config = config.TrainConfig(
    model=model,
    inputs={modality: None for modality in model.encoders},
    pairs=(ModalityPair(("vision", "audio"), source=None),),
    steps=100,
    batch_size=64,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0),
)
rng = np.random.default_rng(0)
batch = {
    modality: rng.standard_normal((64, *encoder.shape), np.float32)
    for modality, encoder in model.encoders.items()
} | {"weight": np.ones(64, np.float32)}

# %% [markdown]
# A *placement* says where parameters and rows lie, and compiles the one `train_step` for it: on one
# device, as a replica on each of eight (`pmap`), or with parameters split over them as well.

# %%
placements = {
    "one device": sharding.ShardedStrategy(devices=jax.devices()[:1]),
    "pmap, 8 replicas": sharding.PmapStrategy(),
    "sharded, 8 parts": sharding.ShardedStrategy(fsdp=8),
    "sharded, 2 x 4": sharding.ShardedStrategy(fsdp=4),
}


def three_steps(place):
    state = place.create(functools.partial(training_step.create_state, step_config))
    step = place.compile(functools.partial(training_step.train_step, config=step_config), state)
    losses = []
    for _ in range(3):
        state, numbers = step(state, place.batch(batch))
        losses.append(float(numbers["loss"]))
    return losses, state


# %% [markdown]
# All of them compute the same loss, with the negatives of all 64 rows, and take the same step.

# %%
losses, states = {}, {}
for name, place in placements.items():
    losses[name], states[name] = three_steps(place)
    print(f"{name:18}", "  ".join(f"{loss:.6f}" for loss in losses[name]))

# %% [markdown]
# What differs is what a device holds: here are the rows of one kernel of an MLP, and, coloured, the
# devices that have them.

# %%
figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.3), sharey=True)
for ax, name in zip(axes, ("pmap, 8 replicas", "sharded, 8 parts", "sharded, 2 x 4")):
    kernel = states[name].params["vision"]["trunk"]["blocks"]["mlp"]["fc1"]["kernel"]
    held = np.zeros((kernel.shape[-2], 8))
    for shard in kernel.addressable_shards:
        held[shard.index[-2], shard.device.id] = 1
    ax.pcolormesh(held[::-1], cmap="BuGn", vmin=0, vmax=1.6)
    ax.vlines(range(1, 8), 0, len(held), color="white", lw=2)
    ax.set_title(f"{name}: each row on {held.sum(axis=1).max():.0f}")
    ax.set_xticks(np.arange(8) + 0.5, range(8))
    ax.set_xlabel("device")
axes[0].set_yticks([0, 128], ["row 127", "row 0"])
plt.show()

# %% [markdown]
# And memory with it: bytes of parameters and of the optimizer's moments on one device.

# %%
for name, state in states.items():
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )
    print(f"{name:18} {held / 1e6:5.2f} MB")

# %% [markdown]
# ## The real size
#
# No number of the released model has to exist for it to be counted.

# %%
parameters = count_parameters(HUGE)
gigaflops = {
    m: flops.forward_flops(encoder, HUGE.embed_dim) / 1e9 for m, encoder in HUGE.encoders.items()
}
figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.4), sharey=True)
colours = [plots.COLOURS[modality] for modality in parameters]
axes[0].barh(list(parameters), [n / 1e6 for n in parameters.values()], color=colours)
axes[0].set_title(f"million parameters, {sum(parameters.values()):,} in all")
axes[1].barh(list(parameters), [gigaflops[modality] for modality in parameters], color=colours)
axes[1].set_title("GFLOP forwards, of one input")
axes[0].invert_yaxis()
plt.show()

# %% [markdown]
# A config of that size is a file like any other: all six encoders trained, at a batch of 8,192.

# %%
configs = pathlib.Path(ib.__file__).parents[1] / "configs"
huge = config.load_config(configs / "imagebind_huge_all.py", config.TrainConfig)
print(
    *(pair.name for pair in huge.pairs),
    f"batch {huge.batch_size:,}, {huge.steps:,} steps",
    sep="\n",
)

# %% [markdown]
# Parameters and AdamW's two moments are 12 bytes a parameter in float32, which would fill a small
# chip before the first activation; split over 16 of them it is little.

# %%
state = jax.eval_shape(functools.partial(training_step.create_state, huge))
total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
for chip in ("v5e", "v5p"):
    memory = tpu_topologies.CHIPS[chip].memory
    print(
        f"{chip}: {memory / 1e9:.0f} GB a chip; the state is {total / 1e9:.1f} GB whole, "
        f"{total / 1e9 / huge.fsdp:.1f} GB over {huge.fsdp} chips"
    )

# %% [markdown]
# The least time of a step is its operations over what the chips can do; how much of that is
# reached, the compiler can say.

# %%
shares = flops.trainable_fraction(huge)
chips, v5e = 256, tpu_topologies.CHIPS["v5e"]
for pair in huge.pairs:
    work = flops.train_step_flops(huge, pair.modalities, shares)
    print(
        f"{pair.name:16} {work / 1e15:5.1f} PFLOP a step, at least "
        f"{1e3 * work / (chips * v5e.flops):.0f} ms on {chips} chips of v5e"
    )

# %% [markdown]
# `imagebind-jax plan` compiles the whole step for a slice that one does not have, with the TPU's
# own compiler (`pip install -e '.[tpu]'`, on any Linux machine).
#
# ```
# imagebind-jax plan configs/imagebind_huge_all.py --topology v5e:16x16
# ```
#
# It takes minutes, and so it is not run here; this is what it found, as `BENCHMARKS.md` has it
# (estimates of the compiler: nothing has run on a TPU).
#
# | slice | batch | GB a chip, of | ms a step | samples/s | MFU |
# |---|---|---|---|---|---|
# | v5e:16x16 | 8,192 | 10.0 of 16 | 343 | 23,900 | 0.53 |
# | v5p:4x4x4 | 8,192 | 42.6 of 95 | 605 | 13,500 | 0.51 |

# %% [markdown]
# ## What it costs
#
# Chips x hours x price; the prices below are placeholders for those of the day and the region.

# %%
planned = {"v5e:16x16": 0.343, "v5p:4x4x4": 0.605}  # seconds a step, from the table above
price = {"v5e": 1.2, "v5p": 4.2}  # dollars a chip-hour: put in today's
for name, seconds in planned.items():
    hours = huge.steps * seconds / 3600
    chip_hours = tpu_topologies.device_count(name) * hours
    dollars = chip_hours * price[name.split(":")[0]]
    print(
        f"{name:10} {huge.steps:,} steps in {hours:.1f} h = {chip_hours:,.0f} chip-hours, "
        f"about ${dollars:,.0f}"
    )

# %% [markdown]
# A larger slice is not dearer as long as it is kept busy: chip-hours stay, and hours shrink.

# %%
figure, ax = plt.subplots(figsize=(5, 2.5))
sizes = np.array([16, 32, 64, 128, 256])
work = 256 * huge.steps * planned["v5e:16x16"] / 3600  # chip-hours
ax.plot(sizes, work / sizes, "o-", color=plots.COLOURS["text"])
ax.set_xscale("log", base=2)
ax.set_yscale("log", base=2)
ax.set_xticks(sizes, sizes)
ax.set_yticks([2, 4, 8, 16, 32], [2, 4, 8, 16, 32])
ax.set_xlabel("chips of v5e, each as busy as in the plan")
ax.set_title("hours of the same run")
ax.grid()
plt.show()

# %% [markdown]
# On the slice, the command is the laptop's, on every host (`docs/pods.md`).
#
# ```
# imagebind-jax train configs/imagebind_huge_all.py --out /mnt/bind/runs/all
# ```

# %% [markdown]
# What this notebook promised: whatever the placement, the same step; and exactly the released
# model's number of parameters.

# %%
for name, found in losses.items():
    assert np.allclose(found, losses["one device"], rtol=1e-5), name
assert sum(parameters.values()) == 1_200_781_057
