"""The report: self-contained, complete, escaped, and drawn from records of the world."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from imagebind_jax.demo import report, report_curves, report_gallery, report_tables
from imagebind_jax.inputs.world import ATTRIBUTES, MATERIALS, MODALITIES, TASKS, World
from imagebind_jax.reports import html

RECORDS = [World(0, size=32, antialias=False).record("test", i) for i in range(4)]
ATTACK = '<script>alert("1")</script> & "quoted"'
HOSTILE = RECORDS[0] | {"text": ATTACK}


def numbers(start: float):
    """Different values, so that each can be found on the page."""
    return iter(np.round(np.arange(start, start + 0.1, 0.001), 4).tolist())


@pytest.fixture(scope="module")
def results():
    top1, probe, r1, mapped = numbers(0.601), numbers(0.801), numbers(0.101), numbers(0.301)
    return {
        "seed": 17,
        "seconds": 301.2,
        "zero_shot": {
            modality: [
                {
                    "task": task,
                    "top1": next(top1),
                    "chance": 1 / len(ATTRIBUTES[task]),
                    "probe": next(probe),
                    "n": 384,
                }
                for task in tasks
            ]
            for modality, tasks in TASKS.items()
        },
        "retrieval": {
            f"{a}->{b}": {"r1": next(r1), "chance": 0.0026, "probe": next(mapped), "n": 384}
            for a in MODALITIES
            for b in MODALITIES
            if a != b
        },
        "arithmetic": {
            "question": "A picture <plus> a sound?",
            "top1": 0.512,
            "chance": 0.0104,
            "image_alone": 0.0213,
            "n": 299,
        },
        "summary": {"emergent_top1": 0.7123, "fraction_of_probe": 0.8765},
        "trained_pairs": [f"vision+{modality}" for modality in MODALITIES[1:]],
        "versions": {"jax": "0.10.2", "imagebind_jax": "0.1.0"},
        "chance_loss": 9.7041,
    }


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    found = [
        (modality, HOSTILE, np.float32(0.731), np.bool_(modality != "imu"))
        for modality in MODALITIES
    ]
    report.write_demo_report(
        folder / "report.html",
        results=results,
        history=[
            {"step": step, "pair": f"vision+{MODALITIES[1 + step % 5]}", "loss": 9.7 - step / 10}
            for step in range(50)
        ],
        similarity=[
            report_tables.SimilarityTable("Sounds & sentences", np.eye(8), MATERIALS, MATERIALS)
        ],
        gallery=[
            report_gallery.ExampleSearch(ATTACK, [("text", HOSTILE)], found),
            report_gallery.ExampleSearch(
                "Sum", [("vision", RECORDS[1]), ("audio", RECORDS[2])], found[:1]
            ),
        ],
    )
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_needs_no_other_file_and_no_network(page):
    assert not re.search(r"https?://|@import|url\(", page)
    targets = re.findall(r"""\b(?:src|href|srcset|data|poster)\s*=\s*["']?([^"'>\s]*)""", page)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)


def test_replaces_atomically(folder, page, results, monkeypatch):
    assert [path.name for path in folder.iterdir()] == ["report.html"]

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        report.write_demo_report(
            folder / "report.html", results=results, history=[], similarity=[], gallery=[]
        )
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_shows_every_number(page, results):
    shares = [results["summary"][name] for name in ("emergent_top1", "fraction_of_probe")]
    shares += [results["arithmetic"][name] for name in ("top1", "chance", "image_alone")]
    for entry in [*sum(results["zero_shot"].values(), []), *results["retrieval"].values()]:
        shares += [
            value for name, value in entry.items() if name in ("top1", "r1", "chance", "probe")
        ]
    assert len(shares) == 5 + 3 * (9 + 30)
    missing = [share for share in shares if html.format_percent(share) not in page]
    assert not missing
    for said in ("384", "299", "301.2 s", "9.70", "demo --seed 17", "jax 0.10.2", "0.73"):
        assert said in page


def test_percent():
    assert [
        html.format_percent(x).replace("\u202f", " ") for x in (0.784, 0.125, 0.0026, 0, None)
    ] == [
        "78.4 %",
        "12.5 %",
        "0.26 %",
        "0.0 %",
        "–",
    ]


def test_escapes_text(page):
    assert "<script" not in page and "<plus>" not in page
    assert page.count("&lt;script&gt;alert(&quot;1&quot;)") == 3  # title, query and one found


def test_every_section_says_what_you_see(page):
    assert page.count("<section") == 6
    assert len(re.findall(r'</h2><p class="says"><b class="label">What you see</b> \w', page)) == 6


def test_marks_what_is_right(page):
    assert page.count('aria-label="wrong"') == 1 and page.count('aria-label="right"') == 6


def test_says_what_was_trained(page):
    table = page.split('id="zero-shot"')[1].split("</section>")[0]
    assert table.count('<tr class="emergent">') == 5 and table.count('<tr class="trained">') == 4
    table = page.split('id="retrieval"')[1].split("</section>")[0]
    assert table.count('<td class="emergent"') == 20 and table.count('<td class="trained"') == 10


def test_headline_follows_the_numbers(results):
    assert report.main_finding(results).startswith(
        "Audio was never trained with text, yet a sentence"
    )
    failed = json.loads(json.dumps(results))
    failed["zero_shot"]["audio"][0]["top1"] = 0.13
    assert "in only 13\u202f% of held-out sounds: chance is 12.5\u202f%" in report.main_finding(
        failed
    )
    failed["trained_pairs"].append("audio+text")
    assert not report.main_finding(failed).startswith("Audio")


def test_every_medium_is_described_and_decodes(page):
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert len(figures) == 1 + 6 + 2 + 1
    for figure in figures:
        assert "<blockquote>" in figure or re.search(
            r'(alt|<svg[^>]* aria-label)="[^"]{10,}"', figure
        )
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 2 + 3 + 3 + 2  # all found; then two frames and a sound; then two frames
    for tag in images:
        assert re.search(r'alt="[^"]{10,}"', tag)
        kind, data = re.search(r'src="data:image/(\w+);base64,([^"]+)"', tag).groups()
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        image.load()
        assert image.format == kind.upper() and min(image.size) >= 32


def test_table_headers_have_a_scope(page):
    headers = re.findall(r"<th\b[^>]*>", page)
    assert headers and all("scope=" in header for header in headers)


def test_near_is_bright_and_warm_is_bright():
    def brightness(modality, levels):
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, "PNG")
        figure = report_gallery.figure_html(modality, {"id": "a", modality: buffer.getvalue()})
        data = re.search(r'base64,([^"]+)"', figure).group(1)
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        return np.asarray(image.convert("L"), int)[0]

    depth = brightness("depth", np.array([[500, 1000, 4000, 0]], np.uint16))
    assert (np.diff(depth) < 0).all()  # 0: no depth, drawn as infinitely far
    thermal = brightness("thermal", np.array([[0, 100, 200, 255]], np.uint8))
    assert (np.diff(thermal) > 0).all()


def test_labels_of_curves_keep_apart():
    placed = report_curves._apart([(10.0, "a"), (12.0, "b"), (99.0, "c"), (98.0, "d")], 5.0, 100.0)
    at = [y for y, _ in placed]
    assert [name for _, name in placed] == ["a", "b", "d", "c"]
    assert max(at) <= 100 and min(np.diff(at)) >= 5
