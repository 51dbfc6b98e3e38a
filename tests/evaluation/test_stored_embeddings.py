"""Another system's embeddings: measured as a model's are, and every file of them distrusted."""

import dataclasses
import hashlib
import json
import struct

import jax
import msgspec
import numpy as np
import pytest
from own_files import parameters

from imagebind_jax.distributed.sharding import ShardedStrategy
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import (
    Benchmark,
    Embedder,
    EvalConfig,
    EvalInputs,
    EvalResult,
)
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.evaluation.request_list import write_embedding_requests
from imagebind_jax.evaluation.stored_embeddings import StoredEmbedder
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.sources.array_records import DATASET_JSON, write_shard
from imagebind_jax.inputs.sources.prepared import DatasetInfo, SplitInfo
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig

SMALL = {"width": 16, "depth": 1, "heads": 2}
N, WIDTH = 5, 3


@dataclasses.dataclass(frozen=True)
class Ids:
    name: str = "ids"
    ids: bool = True

    def open(self):
        return [({"id": f"n{i}"} if self.ids else {}) | {"label": i % 2} for i in range(N)]


@dataclasses.dataclass(frozen=True)
class Line:
    """The record's label, four times."""

    def __call__(self, record, rng):
        return np.full((4, 2), record["label"], np.float32)


@dataclasses.dataclass(frozen=True)
class Asking:
    """An evaluation that asks for one thing of each kind."""

    items: EvalInputs
    own: bool = False

    @property
    def sources(self):
        return (self.items.source,)

    @property
    def modalities(self):
        return frozenset({self.items.modality})

    def measure(self, bench: Embedder) -> EvalResult:
        if self.own:
            bench.inputs(self.items)
        facts = bench.facts(self.items.source)
        classes = facts.classes if facts else ["a", "b"]
        bench.embed(self.items)
        bench.classes("kinds", classes, ["one {}", "{}! {0} {"])
        bench.texts("said", ["first", "second"])
        return EvalResult({}, len(bench.notes(self.items.source)))


ITEMS = EvalInputs(Ids(), "audio", Line())


def config(*evaluations, **settings):
    benchmarks = tuple(
        Benchmark(f"b{i}", each) for i, each in enumerate(evaluations or [Asking(ITEMS)])
    )
    return EvalConfig(benchmarks, **settings)


def bench(folder, **settings):
    return StoredEmbedder(config(**settings), folder)


def vectors(dtype=np.float32, n=N, width=WIDTH):
    return (10 * np.random.default_rng(0).standard_normal((n, width))).astype(dtype)


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_rows_are_normalised_whatever_their_type(tmp_path, dtype):
    np.save(tmp_path / "ids.audio.npy", vectors(dtype))
    found = bench(tmp_path).embed(ITEMS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, unit(vectors(dtype).astype(np.float64)), atol=1e-6)
    assert isinstance(bench(tmp_path), Embedder)


def test_what_is_not_finite_or_zero_is_unusable(tmp_path):
    z = vectors()
    z[1, 0], z[3] = np.inf, 0
    np.save(tmp_path / "ids.audio.npy", z)
    found = bench(tmp_path, unusable=0.4).embed(ITEMS)
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == [1, 3]
    with pytest.raises(UserError, match="ids.audio: 2 of 5 .* row 1 is not finite; row 3"):
        bench(tmp_path).embed(ITEMS)
    assert len(bench(tmp_path).embed(dataclasses.replace(ITEMS, optional=True))) == N
    np.save(tmp_path / "some.texts.npy", z)
    with pytest.raises(UserError, match=r"some.texts.npy: row 1 is not finite"):
        bench(tmp_path).texts("some", ["a"] * N)


def header(fields):
    text = fields.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, r"no .*ids.audio.npy: .* \[5, width\]; --wanted"),
        (lambda path: np.save(path, vectors(n=4)), r"is \[4, 3\], and should be \[5, width\]"),
        (lambda path: np.save(path, np.zeros(5)), r"is \[5\], and"),
        (lambda path: np.save(path, np.zeros((5, 0), np.float32)), r"is \[5, 0\], and"),
        (lambda path: np.save(path, np.ones((5, 3), int)), "is int64: expected float16"),
        (lambda path: np.save(path, np.array([{}] * 5), allow_pickle=True), "not integers or floats"),
        (lambda path: path.write_bytes(b"\x80\x04."), "magic string"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.mkdir(), "no .*ids.audio.npy"),
        (
            lambda path: path.write_bytes(
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 99999999999)}") + b"0000"
            ),
            "bytes, more than",
        ),
        (
            lambda path: path.write_bytes(
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 3)}") + b"0000"
            ),
            "bytes",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_is_wanted_is_named(tmp_path, write, words):
    write(tmp_path / "ids.audio.npy")
    with pytest.raises(UserError, match=words):
        bench(tmp_path).embed(ITEMS)


def test_all_embeddings_are_of_one_space(tmp_path):
    np.save(tmp_path / "ids.audio.npy", vectors())
    np.save(tmp_path / "kinds.classes.npy", vectors(n=2, width=4))
    found = bench(tmp_path)
    found.embed(ITEMS)
    with pytest.raises(UserError, match="kinds.classes in .* is 4 wide, and ids.audio 3"):
        found.classes("kinds", ["a", "b"], ["{}"])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder .*nowhere"):
        bench(tmp_path / "nowhere")


# ---- ArrayRecords


def npy(z):
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(z)},)}}") + z.tobytes()


@pytest.mark.parametrize("as_bytes", [False, True])
def test_records_are_matched_by_id(tmp_path, as_bytes):
    z = vectors()
    rows = [
        {"id": f"n{i}", "embedding": npy(z[i]) if as_bytes else z[i].tolist()} for i in (3, 0, 4, 1)
    ]
    write_shard(tmp_path / "ids.audio.array_record", rows)
    found = bench(tmp_path, unusable=0.2).embed(ITEMS)
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[[0, 1, 3, 4]], unit(z)[[0, 1, 3, 4]], atol=1e-6)


def test_records_without_ids_come_in_order(tmp_path):
    z = vectors()
    write_shard(tmp_path / "ids.audio.array_record", [{"embedding": row.tolist()} for row in z])
    found = bench(tmp_path).embed(EvalInputs(Ids(ids=False), "audio", Line()))
    np.testing.assert_allclose(found, unit(z), atol=1e-6)


GOOD = {"id": "n0", "embedding": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, GOOD], "that id comes twice"),
        ([GOOD | {"id": "other"}], "'other': no record has that id"),
        ([GOOD] * 6, "6 records, and 5 are wanted"),
        ([GOOD | {"embedding": ["1.0"]}], "Expected `float`"),
        ([GOOD | {"embedding": [[1.0]]}], "Expected `float`"),
        ([GOOD | {"embedding": b"\x80\x04."}], "record 0"),
        ([{"id": "n0"}], "missing required field `embedding`"),
        ([GOOD, {"id": "n1", "embedding": [1.0]}], "1 numbers, and those before 2"),
        ([GOOD | {"embedding": []}], r"shape \[0\]"),
    ],
)
def test_records_that_are_not_what_is_wanted_are_named(tmp_path, rows, words):
    write_shard(tmp_path / "ids.audio.array_record", rows)
    with pytest.raises(UserError, match=words):
        bench(tmp_path).embed(ITEMS)


def test_a_file_of_no_records_is_named(tmp_path):
    (tmp_path / "ids.audio.array_record").write_bytes(b"no such thing")
    with pytest.raises(UserError, match=r"ids.audio.array_record"):
        bench(tmp_path).embed(ITEMS)


# ---- a folder that stands alone, and what is wanted of others


def prepared(folder, n=N):
    """A prepared folder `toy`; returns a relative source of it."""
    (folder / "toy").mkdir(parents=True)
    rows = [{"id": f"t{i}", "label": i % 2, "text": "it", "audio": b"x"} for i in range(n)]
    shard = write_shard(folder / "toy" / "test.array_record", rows)
    facts = DatasetInfo(
        "toy",
        "A toy",
        "none",
        "",
        ["audio"],
        ["dog", "cat"],
        ["a {}"],
        [],
        {"test": SplitInfo(n, [shard])},
    )
    (folder / "toy" / DATASET_JSON).write_bytes(msgspec.json.encode(facts))
    return Prepared("toy", "test")


@pytest.mark.jax
def test_a_model_s_folder_is_measured_alone_as_the_model_is(tmp_path):
    source = prepared(tmp_path / "records")
    items = EvalInputs(source, "audio", Line())
    settings = config(Asking(items), records=str(tmp_path / "records"), batch_size=8)
    encoders = {
        "audio": EncoderConfig((4, 2), patch=(2,), **SMALL),
        "text": EncoderConfig((8,), vocab_size=49408, **SMALL),
    }
    model = ImageBindConfig(encoders, embed_dim=WIDTH)
    params = parameters(model)
    single = ShardedStrategy(1, jax.devices()[:1])
    made = ModelEmbedder(settings, ImageBind(model), params, folder=tmp_path, place=single)
    settings.benchmarks[0].evaluation.measure(made)
    away = dataclasses.replace(settings, records=str(tmp_path / "gone"))
    stored = StoredEmbedder(away, tmp_path / "embeddings")
    assert settings.benchmarks[0].evaluation.measure(stored).samples == N
    np.testing.assert_allclose(stored.embed(items), made.embed(items), atol=1e-6)
    names = stored.facts(source).classes
    assert names == ["dog", "cat"]
    prompts = ["one {}", "{}! {0} {"]
    kinds = [b.classes("kinds", names, prompts) for b in (stored, made)]
    np.testing.assert_allclose(*kinds, atol=1e-6)
    assert stored.notes(source) == made.notes(source)
    assert stored.notes(source)[1] == {"id": "t1", "label": 1, "text": "it"}
    note = tmp_path / "embeddings" / "toy-test.audio.json"
    note.write_text(note.read_text().replace(f'"done": {N}', '"done": 2'))
    with pytest.raises(UserError, match="has 2 of 5 rows: run the evaluation that makes it again"):
        StoredEmbedder(away, tmp_path / "embeddings").embed(items)
    (tmp_path / "embeddings" / "toy-test.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"toy-test.jsonl cannot be read"):
        StoredEmbedder(away, tmp_path / "embeddings").notes(source)
    (tmp_path / "embeddings" / "toy.dataset.json").unlink()
    with pytest.raises(UserError, match=r"not prepared.*nor is there .*toy.dataset.json"):
        StoredEmbedder(away, tmp_path / "embeddings").facts(source)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_wanted_is_written_in_order(tmp_path):
    toy = Asking(EvalInputs(prepared(tmp_path / "records"), "audio", Line()))
    nameless = Asking(EvalInputs(Ids("bare", ids=False), "audio", Line()))
    missing = Asking(EvalInputs(Prepared("none", "test"), "audio", Line()))
    said = []
    wanted = config(
        toy, Asking(ITEMS, own=True), nameless, missing, records=str(tmp_path / "records")
    )
    found = write_embedding_requests(wanted, tmp_path / "out", said.append)
    assert found == ["toy-test.audio", "kinds.classes", "said.texts", "bare.audio"]
    out = tmp_path / "out"
    assert lines(out / "toy-test.audio.wanted.jsonl") == [{"id": f"t{i}"} for i in range(N)]
    assert lines(out / "bare.audio.wanted.jsonl") == [{"record": i} for i in range(N)]
    assert lines(out / "said.texts.wanted.jsonl") == [{"text": "first"}, {"text": "second"}]
    assert lines(out / "kinds.classes.wanted.jsonl")[-1] == {
        "name": "cat",
        "texts": ["one cat", "cat! {0} {"],
    }
    # Other classes of the same name would take their place.
    assert (
        "b2: left out: two different things are named kinds.classes: give one another name" in said
    )
    assert any(line.startswith("b1: trains an encoder of its own") for line in said)
    assert any(line.startswith("b3: left out: ") for line in said)
    with pytest.raises(UserError, match="none of the benchmarks' records are there"):
        write_embedding_requests(config(missing), tmp_path / "other", said.append)


def test_labels_are_the_records_own_whatever_the_folder_says(tmp_path):
    toy = EvalInputs(Ids(), "audio", Line())
    write_embedding_requests(config(Asking(toy)), tmp_path, lambda line: None)
    path = tmp_path / "ids.jsonl"
    assert path.is_file()  # for whoever has no records
    path.write_text("".join(json.dumps({"id": f"n{i}", "label": 1}) + "\n" for i in range(N)))
    said = tmp_path / "ids.jsonl.json"
    said.write_text(
        json.dumps(
            json.loads(said.read_text()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        )
    )
    bench = StoredEmbedder(config(Asking(toy)), tmp_path)
    assert [note["label"] for note in bench.notes(Ids())] == [0, 1, 0, 1, 0]


def test_files_of_ours_that_are_not_as_they_were_written_are_refused(tmp_path):
    encoder = EncoderConfig((4, 2), patch=(2,), **SMALL)
    model = ImageBind(ImageBindConfig({"audio": encoder}, embed_dim=WIDTH))
    params = parameters(model.config)
    ModelEmbedder(config(), model, params, folder=tmp_path).embed(ITEMS)
    folder = tmp_path / "embeddings"
    assert StoredEmbedder(config(), folder).embed(ITEMS).shape == (N, WIDTH)
    path = folder / "ids.audio.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="is not as it was written"):
        StoredEmbedder(config(), folder).embed(ITEMS)


def test_embeddings_of_one_modality_by_two_models_are_refused(tmp_path):
    encoder = EncoderConfig((4, 2), patch=(2,), **SMALL)
    model = ImageBind(ImageBindConfig({"audio": encoder}, embed_dim=WIDTH))
    first, second, third = (
        EvalInputs(Ids(name), "audio", Line()) for name in ("one", "two", "three")
    )
    made = ModelEmbedder(config(), model, parameters(model.config), folder=tmp_path)
    made.embed(first), made.embed(second)
    made.replace(parameters(model.config, seed=1))
    made.embed(third)
    stored = StoredEmbedder(config(), tmp_path / "embeddings")
    assert stored.embed(first).shape == stored.embed(second).shape == (N, WIDTH)
    with pytest.raises(UserError, match=r"three.audio.npy is of other weights than .* of audio"):
        stored.embed(third)


def test_embeddings_of_any_length_are_directions(tmp_path):
    z = np.eye(N, WIDTH) + 0.5
    for scale in (1e300, 1e-300):
        np.save(tmp_path / "ids.audio.npy", scale * z)
        found = StoredEmbedder(config(), tmp_path).embed(ITEMS)
        unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
        np.testing.assert_allclose(found, unit, rtol=1e-5)
