"""Results on disk and on paper: strict JSON, untrusted when read, escaped when shown."""

import dataclasses
import html.parser
import json
import math
import re
import zipfile

import msgspec
import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import comparison as run_comparison
from imagebind_jax.evaluation import report_html, results, tables
from imagebind_jax.evaluation.benchmark import Benchmark, EvalResult
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.results import CheckpointInfo, Provenance, ResultsFile
from imagebind_jax.reports import formatting

ATTACK = '<script>alert("1")</script> | & `x` [a](b) \x1b[2J\nnext'
RIGHT = np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 1, 1])
MADE_OF = Provenance("1", {"evaluation": "Toy"}, {"toy": "a1"}, {"audio": "f0"})


@dataclasses.dataclass(frozen=True)
class Toy:
    sources: tuple = ()
    modalities: frozenset = frozenset()

    def measure(self, bench):
        raise AssertionError("nothing is measured here")


def measured(right=RIGHT, groups=None, **more):
    top1 = bootstrap.bootstrap_mean(right, groups=groups, resamples=200)
    rank = Estimate(3.0, 2.0, 4.0, 10, share=False)
    odd = Estimate(math.nan, math.nan, math.nan, 0, spread=math.inf)
    return EvalResult(
        {"top1": top1, "median_rank": rank, "odd": odd}, 11, 1, {"top1": 0.02}, (ATTACK,), **more
    )


def made(folder, found=None, *, name="ESC", path="ours", made_of=MADE_OF):
    """A results.json with one benchmark in `folder`."""
    found = found or measured()
    reported = {"paper": {"top1": 66.9}, "FreeBind": {"top1": 67.25}, ATTACK: {"median_rank": 2.0}}
    entry = results.make_result(Benchmark(name, Toy(), reported), found, made_of, 1.25)
    whole = ResultsFile(
        results.FORMAT,
        {name: entry},
        CheckpointInfo(path, {"audio": "f0"}),
        missing={"Clotho": f"no records in {ATTACK}"},
        config={"seed": 0, "dtype": "float32"},
        versions={"jax": "1.2.3"},
        device="cpu x 1",
    )
    folder.mkdir(exist_ok=True)
    results.write_samples(folder, name, entry.key, found)
    results.write_results(folder, whole)
    return whole


def strict(text):
    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refused)


# ---- results.json


def test_what_is_written_is_strict_json_and_read_again(tmp_path):
    whole = made(tmp_path)
    text = (tmp_path / "results.json").read_text()
    plain = strict(text)
    assert plain["format"] == 1
    assert plain["benchmarks"]["ESC"]["numbers"]["odd"] == {
        "value": None, "low": None, "high": None, "n": 0, "share": True, "spread": None,
    }  # fmt: skip
    assert plain["benchmarks"]["ESC"]["numbers"]["top1"]["value"] == pytest.approx(0.7)
    assert (
        results.read_results(tmp_path) == results.read_results(tmp_path / "results.json") == whole
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "samples"]


def test_the_key_tells_everything_apart_and_nothing_else():
    keys = {MADE_OF.key, dataclasses_replaced(version="2").key}
    keys |= {
        dataclasses_replaced(**{part: {"a": "b"}}).key for part in ("settings", "records", "towers")
    }
    assert len(keys) == 5
    turned = (
        dataclasses_replaced(settings={"b": 1, "a": 2}),
        dataclasses_replaced(settings={"a": 2, "b": 1}),
    )
    assert turned[0].key == turned[1].key


def dataclasses_replaced(**changes):
    return msgspec.structs.replace(MADE_OF, **changes)


def damaged(change):
    def apply(text):
        plain = json.loads(text)
        change(plain)
        return json.dumps(plain)

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "is no results.json"),
        (lambda text: "[" * 100_000, "is no results.json"),
        (lambda text: "[]", "Expected `object`"),
        (lambda text: text.replace('"value"', '"valeu"', 1), "missing required field `value`"),
        (damaged(lambda p: p.update(format=99)), "format 99, where this version reads 1"),
        (damaged(lambda p: p.update(benchmarks={"../x": p["benchmarks"]["ESC"]})), "'../x'"),
        (damaged(lambda p: p["benchmarks"]["ESC"].update(numbers={})), "without numbers"),
        (damaged(lambda p: p["benchmarks"]["ESC"].update(samples="all")), "samples"),
    ],
)
def test_a_file_that_is_no_results(change, words, tmp_path):
    made(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=re.escape(words)) as error:
        results.read_results(path)
    assert str(path) in str(error.value)


def test_results_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no results of `imagebind-jax evaluate`"):
        results.read_results(tmp_path)


# ---- samples


def test_samples_come_back_with_their_groups(tmp_path):
    groups = np.arange(10) // 2
    whole = made(tmp_path, measured(groups=groups))
    found = results.load_estimates(tmp_path, "ESC", whole.benchmarks["ESC"])
    np.testing.assert_array_equal(found["top1"].samples, RIGHT)
    np.testing.assert_array_equal(found["top1"].groups, groups)
    assert found["top1"].strata is None
    assert found["median_rank"].samples is None and not found["median_rank"].share
    assert math.isnan(found["odd"].value)


def test_samples_of_another_measurement_or_damaged_ones_do_not_count(tmp_path):
    whole = made(tmp_path)
    entry, path = whole.benchmarks["ESC"], tmp_path / "samples" / "ESC.npz"

    def kept(entry=entry):
        return results.load_estimates(tmp_path, "ESC", entry)["top1"].samples is not None

    good = path.read_bytes()
    assert kept()
    assert not kept(msgspec.structs.replace(entry, key="other"))
    path.write_bytes(good[:100])
    assert not kept()
    middle = len(good) // 3
    path.write_bytes(
        good[:middle]
        + bytes(byte ^ 255 for byte in good[middle : middle + 40])
        + good[middle + 40 :]
    )
    assert not kept()
    with zipfile.ZipFile(path, "w") as packed:  # an array that claims more than there is
        packed.writestr(
            "top1.samples.npy",
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }".ljust(117)
            + b"\n",
        )
    assert not kept()
    path.unlink()
    assert not kept()


# ---- comparing


def compared(tmp_path, ours, theirs, **options):
    mine = made(tmp_path / "ours", ours)
    made(tmp_path / "theirs", theirs, path="theirs", **options)
    return run_comparison.compare_runs(
        mine, tmp_path / "ours", tmp_path / "theirs", names=["ESC"], resamples=300, seed=0
    )


def test_the_same_samples_are_compared_in_pairs(tmp_path):
    better = RIGHT.copy()
    better[1] = 1  # and nowhere worse
    found = compared(tmp_path, measured(better), measured())
    row = found.rows[0]
    assert (row.benchmark, row.number) == ("ESC", "top1")
    assert row.difference == pytest.approx(0.1)
    # A pair that never gets worse: narrower than what both numbers' intervals would allow.
    assert row.low == 0 and row.high == pytest.approx(0.3, abs=0.11)
    assert not found.warnings
    assert found.rows[1].low is None  # a rank is not a mean
    lines = "\n".join(tables.format_comparison(dataclasses.asdict(found)))
    assert "+10.0" in lines and "(0.0 to +" in lines and "not paired" in lines


def test_a_pair_is_of_the_samples_that_both_have(tmp_path):
    """Whoever leaves out what is hard is not better at the rest."""
    fewer = RIGHT.astype(float)
    fewer[RIGHT == 0] = np.nan
    row = compared(tmp_path, measured(), measured(fewer)).rows[0]
    assert (row.theirs, row.ours) == (1.0, pytest.approx(float(RIGHT.mean())))
    assert row.difference == row.low == row.high == 0


@pytest.mark.parametrize(
    ("theirs", "options", "warning"),
    [
        (measured(RIGHT[:8]), {}, None),
        (measured(groups=np.arange(10) // 2), {}, None),
        (
            measured(),
            {"made_of": msgspec.structs.replace(MADE_OF, records={"toy": "b2"})},
            "ESC: other records: toy",
        ),
    ],
)
def test_other_samples_are_not_paired(theirs, options, warning, tmp_path):
    found = compared(tmp_path, measured(), theirs, **options)
    assert found.rows[0].low is None and found.rows[0].high is None
    assert found.rows[0].difference == pytest.approx(RIGHT.mean() - theirs.numbers["top1"].value)
    assert list(found.warnings) == ([warning] if warning else [])


def test_what_differs_beside_the_weights_is_said(tmp_path):
    other = msgspec.structs.replace(
        MADE_OF,
        settings={"evaluation": "Toy", "evaluation.source.folder": "/elsewhere", "seed": 3},
        towers={"audio": "99"},
    )
    found = compared(tmp_path, measured(), measured(), made_of=other)
    assert found.warnings == ("ESC: other settings: seed",)


def test_benchmarks_that_one_lacks_are_named(tmp_path):
    mine = made(tmp_path / "ours")
    made(tmp_path / "theirs", name="Clotho", path="theirs")
    found = run_comparison.compare_runs(
        mine, tmp_path / "ours", tmp_path / "theirs", names=["ESC"], resamples=10, seed=0
    )
    assert not found.rows
    assert found.warnings == ("ESC: only ours has it", "Clotho: only theirs has it")


# ---- tables


def test_numbers_are_written_as_papers_do():
    assert [formatting.format_value(x) for x in (0.66431, 0.0003, 0.0, None, math.nan)] == [
        "66.4", "0.03", "0.0", "–", "–",
    ]  # fmt: skip
    assert formatting.format_value(3.0, share=False) == "3.0"
    assert [formatting.format_signed(x) for x in (1.25, -0.51, -0.04, 0.0, math.nan)] == [
        "+1.2", "-0.5", "0.0", "0.0", "–",
    ]  # fmt: skip
    assert formatting.format_interval(0.651, 0.68) == "(65.1 to 68.0)"
    assert formatting.format_interval(None, None) == ""
    assert [formatting.format_reported(x) for x in (66.9, 67.25, 45.0)] == ["66.9", "67.25", "45.0"]


@pytest.mark.parametrize(("paper", "outside"), [(69.9, False), (99.0, True), (1.0, True)])
def test_a_number_of_the_paper_outside_our_interval_is_marked(paper, outside, tmp_path):
    whole = made(tmp_path)
    whole.benchmarks["ESC"].reported["paper"]["top1"] = paper
    plain = msgspec.to_builtins(whole)
    row = formatting.format_metrics(plain)[0]
    assert row.outside is outside
    assert row.difference == formatting.format_signed(70 - paper)
    lines = tables.format_terminal(plain)
    assert any(line.startswith("* the paper") for line in lines) is outside


def test_the_table_on_a_terminal(tmp_path):
    whole = made(tmp_path, name="A-very-long-name-of-a-benchmark-that-somebody-chose")
    lines = tables.format_terminal(msgspec.to_builtins(whole))
    head, row = lines[:2]
    assert re.split(r"  +", head) == [
        "benchmark", "number", "ours", "95 % interval", "paper", "difference", "chance",
    ]  # fmt: skip
    assert re.split(r"  +", row)[:3] == ["A-very-long-name-of-a...", "top1", "70.0"]
    assert max(map(len, lines[:2])) <= 100
    assert row.index("66.9") + 4 == head.index("paper") + 5  # aligned to the right
    assert not any("median_rank" in line for line in lines)  # the paper reports none
    assert lines[-1].startswith("missing Clotho: ")
    assert "unusable samples: 1 of 11" in lines[-2]


def test_markdown_has_every_number_and_no_markup_of_others(tmp_path):
    whole = made(tmp_path)
    other = made(tmp_path / "other", path="theirs|")
    comparison = run_comparison.compare_runs(
        whole, tmp_path, tmp_path / "other", names=["ESC"], resamples=10, seed=0
    )
    text = tables.format_markdown(
        ATTACK, msgspec.to_builtins(whole), dataclasses.asdict(comparison)
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    unescaped = [re.sub(r"\\.", "", row) for row in rows]
    assert {row.count("|") for row in unescaped[:5]} == {9}
    assert {row.count("|") for row in unescaped[5:]} == {7}
    assert "| ESC | top1 | 70.0 (" in text and "| 66.9 | +3.1 | FreeBind 67.25 | 2.00 |" not in text
    assert "| 66.9 | +3.1 | FreeBind 67.25 | 2.0 | 10 |" in text
    assert "median_rank" in text and "3.0 (2.0 to 4.0)" in text
    assert "## Missing" in text and "theirs\\|" in text and other.of == "theirs|"
    assert "<script" not in text and "\x1b" not in text and "](b)" not in text.replace("\\]", "")


# ---- the page


class Page(html.parser.HTMLParser):
    """Every element must be closed in order; collects text and what has a class."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.open, self.classes, self.said = [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        for name, value in attributes:
            assert not name.startswith("on") and name not in ("src", "href"), (name, value)
            if name == "class":
                self.classes += value.split()
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


@pytest.fixture
def page(tmp_path):
    whole = made(tmp_path / "ours")
    whole.benchmarks["Rank"] = msgspec.structs.replace(
        whole.benchmarks["ESC"],
        numbers={"median_rank": whole.benchmarks["ESC"].numbers["median_rank"]},
    )
    made(tmp_path / "theirs", measured(1 - RIGHT), path=ATTACK)
    comparison = run_comparison.compare_runs(
        whole, tmp_path / "ours", tmp_path / "theirs", names=["ESC"], resamples=50, seed=0
    )
    plain = msgspec.to_builtins(whole)
    report_html.write_benchmark_html(
        tmp_path / "p.html", title=ATTACK, results=plain, comparison=dataclasses.asdict(comparison)
    )
    return (tmp_path / "p.html").read_text("utf-8")


def test_the_page_is_well_formed_and_needs_no_network(page):
    found = Page(page)
    assert not re.search(r"https?://|@import|url\(", page)
    # A bar with all its marks, and a difference; the benchmark whose headline is a rank has none.
    assert page.count('<div class="line"') == 2
    bar = re.search(r'<div class="line".*?</div>', page)[0]
    marks = dict(re.findall(r'<i class="(\w+)" style="left:([\d.]+)%', bar))
    assert marks == {"chance": "2.00", "paper": "66.90", "other": "67.25"}
    assert 'style="width:70.00%"' in bar
    assert found.classes.count("outside") == 0


def test_the_page_says_everything(page):
    said = " ".join("".join(Page(page).said).split())
    for words in ("70.0", "66.9", "+3.1", "67.25", "3.0 (2.0 to 4.0)", "median_rank", "toy (a1)",
                  "unusable samples: 1 of 11", "no records in", "jax 1.2.3", "cpu x 1",
                  "+40.0", "not paired", "seed 0", "1 of 1"):  # fmt: skip
        assert words in said, words
    assert "nan" not in said and "inf" not in said


def test_the_page_escapes_what_others_wrote(page):
    assert "<script" not in page
    # Title, heading, two notes, both reports of a rank, what is missing, the comparison.
    assert page.count("&lt;script&gt;alert(&quot;1&quot;)") >= 7
