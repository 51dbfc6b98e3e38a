"""SUN RGB-D and NYU Depth v2: the samples in official layouts, and wrong ones."""

import io
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import io as matlab

from imagebind_jax.data.nyuv2 import builder as nyuv2
from imagebind_jax.data.nyuv2 import sample as nyuv2_sample
from imagebind_jax.data.sunrgbd import builder as sunrgbd
from imagebind_jax.data.sunrgbd import sample as sunrgbd_sample
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.transforms import depth
from imagebind_jax.inputs.world import World


def pixels(encoded: bytes) -> np.ndarray:
    assert media.sniff_media_type(encoded) == "image"
    return np.asarray(Image.open(io.BytesIO(encoded)))


def millimetres(index: int) -> np.ndarray:
    """The depth of the procedural world that the samples show."""
    return pixels(World(0).record("train", index, ("depth",))["depth"])


# ---- SUN RGB-D


def test_sunrgbd(tmp_path):
    sunrgbd_sample.write(tmp_path)
    found = sunrgbd.listing(tmp_path)
    facts = ("id", "sensor", "baseline", "scene", "label")
    train, test = (
        [tuple(map(row.get, facts)) for row in found.splits[s]] for s in ("train", "test")
    )
    kinect = "kv2/kinect2data/000065_2014-05-16_20-14-38_260595134347_rgbf000121-resize"
    assert train == [
        ("train/kv1/NYUdata/NYU0003", "kv1", 0.075, "office", 16),
        (f"train/{kinect}", "kv2", 0.075, "dining_room", 7),
        # Of no scene of the benchmark, but its image and depth map are a pair all the same.
        ("train/xtion/sun3ddata/hotel/hotel_1/0000110-000003653244", "xtion", 0.095, "idk", None),
    ]
    assert test == [
        ("test/kv1/NYUdata/NYU0001", "kv1", 0.075, "kitchen", 11),
        ("test/kv1/b3dodata/img_0406", "kv1", 0.075, "bedroom", 1),
        ("test/realsense/lg/2014_10_24-09_14_34-1311000073", "realsense", 0.095, "dining_area", 6),
    ]
    assert found.missing == {"train": 0, "test": 1}
    assert "1 frames are left out" in found.notes[0]
    assert len(found.classes) == 19 and found.classes[3] == "computer room"
    assert {row["focal_length"] for row in found.splits["train"]} == {96.0}


def test_sunrgbd_depth_is_sun_s_own_bytes(tmp_path):
    sunrgbd_sample.write(tmp_path)
    row = sunrgbd.listing(tmp_path).splits["test"][1]
    record = sunrgbd.DATASET.record(row)
    path = tmp_path / "SUNRGBD/kv1/b3dodata/img_0406/depth_bfx/img_0406_abs.png"
    assert record["depth"] == path.read_bytes()
    assert record["vision"] == (path.parent.parent / "image/img_0406.jpg").read_bytes()
    # 13 of 16 bits of the millimetres come 8 times too large, unless they are rotated back.
    np.testing.assert_array_equal(pixels(record["depth"]), 8 * millimetres(4))


def test_depth_records_go_through_the_recipes_that_their_readmes_name(tmp_path):
    sunrgbd_sample.write(tmp_path / "sun")
    nyuv2_sample.write(tmp_path / "nyu")
    sun = sunrgbd.DATASET.record(sunrgbd.listing(tmp_path / "sun").splits["test"][1])
    nyu = nyuv2.DATASET.record(nyuv2.listing(tmp_path / "nyu").splits["test"][2])
    for record, index, recipe, plain in (
        (sun, 4, depth.Disparity.sun_toolbox, {**depth.SUN_METRIC}),
        (nyu, 5, depth.Disparity.nyu, {**depth.NYU_METRIC}),
    ):
        world = World(0).record("train", index, ("depth",))  # 96 pixels, 0.075 m, as in the sample
        straight = depth.Disparity(size=32, normalisation="metric", **plain)(world, None)
        np.testing.assert_array_equal(recipe(size=32)(record, None), straight)


def test_rotation_by_three_bits():
    millimetres = np.array([1, 8191, 8192, 65535], np.uint16)
    assert sunrgbd_sample.rotate(millimetres).tolist() == [8, 65528, 1, 65535]


def test_sunrgbd_toolbox_may_lie_anywhere(tmp_path):
    sunrgbd_sample.write(tmp_path / "inner")
    path = tmp_path / "inner/SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    assert len(sunrgbd.listing(tmp_path).splits["test"]) == 3
    path.rename(tmp_path / "inner/SUNRGBD/allsplit.mat")
    assert len(sunrgbd.listing(tmp_path / "inner/SUNRGBD").splits["test"]) == 3


def test_sunrgbd_wrong_layouts(tmp_path):
    with pytest.raises(UserError, match="no SUNRGBD .*SUNRGBD.zip and SUNRGBDtoolbox.zip"):
        sunrgbd.listing(tmp_path)
    sunrgbd_sample.write(tmp_path)
    path = tmp_path / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
    matlab.savemat(path, {"alltrain": np.array(["/SUNRGBD/kv1/../../etc"], object)})
    with pytest.raises(UserError, match="is not the folder of a frame"):
        sunrgbd.listing(tmp_path)
    matlab.savemat(path, {"other": 1})
    with pytest.raises(UserError, match="no variable 'alltrain'"):
        sunrgbd.listing(tmp_path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(UserError, match="as a MATLAB file of version 5"):
        sunrgbd.listing(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="allsplit.mat"):
        sunrgbd.listing(tmp_path)


def test_sunrgbd_frames_without_a_file_are_missing(tmp_path):
    sunrgbd_sample.write(tmp_path)
    frames = tmp_path / "SUNRGBD/kv1"
    (frames / "NYUdata/NYU0001/depth_bfx/NYU0001.png").unlink()
    (frames / "b3dodata/img_0406/intrinsics.txt").unlink()
    found = sunrgbd.listing(tmp_path)
    assert found.missing == {"train": 0, "test": 3} and len(found.splits["test"]) == 1
    (frames / "NYUdata/NYU0003/intrinsics.txt").write_text("f = 5")
    with pytest.raises(UserError, match="cannot read intrinsics.txt.*NYU0003"):
        sunrgbd.listing(tmp_path)


# ---- NYU Depth v2

ROWS = {
    "train": [("train/NYU0003", 8), ("train/NYU0004", 9)],  # office; exercise room, so others
    "test": [("test/NYU0001", 6), ("test/NYU0002", 4), ("test/NYU0005", 9)],
}


def check(found) -> None:
    for split, rows in ROWS.items():
        assert [(row["id"], row["label"]) for row in found.splits[split]] == rows
    assert found.missing == {"train": 0, "test": 1}
    assert len(found.classes) == 10 and found.classes[-1] == "others"


def test_nyuv2_from_sun_rgbd(tmp_path):
    nyuv2_sample.write(tmp_path)
    found = nyuv2.listing(tmp_path)
    check(found)
    record = nyuv2.DATASET.record(found.splits["test"][2])
    np.testing.assert_array_equal(pixels(record["depth"]), millimetres(5))  # rotated back
    assert (record["focal_length"], record["baseline"]) == (96.0, 0.075)
    assert record["scene"] == "lobby"  # SUN's name for a foyer


def test_nyuv2_from_the_labelled_mat(tmp_path):
    pytest.importorskip("h5py")
    nyuv2_sample.write_labeled(tmp_path)
    found = nyuv2.listing(tmp_path)
    check(found)
    record = nyuv2.DATASET.record(found.splits["test"][2])
    np.testing.assert_array_equal(pixels(record["depth"]), millimetres(5))
    seen = World(0).record("train", 5, ("vision",))["vision"][0]
    np.testing.assert_array_equal(pixels(record["vision"]), pixels(seen))
    assert (record["focal_length"], record["baseline"]) == (518.857901, 0.075)
    assert set(record) == {"id", "vision", "depth", "focal_length", "baseline", "scene", "label"}


def test_nyuv2_broken_mat(tmp_path):
    pytest.importorskip("h5py")
    nyuv2_sample.write_labeled(tmp_path)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 7.3".ljust(2000))
    with pytest.raises(UserError, match="nyu_depth_v2_labeled.mat"):
        nyuv2.listing(tmp_path)


def test_nyuv2_mat_that_leads_to_another_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    nyuv2_sample.write_labeled(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64 * 64 * 4 * 5))
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "a") as file:
        shape = file["depths"].shape
        del file["depths"], file["images"]
        file.create_dataset("depths", shape, "f4", external=[(secret, 0, secret.stat().st_size)])
        file["images"] = h5py.ExternalLink(tmp_path / "other.mat", "images")
    row = nyuv2.listing(tmp_path).splits["test"][0]
    with pytest.raises(media.MediaError, match="images is not an array of its own"):
        nyuv2.DATASET.record(row)
    file = nyuv2._labeled(row["mat"])
    with pytest.raises(ValueError, match="depths is not an array of its own"):
        nyuv2._own(file, "depths")


def test_nyuv2_without_h5py_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 7.3".ljust(2000))
    matlab.savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]], "testNdxs": [[2]]})
    with pytest.raises(UserError, match=r"pip install 'imagebind-jax\[nyu\]'.*SUNRGBD.zip"):
        nyuv2.listing(tmp_path)


def test_nyuv2_wrong_layouts(tmp_path):
    with pytest.raises(UserError, match="no nyu_depth_v2_labeled.mat .*no SUN RGB-D.*get "):
        nyuv2.listing(tmp_path)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")
    with pytest.raises(UserError, match="no splits.mat"):
        nyuv2.listing(tmp_path)


def test_nyuv2_others_has_the_papers_18_names():
    folder = pathlib.Path(nyuv2.__file__).parent
    name, _, names = (folder / "names.txt").read_text().strip().partition(": ")
    assert name == "others" and len(set(names.split(", "))) == 18
    classes = tuple((folder / "classes.txt").read_text().splitlines())
    assert not set(classes) & set(names.split(", "))
    assert nyuv2.label("excercise_room", classes) == 9  # as the official file spells it
    assert nyuv2.label("living_room", classes) == 7
