"""A few invented recordings in the layout of RAVDESS."""

import pathlib

from imagebind_jax.data.invented import write_sound, write_video

ACTORS = (1, 2, 17, 18, 21, 22)  # two of each split
EMOTIONS = ("05", "03", "04", "01")
# Of the first actor: calm, song, and pictures without sound, none of which makes a record.
OTHERS = ("01-01-02-01-01-01-01.mp4", "01-02-03-01-01-01-01.mp4")


def write(folder: pathlib.Path) -> None:
    """Writes `RAVDESS/Actor_01/` and so on: four recordings each, and of some the WAV, too."""
    root = folder / "RAVDESS"
    for actor in ACTORS:
        place = root / f"Actor_{actor:02d}"
        for number, emotion in enumerate(EMOTIONS):
            name = f"01-{emotion}-01-01-01-{actor:02d}"
            write_video(place / f"01-{name}.mp4", actor + 6 * number, seconds=1.0)
            if actor == 1:
                write_sound(place / f"03-{name}.wav", actor + 6 * number, seconds=1.0)
    for number, other in enumerate(OTHERS):
        write_video(root / "Actor_01" / other, number, seconds=0.5)
