"""The pages in docs/: every block of code and every command runs, in order; tables say what the code says."""

import importlib
import json
import pathlib
import re
import runpy
import shlex
import shutil

import numpy as np
import own_files
import pytest
import safetensors.numpy

import imagebind_jax
from imagebind_jax import cli
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.pipeline.batches import PairBatches
from imagebind_jax.inputs.transforms import augment
from imagebind_jax.inputs.world import World, export
from imagebind_jax.porting.torch_pickle.torch_file import TorchFile
from imagebind_jax.training import fit

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
PORTING, DATA, EVALUATION, PODS, SEARCH, SCORES = (
    ROOT / "docs" / f"{name}.md"
    for name in ("porting", "data", "evaluation", "pods", "search", "scores")
)
# ```python runs, ```bash is commands, ```python a.py (or any language and a name) is that file.
BLOCK = re.compile(r"^( *)```(\w+)(?: (\S+))?\n(.*?)^ *```$", re.M | re.S)


def run(page, capsys):
    """Runs all blocks of a page; returns how many."""
    names: dict = {}
    count = 0
    for indent, language, file, code in BLOCK.findall(page.read_text()):
        code = "".join(line.removeprefix(indent) for line in code.splitlines(True))
        count += 1
        if file:
            pathlib.Path(file).write_text(code)
        elif language == "python":
            exec(compile(code, str(page), "exec"), names)
        else:
            assert language == "bash"
            for line in code.splitlines():
                command, *arguments = shlex.split(line)
                assert command == "imagebind-jax"
                assert cli.main(arguments) == 0, capsys.readouterr().err
    return count


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A folder with small checkpoints under the names of the real downloads."""
    monkeypatch.chdir(tmp_path)
    small = GOLDEN / "imagebind"
    shutil.copy(small / "imagebind_tiny.pth", "imagebind_huge.pth")
    shutil.copy(small / "imagebind_tiny_config.json", "imagebind_huge_config.json")
    shutil.copy(GOLDEN / "clip" / "open_clip.pt", "open_clip_pytorch_model.bin")
    shutil.copy(GOLDEN / "clip" / "open_clip_config.json", "open_clip_config.json")
    return tmp_path


@pytest.mark.variants
@pytest.mark.filterwarnings("ignore:.*a vocabulary of 40")
def test_porting(downloads, capsys):
    assert run(PORTING, capsys) >= 8
    assert {
        "imagebind",
        "back.pth",
        "back.safetensors",
        "clip",
        "adapters.safetensors",
        "merged",
    } <= {path.name for path in downloads.iterdir()}


@pytest.fixture
def whole_vocabulary(downloads):
    """The small checkpoint, which has 17 words only, with all of them: the same ones over again."""
    path, embedding = "imagebind_huge.pth", "modality_preprocessors.text.token_embedding.weight"
    with TorchFile(path) as file:
        tensors = {name: np.array(values) for name, values in file.items()}
    width = tensors[embedding].shape[1]
    tensors[embedding] = np.resize(tensors[embedding], (49_408, width))
    safetensors.numpy.save_file(tensors, path)  # whose content says what it is


@pytest.mark.usefixtures("whole_vocabulary")
def test_data(capsys, monkeypatch):
    fed = []
    monkeypatch.setattr(fit, "fit", lambda config, folder, **_: fed.append(feed(config)))
    assert run(DATA, capsys) >= 12
    assert fed == [{"vision+depth", "vision+audio"}]
    said = capsys.readouterr().out
    assert "{'step': 0, 'pair': 'vision+depth', 'record': 1, 'file': '" in said
    assert re.search(r"\[(0. 1.|1. 0.)\] \(2, 64, 64, 1\)", said)  # weights, shape


@pytest.mark.usefixtures("whole_vocabulary")
def test_evaluation(capsys):
    assert run(EVALUATION, capsys) >= 8
    mine, theirs = (
        json.loads(pathlib.Path(f"runs/{name}/results.json").read_text())["benchmarks"]["mine"]
        for name in ("mine", "theirs")
    )
    assert mine["samples"] == theirs["samples"] == 3 and mine["unusable"] == 0
    assert mine["reported"] == {"somebody": {"top1": 90.0}}
    said = capsys.readouterr().out
    assert "mine.audio.wanted.jsonl {'id': '" in said
    assert "mine.classes.wanted.jsonl {'name': 'dog', 'texts': ['a dog.'" in said
    assert re.search(r"ours: theirs; theirs: \S+", said)


def feed(config):
    """The pairs of which a run gets its batches. Training on them takes a minute, and other tests do."""
    options = {"seed": config.seed, "batch_size": config.batch_size, "steps": config.steps}
    batches = PairBatches(config.pairs, config.inputs, **options)
    for step in range(config.steps):
        batch = batches[step]
        assert (batch.pop("weight") == 1).all()
        for modality, x in batch.items():
            shape = config.model.encoders[modality].shape
            assert x.shape[1:] in (shape, (1, *shape[1:])), modality
    return {batches.name(step) for step in range(config.steps)}


def table(page, heading):
    """The rows of the table whose first line begins so, as lists of cells."""
    _, _, rest = page.read_text().partition(f"\n| {heading} |")
    assert rest, heading
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_files_that_pages_name_are_there():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    named = {
        name for page in pages for name in re.findall(r"`((?:\w+/)+\w+\.py)`", page.read_text())
    }
    assert len(named) > 40
    missing = [
        n for n in named if not ((ROOT / "imagebind_jax" / n).exists() or (ROOT / n).exists())
    ]
    assert not missing


def test_every_dataset_is_in_the_table():
    told = [(name.strip("`"), *rest) for name, *rest in table(DATA, "name")]
    found = [datasets.get_dataset(name) for name in datasets.dataset_names()]
    assert [(row[0], row[1], row[3]) for row in told] == [
        (dataset.name, " ".join(dataset.modalities), dataset.licence) for dataset in found
    ]
    assert [row[4] for row in told] == [f"[README](../data/{d.name}/README.md)" for d in found]


def test_limits_are_those_of_the_code():
    rows = table(DATA, "of")
    assert len(rows) >= 10
    for _, told, constants in rows:
        for constant in re.findall(r"`(.*?)`", constants):
            module, _, name = constant.rpartition(".")
            limits = getattr(importlib.import_module(f"imagebind_jax.inputs.{module}"), name)
            for limit in limits if isinstance(limits, tuple) else (limits,):
                written = {f"{limit:,}", f"{limit >> 20} MiB", f"{limit >> 30} GiB"}
                pattern = "|".join(map(re.escape, sorted(written)))
                assert re.search(rf"(?<![\d,])({pattern})(?!,?\d)", told), (constant, limit)


def test_augmentation_is_that_of_table_9():
    rows = {name: cells for name, *cells in table(DATA, "Table 9 of the paper")}
    fields = {"horizontal flip": "flip", "colour jitter": "jitter", "random erasing": "erase"}
    for name, field in fields.items():
        sound, sun, llvip, ego4d, _ = rows[name]
        assert sound == ego4d == "–" and getattr(augment.VIDEO, field) == 0
        assert float(sun) == float(llvip) == getattr(augment.IMAGES, field)
    images = augment.IMAGES
    assert rows["RandAugment"][1] == f"{images.magnitude:g} / {images.magnitude_std:g}"


def test_links_lead_somewhere():
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text()
        anchors = {anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.M)}
        for link in re.findall(r"\]\(([^)]*)\)", text):
            path, _, part = link.partition("#")
            if path.startswith("http"):
                continue
            assert not path or (page.parent / path).exists(), link
            assert path or part in anchors or part.removesuffix("-1") in anchors, link


def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_readme_and_docs_name_each_other():
    readme = (ROOT / "README.md").read_text()
    for page in (PORTING, DATA, EVALUATION, PODS):
        assert f"docs/{page.name}" in readme


@pytest.mark.variants
def test_search(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    own_files.save(tmp_path / "demo" / "run.safetensors").rename("demo/run")  # content decides
    export.export_files(tmp_path / "demo" / "samples", World(0, 32, antialias=False), 5)
    assert run(SEARCH, capsys) == 3
    said = capsys.readouterr().out
    assert "10 embedded" in said and "30 embedded" in said  # the manifest says more of the ten
    assert len(re.findall(r"^-?\d\.\d{3} .*photos/", said, re.M)) == 5  # of the Python block
    assert "<audio" in (tmp_path / "found.html").read_text()


def test_scores(capsys):
    assert run(SCORES, capsys) == 2
    said = capsys.readouterr().out
    for shown in re.findall(r"# (\[\[.*\]\])", SCORES.read_text()):
        assert np.allclose(numbers(shown), numbers(said.splitlines().pop(0)))
        said = said.partition("\n")[2]


def numbers(text):
    return [float(each) for each in re.findall(r"[\d.]+", text)]


def test_the_reference_is_that_of_the_docstrings():
    make_api = runpy.run_path(str(ROOT / "docs" / "make_api.py"))
    made = make_api["page"]()
    assert made == (ROOT / "docs" / "api.md").read_text(), "run python docs/make_api.py"
    for name in imagebind_jax.__all__:
        if not name.startswith("__"):
            assert f"`{name}`" in made
