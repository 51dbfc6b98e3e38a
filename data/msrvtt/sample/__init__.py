"""A few invented videos in the layout of MSR-VTT as CLIP4Clip has it."""

import json
import pathlib

from imagebind_jax.data.invented import write_video

TEST = {
    "video7020": "a small square moves over a blue wall",
    "video7021": "a square, then a sound",
    "video7024": "somebody moves a square to the right",  # listed, but not there
}
TRAIN = {
    "video0": ["a square moves", "a yellow square moves to the right"],
    "video1": ["something beeps", "a square slides, and a tone is heard"],
}


def write(folder: pathlib.Path) -> None:
    """Writes `msrvtt_data/` and `videos/` with four of the five videos listed."""
    tables, videos = folder / "msrvtt/msrvtt_data", folder / "msrvtt/videos"
    tables.mkdir(parents=True)
    lines = ["key,vid_key,video_id,sentence"]
    for number, (video, text) in enumerate(TEST.items()):
        quoted = f'"{text}"' if "," in text else text
        lines.append(f"ret{number},msr{video.removeprefix('video')},{video},{quoted}")
    _write(tables / "MSRVTT_JSFUSION_test.csv", lines)
    _write(tables / "MSRVTT_train.9k.csv", ["video_id", *TRAIN])
    captions = TRAIN | {video: [text] for video, text in TEST.items()}
    pairs = [(video, text) for video, texts in captions.items() for text in texts]
    sentences = [
        {"caption": text, "video_id": video, "sen_id": number}
        for number, (video, text) in enumerate(pairs)
    ]
    told = [{"video_id": video, "category": 9, "split": "train"} for video in captions]
    (tables / "MSRVTT_data.json").write_text(json.dumps({"videos": told, "sentences": sentences}))
    for number, video in enumerate(list(captions)[:-1]):
        write_video(videos / f"{video}.mp4", number)


def _write(path: pathlib.Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
