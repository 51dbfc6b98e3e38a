"""What the runs of one seed share: its world, towers that are frozen, and inputs that are made once."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from imagebind_jax.ablations import array_cache, models
from imagebind_jax.ablations.array_cache import ArrayCache, to_float16
from imagebind_jax.ablations.baselines import DEPTH
from imagebind_jax.ablations.models import INPUTS, SIZE
from imagebind_jax.ablations.spec import TrialConfig
from imagebind_jax.inputs.pipeline.examples import ToModelInputs
from imagebind_jax.inputs.transforms import augment, vision
from imagebind_jax.inputs.world.recordings import MOMENTS, MomentSequences

VIEWS = {"depth": 6, "audio": 2}  # of a picture, with its depth map; of a moment's picture
PAIRS, TEST = 1024, 768  # records to learn from of each modality, and of held-out combinations
# Where each modality's recordings begin: none is in two of them, and none in the towers' pairs.
FIRST = {"depth": MOMENTS * 7_000, "audio": MOMENTS * 14_000, "thermal": MOMENTS * 21_000}

CAPTIONED, DRAWN, VIEW = 11, 12, 13  # streams of random numbers; below are the world's

# The paper's two strengths for images: "basic" crops and jitters, "strong" adds RandAugment and
# erasing. Its crops show 8 % of a picture at least, which towers of this size have no answer to.
STRONG = augment.SpatialAugmentation(crop_scale=(0.3, 1.0))
BASIC = dataclasses.replace(STRONG, operations=0, erase=0.0)
# (augmentation of images, aligned, rectangles of depth maps erased): how a modality's pairs are seen.
AugmentationKey = tuple[str, bool, bool]
WAYS: dict[str, tuple[AugmentationKey, ...]] = {
    "depth": (
        ("strong", True, True),
        ("basic", True, True),
        ("strong", False, True),
        ("strong", True, False),
    ),
    # Its moments are matched, or not, when batches are drawn.
    "audio": (("basic", True, False), ("strong", True, False)),
}


def augmentation_key(setting: TrialConfig) -> AugmentationKey:
    return setting.augmentation, setting.aligned or setting.modality == "audio", setting.erase


def augmentation_name(way: AugmentationKey) -> str:
    return f"{way[0]}-{'aligned' if way[1] else 'unaligned'}-{'erased' if way[2] else 'whole'}"


def required_parts(setting: TrialConfig) -> tuple[str, ...]:
    """The parts of a seed's data that a setting is run with, in the order in which they are made."""
    modality, size = setting.modality, setting.image_encoder
    parts = ["captioned", f"tower-{size}", "test", f"test-{size}"]
    if modality == "thermal":
        chained = required_parts(DEPTH) if setting.hub == "depth" else ()
        return (*parts, *(part for part in chained if part not in parts), "thermal")
    if setting.hub in ("text", "labels", "both"):
        parts.append(f"{modality}-text")
    sounds = ["audio"] if modality == "audio" else []  # depth maps come with their pictures
    return (*parts, *sounds, f"{modality}-{augmentation_name(augmentation_key(setting))}-{size}")


def build_part(
    folder: pathlib.Path, seed: int, part: str, tell: Callable[[float], None] = lambda share: None
) -> None:
    """Makes one part, if it is not there; what comes before it in `required_parts` has to be.

    tell: told the share that is done.
    """
    of = ArrayCache(folder, seed)
    if of.has(part):
        return
    kind, _, rest = part.partition("-")
    if part == "captioned":
        _captioned(of, tell)
    elif kind == "tower":
        _tower(of, rest, tell)
    elif part == "test":
        _test(of, tell)
    elif kind == "test":
        _embed_test_set(of, rest)
    elif part == "audio":
        _sounds(of, tell)
    elif part == "thermal":
        _build_unaugmented(of, tell)
    elif rest == "text":
        _captions(of, kind)
    else:
        way, size = {
            f"{augmentation_name(w)}-{s}": (w, s) for w in WAYS[kind] for s in models.IMAGE_ENCODERS
        }[rest]
        _embed_views(of, kind, way, size, tell)


def _record(of: ArrayCache, split: str, index: int, modalities: Sequence[str]) -> dict[str, Any]:
    return MomentSequences(of.seed, SIZE).record(split, index, tuple(modalities))


def _records(
    of: ArrayCache, modality: str, modalities: Sequence[str]
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The number and the moments of each recording that a modality learns from."""
    moments = MOMENTS if modality == "audio" else 1
    for i in range(PAIRS):
        first = FIRST[modality] + MOMENTS * i
        yield i, [_record(of, "train", first + m, modalities) for m in range(moments)]


def _captioned(of: ArrayCache, tell: Callable[[float], None]) -> None:
    """What the towers learn from: pictures in a few views, and their captions."""
    config = models.pretrain_config(of.seed, "base")
    seen = ToModelInputs({m: config.inputs[m] for m in ("vision", "text")})
    made = []
    for i in range(models.TOWER_PAIRS):
        record = _record(of, "train", MOMENTS * i, ("vision", "text"))
        views = [seen(record, _rng(of, CAPTIONED, i, v)) for v in range(models.TOWER_VIEWS)]
        made.append([{m: to_float16(x) for m, x in view.items()} for view in views])
        tell(i / models.TOWER_PAIRS)
    of.write("captioned-text.npy", np.stack([row[0]["text"] for row in made]))
    of.write("captioned-vision.npy", np.array([[view["vision"] for view in row] for row in made]))


def _tower(of: ArrayCache, size: str, tell: Callable[[float], None]) -> None:
    config = models.pretrain_config(of.seed, size)
    x = {m: np.asarray(of.read(f"captioned-{m}.npy")) for m in ("vision", "text")}
    rng = _rng(of, DRAWN)
    weight = np.ones(config.batch_size, np.float32)

    def batch(step: int) -> dict[str, np.ndarray]:
        rows = rng.integers(models.TOWER_PAIRS, size=config.batch_size)
        view = rng.integers(models.TOWER_VIEWS, size=config.batch_size)
        pictures = x["vision"][rows, view].astype(np.float32)
        return {"vision": pictures, "text": x["text"][rows], "weight": weight}

    array_cache.save_params(
        of.path / f"tower-{size}.npz", models.train_on_arrays(config, batch, tell)
    )


def _test(of: ArrayCache, tell: Callable[[float], None]) -> None:
    modalities = ("vision", "depth", "audio", "thermal")
    rows, labels = [], []
    for i in range(TEST):
        record = _record(of, "test", MOMENTS * i, modalities)
        rows.append({m: to_float16(INPUTS[m](record, None)) for m in modalities})
        labels.append([record["labels"][task] for task in models.LABEL_COLUMNS])
        tell(i / TEST)
    for m in modalities:
        of.write(f"test-{m}.npy", np.stack([row[m] for row in rows]))
    of.write("test-labels.npy", np.array(labels))


def _embed_test_set(of: ArrayCache, size: str) -> None:
    """What a tower makes of the test's pictures, and of the classes' names."""
    model, params = load_frozen_tower(of, size)
    of.write(
        f"test-z-{size}.npy", models.embed(model, params, "vision", of.read("test-vision.npy"))
    )
    for task in models.LABEL_COLUMNS:
        of.write(f"classes-{task}-{size}.npy", models.class_embeddings(model, params, task))


def _sounds(of: ArrayCache, tell: Callable[[float], None]) -> None:
    sounds = []
    for i, row in _records(of, "audio", ("audio",)):
        sounds.append([to_float16(INPUTS["audio"](each, None)) for each in row])
        tell(i / PAIRS)
    of.write("audio.npy", np.array(sounds))


def _captions(of: ArrayCache, modality: str) -> None:
    """The captions of a modality's recordings as the text tower has them, and their labels."""
    labels, tokens = [], []
    for _, row in _records(of, modality, ("text",)):
        labels.append([each["labels"][models.TASK_OF_MODALITY[modality]] for each in row])
        tokens.append([INPUTS["text"](each, None) for each in row])
    of.write(f"{modality}-labels.npy", np.array(labels))
    model, params = load_frozen_tower(of, "base")
    flat = np.array(tokens)
    z = models.embed(model, params, "text", flat.reshape(-1, flat.shape[-1]))
    of.write(f"{modality}-z-text.npy", z.reshape(*flat.shape[:2], -1))


def _build_unaugmented(of: ArrayCache, tell: Callable[[float], None]) -> None:
    """Scenes in three modalities, not augmented, of which no other encoder has learned."""
    modalities = ("vision", "depth", "thermal")
    made = []
    for i in range(PAIRS):
        record = _record(of, "train", FIRST["thermal"] + MOMENTS * i, modalities)
        made.append({m: to_float16(INPUTS[m](record, None)) for m in modalities})
        tell(i / PAIRS)
    for m in ("depth", "thermal"):
        of.write(f"thermal-{m}.npy", np.stack([row[m] for row in made]))
    model, params = load_frozen_tower(of, "base")
    pictures = np.stack([row["vision"] for row in made])
    of.write("thermal-z.npy", models.embed(model, params, "vision", pictures))


def _embed_views(
    of: ArrayCache, modality: str, way: AugmentationKey, size: str, tell: Callable[[float], None]
) -> None:
    """What a tower makes of pictures seen in one way, [records, views, width]; and depth maps alike.

    Audio has 2 views of each moment's picture, in the order of moments; its sounds are as they are.
    In a modality's first way, the baseline's, all towers that are there look at the pictures at once.
    """
    augmentation = STRONG if way[0] == "strong" else BASIC
    transforms: dict[str, Any] = {
        "vision": vision.FramesTransform(SIZE, frames=1, augment=augmentation),
    }
    if modality == "depth":
        own = dataclasses.replace(augmentation, erase=STRONG.erase if way[2] else 0.0)
        transforms["depth"] = dataclasses.replace(models.DEPTH, augment=own)
    to_inputs = ToModelInputs(transforms, aligned=way[1])
    made = []
    for i, row in _records(of, modality, tuple(transforms)):
        seen = [
            to_inputs(record, _rng(of, VIEW, i, moment, view))
            for moment, record in enumerate(row)
            for view in range(VIEWS[modality])
        ]
        made.append([{m: to_float16(x) for m, x in each.items()} for each in seen])
        tell(i / PAIRS)
    if modality == "depth":
        of.write(
            f"depth-{augmentation_name(way)}.npy",
            np.array([[v["depth"] for v in row] for row in made]),
        )
    pictures = np.array([[view["vision"] for view in row] for row in made])
    there = (each for each in models.IMAGE_ENCODERS if of.has(f"tower-{each}"))
    for each in there if way == WAYS[modality][0] else (size,):
        model, params = load_frozen_tower(of, each)
        z = models.embed(model, params, "vision", pictures.reshape(-1, *pictures.shape[2:]))
        of.write(
            f"{modality}-z-{augmentation_name(way)}-{each}.npy", z.reshape(*pictures.shape[:2], -1)
        )


def load_frozen_tower(of: ArrayCache, size: str):
    """(model, parameters) of the image tower of a size, and the text tower beside it."""
    return models.pretrain_config(of.seed, size).model, array_cache.load_params(
        of.path / f"tower-{size}.npz"
    )


def _rng(of: ArrayCache, *place: int) -> np.random.Generator:
    return np.random.default_rng([of.seed, *place])
