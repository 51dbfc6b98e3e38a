"""Four validation images in Places365's layout, and one that is listed but missing."""

import pathlib

from imagebind_jax.inputs.world import World

LABELS = (165, 358, 93, 8)  # of images 1, 2, 3, 4
MISSING = 164  # of image 5
HERE = pathlib.Path(__file__).parent


def write(folder: pathlib.Path) -> None:
    """val_256/ and the file lists in `folder`."""
    (folder / "val_256").mkdir(parents=True)
    lines = []
    for index, label in enumerate((*LABELS, MISSING)):
        file = f"Places365_val_{index + 1:08d}.jpg"
        lines.append(f"{file} {label}")
        if label != MISSING:
            image = World(0).record("train", index, ("vision",))["vision"][0]
            (folder / "val_256" / file).write_bytes(image)
    (folder / "places365_val.txt").write_text("\n".join(lines) + "\n")
    names = (HERE.parent / "categories.txt").read_text().split()
    table = [f"/{name[0]}/{name} {index}" for index, name in enumerate(names)]
    (folder / "categories_places365.txt").write_text("\n".join(table) + "\n")
