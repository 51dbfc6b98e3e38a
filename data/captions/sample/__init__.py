"""Captioned images in each of the four layouts, with one that is listed but missing."""

import json
import pathlib

from imagebind_jax.inputs.world import World


def write(folder: pathlib.Path) -> None:
    """Two splits with captions.jsonl: one caption an image, or several."""
    for split, count in (("train", 3), ("val", 2)):
        captions = [(f"images/{i}.jpg", [_pair(folder / split, i)]) for i in range(count)]
        captions[0][1].append("a second caption")
        captions.append(("images/missing.jpg", ["nobody sees it"]))
        lines = [json.dumps({"file": file, "captions": said}) for file, said in captions]
        (folder / split / "captions.jsonl").write_text("\n".join(lines) + "\n")


def write_csv(folder: pathlib.Path) -> None:
    """No splits, and captions.csv with a line a caption."""
    lines = [f'images/{i}.jpg,"{_pair(folder, i)}"' for i in range(2)]
    lines += ["images/1.jpg,a second caption", "images/missing.jpg,nobody sees it"]
    (folder / "captions.csv").write_text("\n".join(["file,caption", *lines]) + "\n")


def write_texts(folder: pathlib.Path) -> None:
    """A text file beside each image, a caption a line."""
    for index in range(2):
        caption = _pair(folder, index, inner="")
        (folder / f"{index}.txt").write_text(f"{caption}\n\na second caption\n")


def write_coco(folder: pathlib.Path) -> None:
    """COCO's captions: annotations/captions_val2017.json and val2017/."""
    images, annotations = [], []
    for index in range(3):
        file = f"{index}.jpg"
        caption = "nobody sees it" if index == 2 else _pair(folder / "val2017", index, inner="")
        images.append({"id": 100 + index, "file_name": file, "height": 64, "width": 64})
        for number, said in enumerate((caption, "a second caption\n")):
            ids = {"id": 10 * index + number, "image_id": 100 + index}
            annotations.append({**ids, "caption": said})
    (folder / "annotations").mkdir(parents=True)
    path = folder / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "licenses": []}))


def _pair(folder: pathlib.Path, index: int, inner: str = "images") -> str:
    """Writes an image of the procedural world and returns its caption."""
    record = World(0).record("train", index, ("vision", "text"))
    (folder / inner).mkdir(parents=True, exist_ok=True)
    (folder / inner / f"{index}.jpg").write_bytes(record["vision"][0])
    return record["text"]
