"""A folder of images with captions, in any of four layouts: records of vision and text."""

import os
import pathlib
from collections.abc import Iterable, Iterator

import msgspec

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
REMEDY = "captions go into captions.jsonl, captions.csv, captions_*.json (COCO) or name.txt files"
WHOLE = "all"  # the split of a folder that is not in splits

Captions = dict[str, list[str]]  # image, relative to its folder -> what is said of it, or []


class Line(msgspec.Struct):
    """A line of captions.jsonl: the image, and one caption or several."""

    file: str
    caption: str | None = None
    captions: list[str] = []


class CocoImage(msgspec.Struct):
    id: int
    file_name: str


class CocoCaption(msgspec.Struct):
    image_id: int
    caption: str


class Coco(msgspec.Struct):
    """What is used of a COCO captions_*.json."""

    images: list[CocoImage]
    annotations: list[CocoCaption]


def listing(download: pathlib.Path) -> DatasetListing:
    """One split a folder: the download itself, or those directly in it, or COCO's image folders."""
    inner = reading.folders(download)[1:]
    found = list(_coco(download)) or [(WHOLE, download, _captions(download))]
    if not any(any(captions.values()) for _, _, captions in found):
        found = [(folder.name, folder, _captions(folder)) for folder in inner]
    splits: dict[str, list[Row]] = {}
    missing, notes = {}, []
    for split, folder, captions in found:
        told = {file: texts for file, texts in captions.items() if texts}
        if told:
            splits[split] = list(_rows(split, folder, told))
            missing[split] = len(told) - len(splits[split])
        notes += _left_out(split, folder, len(captions) - len(told))
    if not any(splits.values()):
        raise UserError(f"no captioned image in {download}, nor in a folder in it; {REMEDY}")
    return DatasetListing(splits=splits, missing=missing, notes=tuple(notes))


def _left_out(split: str, folder: pathlib.Path, bare: int) -> Iterator[str]:
    """Notes of images without a caption, and of captions one folder deeper than is looked."""
    if bare:
        yield f"{split}: images without a caption are left out: {bare}"
    if not folder.is_dir():
        return
    for inner in reading.folders(folder)[1:]:
        if any(stem in reading.scan(inner, (".txt",)) for stem in _images(inner)):
            yield f"{split}: the .txt captions in {inner.name}/ are not read: it lies too deep"


def _rows(split: str, folder: pathlib.Path, captions: Captions) -> Iterator[Row]:
    for file, texts in sorted(captions.items()):
        if (folder / file).is_file():
            yield {"id": f"{split}/{file}", "vision": folder / file, "text": texts}


def _captions(folder: pathlib.Path) -> Captions:
    """From captions.jsonl, else captions.csv, else the .txt files beside images; {} if none."""
    if (path := folder / "captions.jsonl").is_file():
        return _gather(path, _json_lines(path))
    if (path := folder / "captions.csv").is_file():
        rows = reading.table(path, ("file", "caption"))
        return _gather(path, ((row["file"], row["caption"]) for row in rows))
    texts = reading.scan(folder, (".txt",))
    captions: Captions = {}
    for stem, images in _images(folder).items():
        if stem in texts and len(images) > 1:
            several = f"{' and '.join(images)} could each be meant by {texts[stem]}"
            raise UserError(f"{folder}: {several}: rename one of them")
        said = reading.lines(folder / texts[stem]) if stem in texts else ()
        captions |= {image: list(said) for image in images}
    return captions


def _images(folder: pathlib.Path) -> dict[str, list[str]]:
    """{stem: names} of the images in a folder; several may share a stem."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGES:
            found.setdefault(stem, []).append(name)
    return found


def _json_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    decoder = msgspec.json.Decoder(Line)
    for number, text in enumerate(reading.lines(path), 1):
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        for caption in [*line.captions, line.caption or ""]:
            yield line.file, caption


def _coco(download: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, Captions]]:
    """annotations/captions_val2017.json with the images of val2017/."""
    for path in sorted(download.glob("annotations/captions_*.json")):
        name = path.stem.removeprefix("captions_")
        try:
            coco = msgspec.json.decode(path.read_bytes(), type=Coco)
        except (OSError, msgspec.MsgspecError) as error:
            raise UserError(f"cannot read {path}: {error}") from error
        file = {image.id: image.file_name for image in coco.images}
        # Captions of an image that is not listed count as those of an image that is not there.
        told = [(file.get(a.image_id, f"image {a.image_id}"), a.caption) for a in coco.annotations]
        listed = [(image.file_name, "") for image in coco.images]
        yield name, download / name, _gather(path, listed + told)


def _gather(path: pathlib.Path, told: Iterable[tuple[str, str]]) -> Captions:
    """An empty caption says of an image only that it is listed."""
    captions: Captions = {}
    for file, caption in told:
        inside = pathlib.PurePosixPath(file)
        if not inside.parts or inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{path}: {file!r} is not a file in its folder")
        said = captions.setdefault(str(inside), [])
        if text := " ".join(caption.split()):
            said.append(text)
    return captions


DATASET = Dataset(
    name="captions",
    title="Any folder of captioned images",
    licence="your own, or the folder's",
    homepage="https://cocodataset.org/#download (for COCO captions)",
    modalities=("vision", "text"),
    listing=listing,
)
