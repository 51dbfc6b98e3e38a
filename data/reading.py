"""What the builders share: strict reading of a download's tables, and of which files are there."""

import csv
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from imagebind_jax.errors import UserError

HERE = pathlib.Path(__file__).parent
AUDIO = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
VIDEO = (".mp4", ".mkv", ".webm", ".mov", ".avi")
VIDEO_ID = 11  # characters of a YouTube video's name


def lines(path: pathlib.Path) -> tuple[str, ...]:
    """The lines of a UTF-8 file that are not blank. Raises UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def names(path: pathlib.Path) -> dict[str, list[str]]:
    """A file of lines "class: name, name, ..."."""
    pairs = (line.split(": ") for line in lines(path))
    return {name: others.split(", ") for name, others in pairs}


def templates() -> tuple[str, ...]:
    """CLIP's 80 ImageNet prompts, which the paper uses for all modalities."""
    return lines(HERE / "templates.txt")


def folders(download: pathlib.Path) -> list[pathlib.Path]:
    """The download and the folders directly in it, since it may be given itself or by its parent.

    Hidden folders, such as .ipynb_checkpoints, are nobody's download.
    """
    try:
        with os.scandir(download) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            inner = sorted(entry.name for entry in visible if entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read the folder {download}: {error.strerror}") from error
    return [download, *(download / name for name in inner)]


def seek(download: pathlib.Path, *candidates: str) -> pathlib.Path | None:
    """The first of these relative paths that is in the download, if any is."""
    among = [folder / candidate for folder in folders(download) for candidate in candidates]
    return next((path for path in among if path.exists()), None)


def find(download: pathlib.Path, *candidates: str, remedy: str) -> pathlib.Path:
    """The first of these relative paths that is in the download. Raises UserError with the remedy."""
    found = seek(download, *candidates)
    if found is None:
        raise UserError(f"no {' or '.join(candidates)} in {download}; {remedy}")
    return found


def table(
    path: pathlib.Path,
    columns: Sequence[str] = (),
    *,
    header: Sequence[str] | None = None,
    delimiter: str = ",",
    comment: str | None = None,
) -> Iterator[dict[str, str]]:
    """The rows of a UTF-8 CSV file, each by its columns' names.

    `columns` must be among those of the first line; `header` names them for a file without such a
    line. Lines that begin with `comment` are left out, and so are spaces after a delimiter. Raises
    UserError, naming file and line, for anything that is not such a table.
    """
    names = header
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
            for row in rows:
                if not row or (comment and row[0].startswith(comment)):
                    continue
                if names is None:
                    names = [name.strip() for name in row]
                    if absent := [name for name in columns if name not in names]:
                        raise UserError(f"{path} has no column {absent[0]!r}: {', '.join(names)}")
                elif len(row) != len(names):
                    wrong = f"{len(row)} fields in place of {', '.join(names)}"
                    raise UserError(f"{path}, line {rows.line_num}: {wrong}")
                else:
                    yield dict(zip(names, row))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from error
    if names is None:
        raise UserError(f"{path} is empty")


def integer(text: str, path: pathlib.Path) -> int:
    """A whole number in a table, also written as 30.000. Raises UserError, naming the file."""
    try:
        if (value := float(text)).is_integer():
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{path}: {text[:40]!r} is not a whole number")


def seconds(text: str, path: pathlib.Path) -> float:
    """A time in a table, not always whole. Raises UserError, naming the file."""
    try:
        if math.isfinite(value := float(text)) and value >= 0:
            return value
    except ValueError:
        pass
    raise UserError(f"{path}: {text[:40]!r} is not a time in seconds")


def scan(folder: pathlib.Path, suffixes: Sequence[str]) -> dict[str, str]:
    """{stem: file name} of the files in a folder that end so; {} where there is no such folder.

    One reading of the folder, however many files. Where files share a stem, the ending named
    first wins. A name from a table is looked up in this, so it cannot lead out of the folder.
    """
    rank = {suffix: place for place, suffix in enumerate(suffixes)}
    found: dict[str, tuple[int, str]] = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                place = rank.get(suffix.lower())
                if place is not None and (stem not in found or place < found[stem][0]):
                    found[stem] = place, entry.name
    return {stem: name for stem, (_, name) in found.items()}


def media(
    download: pathlib.Path, *candidates: str, suffixes: Sequence[str]
) -> dict[str, pathlib.Path]:
    """{stem: path} of the files in all of these folders of the download, the first one winning."""
    found: dict[str, pathlib.Path] = {}
    for folder in folders(download):
        for candidate in candidates:
            for stem, name in scan(folder / candidate, suffixes).items():
                found.setdefault(stem, folder / candidate / name)
    return found


def video_ids(stem: str) -> Iterator[str]:
    """What may be the YouTube video of a file: of ID, YID, ID_30, YID_30000_40000 and the like.

    An ID may itself begin with Y or end in _, so there can be two, of which one exists.
    """
    for start in (0, 1) if stem.startswith("Y") else (0,):
        rest = stem[start + VIDEO_ID :]
        if len(stem) >= start + VIDEO_ID and (not rest or rest[0] in "_.-"):
            yield stem[start : start + VIDEO_ID]


def medium(path: pathlib.Path) -> str:
    """The record's field for a file: "vision" for a video, whose sound is heard too, or "audio"."""
    return "vision" if path.suffix.lower() in VIDEO else "audio"


def settle(
    known: Sequence[str], named: Iterable[str], source: pathlib.Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes, and a note if they are not the known ones: then they are those named, sorted."""
    found = set(named)
    if unknown := sorted(found - set(known)):
        note = f"{source.name}: {unknown[0]!r} is not one of the {len(known)} known classes"
        return tuple(sorted(found)), (f"{note}: labels count {source.name}'s {len(found)}, sorted",)
    return tuple(known), ()


def check_found(
    splits: Mapping[str, Sequence[object]], missing: Mapping[str, int], where: str
) -> None:
    """Raises UserError, saying where files were looked for, if none of those listed is there."""
    if not any(splits.values()):
        raise UserError(f"none of the {sum(missing.values())} files listed is there: {where}")
