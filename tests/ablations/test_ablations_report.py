"""The verdicts on ablations, and their report: the test by hand, then that all is said, once, and harmless."""

import copy
import html
import json
import re

import numpy as np
import pytest

from imagebind_jax.ablations import forest_plot, report_text
from imagebind_jax.ablations.paired_test import (
    CONFIDENCE,
    DOES_NOT,
    REPRODUCES,
    TOO_CLOSE,
    mean_and_std,
    paired_t_test,
)
from imagebind_jax.ablations.report_html import write_html
from imagebind_jax.ablations.report_markdown import escape_markdown, render_markdown
from imagebind_jax.errors import UserError

SEEDS = 6
ATTACK = '<b>"bold"</b> | `code` & [link](https://a.example)'


# ---- the test


def test_interval_by_hand():
    # Differences 1, 2, 3: mean 2, error 1 / sqrt(3); the two-sided 99 % quantile of t(2) is 9.9248.
    verdict = paired_t_test([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert verdict.difference == pytest.approx(2)
    assert verdict.high - 2 == pytest.approx(9.9248 / 3**0.5, abs=1e-4)
    assert 2 - verdict.low == pytest.approx(9.9248 / 3**0.5, abs=1e-4)
    # P(|t(2)| > t) = 1 - t / sqrt(2 + t^2)
    t = 2 * 3**0.5
    assert verdict.p == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    assert verdict.says == TOO_CLOSE


def test_interval_of_six_seeds_by_hand():
    # Differences 3, 5, 4, 4, 3, 5: variance 0.8; the two-sided 99 % quantile of t(5) is 4.0321.
    better, worse = np.array([63.0, 65, 64, 64, 63, 65]), np.full(6, 60.0)
    verdict = paired_t_test(list(better), list(worse))
    reach = 4.0321 * (0.8 / 6) ** 0.5
    assert (verdict.low, verdict.high) == pytest.approx((4 - reach, 4 + reach), abs=1e-4)
    assert verdict.says == REPRODUCES
    back = paired_t_test(list(worse), list(better))
    assert back.says == DOES_NOT and back.p == verdict.p
    assert (back.low, back.high) == pytest.approx((-verdict.high, -verdict.low))


def test_differences_are_paired():
    base = np.array([10.0, 40, 70, 90, 20, 55])  # seeds differ far more than settings
    assert paired_t_test(list(base + [1, 1.1, 0.9, 1, 1.2, 0.8]), list(base)).says == REPRODUCES


def test_no_difference_is_too_close_and_a_constant_one_is_called():
    same = paired_t_test([50.0] * 6, [50.0] * 6)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert same.says == TOO_CLOSE
    assert paired_t_test([51.0] * 6, [50.0] * 6).says == REPRODUCES
    assert paired_t_test([49.0] * 6, [50.0] * 6).says == DOES_NOT
    assert paired_t_test([51.0] * 6, [50.0] * 6).p == 0


def test_questions_of_our_own_are_answered_yes_or_no():
    said = [paired_t_test([a] * 3, [50.0] * 3, ours=True).says for a in (51.0, 49.0, 50.0)]
    assert said == ["yes", "no", TOO_CLOSE]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_seeds_are_refused(n):
    with pytest.raises(UserError, match=f"over {n} seeds: 3 are the fewest"):
        paired_t_test([1.0] * n, [2.0] * n)


def test_chance_calls_as_often_as_it_says():
    better, worse = np.random.default_rng(0).normal(50, 3, (2, 2000, SEEDS))
    said = [paired_t_test(list(a), list(b)).says for a, b in zip(better, worse)]
    assert 0.003 < np.mean([verdict != TOO_CLOSE for verdict in said]) < 0.02


def test_spread():
    assert mean_and_std([1.0, 2.0, 3.0]) == (2.0, 1.0) and mean_and_std([4.0]) == (4.0, 0.0)


# ---- results to report


def made_up(*better, worse, number="top1", other="", task="depth", ours=False, paper=None):
    """A verdict of rows (label, scores)."""
    (label, high), (low_label, low) = better[0], worse
    verdict = paired_t_test(high, low, ours=ours)
    return {"says": f"{label} beats {low_label} by {number}{other}", "task": task, "better": label,
            "worse": low_label, "number": number, "other": other, "ours": ours,
            "paper_difference": paper, "difference": verdict.difference, "low": verdict.low,
            "high": verdict.high, "p": verdict.p, "verdict": verdict.says}  # fmt: skip


def row(label, scores, paper=None, paper_label=""):
    return {"label": label, "paper_label": paper_label, "paper": paper or {}, "scores": scores}


@pytest.fixture
def results():
    def around(mean, wide=1.0, k=0):
        rng = np.random.default_rng([k, int(10 * mean)])
        return rng.normal(mean, wide, SEEDS).round(3).tolist()

    low, high, learned = around(40.0), around(61.2), around(60.9)
    clear, sound = around(30.0), around(55.5)
    gap, closed = around(0.9, 0.02), around(0.3, 0.02)
    found = {
        "command": "imagebind-jax ablate all",
        "machine": "2 cores, x86_64, CPU",
        "seeds": list(range(SEEDS)),
        "seconds": 4100.0,
        "versions": {"imagebind_jax": "0.1", "jax": "0.10.2", "python": "3.11.7"},
        "confidence": CONFIDENCE,
        "towers": {"small": {"shape": around(80.0), "material": around(70.0)}, "base": {"shape": around(90.0)}},
        "ablations": [
            {"name": "temperature", "title": "Temperature", "source": "Table 5(a)",
             "about": "A fixed temperature against a learned one.", "numbers": ["top1"],
             "tasks": ["depth", "audio"],
             "rows": [
                 row("learned", {"depth": {"top1": learned}, "audio": {"top1": clear}},
                     {"depth": 24.1, "audio": 54.8}),
                 row("0.05", {"depth": {"top1": low}}, {"depth": 27.0, "audio": 56.7}),
                 row("0.2", {"depth": {"top1": high}, "audio": {"top1": sound}}, {"depth": 26.7}),
             ],
             "verdicts": [
                 made_up(("0.2", high), worse=("learned", learned), paper=2.6),
                 made_up(("0.2", sound), worse=("learned", clear), task="audio"),
                 made_up(("0.05", low), worse=("learned", learned), paper=34.1),
             ]},
            {"name": "image-encoder", "title": "The gap, and image encoders", "source": "",
             "about": "Centred embeddings.\n\nTwo paragraphs.", "numbers": ["top1", "top1_centred", "gap"],
             "tasks": ["depth"],
             "rows": [row("64", {"depth": {"top1": low, "top1_centred": high, "gap": gap}}, paper_label="512"),
                      row("wide", {"depth": {"top1": high, "gap": closed}})],
             "verdicts": [
                 made_up(("64", high), worse=("64", low), number="top1_centred", other="top1", ours=True),
                 made_up(("64", gap), worse=("wide", closed), number="gap", ours=True),
             ]},
        ],
        "left_out": [{"name": "batch-size", "why": "did not fit into the budget of 30m"}],
    }  # fmt: skip
    return json.loads(json.dumps(found))


@pytest.fixture
def page(results, tmp_path):
    return written(results, tmp_path)


def written(results, folder):
    write_html(folder / "page.html", results)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["page.html"]
    return (folder / "page.html").read_text("utf-8")


def tables(text):
    """[[cells of a row]] of every Markdown table."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            assert line.endswith("|")
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            found.append(rows)
            rows = []
    return found


def verdicts(results):
    return [verdict for ablation in results["ablations"] for verdict in ablation["verdicts"]]


# ---- the Markdown


def test_tables_have_equal_columns(results):
    results["ablations"][0]["rows"][0]["label"] = ATTACK
    found = tables(render_markdown(results))
    assert len(found) == 2 + 2 + 1  # verdicts, questions; two ablations; towers
    for head, rule, *body in found:
        assert body and all(re.fullmatch("---:?", cell) for cell in rule)
        assert {len(head)} == {len(line) for line in (rule, *body)}


def test_every_verdict_is_in_the_summary_once(results):
    claims, questions = tables(render_markdown(results))[:2]
    assert len(claims) + len(questions) - 4 == len(verdicts(results))
    for verdict in verdicts(results):
        lines = [
            line
            for line in (questions if verdict["ours"] else claims)
            if f"[{verdict['says']}]" in line[0] and verdict["task"] in line[1]
        ]
        (line,) = lines
        assert line[-1] == f"**{verdict['verdict']}**"


def test_counts_and_chance_are_said(results):
    text = render_markdown(results)
    said = [v["verdict"] for v in verdicts(results) if not v["ours"]]
    assert said == [TOO_CLOSE, REPRODUCES, DOES_NOT]  # as made up: one of each
    assert "Of 3 claims 1 reproduces, 1 does not, and 1 is too close to call." in text
    assert "0.05 of these 5 verdicts" in text  # (1 - 0.99) * 5


def test_the_papers_numbers_stand_beside_ours(results):
    table = tables(render_markdown(results))[2]
    assert table[0] == ["", "depth, the paper", "depth, ours", "audio, the paper", "audio, ours"]
    rows = {line[0]: line[1:] for line in table[2:]}
    assert rows["0.05"][0] == "**27.0**" and rows["0.05"][2:] == ["**56.7**", "–"]
    assert rows["0.2"][2] == "–"
    mean, deviation = mean_and_std(results["ablations"][0]["rows"][0]["scores"]["audio"]["top1"])
    assert rows["learned"][3] == f"{mean:.1f} ± {deviation:.1f}"


def test_sentences_say_what_verdicts_rest_on(results):
    verdict = results["ablations"][0]["verdicts"][0]
    verdict |= {"difference": 3.14, "low": -1.2, "high": 5.0, "p": 0.0012}
    text = render_markdown(results)
    said = "Depth, 0.2 against learned: +3.1 points (99 % interval −1.2 to +5.0, p = 0.001; the paper +2.6)"
    assert f"* **{TOO_CLOSE}**: 0.2 beats learned by top1. {said}.\n" in text
    assert "Depth, 64 (top-1, centred) against top-1: +" in text
    assert "; the paper –" not in text  # where it has no number nothing is said of it
    assert re.search(r"modality gap, 64 against wide: \+0\.\d\d \(99 %", text)


def test_how_it_was_made_is_said(results):
    text = render_markdown(results)
    for said in ("```bash\nimagebind-jax ablate all\n```", "seeds 0, 1, 2, 3, 4, 5", "1 h 8 min",
                 "jax 0.10.2", "2 cores, x86_64, CPU", "batch-size: did not fit", "64 (the paper: 512)"):  # fmt: skip
        assert said in text
    assert text.index("## The gap, and image encoders") < text.index("| image tower")
    assert text == render_markdown(copy.deepcopy(results))


def test_links_lead_to_headings(results):
    text = render_markdown(results)
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links == {"temperature", "the-gap-and-image-encoders"} and links <= anchors


def test_text_is_no_markup():
    assert escape_markdown("a|b *c* `d` [e](f) <g> &\nh") == (
        "a\\|b \\*c\\* \\`d\\` \\[e\\](f) &lt;g> &amp; h"
    )


def test_signs():
    assert [report_text.format_signed(x) for x in (3.14, -0.44, 0, 0.04, -0.04, 0.001)] == [
        "+3.1", "−0.4", "0.0", "+0.04", "−0.04", "0.0"]  # fmt: skip
    assert (
        report_text.format_signed(-0.5, "gap") == "−0.50"
        and report_text.format_signed(0.0, "gap") == "0.00"
    )


# ---- the page


def test_page_needs_no_other_file_and_no_network(page):
    assert not re.search(r"https?://|@import|url\(", page)
    targets = re.findall(r"""\b(?:src|href|srcset|data|poster)\s*=\s*["']?([^"'>\s]*)""", page)
    assert targets and all(target.startswith("#") for target in targets)
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(names)) == len(names) and {target[1:] for target in targets} <= set(names)


def test_page_says_every_verdict_in_words(page, results):
    forests = page.split('id="ablations"')[0]
    for verdict in verdicts(results):
        said = f">{html.escape(verdict['says'])}</a><small>{verdict['task']}"
        assert forests.count(said) == 1
    said = re.findall(r'<span class="verdict (\w+)">([^<]*)</span>', forests)
    assert sorted(said) == sorted(
        (forest_plot.verdict_class(v), v["verdict"]) for v in verdicts(results)
    )
    assert page.count('class="paper"') == 1 + 2  # in the legend of the claims, and two of them


def test_page_escapes_text(results, tmp_path):
    hostile = json.loads(json.dumps(results).replace("learned", json.dumps(ATTACK)[1:-1]))
    hostile["ablations"][0]["about"] = hostile["left_out"][0]["why"] = ATTACK
    hostile["command"] = hostile["machine"] = ATTACK
    page = written(hostile, tmp_path)
    assert "<b>&quot;" not in page and '<b>"' not in page
    assert page.count(html.escape(ATTACK)) >= 8


def test_page_of_one_row_and_nothing_of_the_paper(results, tmp_path):
    for ablation in results["ablations"]:
        del ablation["rows"][1:]
        ablation["rows"][0]["paper"], ablation["verdicts"] = {}, []
    results |= {"left_out": [], "towers": {}}
    page, text = written(results, tmp_path), render_markdown(results)
    assert "Ours</h4>" in page and "The paper</h4>" not in page and "<ol" not in page
    assert "the paper |" not in text and "**" not in "".join(map(str, tables(text)))
    results["ablations"] = []
    assert html.escape(report_text.TITLE) in written(results, tmp_path)
    assert report_text.TITLE in render_markdown(results)


def test_a_scale_has_round_steps_and_holds_its_ends():
    for low, high in [(-3.2, 7.1), (0.31, 0.92), (50.0, 50.0), (-12.5, 12.5), (0, 100)]:
        scale = forest_plot.AxisScale(low, high)
        assert scale.holds(low) and scale.holds(high) and len(scale.steps) <= 8
        assert 0 < scale.at(scale.steps[0]) < scale.at(scale.steps[-1]) < 100


def test_what_is_beyond_the_scale_is_an_arrow(results):
    verdict = results["ablations"][0]["verdicts"][0]
    scale = forest_plot.AxisScale(-10, 10)
    verdict |= {"difference": 2.0, "low": -30.0, "high": 4.0, "paper_difference": 34.1}
    line = forest_plot.forest_row(verdict, scale)
    assert line.count(forest_plot.ARROWS[False]) == 1 and line.count(forest_plot.ARROWS[True]) == 1
    assert forest_plot.DIAMOND not in line and line.count("<circle") == 1
    verdict |= {"difference": 40.0, "low": 30.0, "high": 50.0, "paper_difference": 2.6}
    line = forest_plot.forest_row(verdict, scale)
    assert "<circle" not in line and "interval" not in line and forest_plot.DIAMOND in line
