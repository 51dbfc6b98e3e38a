"""A few invented segments in the layout of AudioSet's tables and of common downloaders."""

import pathlib

from imagebind_jax.data import reading
from imagebind_jax.data.invented import write_sound, write_video

HERE = pathlib.Path(__file__).parent.parent
# Split, invented video, start, labels, file ("" where it is listed, but not there).
ITEMS = (
    ("balanced_train", "sample-0001", 30.0, "/m/09x0r", "sample-0001.wav"),
    ("balanced_train", "sample_0002", 0.0, "/m/0bt9lr,/m/068hy", "Ysample_0002.flac"),
    ("unbalanced_train", "Ysample0003", 110.0, "/m/04rlf", "Ysample0003_110.mp4"),
    (
        "unbalanced_train",
        "sample-004_",
        239.8,
        "/m/04rlf,/m/0342h",
        "sample-004__239800_249800.mp4",
    ),
    ("eval", "sample-0005", 4.0, "/m/0k4j", "sample-0005_4.000.wav"),
    ("eval", "sample-0006", 9.0, "/m/0395lw", ""),
)
QUOTED = '"{}"'


def write(folder: pathlib.Path) -> None:
    """Writes three segment tables, the table of classes, and five of the six media listed."""
    root = folder / "audioset"
    root.mkdir(parents=True)
    names, mids = (reading.lines(HERE / f"{file}.txt") for file in ("classes", "mids"))
    rows = [f'{label},{mid},"{name}"' for label, (mid, name) in enumerate(zip(mids, names))]
    index = "\n".join(["index,mid,display_name", *rows]) + "\n"
    (root / "class_labels_indices.csv").write_text(index, encoding="utf-8")
    for split in ("balanced_train", "unbalanced_train", "eval"):
        items = [item for item in ITEMS if item[0] == split]
        text = "# Segments csv created Sun Mar  5 10:54:25 2017\n"
        text += f"# num_ytids={len(items)}, num_segs={len(items)}\n"
        text += "# YTID, start_seconds, end_seconds, positive_labels\n"
        for _, video, start, labels, _ in items:
            text += f"{video}, {start:.3f}, {start + 10:.3f}, {QUOTED.format(labels)}\n"
        (root / f"{split}_segments.csv").write_text(text, encoding="utf-8")
    for number, (split, _, _, _, file) in enumerate(ITEMS):
        write = write_video if file.endswith(".mp4") else write_sound
        if file:
            write(root / f"{split}_segments" / file, number)
