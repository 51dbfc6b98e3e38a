"""A few invented recordings in the layout of `ESC-50-master/`."""

import pathlib

from imagebind_jax.data.invented import write_sound

# Fold, source, take, target, category; the last is listed, but not there.
ITEMS = (
    (1, "100032", "A", 0, "dog"),
    (1, "100038", "A", 14, "chirping_birds"),
    (2, "100786", "A", 1, "rooster"),
    (3, "102908", "A", 4, "frog"),
    (4, "110543", "B", 33, "door_wood_creaks"),
    (5, "117120", "A", 48, "fireworks"),
    (5, "127990", "A", 49, "hand_saw"),
)


def write(folder: pathlib.Path) -> None:
    """Writes `ESC-50-master/` into the folder: six recordings, and a seventh only in the table."""
    root = folder / "ESC-50-master"
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for index, (fold, source, take, target, category) in enumerate(ITEMS):
        name = f"{fold}-{source}-{take}-{target}.wav"
        rows.append(f"{name},{fold},{target},{category},False,{source},{take}")
        if index < len(ITEMS) - 1:
            write_sound(root / "audio" / name, index, seconds=5.0, rate=44_100)
    (root / "meta").mkdir(parents=True)
    (root / "meta/esc50.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
