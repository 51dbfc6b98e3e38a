"""From an official download to a trained model, and from a person's own files to embeddings."""

import dataclasses
import functools
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import imagebind_jax as ib
from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair, PairBatches
from imagebind_jax.inputs.sources import Manifest, Prepared
from imagebind_jax.inputs.transforms import audio, augment, depth, imu, thermal, vision
from imagebind_jax.inputs.world import World
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.prepare import run
from imagebind_jax.training import fit

SIZE = 32
GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = {
    "vision": vision.FramesTransform(SIZE, augment=augment.IMAGES),
    "depth": depth.Disparity.sun_toolbox(size=SIZE, augment=augment.IMAGES),
    "thermal": thermal.Thermal(SIZE, augment=augment.IMAGES),
    "audio": audio.LogMel(mask_bands=12),
    "imu": imu.ImuWindow(),
}


def quiet(_):
    pass


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Four datasets, prepared from small downloads in their official layouts."""
    folder, made = tmp_path_factory.mktemp("prepared"), []
    for name, partner in {"sunrgbd": "depth", "llvip": "thermal", "vggsound": "audio"}.items():
        run.prepare_dataset(name, None, folder / name, workers=1, say=quiet)
        source = Prepared(folder / name, "train")
        made.append(ModalityPair(("vision", partner), source, replication=50.0))
    return tuple(made)


@pytest.mark.processes
def test_prepared_datasets_give_the_same_batches_from_processes(pairs):
    options = {"seed": 1, "batch_size": 4, "steps": 6}
    wanted = [PairBatches(pairs, INPUTS, **options)[step] for step in range(6)]
    assert {name for batch in wanted for name in batch} >= {"depth", "thermal", "audio"}
    assert all((batch["weight"] == 1).all() for batch in wanted)
    for batch, other in zip(PairBatches(pairs, INPUTS, **options).stream(workers=1), wanted):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def test_a_video_and_its_sound_are_cut_at_the_same_moment(pairs):
    record = pairs[2].source.open()[0]
    transforms, starts = (
        (vision.FramesTransform(SIZE, seconds=0.5), audio.LogMel(seconds=0.5)),
        set(),
    )
    for seed in range(4):
        view, rng = augment.SharedAugmentation(seed), np.random.default_rng(0)
        seen, heard = (transform({**record, "view": view}, rng) for transform in transforms)
        starts.add(start := view.start(1e6, 0.5))
        cut = {**record, "start": start, "seconds": 0.5}
        np.testing.assert_array_equal(seen, transforms[0](cut, None))
        np.testing.assert_allclose(heard, transforms[1](cut, None), atol=1e-3)
    assert len(starts) == 4


@pytest.mark.jax
def test_a_model_trains_on_them_and_masks_what_is_broken(pairs, tmp_path):
    small = {"width": 16, "depth": 1, "heads": 2}
    encoders = {
        "vision": EncoderConfig((2, SIZE, SIZE, 3), patch=(2, 16, 16), **small),
        "depth": EncoderConfig((SIZE, SIZE, 1), patch=(16, 16), logit_scale=5.0, **small),
    }
    source = Broken(pairs[0].source)
    config = TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=8),
        inputs=INPUTS,
        pairs=(ModalityPair(("vision", "depth"), source),),
        steps=2,
        batch_size=8,
        bad_records=1.0,
        log_every=1,
    )
    said = []
    params = fit.fit(config, tmp_path, say=said.append)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    (line,) = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["record"] == 1 and "truncated" in json.loads(line)["reason"]
    assert any("rows were masked" in text for text in said)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["bad_rows"] > 0 and np.isfinite(last["loss"])


@dataclasses.dataclass(frozen=True)
class Broken:
    """A source whose second record's depth map is cut short."""

    source: Prepared

    def open(self):
        records = [dict(record) for record in self.source.open()]
        records[1]["depth"] = records[1]["depth"][:200]
        return records


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One sample of the world as files of every modality."""
    folder, record = tmp_path_factory.mktemp("files"), World(0).record("test", 0)
    (folder / "a.jpg").write_bytes(record["vision"][0])
    (folder / "a.flac").write_bytes(record["audio"])
    (folder / "a.png").write_bytes(record["depth"])
    (folder / "t.png").write_bytes(record["thermal"])
    (folder / "a.npy").write_bytes(record["imu"])
    return folder


def test_files_load_to_the_shapes_that_the_released_model_takes(files):
    inputs = {
        "vision": ib.load_images([files / "a.jpg", str(files / "t.png")]),
        "audio": ib.load_audio(files / "a.flac", clips=3),
        "depth": ib.load_depth([files / "a.png"], focal_length=80.0, baseline=0.075),
        "thermal": ib.load_thermal([files / "t.png"]),
        "imu": ib.load_imu([files / "a.npy"], rate=200.0),
    }
    shapes = {name: x.shape for name, x in inputs.items()}
    assert shapes == {
        "vision": (2, 1, 224, 224, 3),
        "audio": (1, 3, 128, 204, 1),
        "depth": (1, 224, 224, 1),
        "thermal": (1, 224, 224, 1),
        "imu": (1, 2000, 6),
    }
    for name, x in inputs.items():
        assert x.dtype == np.float32 and np.isfinite(x).all(), name
        assert ib.HUGE.encoders[name].shape[-1] == x.shape[-1]
    named = depth.Disparity.nyu()
    record = {"depth": files / "a.png", "focal_length": 80.0, "baseline": 0.075}
    np.testing.assert_array_equal(inputs["depth"][0], named(record, None))


def test_what_cannot_be_loaded_is_named(files):
    with pytest.raises(ib.MediaError, match="a.flac"):
        ib.load_images([files / "a.jpg", files / "a.flac"])
    with pytest.raises(ib.MediaError, match="nothing.wav"):
        ib.load_audio(files / "nothing.wav")
    for load, what in [(ib.load_imu, "files of imu"), (ib.load_images, "images")]:
        with pytest.raises(ib.UserError, match=f"no {what} to load"):
            load([])
    with pytest.raises(ib.UserError, match="Thermal needs all of low, high and scale"):
        ib.load_thermal([files / "t.png"], low=0.0)


def test_files_of_another_kind_are_named(files, tmp_path):
    video = np.load(GOLDEN / "video" / "views_every8th.npz").files[0]
    (tmp_path / "a.csv").write_text("hello, world")
    wrong = [
        (ib.load_images, GOLDEN / "video" / video, "is a video .*, not an image: ib.load_videos"),
        (ib.load_videos, files / "a.jpg", "is an image, not a video: ib.load_images"),
        (ib.load_videos, files / "a.flac", "a sound file; not a video of MP4, MOV"),
        (ib.load_videos, tmp_path / "a.csv", "text, or .*; not a video of MP4, MOV"),
        (ib.load_audio, files / "a.jpg", "an image: no sound"),
        (ib.load_audio, files / "a.npy", "a NumPy array: no sound"),
        (ib.load_audio, tmp_path / "a.csv", "not recognised. Text, or none of WAV, FLAC"),
        (ib.load_images, tmp_path, "a folder, .*give its files"),
    ]
    for load, source, told in wrong:
        with pytest.raises(ib.MediaError, match=told):
            load(source)


def told(error, use):
    """What is said by an exception of just this class."""
    try:
        use()
    except ib.UserError as raised:
        assert type(raised) is error, repr(raised)
        return str(raised)
    raise AssertionError("nothing raised")


def unchecked(arguments):
    """In a process without the tests' type checks, which would come first: as users have it."""
    image = Image.new("L", (2, 2))
    for x in (
        image, [image], np.zeros((2, 2)), [["a.png"]], bytearray(9), memoryview(b"x"), None, 5,
        io.BytesIO(b"x"), io.StringIO("x"), {"a.png": 1}, [io.BytesIO(b"x")],
    ):  # fmt: skip
        inner = x[0] if isinstance(x, list) else x
        said = told(ib.UserError, lambda x=x: ib.load_images(x))
        assert said.endswith(f"a path or its encoded bytes, not of type {type(inner).__name__}")
    assert "download it first" in told(ib.UserError, lambda: ib.load_images("https://a.org/b.png"))
    image.save(f"{arguments[0]}/a.png")
    one, same = ib.load_images("~/a.png", size=8), ib.load_images(iter(["~/a.png"]), size=8)
    assert one.shape == same.shape
    for settings in ({"clips": 1.5}, {"clips": None}, {"frames": 2.0}, {"size": 0}):
        assert "whole number" in told(
            ib.UserError, lambda settings=settings: ib.load_videos("a.mp4", **settings)
        )
    for settings in ({"size": "224"}, {"size": None}, {"seconds": "2"}, {"seconds": None}):
        for make in (vision.FramesTransform, vision.EvalViews):
            made = functools.partial(make, **settings)
            assert "must be" in told(ib.UserError, made)
    assert "whole number" in told(ib.UserError, lambda: thermal.Thermal(2.5))
    assert "low must be a finite number" in told(
        ib.UserError, lambda: thermal.Thermal(8, "0", "50", "kelvin")
    )
    camera = {"focal_length": 1.0, "baseline": 1.0}
    for modality, transform in (
        ("vision", vision.FramesTransform()), ("vision", vision.EvalViews()), ("depth", depth.Disparity.nyu()),
        ("thermal", thermal.Thermal()), ("imu", imu.ImuWindow()),
    ):  # fmt: skip
        said = told(ib.MediaError, functools.partial(transform, {modality: 0, **camera}, None))
        assert said == "<int>: neither a path nor the bytes of a file", said
    assert "<int>" in told(ib.MediaError, lambda: vision.FramesTransform()({"vision": [0]}, None))


def test_wrong_types_are_told_and_home_is_known(zygote, tmp_path):
    code, _, said = zygote.run([tmp_path], call="test_real_media:unchecked", HOME=str(tmp_path))
    assert code == 0, said


def test_a_manifest_of_ones_own_files_feeds_the_same_transforms(files):
    lines = [
        {"id": "one", "vision": "a.jpg", "depth": "a.png", "focal_length": 80, "baseline": 0.075},
        {"id": "two", "vision": "a.jpg", "depth": "gone.png", "focal_length": 80, "baseline": 0.1},
    ]
    (files / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pair = ModalityPair(("vision", "depth"), Manifest(files / "list.jsonl"))
    batches = PairBatches((pair,), INPUTS, seed=0, batch_size=2, steps=1)
    batch = batches[0]
    assert sorted(batch["weight"]) == [0, 1]
    assert batch["depth"].shape == (2, SIZE, SIZE, 1)
    assert not batch["depth"][batch["weight"] == 0].any()
