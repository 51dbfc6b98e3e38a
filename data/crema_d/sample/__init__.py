"""A few invented recordings in the layout of CREMA-D, its Flash videos converted."""

import pathlib

from imagebind_jax.data.invented import write_sound, write_video

ACTORS = (1001, 1002, 1064, 1065, 1078, 1079)  # two of each split
EMOTIONS = {"ANG": "A", "HAP": "H", "SAD": "S", "NEU": "N"}
ABSENT = "1079_IEO_NEU_XX"  # in the table, but not there


def write(folder: pathlib.Path) -> None:
    """Writes `CREMA-D/`: 23 videos and 23 sounds of them, one of another emotion, both tables."""
    root = folder / "CREMA-D"
    stems = [f"{actor}_IEO_{emotion}_XX" for actor in ACTORS for emotion in EMOTIONS]
    for number, stem in enumerate([*stems, "1001_DFA_FEA_XX"]):
        if stem != ABSENT:
            write_video(root / "VideoFlash" / f"{stem}.mp4", number, seconds=1.0)
            write_sound(root / "AudioWAV" / f"{stem}.wav", number, seconds=1.0)
    (root / "VideoFlash/1001_DFA_FEA_XX.flv").write_bytes(b"FLV\x01")
    votes = ['"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote",'
             '"MultiModalLevel"']  # fmt: skip
    for number, stem in enumerate(stems, start=1):
        vote = EMOTIONS[stem.split("_")[2]]
        votes.append(f'"{number}","{stem}","{vote}",50,"{vote}",60.5,"{vote}",70')
    people = ["ActorID,Age,Sex,Race,Ethnicity"]
    people += [f"{actor},{30 + i},{'Male' if i % 2 else 'Female'},Unknown,Not Hispanic"
               for i, actor in enumerate(ACTORS)]  # fmt: skip
    for name, lines in (("processedResults/summaryTable.csv", votes),
                        ("VideoDemographics.csv", people)):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
