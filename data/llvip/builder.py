"""LLVIP: pairs of visible and thermal images of streets at night, and its pedestrians as crops."""

import functools
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row
from imagebind_jax.inputs.decoders import images

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://bupt-ai-cz.github.io/LLVIP/"
REMEDY = f"get LLVIP.zip from {HOMEPAGE}"
PERSON, BACKGROUND = 0, 1
SEED = 0
TRIES = 100  # places tried for a background box
MAX_XML = 1 << 20  # bytes

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


def listing(download: pathlib.Path) -> DatasetListing:
    """Splits "train" and "test" of pairs, and "person_test" of boxes to classify.

    The boxes are every pedestrian of the test images and, for each, one of the same size at a
    random place that touches no pedestrian (where there is one in 100 tries).
    """
    root = reading.find(download, "infrared", remedy=REMEDY).parent
    splits: dict[str, list[Row]] = {}
    missing = {}
    for split in ("train", "test"):
        stems = {
            kind: reading.scan(root / kind / split, (".jpg",)) for kind in ("visible", "infrared")
        }
        both = sorted(stems["visible"].keys() & stems["infrared"].keys())
        missing[split] = len(stems["visible"].keys() | stems["infrared"].keys()) - len(both)
        splits[split] = [
            {
                "id": f"{split}/{stem}",
                "vision": root / "visible" / split / stems["visible"][stem],
                "thermal": root / "infrared" / split / stems["infrared"][stem],
            }
            for stem in both
        ]
        if not both:
            raise UserError(f"no pair of images in {root}/visible/{split} and infrared; {REMEDY}")
    annotations = root / "Annotations"
    if not annotations.is_dir():
        raise UserError(f"no Annotations in {root}; {REMEDY}")
    boxes: list[Row] = []
    missing["person_test"] = 0
    for row in splits["test"]:
        path = annotations / f"{row['vision'].stem}.xml"
        if path.is_file():
            boxes.extend(_boxes(row, path))
        else:
            missing["person_test"] += 1
    splits["person_test"] = boxes
    persons = sum(row["label"] == PERSON for row in boxes)
    counted = f"person_test: {persons} persons and {len(boxes) - persons} background boxes"
    return DatasetListing(
        splits=splits,
        classes=reading.lines(HERE / "classes.txt"),
        prompts=reading.templates(),
        missing=missing,
        names=reading.names(HERE / "names.txt"),
        notes=(counted,),
    )


def _boxes(pair: Row, path: pathlib.Path) -> Iterator[Row]:
    width, height, persons = read_annotation(path)
    rng = np.random.default_rng([SEED, *path.stem.encode()])
    for index, person in enumerate(persons):
        for box, label in (
            (person, PERSON),
            (background(person, persons, width, height, rng), BACKGROUND),
        ):
            if box is not None:
                kind = "person" if label == PERSON else "background"
                name = f"person_test/{path.stem}-{kind}-{index}"
                yield {**pair, "id": name, "box": list(box), "label": label}


def read_annotation(path: pathlib.Path) -> tuple[int, int, list[Box]]:
    """(width, height, pedestrians) of one VOC file; boxes without area are left out.

    Raises UserError, also for a document type: entities in it can grow without bound.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_XML + 1)
        if len(data) > MAX_XML:
            raise ValueError(f"more than {MAX_XML} bytes")
        if any(mark in data for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\0")):  # \0: UTF-16
            raise ValueError("it has a document type, which can make entities grow without bound")
        root = ElementTree.fromstring(data)
        width, height = (int(root.findtext(f"size/{name}", "")) for name in ("width", "height"))
        boxes = []
        for item in root.iter("object"):
            left, top, right, bottom = (
                int(float(item.findtext(f"bndbox/{name}", "")))
                for name in ("xmin", "ymin", "xmax", "ymax")
            )
            box = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append(box)
    except (OSError, ValueError, OverflowError, ElementTree.ParseError) as error:
        raise UserError(f"cannot read {path} as an annotation: {error}") from error
    return width, height, boxes


def background(
    person: Box, persons: list[Box], width: int, height: int, rng: np.random.Generator
) -> Box | None:
    """A box of the person's size that overlaps no pedestrian, or None if none was found."""
    w, h = person[2] - person[0], person[3] - person[1]
    for _ in range(TRIES):
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        right, bottom = left + w, top + h
        if not any(left < p[2] and p[0] < right and top < p[3] and p[1] < bottom for p in persons):
            return left, top, right, bottom
    return None


def record(row: Row) -> dict[str, Any]:
    """A pair as its files are, or a box as lossless PNGs cut out of them."""
    if "box" not in row:
        return datasets.inline_files(row)
    cut: Mapping[str, bytes] = {
        "vision": _crop(row["vision"], row["box"], "RGB"),
        "thermal": _crop(row["thermal"], row["box"], "L"),
    }
    return {**row, **cut}


def _crop(path: pathlib.Path, box: list[int], mode: str) -> bytes:
    buffer = io.BytesIO()
    left, top, right, bottom = box
    _decoded(path, mode).crop((left, top, right, bottom)).save(buffer, "PNG")
    return buffer.getvalue()


@functools.lru_cache(maxsize=2)  # the boxes of an image follow one another
def _decoded(path: pathlib.Path, mode: str) -> Image.Image:
    return images.open_image(path).convert(mode)


DATASET = Dataset(
    name="llvip",
    title="LLVIP: a visible-infrared paired dataset for low-light vision",
    licence="non-commercial: github.com/bupt-ai-cz/LLVIP, Term of Use and License",
    homepage=HOMEPAGE,
    modalities=("vision", "thermal"),
    listing=listing,
    record=record,
)
