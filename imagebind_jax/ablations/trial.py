"""One run: a setting and a seed, from arrays in memory to the numbers of the encoder that comes out."""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from imagebind_jax.ablations import datasets, models
from imagebind_jax.ablations.array_cache import ArrayCache
from imagebind_jax.ablations.baselines import DEPTH
from imagebind_jax.ablations.spec import TrialConfig
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.evaluation.tasks import retrieval, zero_shot
from imagebind_jax.inputs.transforms.log_mel import BANDS, mask_bands, normalise

Metrics = dict[str, float]
BATCHES, MASKS = 21, 22  # streams of random numbers, beside those of `data`


def run_trial(
    setting: TrialConfig,
    seed: int,
    folder: pathlib.Path,
    tell: Callable[[float], None] = lambda share: None,
) -> tuple[Metrics, Mapping]:
    """(numbers, parameters) of the encoder that a setting makes, on a seed's data.

    Numbers in percent: "top1", emergent zero-shot on scenes that no training has met, and "r1" and
    "r10", the share of test samples whose own picture is the nearest, or among ten; with "_centred"
    what they are once each side's mean is taken off; and "gap", the distance of the two means. tell:
    told the share that is done.
    """
    config, of = models.trial_config(setting, seed), ArrayCache(folder, seed)
    params = models.train_on_arrays(config, _batches(setting, of), tell)
    z = models.embed(
        config.model, params, setting.modality, of.read(f"test-{setting.modality}.npy")
    )
    size = setting.image_encoder
    pictures = of.read(f"test-z-{size}.npy")
    task = models.TASK_OF_MODALITY[setting.modality]
    classes = of.read(f"classes-{task}-{size}.npy")
    labels = of.read("test-labels.npy")[:, models.LABEL_COLUMNS.index(task)]
    return trial_metrics(z, pictures, classes, labels), params


def trial_metrics(
    z: Float[np.ndarray, "n e"],
    pictures: Float[np.ndarray, "n e"],
    classes: Float[np.ndarray, "c e"],
    labels: np.ndarray,
) -> Metrics:
    """What `run_trial` gives, of unit vectors."""
    z, pictures, classes = (np.asarray(x, np.float32) for x in (z, pictures, classes))
    found = {
        "gap": float(np.linalg.norm(z.mean(axis=0) - pictures.mean(axis=0))),
    }
    for end, (a, b, c) in {
        "": (z, pictures, classes),
        "_centred": (_centred(z), _centred(pictures), _centred(classes)),
    }.items():
        found[f"top1{end}"] = 100 * zero_shot.top1(a, c, labels)
        ranks = retrieval.retrieval_ranks(a, b)
        for k in (1, 10):
            found[f"r{k}{end}"] = 100 * retrieval.recall_at_k(ranks, k)
    return found


def _centred(z: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    return l2_normalize(z - z.mean(axis=0, keepdims=True))


def _batches(setting: TrialConfig, of: ArrayCache) -> Callable[[int], dict[str, np.ndarray]]:
    """step -> batch: every record once an epoch, each time in a view drawn anew.

    Audio has a slot for each moment, and pictures for each; depth maps have one for each view.
    """
    modality = setting.modality
    x, hubs = _inputs(setting, of), _hubs(setting, of)
    rng = np.random.default_rng([of.seed, BATCHES, setting.repeat])
    weight = np.ones(setting.batch_size, np.float32)
    slots, left = x.shape[1], np.zeros(0, int)

    def batch(step: int) -> dict[str, np.ndarray]:
        nonlocal left
        while len(left) < setting.batch_size:
            left = np.concatenate([left, rng.permutation(setting.pairs)])
        rows, left = left[: setting.batch_size], left[setting.batch_size :]
        # All is drawn in every setting, so that what settings share stays the same.
        slot, another = rng.integers(slots, size=(2, len(rows)))
        share = rng.random(len(rows))
        beside = slot if setting.aligned or modality != "audio" else another
        hub = hubs[step % len(hubs)]
        per = hub.shape[1] / slots  # pictures of a slot: several, one, or one for all
        inputs = x[rows, slot].astype(np.float32)
        if setting.mask_bands:
            _mask(
                inputs,
                setting.mask_bands,
                np.random.default_rng([of.seed, MASKS, setting.repeat, step]),
            )
        return {
            "anchor:vision": hub[rows, (per * (beside + share)).astype(int)].astype(np.float32),
            modality: inputs,
            "weight": weight,
        }

    return batch


def _inputs(setting: TrialConfig, of: ArrayCache) -> np.ndarray:
    """[records, views or moments or 1, ...]."""
    if setting.modality == "audio":
        return of.read("audio.npy")
    if setting.modality == "thermal":
        return of.read("thermal-thermal.npy")[:, None]
    return of.read(f"depth-{datasets.augmentation_name(datasets.augmentation_key(setting))}.npy")


def _hubs(setting: TrialConfig, of: ArrayCache) -> list[np.ndarray]:
    """[records, views, width] each: what steps in turn are against."""
    modality = setting.modality
    if modality == "thermal":  # beside plain pictures, or the depth maps of the same scenes
        z = of.read("thermal-z.npy")
        if setting.hub == "depth":
            _, params = run_trial(DEPTH, of.seed, of.path.parent)
            model = models.trial_config(DEPTH, of.seed).model
            z = models.embed(model, params, "depth", of.read("thermal-depth.npy"))
        return [z[:, None]]
    if setting.hub == "labels":
        names = of.read(f"classes-{models.TASK_OF_MODALITY[modality]}-{setting.image_encoder}.npy")
        return [names[of.read(f"{modality}-labels.npy")]]
    captions = [] if setting.hub == "vision" else [of.read(f"{modality}-z-text.npy")]
    if setting.hub == "text":
        return captions
    way = datasets.augmentation_name(datasets.augmentation_key(setting))
    return [of.read(f"{modality}-z-{way}-{setting.image_encoder}.npy"), *captions]


def _mask(spectrograms: np.ndarray, most: int, rng: np.random.Generator) -> None:
    """Sets up to `most` neighbouring bands of each to what `audio.LogMel(mask_bands=)` sets them."""
    bands = np.ones((BANDS, 1), np.float32)
    for x in spectrograms:
        bands[:] = 1
        mask_bands(bands, most, rng)
        x[bands[:, 0] == 0] = MASKED_BAND_VALUE


def _masked() -> float:
    """A band of 0 as the encoder sees it."""
    normalised = float(normalise(np.zeros((BANDS, 1), np.float32))[0, 0, 0])
    return (normalised - models.LOG_MEL_MEAN_STD[0]) / models.LOG_MEL_MEAN_STD[1]


MASKED_BAND_VALUE = _masked()
