"""A few invented recordings in the layout of Clotho."""

import pathlib

from imagebind_jax.data.invented import write_sound

# Split, file name, what its captions speak of; the last is listed, but not there.
ITEMS = (
    ("development", "Distant thunder.wav", "thunder"),
    ("development", "creek 01.wav", "a creek"),
    ("validation", "Kitchen tap, dripping.wav", "a dripping tap"),
    ("evaluation", "Night train.wav", "a train"),
    ("evaluation", "Rain on a tent.wav", "rain"),
    ("evaluation", "Wind in wires.wav", "wind"),
)
CAPTIONS = (
    "The sound of {} in the distance",
    "There is {}, and then a long silence",
    "Somebody records {}, standing still",
    "At first quietly, later loudly, {} can be heard",
    "{} goes on and on",
)


def write(folder: pathlib.Path) -> None:
    """Writes the three caption tables and, in a folder a split, five of the six recordings."""
    root = folder / "clotho"
    root.mkdir(parents=True)
    for split in ("development", "validation", "evaluation"):
        lines = ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5"]
        for _, name, what in (item for item in ITEMS if item[0] == split):
            captions = (caption.format(what) for caption in CAPTIONS)
            lines.append(
                ",".join(f'"{field}"' if "," in field else field for field in (name, *captions))
            )
        text = "\n".join(lines) + "\n"
        (root / f"clotho_captions_{split}.csv").write_text(text, encoding="utf-8")
    for number, (split, name, _) in enumerate(ITEMS[:-1]):
        write_sound(root / split / name, number, seconds=15.0, rate=44_100)
