"""A few invented clips in the layout of VGGSound."""

import pathlib

from imagebind_jax.data.invented import write_video

# Invented video, start, class, split; the last is listed, but not there.
ITEMS = (
    ("sample-0001", 30, "playing hammond organ", "train"),
    ("sample-0001", 130, "playing hammond organ", "train"),
    ("sample-0002", 4, "bird chirping, tweeting", "train"),
    ("sample-0003", 0, "dog barking", "test"),
    ("-ample-0004", 61, "railroad car, train wagon", "test"),
    ("sample-0005", 10, "air horn", "test"),
)


def write(folder: pathlib.Path) -> None:
    """Writes `vggsound.csv`, which has no header, and `video/` with five of the six clips."""
    root = folder / "vggsound"
    root.mkdir(parents=True)
    lines = []
    for number, (video, start, label, split) in enumerate(ITEMS):
        lines.append(f"{video},{start},{_quoted(label)},{split}\n")
        if number < len(ITEMS) - 1:
            write_video(root / "video" / f"{video}_{start:06d}.mp4", number)
    (root / "vggsound.csv").write_text("".join(lines), encoding="utf-8")


def _quoted(text: str) -> str:
    return f'"{text}"' if "," in text else text
