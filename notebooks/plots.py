"""The figures of these notebooks: a medium as a picture, a table of cosines, and one look for all."""

import io
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from imagebind_jax.demo import run

COLOURS = {"vision": "#1b1e23", "text": "#2159b8", "audio": "#b3470f", "depth": "#0f766e",
           "thermal": "#b91c4b", "imu": "#6d3fc0", "tactile": "#8a6d00"}  # fmt: skip
SOFT, LINE = "#5a616b", "#e2dfd9"

plt.rcParams.update({
    "figure.dpi": 100, "figure.constrained_layout.use": True, "font.size": 9,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT, "axes.spines.top": False,
    "axes.spines.right": False, "axes.axisbelow": True, "grid.color": LINE, "legend.frameon": False,
})  # fmt: skip


def medium(axes, modality, record, title=None):
    """One medium of a record of the world, as a person would look at it."""
    axes.set_title(modality if title is None else title, color=COLOURS[modality])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_box_aspect(1)
    if modality == "text":
        axes.set_axis_off()
        axes.text(0.5, 0.5, textwrap.fill(f"“{record['text']}”", 18), ha="center", va="center",
                  style="italic", transform=axes.transAxes)  # fmt: skip
    elif modality == "vision":
        views = [np.asarray(Image.open(io.BytesIO(view))) for view in record["vision"]]
        axes.imshow(views[0])
    elif modality in ("depth", "thermal"):
        picture = np.asarray(Image.open(io.BytesIO(record[modality])), np.float32)
        near = -np.minimum(picture, 8000) if modality == "depth" else picture
        axes.imshow(near, cmap="viridis" if modality == "depth" else "inferno")
    elif modality == "audio":
        mel = run.INPUTS["audio"](record, None)[:, :198, 0]  # what follows is padding
        axes.imshow(mel, origin="lower", aspect="auto", cmap="magma")
    elif modality == "imu":
        trace = run.INPUTS["imu"](record, None)
        smooth = trace.reshape(-1, 20, 6).mean(axis=1)  # of 2,000 steps
        axes.plot(smooth - smooth[:5].mean(axis=0), lw=1)


def touch(axes, felt):
    """An input of `tactile.py`: pressure dark, trembling light behind it."""
    seconds = np.linspace(0, 2, len(felt))
    axes.plot(seconds, felt[:, 1], color="#d9c98a", lw=0.6)
    axes.plot(seconds, felt[:, 0], color=COLOURS["tactile"], lw=1.4)
    axes.set_ylim(-3, 3)


def table(axes, values, rows, columns, title="", *, low=None, high=None, form="{:.2f}"):
    """Numbers as colours, each written into its field."""
    values = np.asarray(values)
    low = np.nanmin(values) if low is None else low
    high = np.nanmax(values) if high is None else high
    axes.imshow(values, cmap="BuGn", vmin=low, vmax=high + 0.35 * (high - low))
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        strong = value > low + 0.9 * (high - low)
        axes.text(x, y, form.format(value), ha="center", va="center", fontsize=7.5,
                  color=COLOURS["vision"] if value > low + 0.25 * (high - low) else SOFT,
                  weight="bold" if strong else "normal")  # fmt: skip
