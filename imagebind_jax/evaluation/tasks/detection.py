"""Detection without training: where a picture is like a sound, a sentence or any other embedding."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import (
    UNUSABLE_KEY,
    Embedder,
    EvalInputs,
    EvalResult,
    HasWeights,
    source_name,
)
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import Source
from imagebind_jax.inputs.transforms.rle import rle_decode
from imagebind_jax.inputs.transforms.tiles import Tiles
from imagebind_jax.models.imagebind import ImageBind
from imagebind_jax.models.patch_embeddings import patch_embeddings


def heat_map(
    dense: Float[np.ndarray, "h w e"],
    query: Float[np.ndarray, "e"],
    against: Float[np.ndarray, "n e"] | None = None,
) -> Float[np.ndarray, "h w"]:
    """Each patch's cosine with a query of any modality, in [-1, 1].

    against: what is not looked for, such as "the floor" or other classes; the largest of their
    cosines is taken off, and what is above 0 is then more like the query than like any of them.
    """
    dense, query = l2_normalize(dense), l2_normalize(query)
    heat = dense @ query
    return heat if against is None else heat - (dense @ l2_normalize(against).T).max(axis=-1)


def boxes_from_heat_map(
    heat: Float[np.ndarray, "h w"],
    width: int,
    height: int,
    *,
    threshold: float = 0.5,
    most: int = 10,
) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n"]]:
    """(left, top, right, bottom in pixels of a picture, their scores), the best first.

    A box is around what hangs together above a threshold, of the picture-sized heat map: `threshold`
    of the way from its median (the background, where objects are small) up to its largest value.
    Its score is the largest heat within. A map that is the same everywhere has one box, the picture.
    """
    if not 0 <= threshold < 1:
        raise UserError(f"threshold {threshold}: a share of the way to the peak, in [0, 1)")
    large = resize_heat_map(heat, width, height)
    middle, peak = float(np.median(large)), float(large.max())
    least = middle + threshold * (peak - middle) - 1e-9 * abs(peak)  # else rounding would cut it up
    parts, count = ndimage.label(large >= least)
    found = np.array(
        [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(parts)], np.float64
    ).reshape(-1, 4)
    scores = np.asarray(ndimage.maximum(large, parts, np.arange(1, count + 1)), np.float64)
    order = np.argsort(-scores, kind="stable")[:most]
    return found[order], scores[order]


def resize_heat_map(
    heat: Float[np.ndarray, "h w"], width: int, height: int
) -> Float[np.ndarray, "H W"]:
    """The heat map at a picture's size: linear between the patches' centres, level beyond them."""
    zoom = height / heat.shape[0], width / heat.shape[1]
    return ndimage.zoom(heat, zoom, order=1, mode="nearest", grid_mode=True)


def iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every box of a with every box of b; of two empty ones 0."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    area, other = (np.clip(x[:, 2:] - x[:, :2], 0, None).prod(axis=-1) for x in (a, b))
    return both / np.maximum(area[:, None] + other - both, 1e-12)


def merge_tiles(
    views: Float[np.ndarray, "v h w e"], windows: Tiles
) -> Float[np.ndarray, "rows columns e"]:
    """One map of a picture from the maps of its windows, averaged where they overlap."""
    cell, over = divmod(windows.size, views.shape[1])
    if over or windows.stride % cell or views.shape[1] != views.shape[2]:
        raise UserError(
            f"windows of {windows.size} pixels every {windows.stride}, and {views.shape[1]} x "
            f"{views.shape[2]} patches in each: the stride must be a multiple of a patch"
        )
    rows, side = -(-windows.picture // cell), views.shape[1]
    total = np.zeros((rows, rows, views.shape[-1]))
    for view, (top, left) in zip(views, windows.places, strict=True):
        total[top // cell :, left // cell :][:side, :side] += view
    return l2_normalize(total).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Detection:
    """Records with a query and a true box, and the pictures in which the boxes are.

    queries: records of any modality with box ([left, top, right, bottom], pixels) and mask (COCO's
    uncompressed run lengths), of the picture whose record has the same `scene`. pictures: their
    transform is `Tiles`. Numbers: mean_iou, of the best box of each query with the true one;
    success, the share of them of at least 0.5; pointing, how often the map's peak is on the
    object. Chance is a box (a peak) in the picture's centre; the box has the true ones' mean width
    and height, which a detector is not told. Objects of one picture are drawn together.
    """

    queries: EvalInputs
    pictures: EvalInputs
    threshold: float = 0.5
    how: str = "gaze"
    reach: int = 1

    def __post_init__(self):
        if not isinstance(self.pictures.transform, Tiles):
            raise UserError(f"pictures of {source_name(self.pictures.source)}: by Tiles")

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.queries.source, self.pictures.source

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset((self.queries.modality, self.pictures.modality))

    def measure(self, bench: Embedder) -> EvalResult:
        """Raises UserError where the bench has no model, or records lack what is said above."""
        asked = [self._checked(note) for note in bench.notes(self.queries.source)]
        query = bench.embed(self.queries)
        truth = np.array([note["box"] for note in asked], np.float64)
        size = (truth[:, 2:] - truth[:, :2]).mean(axis=0)
        of: dict[Any, list[int]] = {}
        for row, note in enumerate(asked):
            of.setdefault(note["scene"], []).append(row)
        found = np.full((len(asked), 4), np.nan)  # overlap, pointing; the same by chance
        for scene, dense in self._maps(bench):
            for row in of.get(scene, []):
                if np.isfinite(query[row]).all():
                    mask = rle_decode(asked[row]["mask"])
                    heat = heat_map(dense, query[row])
                    hit, guess = self._hit(heat, truth[row], mask), _centred(truth[row], size, mask)
                    found[row] = *hit, *guess
        return self._measured(found, np.array([note["scene"] for note in asked]), bench)

    def _maps(self, bench: Embedder) -> Iterator[tuple[Any, Float[np.ndarray, "h w e"]]]:
        """(scene, its dense embeddings) of every picture that can be read."""
        if not isinstance(bench, HasWeights):
            raise UserError("detection needs a model: --checkpoint CKPT, and no stored embeddings")
        modality, windows = self.pictures.modality, self.pictures.transform
        assert isinstance(windows, Tiles)
        config, params = bench.weights((modality,))
        model, params = ImageBind(config), jax.tree.map(jnp.asarray, dict(params))
        records = bench.records(self.pictures.source)
        for i, note in enumerate(bench.notes(self.pictures.source)):
            if not i % 32:
                bench.tell(f"{self.pictures.name}: picture {i} of {len(records)}")
            if UNUSABLE_KEY in note:
                continue
            try:
                views = windows(records[i], None)
            except MediaError:
                continue
            seen = patch_embeddings(
                model,
                params,
                jnp.asarray(views),
                modality=modality,
                how=self.how,
                reach=self.reach,
            )
            yield note.get("scene"), merge_tiles(np.asarray(seen), windows)

    def _checked(self, note: Mapping[str, Any]) -> Mapping[str, Any]:
        if lacks := {"box", "mask", "scene"} - set(note):
            name = source_name(self.queries.source)
            raise UserError(f"record {note.get('id')!r} of {name} has no {sorted(lacks)[0]!r}")
        return note

    def _hit(self, heat, truth, mask: Bool[np.ndarray, "h w"]) -> tuple[float, float]:
        height, width = mask.shape
        best, _ = boxes_from_heat_map(heat, width, height, threshold=self.threshold, most=1)
        peak = np.unravel_index(resize_heat_map(heat, width, height).argmax(), mask.shape)
        return float(iou(best, truth[None])[0, 0]), float(mask[peak])

    def _measured(self, found: Float[np.ndarray, "n 4"], scenes: np.ndarray, bench: Embedder):
        overlap, pointing, guess, middle = found.T
        unusable = int(np.isnan(overlap).sum())
        if unusable == len(found):
            raise UserError("no query has an embedding and a picture: nothing to measure")
        there = ~np.isnan(overlap)
        values = {
            "mean_iou": (overlap, guess),
            "success": (np.where(there, overlap >= 0.5, np.nan), guess >= 0.5),
            "pointing": (pointing, middle),
        }
        mean = functools.partial(
            bootstrap.bootstrap_mean, groups=scenes, resamples=bench.resamples, seed=bench.seed
        )
        return EvalResult(
            {name: mean(each) for name, (each, _) in values.items()},
            samples=len(found),
            unusable=unusable,
            chance={name: float(np.mean(by[there])) for name, (_, by) in values.items()},
            notes=("chance: a centred box of the true ones' mean size",),
        )


def _centred(
    truth: Float[np.ndarray, "4"], size: Float[np.ndarray, "2"], mask: Bool[np.ndarray, "h w"]
) -> tuple[float, float]:
    middle = np.array(mask.shape[::-1]) / 2
    box = np.concatenate([middle - size / 2, middle + size / 2])
    at = tuple(side // 2 for side in mask.shape)
    return float(iou(box[None], truth[None])[0, 0]), float(mask[at])
