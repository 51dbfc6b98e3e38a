"""The configs of the paper's benchmarks, and docs/evaluation.md, say the same."""

import ast
import pathlib
import re

import pytest
from test_docs import EVALUATION, table

from imagebind_jax.config import load_config
from imagebind_jax.data import reading
from imagebind_jax.evaluation.benchmark import EvalConfig
from imagebind_jax.inputs.sources import Prepared

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
OTHERS = "eval_paper", "eval_ravdess", "eval_crema_d"  # all in one; and what it has nothing of
STEMS = sorted(path.stem for path in CONFIGS.glob("eval_*.py"))
OF_THE_PAPER = [s for s in STEMS if s not in OTHERS and not s.startswith("eval_world")]
# As the page calls an evaluation's numbers.
WORDS = {"top1": "top-1", "top5": "top-5", "mAP": "mAP", "r1": "R@1", "r5": "R@5", "r10": "R@10"}
# Whose numbers the paper quotes; all others have measured the released weights.
QUOTED = ("paper's ", "MIL-NCE", "SupportSet", "FIT", "AVFIC", "ARNLQ")
COLUMNS = ("where", "config", "records", "item", "prompts", "paper", "others", "quoted", "here")


@pytest.fixture(scope="module")
def configs():
    return {stem: load_config(CONFIGS / f"{stem}.py", EvalConfig) for stem in STEMS}


def docstring(stem):
    return ast.get_docstring(ast.parse((CONFIGS / f"{stem}.py").read_text()))


def benchmarks(configs, stems):
    return {each.name: (stem, each) for stem in stems for each in configs[stem].benchmarks}


@pytest.mark.parametrize("stem", OF_THE_PAPER)
def test_a_docstring_has_the_commands_and_what_to_know(stem, configs):
    said = docstring(stem)
    assert f"    imagebind-jax evaluate configs/{stem}.py --checkpoint " in said
    first = configs[stem].benchmarks[0]  # the others are of the same records, or baselines
    for source in first.evaluation.sources:
        assert isinstance(source, Prepared)
        command = rf"    imagebind-jax prepare {source.folder} .* --out records/{source.folder}\b"
        (line,) = re.findall(f"{command}.*", said)
        if "--splits" in line:
            assert line.split("--splits ")[1].split()[0] == source.split
    headings = re.findall(r"^(Data|Protocol|Reported|Not settled): ", said, re.M)
    assert headings == ["Data", "Protocol", "Reported", "Not settled"]
    for each in configs[stem].benchmarks:
        assert each is first or each.name in said
        for number in each.reported.get("paper", {}).values():
            assert re.search(rf"(?<![\d.]){re.escape(str(number))}(?![\d])", said), number


def test_every_benchmark_has_a_row_with_its_numbers(configs):
    rows = {
        name.strip("`"): dict(zip(COLUMNS, cells))
        for name, *cells in table(EVALUATION, "benchmark")
    }
    found = benchmarks(configs, OF_THE_PAPER)
    baselines = {name for name in found if name.endswith(("-scratch", "-masked"))}
    assert rows.keys() == found.keys() - baselines
    for name, row in rows.items():
        stem, benchmark = found[name]
        assert row["config"] == f"`{stem}`" and row["here"].startswith("not measured"), name
        (folder,) = {source.folder for source in benchmark.evaluation.sources}
        assert row["records"].startswith(f"`{folder}` "), name
        assert all(s.split in row["records"] for s in benchmark.evaluation.sources[::4]), name
        reported = dict(benchmark.reported)
        paper = said(reported.pop("paper", {}))
        assert row["paper"] == (paper or ("curves only" if "few-shot" in name else "–")), name
        quoted = {who: reported[who] for who in reported if who.startswith(QUOTED)}
        others = {who: reported[who] for who in reported if who not in quoted}
        assert row["others"] == listed(others) and row["quoted"] == listed(quoted), name


def said(numbers):
    return ", ".join(f"{WORDS[name]} {value}" for name, value in numbers.items())


def listed(reported):
    parts = [f"{who.removeprefix(QUOTED[0])}: {said(numbers)}" for who, numbers in reported.items()]
    return "; ".join(parts) or "–"


def test_the_prompts_are_those_that_the_page_says(configs):
    rows = {name.strip("`"): cells[4] for name, *cells in table(EVALUATION, "benchmark")}
    asked = {
        name: benchmark.evaluation
        for name, (_, benchmark) in benchmarks(configs, OF_THE_PAPER).items()
        if hasattr(benchmark.evaluation, "prompts")
    }
    kinetics = {name for name in asked if name.startswith("K400")}
    # All others' are their prepared folder's: CLIP's 80, by the tests of the datasets.
    assert {name for name, each in asked.items() if each.prompts} == {"K400"}
    assert asked["K400"].prompts == reading.templates() and len(reading.templates()) == 80
    for name in asked:
        wanted = "CLIP's 28" if name in kinetics - {"K400"} else "CLIP's 80"
        assert rows[name].startswith(wanted), name
    own = asked["K400-kinetics-prompts"]
    assert not own.prompts and own.name != asked["K400"].name  # or they would share vectors


def test_the_commands_are_those_of_the_page():
    rows = table(EVALUATION, "config")
    assert [row[0] for row in rows] == [f"`configs/{stem}.py`" for stem in ORDER]
    for config, command, _ in rows:
        text = docstring(pathlib.PurePath(config.strip("`")).stem)
        assert f"    {command.strip('`')}\n" in text, config


ORDER = [
    f"eval_{name}"
    for name in ("imagenet", "places365", "kinetics400", "msrvtt", "nyuv2", "sunrgbd", "audioset",
                 "vggsound", "esc50", "llvip", "ego4d", "clotho", "audiocaps", "esc50_few_shot",
                 "sunrgbd_few_shot")
]  # fmt: skip


def test_the_whole_paper_is_all_but_the_baselines(configs):
    assert sorted(ORDER) == OF_THE_PAPER
    every = list(benchmarks(configs, ORDER))
    here = [name for name in every if not name.endswith(("-scratch", "-masked"))]
    assert [benchmark.name for benchmark in configs["eval_paper"].benchmarks] == here
    trained = [name for name in every if name not in here]
    rows = [row for row in table_of_baselines() if row[0].startswith("`")]
    assert [row[0].strip("`") for row in rows] == trained


def table_of_baselines():
    _, _, rest = EVALUATION.read_text().partition("\n## 7. Baselines\n")
    lines = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_papers_settings_of_few_shot(configs):
    """Appendix of the paper: ESC AdamW 1.6e-3, 0.05, 50 epochs; SUN 1e-2, 0, 60 epochs."""
    esc, sun = (
        configs[f"eval_{name}_few_shot"].benchmarks[0].evaluation for name in ("esc50", "sunrgbd")
    )
    assert (esc.learning_rate, esc.weight_decay, esc.epochs) == (1.6e-3, 0.05, 50)
    assert (sun.learning_rate, sun.weight_decay, sun.epochs) == (1e-2, 0.0, 60)
    assert esc.shots == sun.shots == (1, 2, 4, 8)
    assert len(esc.train) == 5 and not esc.test and len(sun.train) == len(sun.test) == 1


def test_the_mixture_is_table_4s(configs):
    target = {b.name: b.evaluation.target for b in configs["eval_msrvtt"].benchmarks}
    assert target == {
        "MSR-VTT": {"vision": 1.0},
        "MSR-VTT-audio": {"audio": 1.0},
        "MSR-VTT-audio-video": {"vision": 0.95, "audio": 0.05},
    }
