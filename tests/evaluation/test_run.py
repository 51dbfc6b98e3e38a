"""`imagebind-jax evaluate`: what it measures, what it does not measure again, and what it says."""

import dataclasses
import html.parser
import json
import re

import jax
import numpy as np
import pytest

from imagebind_jax import cli
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import open_embedder, requirements
from imagebind_jax.evaluation import run as evaluate
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, EvalInputs, EvalResult
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.inputs.sources import Manifest, Prepared
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig, init
from imagebind_jax.porting.files import own_checkpoint, provenance
from imagebind_jax.porting.files.parameter_source import InMemoryParams
from imagebind_jax.storage import lock

pytestmark = pytest.mark.jax


@dataclasses.dataclass(frozen=True)
class Toy:
    """Records with a label, and a small IMU trace that follows it."""

    name: str = "toy"
    count: int = 40

    def open(self):
        rng = np.random.default_rng(0)
        return [
            {"id": i, "label": i % 2, "x": rng.normal(i % 2, 1, (8, 6)).astype(np.float32)}
            for i in range(self.count)
        ]


@dataclasses.dataclass(frozen=True)
class X:
    def __call__(self, record, rng):
        return record["x"]


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Whether a record is nearer to its class than to the other."""

    source: object
    modality: str = "imu"
    broken: str = ""

    @property
    def sources(self):
        return (self.source,)

    @property
    def modalities(self):
        return frozenset({self.modality, "text"})

    def measure(self, bench):
        if self.broken:
            raise UserError(self.broken)
        z = bench.embed(EvalInputs(self.source, self.modality, X()))
        classes = bench.classes("toy", ("zero", "one"), ("{}",))
        labels = [note["label"] for note in bench.notes(self.source)]
        right = (np.argmax(z @ classes.T, axis=-1) == labels).astype(np.float64)
        top1 = bootstrap.bootstrap_mean(right, resamples=bench.resamples, seed=bench.seed)
        return EvalResult({"top1": top1}, len(right), chance={"top1": 0.5})


class Planted:
    """A bench that knows the answer but for the records in `wrong`."""

    def __init__(self, config, wrong=(3, 7)):
        self.resamples, self.seed, self.folder, self.wrong = (
            config.resamples,
            config.seed,
            None,
            wrong,
        )
        self.asked = []

    def facts(self, source):
        return None

    def records(self, source):
        return source.open()

    def notes(self, source):
        return [{"label": record["label"]} for record in source.open()]

    def embed(self, items):
        self.asked.append(items.source.name)
        labels = np.array([record["label"] for record in items.source.open()])
        labels[[row for row in self.wrong if row < len(labels)]] ^= 1
        return np.eye(2, dtype=np.float32)[labels]

    def inputs(self, items):
        raise AssertionError("nobody asks for inputs")

    def texts(self, name, texts):
        raise AssertionError("nobody asks for texts")

    def classes(self, name, names, prompts):
        return np.eye(2, dtype=np.float32)

    def tell(self, what):
        pass


def benchmark(name="A", source=None, reported=None, **how):
    return Benchmark(name, Nearest(source or Toy(name.lower()), **how), reported or {})


def config(*benchmarks, **how):
    return EvalConfig(benchmarks or (benchmark("A"), benchmark("B")), **{"resamples": 50, **how})


@pytest.fixture
def planted(monkeypatch):
    """Stands in for a checkpoint: `planted.towers`, `planted.wrong`; what was measured."""

    class Stand:
        towers = {"imu": "i1", "text": "t1"}
        wrong = (3, 7)
        needed, known = set(), set()
        bench = None

        def model(self, path, config, needed, known, folder, tell):
            self.needed, self.known = needed, known
            self.bench = Planted(config, self.wrong)
            return self.bench, dict(self.towers)

        @property
        def measured(self):
            return self.bench.asked

    stand = Stand()
    monkeypatch.setattr(
        open_embedder, "checkpoint_modalities", lambda path, config: list(stand.towers)
    )
    monkeypatch.setattr(open_embedder, "open_model", stand.model)
    return stand


@pytest.fixture
def run(tmp_path, planted):
    """Runs into tmp_path/out; returns (results, what was said)."""

    def run(config, out="out", **how):
        said = []
        found = evaluate.run_benchmarks(
            config, checkpoint=tmp_path / "weights", out=tmp_path / out, say=said.append, **how
        )
        return found, "\n".join(said)

    return run


# ---- what comes out


def test_numbers_files_and_lines(run, planted, tmp_path):
    paper = {"paper": {"top1": 90.0}, "others": {"top1": 50.0}}
    found, said = run(config(benchmark("A", reported=paper), benchmark("B")))
    assert planted.measured == ["a", "b"]
    assert found.benchmarks["A"].numbers["top1"].value == 0.95
    assert found.checkpoint.path == "weights" and found.checkpoint.digests == planted.towers
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "results.html", "results.json", "results.md", "samples",
    ]  # fmt: skip
    plain = json.loads((tmp_path / "out" / "results.json").read_text())
    assert plain["config"] == {
        "records": "records", "resamples": 50, "seed": 0, "unusable": 0.01, "batch_size": 64,
        "dtype": "float32", "fsdp": 1, "threads": 2, "workers": 0, "patience": 60.0,
    }  # fmt: skip
    assert re.search(r"^A: top1 95\.0 \(.* to .*\), paper 90\.0, difference \+5\.0$", said, re.M)
    assert re.search(r"^A +top1 +95\.0 .* 90\.0 +\+5\.0", said, re.M)
    assert "others 50.0" in (tmp_path / "out" / "results.md").read_text()
    html.parser.HTMLParser().feed((tmp_path / "out" / "results.html").read_text())


def test_only_what_is_asked_for_is_measured(run, planted):
    found, _ = run(config(), only=("B",))
    assert planted.measured == ["b"] and list(found.benchmarks) == ["B"]
    with pytest.raises(UserError, match="--only: no benchmark 'Bb' in the config: did you mean B"):
        run(config(), only=("Bb",))


# ---- going on


def test_a_second_run_measures_nothing(run, planted, tmp_path):
    first, _ = run(config())
    before = (tmp_path / "out" / "results.json").read_text()
    again, said = run(config(batch_size=8, threads=1))
    assert planted.measured == []
    assert said.count("(measured before)") == 2
    assert again.benchmarks == first.benchmarks
    run(config())
    assert (tmp_path / "out" / "results.json").read_text() == before


@pytest.mark.parametrize(
    ("how", "measured"),
    [
        ({"seed": 1}, ["a", "b"]),
        ({"resamples": 60}, ["a", "b"]),
        ({"benchmarks": (benchmark("A", Toy("a", 42)), benchmark("B"))}, ["a"]),
        ({"benchmarks": (benchmark("A", reported={"paper": {"top1": 1.0}}), benchmark("B"))}, []),
    ],
)
def test_what_changed_is_measured_again(how, measured, run, planted):
    run(config())
    found, said = run(dataclasses.replace(config(), **how))
    assert planted.measured == measured
    if not measured:  # what others report is no part of the measurement
        assert "paper 1.0" in said and found.benchmarks["A"].reported["paper"]["top1"] == 1.0


def test_other_weights_are_measured_again_and_never_mixed(run, planted):
    run(config())
    planted.towers = {"imu": "i2", "text": "t1"}
    planted.wrong = ()
    found, said = run(config(), only=("A",))
    assert planted.measured == ["a"] and planted.known == {"imu", "text"}
    assert list(found.benchmarks) == ["A"] and found.benchmarks["A"].numbers["top1"].value == 1
    assert "B: left out, measured earlier with other weights" in said


def test_what_was_not_asked_for_stays(run, planted):
    run(config(), only=("B",))
    found, _ = run(config(), only=("A",))
    assert planted.measured == ["a"] and list(found.benchmarks) == ["A", "B"]


def test_what_is_done_is_committed_before_the_next(run, planted, tmp_path, monkeypatch):
    def killed(self, items):
        if items.source.name == "b":
            raise KeyboardInterrupt
        return embed(self, items)

    embed = Planted.embed
    with monkeypatch.context() as patch:
        patch.setattr(Planted, "embed", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config())
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"]) == ["A"]
    found, _ = run(config())
    assert planted.measured == ["b"] and list(found.benchmarks) == ["A", "B"]


def test_one_that_cannot_be_measured_does_not_stop_the_others(run, planted, tmp_path):
    with pytest.raises(UserError, match=r"A could not be measured: too few records"):
        run(config(benchmark("A", broken="too few records"), benchmark("B")))
    plain = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(plain["benchmarks"]) == ["B"] and plain["missing"] == {"A": "too few records"}
    assert "too few records" in (tmp_path / "out" / "results.html").read_text()


def test_one_run_at_a_time(run, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        lock.file_lock(tmp_path / "out" / ".lock"),
        pytest.raises(UserError, match="another process is evaluating"),
    ):
        run(config())


def test_results_that_are_damaged_are_set_aside(run, planted, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{")
    found, said = run(config())
    assert planted.measured == ["a", "b"] and list(found.benchmarks) == ["A", "B"]
    assert (tmp_path / "out" / "results.json.damaged").read_text() == "{"
    assert "set aside as results.json.damaged" in said


def test_a_number_that_was_changed_is_measured_again(run, planted, tmp_path):
    before, _ = run(config())
    path = tmp_path / "out" / "results.json"
    plain = json.loads(path.read_text())
    plain["benchmarks"]["A"]["numbers"]["top1"]["value"] = 0.99
    path.write_text(json.dumps(plain))
    found, _ = run(config())
    assert planted.measured == ["a"]
    assert found.benchmarks["A"].numbers == before.benchmarks["A"].numbers


# ---- what is missing


def prepared(folder, *splits):
    folder.mkdir(parents=True, exist_ok=True)
    facts = {key: "" for key in ("name", "title", "licence", "homepage")}
    facts |= {key: [] for key in ("modalities", "classes", "prompts", "notes")}
    split = {"count": 0, "shards": []}
    (folder / "dataset.json").write_text(
        json.dumps(facts | {"splits": dict.fromkeys(splits, split)})
    )


def test_missing_data_is_named_with_the_remedy(run, planted, tmp_path):
    records = tmp_path / "records"
    prepared(records / "clotho", "development")
    (records / "llvip").mkdir()
    (records / "llvip" / "dataset.json").write_text("{")
    found, said = run(
        config(
            benchmark("ESC", Prepared("esc50", "fold1")),
            benchmark("Clotho", Prepared("clotho", "evaluation")),
            benchmark("Own", Prepared("own")),
            benchmark("LLVIP", Prepared("llvip")),
            benchmark("Depth", modality="depth"),
            benchmark("A"),
            records=str(records),
        )
    )
    assert list(found.benchmarks) == ["A"] and planted.measured == ["a"]
    remedy = "`imagebind-jax prepare {} --source DOWNLOAD --out {} --splits {}`"
    missing = found.missing
    assert missing["ESC"] == (
        f"no records in {records}/esc50: {remedy.format('esc50', records / 'esc50', 'fold1')}"
    )
    assert missing["Clotho"] == (
        f"no split 'evaluation' in {records}/clotho, only development: "
        f"{remedy.format('clotho', records / 'clotho', 'evaluation')}"
    )
    assert "prepare DATASET" in missing["Own"]
    assert "prepare it again" in missing["LLVIP"]
    assert missing["Depth"] == "no depth encoder in weights: only imu, text"
    assert "missing Depth: no depth encoder in weights" in said


def test_where_nothing_can_be_run_the_first_remedy_is_the_error(run, tmp_path):
    with pytest.raises(
        UserError, match=r"no benchmark can be run: ESC: no records in .*esc50: `imag"
    ):
        run(config(benchmark("ESC", Prepared("esc50", "fold1")), benchmark("D", modality="depth")))
    assert not (tmp_path / "out").exists()


def test_the_records_are_part_of_what_was_measured(run, planted, tmp_path, monkeypatch):
    prepared(tmp_path / "records" / "toy", "train")
    monkeypatch.setattr(Planted, "notes", lambda self, source: [{"label": 0}] * 4)
    monkeypatch.setattr(
        Planted,
        "embed",
        lambda self, items: self.asked.append("toy") or np.eye(2, dtype=np.float32)[[0, 0, 1, 0]],
    )
    settings = config(benchmark("Toy", Prepared("toy")), records=str(tmp_path / "records"))
    run(settings)
    run(settings)
    assert planted.measured == []
    path = tmp_path / "records" / "toy" / "dataset.json"
    path.write_text(path.read_text().replace('"prompts": []', '"prompts": ["a {}."]'))
    run(settings)
    assert planted.measured == ["toy"]


# ---- comparing


def test_a_run_beside_another(run, planted, tmp_path):
    planted.wrong = (0, 1, 2, 3, 4, 5, 6, 7)
    run(config(), out="worse")
    planted.wrong, planted.towers = (3, 7), {"imu": "i2", "text": "t1"}
    _, said = run(config(benchmark("A"), benchmark("C")), compare=tmp_path / "worse")
    line = next(line for line in said.splitlines() if "+15.0" in line)
    assert re.search(r"A +top1 +95\.0 +80\.0 +\+15\.0 +\(\+[\d.]+ to \+[\d.]+\)", line)
    assert "note: C: only weights has it" in said and "note: B: only weights has it" in said
    for name in ("results.md", "results.html"):
        assert "+15.0" in (tmp_path / "out" / name).read_text()


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written(name, run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --out"):
        run(config(), out=name)


def test_a_comparison_that_cannot_be_read_is_told_first(run, tmp_path):
    with pytest.raises(UserError, match="is not there"):
        run(config(), compare=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


# ---- the command

CONFIG = """
from tests_evaluate_toy import benchmark, config

def get_config():
    return config(benchmark("A"), benchmark("B"))
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A config file in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tests_evaluate_toy", __import__(__name__))
    (tmp_path / "eval_toy.py").write_text(CONFIG)
    return "eval_toy.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "evaluate needs a config"),
        (["nowhere.py", "--checkpoint", "w"], "no config file nowhere.py"),
        (["eval_toy.py"], "needs one of --checkpoint CKPT, --embeddings DIR, --wanted DIR"),
        (["eval_toy.py", "--checkpoint", "w", "--wanted", "x"], "takes one of --checkpoint"),
        (["eval_toy.py", "--checkpoint", "w"], "error: w: "),
        (["eval_toy.py", "--embeddings", "w"], "no folder w of embeddings"),
        (["eval_toy.py", "--checkpoint", "w", "--only", "Aa"], "did you mean A?"),
        (["eval_toy.py", "--checkpoint", "w", "--seeds", "3"], "--seed"),
        (["eval_toy.py", "--checkpoint", "w", "--batch-size", "0"], "batch_size must be at"),
        (["eval_toy.py", "--checkpoint", "w", "--compare", "x"], "x is not there"),
        (["eval_toy.py", "--checkpoint", "w", "--out"], "--out: expected one argument"),
    ],
)
def test_a_command_that_cannot_be_understood(arguments, words, mistake, file, tmp_path):
    assert words in mistake("evaluate", *arguments)
    left = {path.name for path in tmp_path.iterdir()} - {"cache", "__pycache__"}  # of programs
    assert left == {file}


def test_help_shows_the_command_and_all_fields(file, capsys):
    assert cli.main(["evaluate", "--help"]) == 0
    assert "--embeddings DIR" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", file, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in ("resamples", "seed", "records", "batch-size"))


def test_stopping_says_how_it_goes_on(file, planted, monkeypatch, capsys):
    def stopped(self, items):
        raise KeyboardInterrupt

    left = []
    monkeypatch.setattr(Planted, "embed", stopped)
    monkeypatch.setattr("os._exit", left.append)
    assert cli.main(["evaluate", file, "--checkpoint", "w"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("stopped; the same command goes on")
    assert left == [1]


MODEL = ImageBindConfig(
    {
        "text": EncoderConfig((8,), vocab_size=49408, width=8, depth=1, heads=1),
        "imu": EncoderConfig((8, 6), patch=(8,), width=8, depth=1, heads=1),
        "depth": EncoderConfig((8, 8, 1), patch=(8, 8), width=8, depth=1, heads=1),
    },
    embed_dim=8,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with a small model that knows nothing."""
    path = tmp_path_factory.mktemp("weights") / "tiny"
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(lambda: init(MODEL, jax.random.key(0))),
    )
    own_checkpoint.write_checkpoint(
        path,
        InMemoryParams(MODEL, params),
        lambda d: provenance.WeightsMetadata(MODEL, {"licence": ""}, dict(d)),
    )
    return path


def test_from_weights_to_numbers_and_from_files_to_the_same(weights, file, tmp_path, capsys):
    """A small model; then its own embeddings, as if they were another system's."""
    command = ["evaluate", file, "--only", "A", "--batch-size", "8"]
    assert cli.main([*command, "--checkpoint", str(weights)]) == 0
    out = tmp_path / "runs" / f"eval_toy-{weights.parent.name}-tiny"
    plain = json.loads((out / "results.json").read_text())
    assert plain["checkpoint"]["path"] == "tiny"
    assert plain["checkpoint"]["digests"].keys() == {"imu", "text"}  # and not depth
    capsys.readouterr()
    files = ["--embeddings", str(out / "embeddings"), "--out", "other", "--compare", str(out)]
    assert cli.main([*command, *files]) == 0
    other = json.loads((tmp_path / "other" / "results.json").read_text())
    assert other["embeddings"] == "embeddings" and other["checkpoint"] is None
    assert other["benchmarks"]["A"]["numbers"] == plain["benchmarks"]["A"]["numbers"]
    assert re.search(r"A +top1 .* 0\.0 +\(0\.0 to 0\.0\)", capsys.readouterr().out)
    assert cli.main(["evaluate", file, "--wanted", "want", "--only", "A"]) == 0
    assert len((tmp_path / "want" / "toy.classes.wanted.jsonl").read_text().splitlines()) == 2


@dataclasses.dataclass(frozen=True)
class Own:
    """What needs no encoder of a checkpoint: the mean of its inputs tells the label."""

    source: object
    sources = property(lambda self: (self.source,))
    modalities = frozenset()

    def measure(self, bench):
        x, usable = bench.inputs(EvalInputs(self.source, "imu", X()))
        labels = np.array([note["label"] for note in bench.notes(self.source)])
        right = (x.mean(axis=(1, 2)) > 0.5) == labels
        assert usable.all()
        return EvalResult(
            {"top1": bootstrap.bootstrap_mean(right.astype(float), resamples=0)}, len(right)
        )


def test_what_trains_encoders_of_its_own_needs_no_weights(tmp_path):
    both = config(benchmark("A"), Benchmark("own", Own(Toy())))
    found = evaluate.run_benchmarks(both, out=tmp_path / "out", say=lambda line: None)
    assert list(found.benchmarks) == ["own"] and found.benchmarks["own"].numbers["top1"].value > 0.9
    assert "--checkpoint" in found.missing["A"]
    assert (found.checkpoint, found.embeddings, found.of) == (None, None, "no weights")
    with pytest.raises(UserError, match="no benchmark can be run: A: it needs one of --checkpoint"):
        evaluate.run_benchmarks(both, out=tmp_path / "out", only=("A",), say=lambda line: None)


# ---- what must not be taken for something else


def test_numbers_stay_while_their_records_are_not_there(run, planted, tmp_path):
    (tmp_path / "a.csv").write_text("id,text,label\n1,x,0\n2,y,1\n")
    both = config(benchmark("A", Manifest(tmp_path / "a.csv")), benchmark("B"))
    planted_notes = Planted.embed
    Planted.embed = lambda self, items: (
        np.eye(2, dtype=np.float32) if "a" in items.name else planted_notes(self, items)
    )
    try:
        before, _ = run(both)
    finally:
        Planted.embed = planted_notes
    (tmp_path / "a.csv").rename(tmp_path / "away.csv")
    for only in ((), ("B",)):
        found, said = run(both, only=only)
        assert found.benchmarks == before.benchmarks and not found.missing
        assert "A: its records are not there now, its numbers stay" in said
    other, said = run(dataclasses.replace(both, seed=1))
    assert list(other.benchmarks) == ["B"] and "no such file" in other.missing["A"].lower()


def test_two_sources_of_one_name_are_refused(run, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.csv").write_text("id,text,label\n1,x,0\n")
    two = [benchmark(name, Manifest(tmp_path / name.lower() / "data.csv")) for name in "AB"]
    with pytest.raises(UserError, match="two sources are named data"):
        run(config(*two))


def test_another_transform_of_the_same_name_is_measured_again(tmp_path, monkeypatch):
    """A config's own classes are known by the file that they are in."""
    text = (
        "import dataclasses\nimport numpy as np\n\n@dataclasses.dataclass(frozen=True)\n"
        "class Mine:\n    def __call__(self, record, rng):\n        return np.zeros(1)\n"
    )
    (tmp_path / "mine_transform.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import mine_transform

    def key():
        items = EvalInputs(Toy(), "imu", mine_transform.Mine())
        made = requirements.provenance_of(Benchmark("a", Asked((items,))), config(), {})
        return made.key

    first = key()
    (tmp_path / "mine_transform.py").write_text(text.replace("zeros", "ones"))
    assert key() != first
    (tmp_path / "mine_transform.py").write_text(text)
    assert key() == first


@dataclasses.dataclass(frozen=True)
class Asked:
    items: tuple
    sources = property(lambda self: tuple(each.source for each in self.items))
    modalities = frozenset()

    def measure(self, bench):
        raise NotImplementedError
