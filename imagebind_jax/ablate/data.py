"""What the runs of one seed share: its world, towers that are frozen, and inputs that are made once."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax import files
from imagebind_jax.ablate import towers
from imagebind_jax.ablate.ablation import Setting
from imagebind_jax.ablate.towers import INPUTS, SIZE
from imagebind_jax.inputs import augment, vision
from imagebind_jax.inputs.rows import ToInputs
from imagebind_jax.inputs.world.episodes import MOMENTS, Episodes

VIEWS = 6  # of a picture with its depth map, each augmented on its own; of a moment's picture, 2
PAIRS, TEST = 1024, 768  # records to learn from of each modality, and of held-out combinations
# Where each modality's recordings begin: none is in two of them, and none in the towers' pairs.
FIRST = {"depth": MOMENTS * 7_000, "audio": MOMENTS * 14_000, "thermal": MOMENTS * 21_000}

# The paper's two strengths for images: "basic" crops and jitters, "strong" adds RandAugment and
# erasing. Its crops show 8 % of a picture at least, which towers of this size have no answer to.
STRONG = augment.Spatial(crop_scale=(0.3, 1.0))
BASIC = dataclasses.replace(STRONG, operations=0, erase=0.0)
# (augmentation, aligned, erase) -> the ways in which a modality's pairs are seen.
Way = tuple[str, bool, bool]
WAYS: dict[str, tuple[Way, ...]] = {
    "depth": (
        ("strong", True, True),
        ("basic", True, False),
        ("strong", False, True),
        ("strong", True, False),
    ),
    # Its moments are matched, or not, when batches are drawn.
    "audio": (("basic", True, False), ("strong", True, True)),
}
BASELINE = {modality: ways[0] for modality, ways in WAYS.items()}

# What there is to be made for a seed, in this order.
PARTS = ("tower-small", "tower-base", "tower-large", "test", *WAYS, "thermal")


def way_of(setting: Setting) -> Way:
    return setting.augmentation, setting.aligned or setting.modality == "audio", setting.erase


def named(way: Way) -> str:
    return f"{way[0]}-{'aligned' if way[1] else 'unaligned'}-{'erased' if way[2] else 'whole'}"


class Folder:
    """The arrays of one seed: each file is whole, or is not there."""

    def __init__(self, folder: pathlib.Path, seed: int):
        self.path, self.seed = folder / f"seed-{seed}", seed

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write(self, name: str, array: np.ndarray) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with files.replaced(self.path / name) as file:
            np.save(file, array, allow_pickle=False)

    def read(self, name: str) -> np.ndarray:
        """Mapped, not loaded."""
        return np.load(self.path / name, mmap_mode="r", allow_pickle=False)


def make(folder: pathlib.Path, seed: int, part: str, tell: Callable[[float], None]) -> None:
    """Makes one part, if it is not there. tell: told the share that is done."""
    of = Folder(folder, seed)
    if of.has(f"{part}.done"):
        return
    if part.startswith("tower-"):
        _tower(of, part.removeprefix("tower-"), tell)
    elif part == "test":
        _test(of, tell)
    elif part == "thermal":
        _plain(of, tell)
    else:
        _pairs(of, part, tell)
    files.replace_text(of.path / f"{part}.done", json.dumps({"seed": seed}))


def _record(of: Folder, split: str, index: int, modalities: Sequence[str]) -> dict[str, Any]:
    return Episodes(of.seed, SIZE).record(split, index, tuple(modalities))


def _tower(of: Folder, size: str, tell: Callable[[float], None]) -> None:
    config = towers.tower_config(of.seed, size)
    if not of.has("captioned-vision.npy"):
        seen = ToInputs({m: config.inputs[m] for m in ("vision", "text")})
        made = []
        for i in range(towers.TOWER_PAIRS):
            record = _record(of, "train", MOMENTS * i, ("vision", "text"))
            views = [seen(record, _rng(of, 0, i, v)) for v in range(towers.TOWER_VIEWS)]
            made.append([{m: _small(x) for m, x in view.items()} for view in views])
            tell(0.3 * i / towers.TOWER_PAIRS)
        of.write("captioned-text.npy", np.stack([row[0]["text"] for row in made]))
        pictures = [[view["vision"] for view in row] for row in made]
        of.write("captioned-vision.npy", np.array(pictures))
    x = {m: np.asarray(of.read(f"captioned-{m}.npy")) for m in ("vision", "text")}
    rng = _rng(of, 1)
    weight, done = np.ones(config.batch_size, np.float32), 0

    def batch(step: int) -> dict[str, np.ndarray]:
        rows = rng.integers(towers.TOWER_PAIRS, size=config.batch_size)
        view = rng.integers(towers.TOWER_VIEWS, size=config.batch_size)
        pictures = x["vision"][rows, view].astype(np.float32)
        return {"vision": pictures, "text": x["text"][rows], "weight": weight}

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        tell(0.3 + 0.7 * done / config.steps)

    save(of.path / f"tower-{size}.npz", towers.trained(config, batch, advance))


def _test(of: Folder, tell: Callable[[float], None]) -> None:
    for name in ("vision", "text"):  # the towers are there
        (of.path / f"captioned-{name}.npy").unlink(missing_ok=True)
    modalities = ("vision", "depth", "audio", "thermal")
    rows, labels = [], []
    for i in range(TEST):
        record = _record(of, "test", MOMENTS * i, modalities)
        rows.append({m: INPUTS[m](record, None) for m in modalities})
        labels.append([record["labels"][task] for task in ("shape", "material")])
        tell(i / TEST)
    for m in modalities:
        of.write(f"test-{m}.npy", _small(np.stack([row[m] for row in rows])))
    of.write("test-labels.npy", np.array(labels))
    for size in towers.IMAGE_ENCODERS:
        model, params = tower(of, size)
        z = towers.embed(model, params, "vision", of.read("test-vision.npy"))
        of.write(f"test-z-{size}.npy", z)
        for task in ("shape", "material"):
            of.write(f"classes-{task}-{size}.npy", towers.classes(model, params, task))


def _pairs(of: Folder, modality: str, tell: Callable[[float], None]) -> None:
    """A modality's training inputs in every way, and the embeddings of what they are paired with."""
    moments = MOMENTS if modality == "audio" else 1
    records = []
    for i in range(PAIRS):
        numbers = [FIRST[modality] + MOMENTS * i + moment for moment in range(moments)]
        wanted = ("vision", modality, "text")
        records.append([_record(of, "train", number, wanted) for number in numbers])
        tell(0.4 * i / PAIRS)
    labels = [[each["labels"][towers.TASK[modality]] for each in row] for row in records]
    of.write(f"{modality}-labels.npy", np.array(labels))
    tokens = [[INPUTS["text"](each, None) for each in row] for row in records]
    model, params = tower(of, "base")
    flat = np.array(tokens).reshape(PAIRS * moments, -1)
    z = towers.embed(model, params, "text", flat).reshape(PAIRS, moments, -1)
    of.write(f"{modality}-z-text.npy", z)
    if modality == "audio":
        sounds = [[_small(INPUTS["audio"](each, None)) for each in row] for row in records]
        of.write("audio.npy", np.array(sounds))
    for w, way in enumerate(WAYS[modality]):
        seen, own = _seen(of, modality, way, records)
        sizes = towers.IMAGE_ENCODERS if way == BASELINE[modality] else ("base",)
        for size in sizes:
            model, params = tower(of, size)
            z = towers.embed(model, params, "vision", seen.reshape(-1, *seen.shape[2:]))
            of.write(f"{modality}-z-{named(way)}-{size}.npy", z.reshape(*seen.shape[:2], -1))
        if own is not None:
            of.write(f"{modality}-{named(way)}.npy", own)
        tell(0.4 + 0.6 * (w + 1) / len(WAYS[modality]))


def _plain(of: Folder, tell: Callable[[float], None]) -> None:
    """Scenes in three modalities, not augmented, of which no other encoder has learned."""
    modalities = ("vision", "depth", "thermal")
    made = []
    for i in range(PAIRS):
        record = _record(of, "train", FIRST["thermal"] + MOMENTS * i, modalities)
        made.append({m: _small(INPUTS[m](record, None)) for m in modalities})
        tell(i / PAIRS)
    for m in ("depth", "thermal"):
        of.write(f"thermal-{m}.npy", np.stack([row[m] for row in made]))
    model, params = tower(of, "base")
    pictures = np.stack([row["vision"] for row in made])
    of.write("thermal-z.npy", towers.embed(model, params, "vision", pictures))


def _seen(of: Folder, modality: str, way: Way, records):
    """(pictures [records, views, ...], the modality's inputs alike or None where it has no views).

    Audio has 2 views of each moment's picture, in the order of moments; its sounds are as they are.
    """
    augmentation = STRONG if way[0] == "strong" else BASIC
    augmentation = dataclasses.replace(augmentation, erase=0.25 if way[2] else 0.0)
    transforms: dict[str, Any] = {
        "vision": vision.Clip(SIZE, frames=1, augment=augmentation),
    }
    if modality == "depth":
        transforms["depth"] = dataclasses.replace(towers.DEPTH, augment=augmentation)
    to_inputs = ToInputs(transforms, aligned=way[1])
    views = VIEWS if modality == "depth" else 2
    pictures, own = [], []
    for i, row in enumerate(records):
        made = [
            to_inputs(record, _rng(of, 2, i, moment, view))
            for moment, record in enumerate(row)
            for view in range(views)
        ]
        pictures.append(np.stack([each["vision"] for each in made]).astype(np.float16))
        if modality == "depth":
            own.append(np.stack([each["depth"] for each in made]).astype(np.float16))
    return np.stack(pictures), np.stack(own) if own else None


def tower(of: Folder, size: str):
    """(model, parameters) of the image tower of a size, and the text tower beside it."""
    return towers.tower_config(of.seed, size).model, load(of.path / f"tower-{size}.npz")


def save(path: pathlib.Path, params: Mapping) -> None:
    """Nested dicts of arrays as one .npz file."""
    from flax import traverse_util

    path.parent.mkdir(parents=True, exist_ok=True)
    flat: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    with files.replaced(path) as file:
        np.savez(file, **flat)


def load(path: pathlib.Path) -> dict:
    from flax import traverse_util

    with np.load(path, allow_pickle=False) as flat:
        return traverse_util.unflatten_dict({name: flat[name] for name in flat}, sep="/")


def _small(x: np.ndarray) -> np.ndarray:
    """Numbers that are not whole in half precision, which is finer than what they were measured with."""
    return x.astype(np.float16) if x.dtype.kind == "f" else x


def _rng(of: Folder, *place: int) -> np.random.Generator:
    return np.random.default_rng([of.seed, *place])
