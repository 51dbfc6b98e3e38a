"""A model's embeddings of records: in order, in full batches, the same on any devices, never lost."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from own_files import parameters

from imagebind_jax.distributed.sharding import PmapStrategy, ShardedStrategy
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import batching
from imagebind_jax.evaluation.benchmark import (
    Benchmark,
    Embedder,
    EvalConfig,
    EvalInputs,
    EvalResult,
)
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.evaluation.record_reader import ThrottledProgress, resolve_source
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import text
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig
from imagebind_jax.storage import row_file
from imagebind_jax.storage.row_file import ResumableRowFile

pytestmark = pytest.mark.jax
SMALL = {"width": 16, "depth": 1, "heads": 2}
MODEL = ImageBindConfig(
    {
        "vision": EncoderConfig((2, 4, 4, 3), patch=(2, 4, 4), **SMALL),
        "audio": EncoderConfig((8, 4), patch=(2,), **SMALL),
        "text": EncoderConfig((16,), vocab_size=49408, **SMALL),
    },
    embed_dim=12,
)
PARAMS = parameters(MODEL)
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Nothing:
    """An evaluation, as a config needs one."""

    sources: tuple = ()
    modalities: frozenset = frozenset()

    def measure(self, bench: Embedder) -> EvalResult:
        return EvalResult({}, 0)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Records {"id", "number", "audio"}."""

    count: int
    name: str = "numbers"

    def open(self):
        return [{"id": f"n{i}", "number": i, "audio": b"..."} for i in range(self.count)]


def drawn(number, *shape):
    return np.random.default_rng(number).standard_normal(shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Sound:
    """One input of each record, from its number; `views` of them: as many views as the number says."""

    views: bool = False
    bad: tuple[int, ...] = ()
    infinite: tuple[int, ...] = ()
    odd: tuple[int, ...] = ()

    def __call__(self, record, rng):
        number = record["number"]
        if number in self.bad:
            raise MediaError(f"{number}.wav", "broken")
        if number in self.odd:
            return drawn(number, 8, 5)
        x = drawn(number, 1 + number % 5, 8, 4) if self.views else drawn(number, 8, 4)
        return x * np.float32(np.inf) if number in self.infinite else x


@dataclasses.dataclass(frozen=True)
class Picture:
    """Videos, but for every fifth record, which is an image."""

    def __call__(self, record, rng):
        return drawn(record["number"], 1 if record["number"] % 5 == 0 else 2, 4, 4, 3)


COMPILED: dict = {}


def make(params=PARAMS, *, folder=None, place=None, tell=lambda what: None, **settings):
    """A bench on one device, unless another place is given; what it compiles is shared."""
    config = EvalConfig((Benchmark("none", Nothing()),), **{"batch_size": BATCH} | settings)
    single = place or ShardedStrategy(1, jax.devices()[:1])
    bench = ModelEmbedder(config, ImageBind(MODEL), params, folder=folder, place=single, tell=tell)
    if place is None:
        bench._apply = COMPILED.setdefault(config.dtype, bench._apply)
    return bench


@jax.jit
def apply(params, inputs):
    return next(iter(ImageBind(MODEL).apply({"params": params}, inputs)[0].values()))


def alone(modality, views, params=PARAMS):
    """The unit vector of one record's views, each of them by itself through the model."""
    z = sum(np.asarray(apply(params, {modality: view[None]}))[0] for view in views)
    return z / np.linalg.norm(z)


def items(count=20, **fields):
    return EvalInputs(Numbers(count), "audio", Sound(**fields))


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_it_is_a_bench():
    assert isinstance(make(), Embedder)


def test_every_record_has_its_row_and_a_record_of_views_their_mean():
    """1 to 5 views of each record in batches of 8: records begin and end anywhere in a batch."""
    found = make().embed(items(13, views=True))
    assert found.dtype == np.float32
    wanted = [alone("audio", drawn(i, 1 + i % 5, 8, 4)) for i in range(13)]
    close(found, wanted)


def test_two_shapes_of_one_modality_keep_the_order(monkeypatch):
    """Images among videos: each in batches of its own, and rare ones do not wait for ever."""
    monkeypatch.setattr(batching, "MAX_WAIT_BATCHES", 1)
    found = make().embed(EvalInputs(Numbers(23), "vision", Picture()))
    shapes = [1 if i % 5 == 0 else 2 for i in range(23)]
    wanted = [alone("vision", drawn(i, shape, 4, 4, 3)[None]) for i, shape in enumerate(shapes)]
    close(found, wanted)


def test_each_shape_is_compiled_once():
    bench = make(place=ShardedStrategy(1, jax.devices()[:1]))
    bench.embed(items(13))
    bench.embed(EvalInputs(Numbers(13), "audio", Sound(views=True), "again"))
    assert bench._apply._cache_size() == 1
    bench.replace(jax.tree.map(lambda x: x + 1, PARAMS))
    bench.embed(items(13))
    assert bench._apply._cache_size() == 1


@pytest.mark.parametrize(
    "place",
    [lambda: ShardedStrategy(1), lambda: ShardedStrategy(4), lambda: PmapStrategy()],
    ids=["8", "fsdp", "pmap"],
)
def test_any_number_of_devices_gives_the_same_embeddings(place, monkeypatch):
    monkeypatch.setattr(
        "imagebind_jax.distributed.sharding.MIN_SHARD_ELEMENTS", 64
    )  # parameters are split indeed
    wanted = make(batch_size=5).embed(items(13, views=True))
    bench = make(batch_size=5, place=place())
    assert bench.batch_size == 8
    np.testing.assert_allclose(bench.embed(items(13, views=True)), wanted, atol=1e-6)


def test_bfloat16_computes_so_and_keeps_the_parameters():
    wide, narrow = make().embed(items(8)), make(dtype="bfloat16").embed(items(8))
    difference = np.abs(wide - narrow).max()
    assert 1e-5 < difference < 0.05
    assert {leaf.dtype for leaf in jax.tree.leaves(make(dtype="bfloat16")._params)} == {
        np.dtype(np.float32)
    }


def test_what_cannot_be_used_is_a_row_of_nan():
    found = make(unusable=0.2).embed(items(20, bad=(0, 7), infinite=(19,)))
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == [0, 7, 19]
    close(found[[1, 18]], [alone("audio", drawn(i, 8, 4)[None]) for i in (1, 18)])


def test_too_many_unusable_records_end_it_and_the_first_are_named():
    with pytest.raises(
        UserError, match=r"numbers.audio: 3 of 20 .* than 10.0%: 0.wav: broken; 7.wav"
    ):
        make(unusable=0.1).embed(items(20, bad=(0, 7), infinite=(19,)))
    optional = dataclasses.replace(items(20, bad=(0, 7), infinite=(19,)), optional=True)
    assert np.isnan(make(unusable=0.0).embed(optional)).any(axis=1).sum() == 3


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            EvalInputs(Numbers(4), "imu", Sound()),
            "numbers.imu needs an encoder of imu.*vision, audio, text",
        ),
        (
            EvalInputs(Numbers(4), "audio", Sound(odd=(0,))),
            r"\[8, 5\].*audio encoder takes \[8, 4\]",
        ),
        (EvalInputs(Numbers(0), "audio", Sound()), "no records"),
        (EvalInputs(Numbers(9), "audio", Sound(odd=(5,))), r"1 of 9 .* an input is \[8, 5\]"),
    ],
)
def test_mistakes_are_named(wanted, words):
    with pytest.raises(UserError, match=words):
        make().embed(wanted)


def test_parameters_that_are_no_numbers_are_named():
    params = PARAMS | {"audio": jax.tree.map(lambda x: x * np.nan, PARAMS["audio"])}
    with pytest.raises(UserError, match="not finite: the parameters are damaged"):
        make(params).embed(items(3))


def test_two_things_of_one_name_are_refused_and_one_is_computed_once():
    bench = make()
    first = bench.embed(items(5))
    assert bench.embed(items(5)) is first
    with pytest.raises(UserError, match=r"two different things are named numbers.audio"):
        bench.embed(items(5, views=True))


def test_texts_and_classes_are_unit_vectors_of_their_sentences():
    bench = make()
    texts = ["a dog", "a cat", "a dog", "the sound of rain"]
    rows = {
        t: alone("text", text.tokenize([t], 16)) for t in [*texts, "one a", "b b", "one b", "a b"]
    }
    found = bench.texts("some", texts)
    close(found, [rows[t] for t in texts])
    assert found[0].tobytes() == found[2].tobytes()
    classes = bench.classes("two", ["a", "b"], ["one {}", "{} b"])
    means = [rows["one a"] + rows["a b"], rows["one b"] + rows["b b"]]
    close(classes, [mean / np.linalg.norm(mean) for mean in means])


def test_other_parameters_are_other_embeddings_of_the_same_records():
    opened = []

    @dataclasses.dataclass(frozen=True)
    class Once(Numbers):
        def open(self):
            opened.append(1)
            return super().open()

    bench = make()
    wanted = EvalInputs(Once(6), "audio", Sound())
    before = bench.embed(wanted)
    other = parameters(MODEL, 1)
    bench.replace(other)
    close(bench.embed(wanted), [alone("audio", drawn(i, 8, 4)[None], other) for i in range(6)])
    assert np.abs(bench.embed(wanted) - before).max() > 0.1
    assert opened == [1]


def test_notes_are_the_records_without_their_media(tmp_path):
    wanted = [{"id": f"n{i}", "number": i} for i in range(4)]
    assert make().notes(Numbers(4)) == wanted
    assert make(folder=tmp_path).notes(Numbers(4)) == wanted
    lines = (tmp_path / "embeddings" / "numbers.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == wanted
    again = make(folder=tmp_path)
    again.records = again._sources.records = None  # they come out of the file
    assert again.notes(Numbers(4)) == wanted
    assert len(make(folder=tmp_path).notes(Numbers(5))) == 5  # of other records: made anew


def test_inputs_are_stacked_and_what_is_unusable_is_marked(monkeypatch):
    made, usable = make(unusable=0.3).inputs(items(7, bad=(0,), infinite=(3,)))
    assert usable.tolist() == [False, True, True, False, True, True, True]
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[5], drawn(5, 8, 4))
    assert not made[0].any()
    with pytest.raises(
        UserError, match=r"record 1 is \[2, 8, 4\], and those before it \[1, 8, 4\]"
    ):
        make().inputs(items(7, views=True))
    monkeypatch.setattr("imagebind_jax.evaluation.record_reader.MAX_INPUT_BYTES", 800)
    with pytest.raises(UserError, match=r"7 inputs of \[8, 4\] float32 would take"):
        make().inputs(items(7))


def test_a_relative_prepared_folder_is_looked_for_in_the_records():
    assert resolve_source(Prepared("esc50", "fold1"), "/records").folder == "/records/esc50"
    assert resolve_source(Prepared("/else/esc50"), "/records").folder == "/else/esc50"
    assert resolve_source(Numbers(3), "/records") == Numbers(3)


def test_progress_tells_how_far_it_is(monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shown = ThrottledProgress("x.audio", 100, said.append, 20)
    for second in range(1, 5):
        now[0] = second
        shown(20 + 10 * second)
    assert said[0] == "x.audio 20/100"
    assert said[-1] == "x.audio 60/100  10.0/s  0:00:04 left"


# ---- kept on disk


def counting(monkeypatch):
    """The numbers of the records that are decoded from here on."""
    seen = []
    call = Sound.__call__
    monkeypatch.setattr(
        Sound, "__call__", lambda s, r, g: (seen.append(r["number"]), call(s, r, g))[1]
    )
    return seen


def test_what_is_kept_is_not_made_again(tmp_path, monkeypatch):
    some = items(20, bad=(7,))
    first = make(folder=tmp_path, unusable=0.1).embed(some)
    seen = counting(monkeypatch)
    again = make(folder=tmp_path, unusable=0.1).embed(some)
    assert not seen
    assert again.tobytes() == first.tobytes()
    found = np.load(tmp_path / "embeddings" / "numbers.audio.npy", allow_pickle=False)
    np.testing.assert_array_equal(found, first)
    note = json.loads((tmp_path / "embeddings" / "numbers.audio.json").read_text())
    assert note["unusable"] == {"7": "7.wav: broken"}
    with pytest.raises(UserError, match="1 of 20"):  # the limit holds for what is kept, too
        make(folder=tmp_path, unusable=0.0).embed(some)


class Kill(Exception):
    pass


def test_whoever_is_stopped_goes_on_from_the_rows_that_are_done(tmp_path, monkeypatch):
    wanted = make().embed(items(100))
    bench = make(folder=tmp_path)
    monkeypatch.setattr(row_file, "FLUSH_ROWS", 10)
    save = ResumableRowFile.advance

    def advance(self, done):
        if done > 50:
            self.flush = lambda: None  # as if by kill -9
            raise Kill
        save(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableRowFile, "advance", advance)
        with pytest.raises(Kill):
            bench.embed(items(100))
    note = json.loads((tmp_path / "embeddings" / "numbers.audio.json").read_text())
    assert 30 <= note["done"] <= 50
    seen = counting(monkeypatch)
    assert make(folder=tmp_path).embed(items(100)).tobytes() == wanted.tobytes()
    assert sorted(seen) == list(range(note["done"], 100))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: ({"params": parameters(MODEL, 1)}, {}), "another parameters"),
        (lambda: ({"dtype": "bfloat16"}, {}), "another dtype"),
        (lambda: ({}, {"views": True}), "another transform"),
        (lambda: ({}, {"count": 21}), "another source"),
    ],
    ids=["parameters", "dtype", "transform", "source"],
)
def test_a_file_of_anything_else_is_made_anew(tmp_path, change, words):
    make(folder=tmp_path).embed(items(20))
    settings, fields = change()
    said = []
    found = make(folder=tmp_path, tell=said.append, **settings).embed(items(**fields))
    assert any(words in line and "made anew" in line for line in said)
    np.testing.assert_array_equal(found, make(**settings).embed(items(**fields)))


def kept_rows(path, said):
    """Nine rows, kept, of which the fourth is unusable."""
    found = ResumableRowFile(path, (9, 4), lambda: {"of": "this"}, tell=said.append)
    for row in range(found.done, 9):
        found.rows[row] = row
        if row == 3:
            found.rows[row], found.unusable[row] = np.nan, "broken"
        found.advance(row + 1)
    return found


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("npy", lambda data: data[:-1]),
        ("npy", lambda data: data + b"0"),
        ("npy", lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
        ("npy", lambda data: data.replace(b"<f4", b"|O8")),
        ("npy", lambda data: b""),
        ("json", lambda data: data[:-5]),
        ("json", lambda data: b"\xff\x00"),
        ("json", lambda data: data.replace(b'"done": 9', b'"done": -9')),
        ("json", lambda data: data.replace(b'"rows": 9', b'"rows": 99')),
        ("json", lambda data: data.replace(b'"3": ', b'"30": ')),
    ],
)
def test_a_damaged_file_is_made_anew_and_that_is_said(tmp_path, name, damage):
    first, said = kept_rows(tmp_path / "x", []), []
    path = tmp_path / f"x.{name}"
    data = path.read_bytes()
    assert damage(data) != data
    path.write_bytes(damage(data))
    found = kept_rows(tmp_path / "x", said)
    assert len(said) == 1
    assert "made anew" in said[0]
    again = ResumableRowFile(tmp_path / "x", (9, 4), lambda: {"of": "this"}, tell=said.append)
    assert len(said) == 1
    assert (again.done, again.unusable) == (9, {3: "broken"})
    assert again.rows.tobytes() == found.rows.tobytes() == first.rows.tobytes()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is reserved where it can be")
def test_a_full_disk_is_found_at_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        UserError, match="cannot write .*numbers.audio.npy: No space left.*make room"
    ):
        make(folder=tmp_path).embed(items(9))


KILLED = """
import importlib.util, pathlib, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("kept", sys.argv[2])  # without all that imports JAX
kept = sys.modules["kept"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kept)
kept.FLUSH_ROWS = 2
made = kept.ResumableRowFile(pathlib.Path(sys.argv[1]), (1000, 4), lambda: {"of": "this"})
for row in range(made.done, 1000):
    made.rows[row] = row
    if row % 7 == 0:
        made.rows[row], made.unusable[row] = np.nan, "seven"
    made.advance(row + 1)
    print(made.done, flush=True)
    time.sleep(0.001)
"""


def test_a_killed_process_leaves_rows_that_are_true(tmp_path):
    path = tmp_path / "vectors"
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), row_file.__file__],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in run.stdout:
        if int(line) >= 60:
            run.send_signal(signal.SIGKILL)
            break
    run.communicate()
    found = ResumableRowFile(path, (1000, 4), lambda: {"of": "this"})
    assert 56 <= found.done < 1000
    rows = np.arange(found.done)
    good = rows % 7 > 0
    np.testing.assert_array_equal(
        found.rows[: found.done][good], np.float32(np.repeat(rows[good, None], 4, axis=1))
    )
    assert sorted(found.unusable) == rows[~good].tolist()
    assert np.isnan(found.rows[rows[~good]]).all()
    assert np.isnan(found.rows[found.done :]).all()
