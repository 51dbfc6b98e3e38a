"""A few invented segments in the layout of AudioCaps, with Oxford's subset of the test split."""

import pathlib

from imagebind_jax.data.invented import write_sound, write_video

# Split, invented video, start, file ("" where it is listed, but not there), in the subset.
ITEMS = (
    ("train", "sample-0001", 70, "sample-0001.wav", True),
    ("val", "sample-0002", 30, "Ysample-0002.wav", True),
    ("test", "sample-0003", 0, "sample-0003_0_10000.flac", True),
    ("test", "sample-0004", 160, "sample-0004_160.mp4", True),
    ("test", "sample-0005", 8, "", True),
    ("test", "sample-0006", 20, "sample-0006.wav", False),
)
CAPTIONS = (
    "A tone of {} Hz beats slowly",
    "Somebody plays a note, twice a second, number {}",
    "Beeping followed by beeping {}",
    "An electronic instrument hums at {}",
    "Sound {} of a small synthesizer",
)


def write(folder: pathlib.Path) -> None:
    """Writes `dataset/`, `AudioCaps_retrieval_dataset/`, and the media in a folder a split."""
    root = folder / "audiocaps"
    for split in ("train", "val", "test"):
        items = [item for item in ITEMS if item[0] == split]
        _write_table(root / f"dataset/{split}.csv", items)
        chosen = [item for item in items if item[4]]
        _write_table(root / f"AudioCaps_retrieval_dataset/retrieval_{split}.csv", chosen)
    for number, (split, _, _, file, _) in enumerate(ITEMS):
        write = write_video if file.endswith(".mp4") else write_sound
        if file:
            write(root / "audio" / split / file, number)


def _write_table(path: pathlib.Path, items: list[tuple[str, str, int, str, bool]]) -> None:
    lines = ["audiocap_id,youtube_id,start_time,caption"]
    for place, (split, video, start, _, _) in enumerate(items):
        for number, caption in enumerate(CAPTIONS[: 1 if split == "train" else 5]):
            text = caption.format(start)
            quoted = f'"{text}"' if "," in text else text
            lines.append(f"{1000 + 10 * place + number},{video},{start},{quoted}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
