"""Ego4D: windows around narrations in the official layout, and what is wrong with its IMU."""

import io
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from imagebind_jax.data.ego4d import builder, sample
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import imu_files, media

FILMED, IN_TEST, TWO_SCENARIOS, MISSING, SILENT, LAST = sample.VIDEOS


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("ego4d")
    sample.write(folder)
    return folder


def test_listing(download):
    found = builder.listing(download)
    rows = {
        s: [(r["id"], r["start"], r["scenario"]) for r in found.splits[s]] for s in found.splits
    }
    assert rows["train"] == [
        (f"train/{FILMED}/00000", 0.0, "Cooking"),  # narrated at 0.4 s: moved inwards
        (f"train/{FILMED}/00001", 1.0, "Cooking"),
        (f"train/{FILMED}/00002", 3.5, "Cooking"),
        (f"train/{LAST}/00000", 7.0, "Bike"),  # narrated 0.1 s before the end
    ]
    assert rows["test"] == [(f"test/{IN_TEST}/00000", 3.75, "Cleaning / laundry")]
    assert found.missing == {"train": 2, "test": 0}  # both windows of the missing video
    # Classes come from ego4d.json alone: whose IMU or video is there does not matter.
    scenarios = ("Bike", "Cleaning / laundry", "Cooking", "Reading books", "Walking on street")
    assert found.classes == scenarios
    assert [row["label"] for row in found.splits["train"]] == [2, 2, 2, 0]
    assert len({row["id"] for rows in found.splits.values() for row in rows}) == 5


def test_split_depends_on_the_video_alone(download, tmp_path):
    shutil.copytree(download, tmp_path / "part")
    (tmp_path / "part" / "v2" / "imu" / f"{FILMED}.csv").unlink()
    found = builder.listing(tmp_path / "part")
    assert [row["id"] for row in found.splits["test"]] == [f"test/{IN_TEST}/00000"]
    assert found.missing == {"train": 5, "test": 0}
    shares = [builder.share(f"video {index}") for index in range(4000)]
    assert np.mean(np.less(shares, builder.TEST_SHARE)) == pytest.approx(0.119, abs=0.01)


def test_window_is_the_part_of_the_recording(download):
    row = builder.listing(download).splits["test"][0]
    record = builder.DATASET.record(row)
    assert record["label"] == 1 and "vision" not in record
    imu = np.load(io.BytesIO(record["imu"]), allow_pickle=False)
    assert imu.dtype == np.float32 and imu.shape == (1007, 7)
    assert -0.005 < imu[0, 0] <= 0 and 5 <= imu[-1, 0] < 5.005  # one sample beyond either end
    whole = builder.read_samples(row["imu_file"])
    first = np.searchsorted(whole[:, 0], 3.75) - 1
    np.testing.assert_allclose(imu[:, 1:], whole[first : first + 1007, 1:], rtol=1e-6)
    np.testing.assert_allclose(imu[:, 0], whole[first : first + 1007, 0] - 3.75, atol=1e-6)


def test_frames_are_of_the_same_seconds(download):
    pytest.importorskip("av")
    row = builder.listing(download).splits["train"][1]
    frames = builder.DATASET.record(row)["vision"]
    assert len(frames) == 10
    # In the sample's video a yellow square begins in column 3 * n mod 75 of frame n, 10 a second:
    # at 1.25 s that is frame 12, at 5.75 s frame 57.
    for frame, left in ((frames[0], 36), (frames[9], 21)):
        yellow = np.asarray(Image.open(io.BytesIO(frame)))[10, :, 0] > 180
        assert abs(np.flatnonzero(yellow)[0] - left) <= 1


def test_large_frames_are_made_smaller():
    frame = builder._jpeg(Image.new("RGB", (1920, 1080)))
    assert Image.open(io.BytesIO(frame)).size == (455, 256)


def test_defects_of_the_csv_are_mended(download):
    row = builder.listing(download).splits["train"][0]
    samples = builder.read_samples(row["imu_file"])
    lines = row["imu_file"].read_text().splitlines()
    assert len(samples) == len(lines) - 3  # no header, no row without a time or acceleration
    step = 1 / 201
    assert samples[:2, 0] == pytest.approx([2 * step, 3 * step])  # which had changed places
    later = dict(zip(lines[0].split(","), map(float, lines[4].split(","))))
    names = ("accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")
    assert samples[0, 1:].tolist() == [later[name] for name in names]


def test_a_csv_is_parsed_once_for_its_windows(download):
    builder.read_samples.cache_clear()
    for row in builder.listing(download).splits["train"]:
        builder.DATASET.record({key: row[key] for key in row if key != "video_file"})
    assert builder.read_samples.cache_info().misses == 2


def test_a_csv_read_in_blocks_is_the_same(download, monkeypatch):
    path = builder.listing(download).splits["train"][0]["imu_file"]
    whole = builder.read_samples.__wrapped__(path)
    monkeypatch.setattr(builder, "BLOCK", 1000)  # bytes: some seven lines
    np.testing.assert_array_equal(builder.read_samples.__wrapped__(path), whole)


@pytest.mark.parametrize("missing", imu_files.MISSING)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_fields_without_a_value_are_spelt_as_in_any_imu_file(missing, end, tmp_path):
    """The same rows are left out wherever in a line they lack something, also in the last line."""
    order = ("canonical_timestamp_ms", *builder.COLUMNS[1:])
    lines = [",".join(order), "5,1,2,3,4,5,6", f"{missing},1,2,3,4,5,6", f"10,{missing},2,3,4,5,6"]
    lines += ['15,"1","2",3,4,5,"6"', f"20,1,2,3,4,5,{missing}"]
    (tmp_path / "a.csv").write_bytes((end or "\n").join(lines).encode() + end.encode())
    samples = builder.read_samples.__wrapped__(tmp_path / "a.csv")
    assert samples.tolist() == [[0.005, 1, 2, 3, 4, 5, 6], [0.015, 1, 2, 3, 4, 5, 6]]


def test_a_gap_is_no_window():
    times = np.concatenate([np.arange(0, 4, 0.005), np.arange(5.2, 12, 0.005)])
    samples = np.concatenate([times[:, None], np.ones((len(times), 6))], axis=1)
    with pytest.raises(media.MediaError, match="no sample for 1.2 s of the 5 s from 1.0 s on"):
        builder.cut(samples, 1.0, pathlib.Path("x.csv"))
    for start in (-2.0, 9.0, 40.0):  # beyond the recording's ends
        with pytest.raises(media.MediaError, match="no sample for"):
            builder.cut(samples, start, pathlib.Path("x.csv"))
    builder.cut(samples, 6.0, pathlib.Path("x.csv"))


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", sample.COLUMNS + "\n0,0,x,1,1,1,1,1,1\n"]
    + [
        sample.COLUMNS + '\n0,0,0,1,1,1,1,1,1,"\n0,5,5,1,1,1,1,1,1,"\n'  # a field of two lines
    ],
)
def test_what_is_no_imu(text, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(media.MediaError, match="a.csv"):
        builder.read_samples(tmp_path / "a.csv")


def test_json_with_nulls_and_without_narrations(download, tmp_path):
    shutil.copytree(download, tmp_path, dirs_exist_ok=True)
    told, about = tmp_path / "v2/annotations/narration.json", tmp_path / "ego4d.json"
    narrations, videos = json.loads(told.read_text()), json.loads(about.read_text())
    narrations[FILMED]["narration_pass_1"]["narrations"][0]["timestamp_sec"] = None
    narrations[LAST] = None
    narrations[MISSING]["narration_pass_1"]["narrations"] = None
    videos["videos"][list(sample.VIDEOS).index(IN_TEST)]["scenarios"] = None
    told.write_text(json.dumps(narrations))
    about.write_text(json.dumps(videos))
    found = builder.listing(tmp_path)
    assert [row["start"] for row in found.splits["train"]] == [0.0, 3.5]
    assert found.splits["test"] == [] and found.missing == {"train": 0, "test": 0}
    told.write_text("{}")
    with pytest.raises(UserError, match="none of the 4 videos .* has both narrations and IMU"):
        builder.listing(tmp_path)


def test_wrong_layouts(download, tmp_path):
    for absent in ("ego4d.json", "v2/annotations/narration.json", "v2/imu"):
        folder = tmp_path / absent.replace("/", "-")
        shutil.copytree(download, folder)
        gone = folder / absent
        gone.unlink() if gone.is_file() else shutil.rmtree(gone)
        with pytest.raises(UserError, match="`ego4d --datasets annotations imu"):
            builder.listing(folder)
    (folder / "v2" / "imu").mkdir()
    with pytest.raises(UserError, match="none of the 7 files listed is there"):
        builder.listing(folder)
    (folder / "ego4d.json").write_text('{"videos": [{"video_uid": 3}]}')
    with pytest.raises(UserError, match="ego4d.json: .*video_uid"):
        builder.listing(folder)
