"""Anchors: the loss, and the partner's inputs, are those of the tower that they stand for, and of no other."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import msgspec
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from zygote import FOLDERS

from imagebind_jax import cli
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline import precomputed
from imagebind_jax.inputs.pipeline.bad_records import BadRecordLog
from imagebind_jax.inputs.pipeline.batches import ModalityPair, PairBatches
from imagebind_jax.inputs.pipeline.examples import Examples, ToModelInputs
from imagebind_jax.inputs.pipeline.precomputed import FixedViews, PrecomputedEmbeddings
from imagebind_jax.inputs.transforms import augment, depth, vision
from imagebind_jax.inputs.world import World
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig, init
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.plan import aot_compile, flops
from imagebind_jax.prepare import precompute
from imagebind_jax.runtime import metrics_log
from imagebind_jax.storage import row_file
from imagebind_jax.training import fit

pytestmark = pytest.mark.usefixtures("two_devices")
COUNT, VIEWS, STEPS = 20, FixedViews(3, seed=5), 4


@dataclasses.dataclass(frozen=True)
class Toy:
    """Records of which both modalities are drawn from their number."""

    first: int = 0

    def open(self):
        drawn = [np.random.default_rng([1, self.first + i]) for i in range(COUNT)]
        shape = (2, 8, 4)
        return [
            {"number": i, **dict(zip(("vision", "audio"), rng.standard_normal(shape, np.float32)))}
            for i, rng in enumerate(drawn)
        ]


@dataclasses.dataclass(frozen=True)
class Seen:
    """One modality, moved by all that a pair shares, with noise of its own."""

    name: str
    side: int  # of the picture that a crop is drawn for: whoever asks first decides
    noise: float = 0.1
    bad: tuple[int, ...] = ()

    def __call__(self, record, rng):
        if record["number"] in self.bad:
            raise MediaError(f"{record['number']}.wav", "broken")
        x = record[self.name]
        if rng is None:
            return x
        view = augment.shared_augmentation(record, rng)
        shared = [*view.box(self.side, self.side, (0.1, 1.0)), view.start(11.0, 1.0)]
        shared += [view.flip(0.5), *(strength for _, strength in view.operations(2, 9.0, 0.5))]
        own = rng.standard_normal(x.shape, np.float32)
        return x + np.float32(0.05 * sum(shared)) + np.float32(self.noise) * own


def make_config(
    *, with_vision=True, folder=None, inputs=None, source=Toy(), views=VIEWS, **changes
):
    encoder = functools.partial(EncoderConfig, (8, 4), width=16, depth=1, heads=2, patch=(2,))
    encoders = {"audio": encoder(logit_scale=10.0, drop_path=0.2)}
    if with_vision:
        encoders["vision"] = encoder(drop_path=0.5)
    pair = ModalityPair(
        ("vision", "audio"),
        source,
        views=views,
        anchors=None if folder is None else PrecomputedEmbeddings(folder),
    )
    frozen = ("vision/",) if with_vision else ()
    return TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=16),
        inputs=inputs or {"vision": Seen("vision", 100), "audio": Seen("audio", 37)},
        pairs=(pair,),
        **{
            "steps": STEPS,
            "batch_size": 16,
            "optimizer": OptimizerConfig(1e-2, warmup_steps=1, frozen=frozen),
            "log_every": 1,
        }
        | changes,
    )


def quiet(line):
    pass


def make(config, checkpoint, **options):
    said = []
    [folder] = precompute.precompute(config, checkpoint, **{"say": said.append} | options)
    return folder, said


@pytest.fixture(scope="module")
def uncached(tmp_path_factory):
    """The run folder of a run whose tower sees every view."""
    folder = tmp_path_factory.mktemp("uncached")
    fit.fit(make_config(), folder, say=quiet)
    return folder


@pytest.fixture(scope="module")
def made(uncached, tmp_path_factory):
    """The folder of its tower's anchors."""
    folder, said = make(make_config(), uncached, out=tmp_path_factory.mktemp("made"))
    assert said[-1].endswith(
        f"views=FixedViews(count=3, seed=5), anchors=PrecomputedEmbeddings({str(folder)!r}))"
    )
    return folder


def batches(config, **options):
    settings = {"seed": 0, "batch_size": 16, "steps": 12} | options
    return PairBatches(config.pairs, config.inputs, **settings)


# ---- the same training


@pytest.mark.jax
@pytest.mark.parametrize("with_vision", [True, False])
def test_the_loss_is_that_of_the_tower(with_vision, uncached, made, tmp_path, monkeypatch):
    monkeypatch.setattr(Seen, "__call__", blind(Seen.__call__))
    fit.fit(make_config(with_vision=with_vision, folder=made), tmp_path, say=quiet)
    a, b = (metrics_log.read_metrics(folder / "metrics.jsonl") for folder in (uncached, tmp_path))
    assert [line["loss"] for line in b] == pytest.approx([line["loss"] for line in a], rel=1e-6)
    assert len({line["loss"] for line in a}) == STEPS == len(b)


def blind(see):
    """A transform that cannot make what anchors stand for."""

    def call(self, record, rng):
        assert self.name != "vision"
        return see(self, record, rng)

    return call


def test_the_partner_is_the_same_bit_for_bit_and_anchors_are_the_towers(uncached, made):
    plain, cached = batches(make_config()), batches(make_config(folder=made))
    model = make_config().model
    params = init(model, jax.random.key(0))
    embed = jax.jit(lambda params, x: ImageBind(model).apply({"params": params}, x)[0])
    for step in range(0, 12, 5):
        a, b = plain[step], cached[step]
        assert b.keys() == {"anchor:vision", "audio", "weight"}
        np.testing.assert_array_equal(a["audio"], b["audio"])
        z = embed(params, {"vision": a["vision"]})
        np.testing.assert_allclose(b["anchor:vision"], z["vision"], atol=1e-6)


def test_a_plan_leaves_the_tower_out(made):
    """What is compiled for a slice is what training gets, and costs what the partner alone does."""
    config = make_config(folder=made)
    rows = NamedSharding(sharding.make_mesh(), PartitionSpec(sharding.BATCH_AXES))
    planned = aot_compile._batch(config, config.pairs[0], rows)
    fed = batches(config)[0]
    assert {k: (x.shape, x.dtype) for k, x in planned.items()} == {
        k: (x.shape, x.dtype) for k, x in fed.items()
    }
    shares = flops.trainable_fraction(config)
    tower = config.batch_size * flops.forward_flops(config.model.encoders["vision"], 16)
    whole, left = (
        flops.train_step_flops(config, modalities, shares)
        for modalities in (config.pairs[0].modalities, config.pairs[0].encoded)
    )
    assert shares["vision"] == 0 and whole - left == tower > 0


def test_each_record_is_seen_in_all_its_views_and_no_others():
    first, second = set(), set()
    rows = Examples(
        Toy().open(),
        ToModelInputs({"vision": Seen("vision", 100), "audio": Seen("audio", 37)}, views=VIEWS),
        "toy",
    )
    for draw in range(60):
        row = rows.row(7, np.random.default_rng(draw))
        first.add(row["vision"].tobytes())
        second.add(row["audio"].tobytes())
    assert len(first) == VIEWS.count  # what is embedded
    assert len(second) == 60  # the partner's own noise is as new as ever


def test_views_are_of_the_seed_and_the_record():
    seeds = {
        FixedViews(3, seed).seeds(index, k) for seed in (0, 1) for index in (0, 1) for k in (0, 1)
    }
    assert len(seeds) == 8
    assert FixedViews(3).seeds(4, 2) == FixedViews(8).seeds(4, 2)  # more views are others besides
    with pytest.raises(UserError, match="at least 1, got 0"):
        FixedViews(0)
    with pytest.raises(UserError, match="seed of views"):
        FixedViews(2, -1)


def test_pictures_are_cropped_as_what_stands_for_them_was():
    """Real transforms: the depth map follows an image that is not looked at any more."""
    world = World(0)
    clip = vision.FramesTransform(32, augment=augment.IMAGES)
    follows = depth.Disparity(size=32, augment=augment.IMAGES)
    records = [world.record("test", i) for i in range(3)]
    for index, record in enumerate(records):
        for k in range(3):
            own, shared = VIEWS.seeds(index, k)
            first = augment.SharedAugmentation(shared)
            clip({**record, "view": first}, np.random.default_rng(own))
            text = precomputed.encode_augmentation(first.made)
            again = augment.SharedAugmentation(
                0, msgspec.json.decode(text, type=augment.AugmentationParams)
            )
            a, b = (
                follows({**record, "view": view}, np.random.default_rng(1))
                for view in (first, again)
            )
            np.testing.assert_array_equal(a, b)
            assert {"box", "flip", "operations"} <= first.made.keys()


def test_what_cannot_be_held_is_refused():
    view = augment.SharedAugmentation(0)
    view.made["operations"] = (("SolarizeAdd", 0.1234567890123456),) * 16
    with pytest.raises(UserError, match="16 operations"):
        precomputed.encode_augmentation(view.made)


def test_a_bad_record_is_a_masked_row(uncached, tmp_path):
    inputs = {"vision": Seen("vision", 100, bad=(3, 4)), "audio": Seen("audio", 37)}
    config = make_config(inputs=inputs, bad_records=0.5)
    folder, said = make(config, uncached, out=tmp_path)
    assert "note: 2 records of vision+audio cannot be used, and are masked" in said
    plain, cached = (
        batches(make_config(inputs=inputs, folder=f), bad=BadRecordLog(None, 0.5))
        for f in (None, folder)
    )
    seen = 0
    for step in range(4):
        np.testing.assert_array_equal(plain[step]["weight"], cached[step]["weight"])
        seen += (cached[step]["weight"] == 0).sum()
        assert np.isfinite(cached[step]["anchor:vision"]).all()
    assert seen
    assert '"3.wav: broken"' in str(cached.raw(0)["bad"]) + str(cached.raw(1)["bad"])
    with pytest.raises(UserError, match="more than bad_records allows, the last of them: 3.wav"):
        make(dataclasses.replace(config, bad_records=0.0), uncached, out=tmp_path / "other")


def test_a_damaged_view_is_a_masked_row(uncached, tmp_path):
    folder, _ = make(make_config(), uncached, out=tmp_path)
    [file] = folder.glob("*.npy")
    data = bytearray(file.read_bytes())
    data[200] ^= 1  # of record 0, view 0
    file.write_bytes(data)
    opened = make_config(folder=folder).pairs[0].opened(make_config().inputs, COUNT)
    with pytest.raises(MediaError, match="view 0 of record 0 is damaged"):
        opened.read(0, 0)
    assert opened.read(0, 1)[0].shape == (16,)


# ---- no others


OTHER = {"vision": Seen("vision", 100, noise=0.2), "audio": Seen("audio", 37)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": OTHER}, r"another transform.noise \(0.1, not 0.2\)"),
        ({"views": FixedViews(3, seed=6)}, r"another seed \(5, not 6\)"),
        ({"views": FixedViews(4, seed=5)}, r"another views \(3, not 4\)"),
        ({"source": Toy(1)}, r"another records.crc32"),
        ({"seed": 1}, r"another parameters"),
        ({"model.embed_dim": 8}, r"another width \(16, not 8\)"),
        ({"model.dtype": "bfloat16"}, r"another dtype \(float32, not bfloat16\)"),
        ({"encoder.heads": 4}, r"another encoder.vision.heads \(2, not 4\)"),
        ({"encoder.logit_scale": 2.0}, r"another .*logit_scale \(1.0, not 2.0\)"),
        ({"optimizer": OptimizerConfig(frozen=("vision/position",))}, r"learns nothing, and the .*"
         r'config trains it: frozen=\("vision/",\)'),
        ({"encoder.learn_scale": True}, "learns its logit scale"),
    ],
)  # fmt: skip
def test_anchors_of_anything_else_are_refused(change, words, made, tmp_path):
    nested = {name: change.pop(name) for name in list(change) if "." in name}
    config = make_config(folder=made, **change)
    for name, value in nested.items():
        part, _, field = name.partition(".")
        model = config.model
        if part == "encoder":
            tower = dataclasses.replace(model.encoders["vision"], **{field: value})
            model = dataclasses.replace(model, encoders={**model.encoders, "vision": tower})
        else:
            model = dataclasses.replace(model, **{field: value})
        config = dataclasses.replace(config, model=model)
    with pytest.raises(UserError, match=words) as raised:
        fit.fit(config, tmp_path, say=quiet)
    assert str(made) in str(raised.value) or "logit scale" in words
    assert not (tmp_path / "metrics.jsonl").exists() or not metrics_log.read_metrics(
        tmp_path / "metrics.jsonl"
    )


@dataclasses.dataclass(frozen=True)
class Younger(Seen):
    """`Seen`, whose noise was not there when the first anchors were made."""

    younger_fields = ("noise",)


def test_anchors_of_a_setting_that_the_transform_lacks_are_refused(tmp_path):
    wanted, found = (
        precomputed.precomputed_fingerprint_fields(
            "vision", Toy(), COUNT, Younger("vision", 100, *noise), False, VIEWS
        )
        for noise in ((), (0.2,))
    )
    precomputed.assert_same_fields(tmp_path, wanted, wanted)
    with pytest.raises(UserError, match=r"another transform.noise \(0.2, not None\)"):
        precomputed.assert_same_fields(tmp_path, found, wanted)


def test_no_anchors_and_those_of_no_views(made, tmp_path):
    with pytest.raises(UserError, match=f"no anchors in {tmp_path}"):
        fit.fit(make_config(folder=tmp_path), tmp_path / "run", say=quiet)
    with pytest.raises(UserError, match=r"of which views: views=FixedViews\(8\)"):
        make_config(folder=made, views=None)
    with pytest.raises(UserError, match="in_memory keeps no random views"):
        make_config(in_memory=True)
    (tmp_path / precomputed.METADATA_FILE).write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        PrecomputedEmbeddings(tmp_path).facts()


def test_a_folder_of_others_is_not_written_over(uncached, made):
    config = make_config(folder=made)
    before = {path: path.read_bytes() for path in made.glob("0*")}
    assert make(config, uncached)[0] == made  # there already: nothing is made
    with pytest.raises(UserError, match=r"another views \(3, not 2\)"):
        make(config, uncached, views=2)
    assert {path: path.read_bytes() for path in made.glob("0*")} == before


def test_a_run_goes_on_with_no_others(uncached, tmp_path):
    config = make_config(with_vision=False, folder=tmp_path / "anchors", steps=1)
    of_another = make_config(seed=1, steps=1)
    fit.fit(of_another, tmp_path / "another", say=quiet)
    for checkpoint in (uncached, tmp_path / "another"):
        folder, _ = make(make_config(), checkpoint, out=tmp_path / checkpoint.name)
        shutil.rmtree(tmp_path / "anchors", ignore_errors=True)
        folder.rename(tmp_path / "anchors")
        if checkpoint == uncached:
            fit.fit(config, tmp_path / "run", say=quiet)
    with pytest.raises(UserError, match="holds a run with pairs.0.anchors.made"):
        fit.fit(config, tmp_path / "run", say=quiet)


def test_notes_that_lie_are_mistakes(uncached, tmp_path):
    folder, _ = make(make_config(), uncached, out=tmp_path)
    pair, inputs = make_config(folder=folder).pairs[0], make_config().inputs
    note = folder / "000000.json"
    said = msgspec.json.decode(note.read_bytes())
    pair.opened(inputs, COUNT)
    nested = b'{"of":' * 100_000
    lies = [msgspec.json.encode(said | {"unusable": {row: "broken"}}) for row in ("x", "99")]
    for lie in [*lies, nested]:
        note.write_bytes(lie)
        with pytest.raises(UserError, match="goes on"):
            pair.opened(inputs, COUNT)
    (folder / precomputed.METADATA_FILE).write_bytes(nested)
    with pytest.raises(UserError, match="cannot be read .*too deeply"):
        PrecomputedEmbeddings(folder).facts()


def test_only_a_tower_that_learns_nothing_is_embedded(uncached, tmp_path):
    some = OptimizerConfig(frozen=("vision/position",))
    with pytest.raises(UserError, match=r'optimizer.frozen=\("vision/",\)'):
        make(make_config(optimizer=some), uncached, out=tmp_path)
    with pytest.raises(UserError, match="how many views .* --views 8"):
        make(make_config(views=None), uncached, out=tmp_path)


# ---- whole, whatever happens


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix}


def test_files_of_any_length_hold_the_same(uncached, made, tmp_path, monkeypatch):
    monkeypatch.setattr(precomputed, "MAX_BLOCK_BYTES", 7 * 3 * (64 + 512 + 4))  # seven records
    folder, _ = make(make_config(), uncached, out=tmp_path)
    assert len(list(folder.glob("*.npy"))) == 3
    pair = make_config().pairs[0]
    found = []
    for each, block in ((folder, precomputed.MAX_BLOCK_BYTES), (made, 1 << 26)):
        monkeypatch.setattr(precomputed, "MAX_BLOCK_BYTES", block)
        opened = dataclasses.replace(pair, anchors=PrecomputedEmbeddings(each)).opened(
            make_config().inputs, COUNT
        )
        found.append([opened.read(i, k) for i in range(COUNT) for k in range(3)])
    for (a, drawn_a), (b, drawn_b) in zip(*found):
        np.testing.assert_array_equal(a, b)
        assert drawn_a == drawn_b
    # One that is lost is made again, and the others stay.
    monkeypatch.setattr(precomputed, "MAX_BLOCK_BYTES", 7 * 3 * (64 + 512 + 4))
    before = contents(folder)
    (folder / "000001.json").unlink()
    with pytest.raises(UserError, match="the same `imagebind-jax prepare` goes on"):
        dataclasses.replace(pair, anchors=PrecomputedEmbeddings(folder)).opened(
            make_config().inputs, COUNT
        )
    assert make(make_config(), uncached, out=tmp_path)[0] == folder
    assert contents(folder) == before


KILLED = """
import sys
from imagebind_jax.storage import row_file
import test_precomputed as t
from imagebind_jax.prepare import precompute_writer
row_file.FLUSH_ROWS, precompute_writer.MAX_IN_FLIGHT = 1, 0
see, calls = t.Seen.__call__, []
def count(self, record, rng):
    calls.append(0)
    if len(calls) > 51:  # of 17 records, of which 5 are a batch, and 5 may be ahead of it
        print("begun", flush=True)
        sys.stdin.read()
    return see(self, record, rng)
t.Seen.__call__ = count
t.precompute.precompute(t.make_config(threads=1), sys.argv[1], out=sys.argv[2])
"""


def test_a_killed_making_goes_on_to_the_same_bytes(uncached, made, tmp_path):
    path = os.pathsep.join(FOLDERS)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, uncached, tmp_path], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    folder = tmp_path / made.name
    for line in process.stdout:
        if line == "begun\n":
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = row_file.read_metadata(folder / "000000.json").done
    assert 0 < done < COUNT
    make(make_config(), uncached, out=tmp_path)
    assert contents(folder) == contents(made)


# ---- the command

CONFIG = """
import test_precomputed
def get_config():
    return test_precomputed.make_config(views=None)
"""


def test_the_command(uncached, made, tmp_path, monkeypatch, capsys, mistake):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text(CONFIG)
    command = ["prepare", "toy.py", "--anchors", str(uncached)]
    assert "--views 8" in mistake(*command)
    assert "--seed is of the views" in mistake(*command, "--seed", 5)
    assert cli.main([*command, "--views", "3", "--seed", "5", "--out", "there"]) == 0
    said = capsys.readouterr()
    [folder] = (tmp_path / "there").iterdir()
    assert f"anchors=PrecomputedEmbeddings('there/{folder.name}'))" in said.out
    assert "anchors vision+audio 20/20" in said.err
    assert json.loads((folder / precomputed.METADATA_FILE).read_text())["views"] == 3
