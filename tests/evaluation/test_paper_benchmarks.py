"""The paper's benchmarks, from a download in its official layout to numbers: the generated samples,
prepared; then embeddings with a known answer, embeddings at random, and a small model's."""

import collections
import dataclasses
import functools
import itertools
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from imagebind_jax.config import load_config
from imagebind_jax.data import reading
from imagebind_jax.demo import run as demo
from imagebind_jax.evaluation.benchmark import Embedder, EvalConfig
from imagebind_jax.evaluation.run import run_benchmarks
from imagebind_jax.evaluation.tasks import zero_shot
from imagebind_jax.inputs import world
from imagebind_jax.inputs.sources import Prepared, prepared
from imagebind_jax.inputs.transforms import text
from imagebind_jax.inputs.world.world import world_source
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import TINY, ImageBind, ImageBindConfig, embed, init
from imagebind_jax.porting.files import own_checkpoint, provenance
from imagebind_jax.porting.files.parameter_source import InMemoryParams
from imagebind_jax.prepare.run import prepare_dataset
from imagebind_jax.storage import checksummed

pytest.importorskip("av")

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
DATASETS = ("audiocaps", "audioset", "clotho", "ego4d", "esc50", "imagenet", "kinetics400",
            "llvip", "msrvtt", "nyuv2", "places365", "sunrgbd", "vggsound")  # fmt: skip
MEDIA = {"vision", "audio", "depth", "thermal", "imu"}
FEW_SHOT = {"ESC-few-shot", "SUN-D-few-shot"}
# Labels in place of the samples' own, which have too few classes, or too few of each.
LABELS = {"AS-A": ([0], [1, 2], [0, 2], [1]), **dict.fromkeys(FEW_SHOT, (0, 1, 2))}
MODEL = ImageBindConfig(
    {
        "vision": EncoderConfig((2, 224, 224, 3), patch=(2, 112, 112), width=16, depth=1, heads=2),
        "text": EncoderConfig((77,), vocab_size=49408, width=16, depth=1, heads=2),
        "audio": EncoderConfig((128, 204, 1), patch=(128, 102), width=16, depth=1, heads=2),
        "depth": EncoderConfig((224, 224, 1), patch=(112, 112), width=16, depth=1, heads=2),
        "thermal": EncoderConfig((224, 224, 1), patch=(112, 112), width=16, depth=1, heads=2),
        "imu": EncoderConfig((2000, 6), patch=(500,), width=16, depth=1, heads=2),
    },
    embed_dim=16,
)  # inputs of the released model's shapes, and little else


@pytest.fixture(scope="module")
def one_prompt():
    """Of CLIP's 80, to save time."""
    first = reading.templates()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "templates", lambda: first)
        yield


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """The folder with all samples, prepared; again with one prompt each."""
    folder = tmp_path_factory.mktemp("records")
    for name in DATASETS:
        prepare_dataset(
            name, None, folder / name, workers=1, allow_missing=1.0, say=lambda line: None
        )
        path = folder / name / "dataset.json"
        facts = checksummed.read_checksummed_json(path)
        checksummed.write_checksummed_json(path, facts | {"prompts": facts["prompts"][:1]})
    return folder


@pytest.fixture(scope="module")
def benchmarks(one_prompt):
    """{name: benchmark} of eval_paper.py; of few-shot's numbers of shots the first and the last."""
    config = load_config(CONFIGS / "eval_paper.py", EvalConfig)
    found = {benchmark.name: benchmark for benchmark in config.benchmarks}
    for name in FEW_SHOT:
        fewer = dataclasses.replace(found[name].evaluation, shots=(1, 8))
        found[name] = dataclasses.replace(found[name], evaluation=fewer)
    return found


@functools.cache
def read_notes(folder, split):
    """All fields of the records but their media."""
    found = Prepared(folder, split).open()
    records = [found[i] for i in range(len(found))]
    return [{k: v for k, v in record.items() if k not in MEDIA} for record in records]


class Planted:
    """A bench whose embeddings point at the right answer, or at random anywhere.

    Right: a class, and each item of it, is the same axis; several labels are the axes' mean.
    An item of captions is an axis of its own, and so are its captions.
    """

    resamples, folder = 20, None

    def __init__(self, folder, rng=None, copies=1, labels=None):
        """rng: at random. copies: each record is that many; labels: the i-th has the i-th of these,
        over and over."""
        self.root, self.rng, self.seed = folder, rng, 0
        self.copies, self.labels = copies, labels

    def facts(self, source):
        return prepared.read_dataset_info(self.root / source.folder)

    def records(self, source):
        return Prepared(self.root / source.folder, source.split).open()

    def notes(self, source):
        notes = read_notes(self.root / source.folder, source.split) * self.copies
        if self.labels is not None:
            pairs = zip(notes, itertools.cycle(self.labels))
            notes = [{**note, "label": label} for note, label in pairs]
        return notes

    def embed(self, items):
        notes = self.notes(items.source)
        classes = self.facts(items.source).classes
        if not classes:
            return self._rows(range(len(notes)), len(notes))
        labels = [note["label"] for note in notes]
        return self._rows(labels, len(classes))

    def texts(self, name, texts):
        dataset, _, split = name.partition("-")
        notes = self.notes(Prepared(dataset, split))
        place = {text: i for i, note in enumerate(notes) for text in note["text"]}
        return self._rows([place[text] for text in texts], len(notes))

    def classes(self, name, names, prompts):
        facts = prepared.read_dataset_info(self.root / name.partition("-")[0])
        assert [prompt.count("{}") for prompt in prompts] == [1]
        place = {each: i for i, each in enumerate(facts.classes)}
        place |= {other: place[each] for each, others in facts.names.items() for other in others}
        return self._rows([place[each] for each in names], len(facts.classes))

    def inputs(self, items):
        raise NotImplementedError

    def tell(self, what):
        pass

    def _rows(self, places, width):
        if self.rng is not None:
            z = self.rng.standard_normal((len(places), 16))
        else:
            z = np.stack([np.eye(width)[np.atleast_1d(place)].mean(axis=0) for place in places])
        return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)


def test_the_planted_bench_is_one(records):
    assert isinstance(Planted(records), Embedder)


def test_every_dataset_is_a_benchmarks(benchmarks):
    sources = [source for each in benchmarks.values() for source in each.evaluation.sources]
    assert {source.folder for source in sources} == set(DATASETS)


def names(*left_out):
    """Every benchmark of eval_paper.py, without loading it while tests are collected."""
    all_of = ("IN1K", "P365", "K400", "K400-kinetics-prompts", "MSR-VTT", "MSR-VTT-audio",
              "MSR-VTT-audio-video", "NYU-D", "SUN-D", "SUN-D-omnivore", "AS-A", "VGGS", "ESC",
              "ESC-fold1", "LLVIP", "Ego4D", "Clotho", "AudioCaps", *sorted(FEW_SHOT))  # fmt: skip
    return [name for name in all_of if name not in left_out]


def test_the_benchmarks_are_those(benchmarks):
    assert sorted(benchmarks) == sorted(names())


@pytest.mark.parametrize("name", names())
def test_a_planted_answer_is_found_by_every_number(name, benchmarks, records):
    # To learn from, there must be some of each class.
    bench = (
        Planted(records, copies=12, labels=LABELS[name]) if name in FEW_SHOT else Planted(records)
    )
    measured = benchmarks[name].evaluation.measure(bench)
    assert measured.unusable == 0 < measured.samples
    for number, estimate in measured.numbers.items():
        # 1 is all of a share, and the first rank.
        assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0), number
    reported = benchmarks[name].reported.values()
    assert {number for said in reported for number in said} <= measured.numbers.keys()
    assert {"top1", "mAP", "r1", "shot1"} & measured.chance.keys()


@pytest.mark.parametrize("name", names())
def test_embeddings_at_random_score_chance(name, benchmarks, records):
    draws = 4 if name in FEW_SHOT else 40
    found, samples, chances = collections.defaultdict(list), 1, {}
    for draw in range(draws):
        # As many copies as make a rank among them mean something.
        rng = np.random.default_rng(draw)
        bench = Planted(records, rng, copies=8, labels=LABELS.get(name))
        bench.resamples = 0
        measured = benchmarks[name].evaluation.measure(bench)
        for number, estimate in measured.numbers.items():
            found[number].append(estimate.value)
        samples, chances = measured.samples, measured.chance
    for number, chance in chances.items():
        values = np.array(found[number])
        # Rare hits are Poisson's: forty draws may have none.
        least = math.sqrt(chance / (draws * samples))
        error = max(values.std(ddof=1) / math.sqrt(draws), least)
        assert abs(values.mean() - chance) <= 4 * error, (number, values.mean(), chance)


def knows_nothing(config, path):
    """Writes a folder of weights at random; returns them."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    made = InMemoryParams(config, params)
    own_checkpoint.write_checkpoint(
        path,
        made,
        lambda digests: provenance.WeightsMetadata(config, {"licence": ""}, dict(digests)),
    )
    return params


@pytest.mark.usefixtures("one_prompt")
def test_all_of_the_paper_in_one_run(records, tmp_path):
    knows_nothing(MODEL, tmp_path / "tiny")
    config = load_config(
        CONFIGS / "eval_paper.py",
        EvalConfig,
        ["--records", str(records), "--resamples", "20", "--unusable", "0"],
    )
    run_benchmarks(
        config, checkpoint=tmp_path / "tiny", out=tmp_path / "out", say=lambda line: None
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["missing"] == {}
    assert list(results["benchmarks"]) == [benchmark.name for benchmark in config.benchmarks]
    for benchmark in config.benchmarks:
        entry = results["benchmarks"][benchmark.name]
        assert entry["samples"] > entry["unusable"] == 0
        for number, estimate in entry["numbers"].items():
            assert estimate["value"] is not None, (benchmark.name, number)
            assert not estimate["share"] or 0 <= estimate["low"] <= estimate["high"] <= 1
        for who, numbers in benchmark.reported.items():
            assert entry["reported"][who] == numbers


@pytest.mark.variants
def test_the_world_is_measured_as_the_demo_does(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TEST", 16)
    monkeypatch.setattr(demo, "PROBE", 16)
    params = knows_nothing(TINY, tmp_path / "w")
    config = load_config(CONFIGS / "eval_world.py", EvalConfig, ["--resamples", "0"])
    some = ("audio-material", "audio-few-shot")
    found = run_benchmarks(
        config,
        checkpoint=tmp_path / "w",
        out=tmp_path / "out",
        only=some,
        say=lambda line: None,
    )
    assert not found.missing and set(found.benchmarks) == set(some)

    def embedded(modality, inputs):
        return np.asarray(embed(ImageBind(TINY), params, {modality: inputs})[modality])

    records = world_source(demo.demo_world(0), "test", 16).open()
    records = [records[i] for i in range(16)]
    heard = np.stack([demo.INPUTS["audio"](record, None) for record in records])
    classes = zero_shot.zero_shot_weights(
        lambda texts: embedded("text", text.tokenize(texts, TINY.encoders["text"].shape[0])),
        world.CLASS_NAMES["material"],
        world.PROMPTS["material"],
    )
    labels = np.array([record["labels"]["material"] for record in records])
    right = zero_shot.top1(embedded("audio", heard), classes, labels)
    assert found.benchmarks["audio-material"].numbers["top1"].value == pytest.approx(right)
    # Every attribute of every modality that the demo is asked for; and what else is in the config.
    names = {each.name: each.evaluation for each in config.benchmarks}
    assert {f"{m}-{task}" for m, tasks in world.TASKS.items() for task in tasks} <= names.keys()
    bench = AtRandom()
    assert set(names["text-to-depth"].measure(bench).numbers) > {"r1", "back_r1"}
    assert names["clip-plus-sound"].measure(bench).samples > 0


class AtRandom:
    """A bench of the world's records, whose embeddings are anywhere."""

    resamples, seed, folder = 0, 0, None
    facts = records = inputs = classes = tell = staticmethod(lambda *asked: None)

    def notes(self, source):
        found = source.open()
        records = [found[i] for i in range(len(found))]
        return [{k: v for k, v in record.items() if k not in MEDIA} for record in records]

    def embed(self, items):
        return self.texts(items.name, self.notes(items.source))

    def texts(self, name, texts):
        return np.random.default_rng(len(name)).normal(size=(len(texts), 8)).astype(np.float32)
