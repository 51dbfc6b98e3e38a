"""Five videos' IMU in Ego4D's layout: one is missing, and one of the others has its video too."""

import importlib.util
import io
import json
import pathlib

import numpy as np

from imagebind_jax.data import invented
from imagebind_jax.inputs.world import World

SECONDS = 12.0  # of each video
# uid: its scenarios, whether Ego4D says it has IMU, times of narrations in pass 1 and pass 2.
VIDEOS = {
    "0a1b2c3d-0000-4000-8000-000000000001": (["Cooking"], True, (3.5, 6.0), (0.4,)),
    "0a1b2c3d-0000-4000-8000-000000000032": (["Cleaning / laundry"], True, (6.25,), ()),
    "0a1b2c3d-0000-4000-8000-000000000003": (["Cooking", "Eating"], True, (6.0,), ()),
    "0a1b2c3d-0000-4000-8000-000000000004": (["Walking on street"], True, (5.0, 7.0), ()),
    "0a1b2c3d-0000-4000-8000-000000000005": (["Reading books"], False, (5.0,), ()),
    "0a1b2c3d-0000-4000-8000-000000000009": (["Bike"], True, (11.9,), ()),
}
FILMED, IN_TEST, MISSING = (list(VIDEOS)[place] for place in (0, 1, 3))
COLUMNS = "component_idx,component_timestamp_ms,canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"
STEP = 1000 / 201  # milliseconds


def write(folder: pathlib.Path) -> None:
    """ego4d.json and v2/ in `folder`; the MP4 only where PyAV is there to write it."""
    videos, narrations = [], {}
    for uid, (scenarios, has_imu, *passes) in VIDEOS.items():
        about = {"video_uid": uid, "duration_sec": SECONDS, "scenarios": scenarios}
        videos.append(
            {**about, "has_imu": has_imu, "device": "GoPro", "video_metadata": {"fps": 30.0}}
        )
        narrations[uid] = {
            f"narration_pass_{number}": {
                "narrations": [_narration(t) for t in times],
                "summaries": [],
            }
            for number, times in enumerate(passes, 1)
            if times
        }
    (folder / "v2" / "annotations").mkdir(parents=True)
    (folder / "v2" / "imu").mkdir()
    (folder / "ego4d.json").write_text(json.dumps({"version": "2.0", "videos": videos}))
    (folder / "v2" / "annotations" / "narration.json").write_text(json.dumps(narrations))
    for index, (uid, (_, has_imu, *_)) in enumerate(VIDEOS.items()):
        if has_imu and uid != MISSING:
            (folder / "v2" / "imu" / f"{uid}.csv").write_text(csv(index))
    if importlib.util.find_spec("av"):
        invented.write_video(folder / "v2" / "full_scale" / f"{FILMED}.mp4", 0, SECONDS)


def csv(index: int) -> str:
    """The motion of the procedural world at Ego4D's rate, with each defect that Ego4D documents.

    Line 2 has no canonical time, line 3 no acceleration, lines 4 and 5 have changed places.
    """
    motion = np.load(io.BytesIO(World(0).record("train", index, ("imu",))["imu"]))
    count = int(SECONDS * 1000 / STEP) + 1
    motion = np.resize(motion, (count, 6))
    lines = []
    for row, (ax, ay, az, gx, gy, gz) in enumerate(motion.tolist()):
        time = row * STEP
        lines.append(f"0,{time},{time},{gx},{gy},{gz},{ax},{ay},{az}")
    fields = lines[0].split(",")
    lines[0] = ",".join([*fields[:2], "", *fields[3:]])
    fields = lines[1].split(",")
    lines[1] = ",".join([*fields[:6], "", "", ""])
    lines[2], lines[3] = lines[3], lines[2]
    return "\n".join([COLUMNS, *lines]) + "\n"


def _narration(time: float) -> dict:
    text = "#C C picks up a cup"
    return {"timestamp_sec": time, "timestamp_frame": round(30 * time), "narration_text": text}
