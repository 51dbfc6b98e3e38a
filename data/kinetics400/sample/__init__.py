"""A few invented clips in the layout of the CVD Foundation's mirror of Kinetics-400."""

import pathlib

from imagebind_jax.data.invented import write_video

# Class, invented video, start, split; the last is listed, but not there.
ITEMS = (
    ("abseiling", "sample-0001", 59, "val"),
    ("air drumming", "sample-0002", 40, "val"),
    ("passing American football (in game)", "sample-0003", 0, "val"),
    ("zumba", "sample-0004", 132, "train"),
    ("using remote controller (not gaming)", "sample-0005", 7, "train"),
    ("yoga", "sample-0006", 20, "val"),
)


def write(folder: pathlib.Path) -> None:
    """Writes `k400/`: `annotations/`, and `train/` and `val/` with five of the six clips."""
    root = folder / "k400"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        lines = ["label,youtube_id,time_start,time_end,split,is_cc"]
        for label, video, start, _ in (item for item in ITEMS if item[3] == split):
            quoted = f'"{label}"' if " " in label else label
            lines.append(f"{quoted},{video},{start},{start + 10},{split},0")
        text = "\n".join(lines) + "\n"
        (root / f"annotations/{split}.csv").write_text(text, encoding="utf-8")
    for number, (_, video, start, split) in enumerate(ITEMS[:-1]):
        write_video(root / split / f"{video}_{start:06d}_{start + 10:06d}.mp4", number)
