"""The local page: its answers, its limits, and that hostile visitors get nothing but their answer."""

import concurrent.futures
import io
import json
import os
import pathlib
import re
import stat
import subprocess
import sys
import threading
import time
import urllib.parse

import damage
import goals
import numpy as np
import pytest
import samples
from PIL import Image
from visitor import Visitor, form, uploaded

from imagebind_jax.errors import UserError
from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.web import handlers, limits, request_guard, server, views
from imagebind_jax.web.handlers import PageHandlers
from imagebind_jax.web.uploads import EmbeddedItem

pytest_plugins = ["own_files"]
FIELDS = {"depth": {"focal_length": 30.0, "baseline": 0.1}, "imu": {"imu_rate": 40.0}}
PATHS = re.compile(r"(?<![\w:/<])/(?:tmp|home|root|work|usr|etc|var)\b")


@pytest.fixture(scope="module")
def gradio():
    return pytest.importorskip("gradio", reason="needs gradio: pip install 'imagebind-jax[demo]'")


@pytest.fixture(scope="module")
def page(gradio, stored):
    """(its address, the reader behind it)."""
    readers = []
    real = server.UploadEmbedder

    class Kept(real):
        def __init__(self, *args):
            super().__init__(*args)
            readers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "UploadEmbedder", Kept)
        with server.serve(stored, fields=FIELDS, say=lambda line: None) as address:
            yield address, readers[0]


@pytest.fixture
def visitor(page):
    return Visitor(page[0])


def thing(name, *vector, modality="vision"):
    return EmbeddedItem(name, modality, np.array(vector, np.float32), b"")


# ---- answers


def test_the_matrix_says_the_cosines_and_rings_the_best_of_each_row():
    things = [thing("a", 1, 0), thing("b", 0.6, 0.8), thing("c", 0, -1, modality="audio")]
    np.testing.assert_allclose(
        views.cosine_matrix(things), [[1, 0.6, 0], [0.6, 1, -0.8], [0, -0.8, 1]], atol=1e-6
    )
    cells = re.findall(
        r'<td class="(\w*)" style="--heat:([\d.]+)">([^<]+)</td>',
        views.similarity_matrix_html(things),
    )
    assert [shown for _, _, shown in cells] == [
        "1.00",
        "0.60",
        "0.00",
        "0.60",
        "1.00",
        "−0.80",
        "0.00",
        "−0.80",
        "1.00",
    ]
    assert [i for i, (kind, _, _) in enumerate(cells) if kind == "best"] == [1, 3, 6]
    assert [heat for _, heat, _ in cells[1:3]] == ["1.00", "0.57"]  # from the least to the most


@pytest.mark.parametrize("temperature", (0.01, 0.05, 0.5))
def test_shares_of_a_row_add_up_to_one_and_leave_out_the_thing_itself(temperature):
    cosines = np.array([[1, 0.3, 0.1], [0.3, 1, 0.3], [0.1, 0.3, 1]], np.float32)
    shares = views.softmax_rows(cosines, temperature)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-6)
    assert (np.diag(shares) == 0).all() and shares[1, 0] == pytest.approx(0.5)
    assert shares[0, 1] / shares[0, 2] == pytest.approx(np.exp(0.2 / temperature), rel=1e-3)
    assert views.softmax_rows(np.ones((1, 1), np.float32), temperature).tolist() == [[0]]


def test_names_and_texts_are_no_html():
    evil = "<img src=x onerror=alert(1)>${alert(2)}{{x}}\"'"
    for made in (
        views.similarity_matrix_html([thing(evil, 1, 0), thing(evil, 0, 1, modality="text")]),
        views.problems_html([evil]),
        views.query_chip_html(thing(evil, 1, 0, modality=evil)),
    ):
        assert "<img" not in made and "&lt;img src=x onerror=alert(1)&gt;" in made


def test_hits_show_no_folder_and_no_link(stored, files):
    store = EmbeddingStore(stored)
    shown = {views.display_name(store, store.item(row)["file"]) for row in range(len(store))}
    assert {"photos/red0.jpg", "sounds/1.flac", "words/2.txt"} <= shown
    assert not any(name.startswith(("/", "..")) for name in shown)
    assert views.display_name(store, "/etc/passwd") == "passwd"


def test_a_page_needs_something_to_embed_with(gradio, tmp_path, mistake, monkeypatch):
    assert "--index STORE or --checkpoint CKPT" in mistake("page")
    assert "no store" in mistake("page", "--index", tmp_path)
    assert "--port 70000" in mistake("page", "--index", tmp_path, "--port", "70000")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'imagebind-jax[demo]'" in mistake("page", "--index", tmp_path)


# ---- what a visitor asks


def file(root, name):
    return pathlib.Path(name).name, (root / name).read_bytes()


def test_a_bad_file_does_not_spoil_the_others(visitor, files, page):
    given = [file(files, "photos/red0.jpg"), ("broken.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
             file(files, "sounds/1.flac"), file(files, "moves/1.npy"), ("a.jsonl", b'{"image": "/etc/passwd"}'),
             ("list.csv", b"image\n/etc/passwd\n"), ("bitmap.csv", b"BM,image\n1,/etc/passwd\n"), ("note.txt", b"a red thing")]  # fmt: skip
    paths = visitor.upload(*given)
    found = visitor.ask(
        "compare-files",
        "upload",
        compare_files=[*map(uploaded, paths)],
        compare_words="a dog\n\na cat\n",
    )
    matrix, notes = found["compare-matrix"], found["compare-notes"]
    rows = re.findall(
        r'<th scope="row"><div class="ib-label" title="([^"]*)".*?ib-badge (\w+)', matrix
    )
    assert rows == [("red0.jpg", "vision"), ("1.flac", "audio"), ("1.npy", "imu"), ("note.txt", "text"),
                    ("a dog", "text"), ("a cat", "text")]  # fmt: skip
    for name in ("broken.png", "a.jsonl", "list.csv", "bitmap.csv"):
        assert f"<li>{name}: " in notes
    assert (
        "passwd" not in notes
        and not PATHS.search(notes)
        and handlers.INTERNAL_ERROR_MESSAGE not in notes
    )
    assert [label for label, _ in found["compare-chosen"]["choices"]] == [n for n, _ in rows[:4]]
    assert left(page) == []
    fewer = visitor.ask(
        "compare-go", "click", compare_chosen=[0, 1], compare_view="Softmax of each row", compare_temperature=0.1
    )  # fmt: skip
    assert fewer["compare-matrix"].count('scope="row"') == 2
    assert "100&#8239;%" in fewer["compare-matrix"] and "adds up" not in notes


def left(page):
    """What lies in the folder of uploads."""
    return [p for p in page[1].folder.rglob("*") if p.is_file() and p.stat().st_size]


def test_what_no_content_tells_is_said(visitor, files):
    (path,) = visitor.upload(file(files, "depth/0.png"))
    found = visitor.ask("search-file-a", "upload", search_file_a=uploaded(path), search_k=5)
    assert "ib-badge vision" in found["search-found"].partition("→")[0]
    (path,) = visitor.upload(file(files, "depth/0.png"))
    found = visitor.ask(
        "search-file-a",
        "upload",
        search_file_a=uploaded(path),
        search_kind="A depth map",
        search_k=3,
    )["search-found"]
    assert "ib-badge depth" in found.partition("→")[0]
    assert "depth/0.png" in found.partition("<li>")[2].partition("<li>")[0]  # itself, first of all


def test_two_queries_are_mixed_by_the_slider(visitor, files):
    paths = visitor.upload(file(files, "photos/red0.jpg"), file(files, "sounds/2.flac"))
    for name, path in zip("ab", paths):
        name = f"search_file_{name}"
        visitor.ask(name.replace("_", "-"), "upload", **{name: uploaded(path)}, search_k=2)
    best = {}
    for mix in (0.0, 1.0, 0.5):
        found = visitor.ask("search-mix", "release", search_mix=mix, search_k=2)["search-found"]
        best[mix] = re.findall(r'class="ib-name" title="([^"]*)"', found)
    assert best[0.0][0] == "photos/red0.jpg" and best[1.0][0] == "sounds/2.flac"
    assert set(best[0.5]) == {"photos/red0.jpg", "sounds/2.flac"}
    assert "data:audio/flac;base64," in found and "data:image/" in found
    assert "href" not in found and "file:" not in found
    words = visitor.ask(
        "search-words-a", "submit", search_words_a="red", search_only=["audio"], search_mix=0.0
    )
    assert set(re.findall(r'<li><div class="ib-media (\w+)', words["search-found"])) == {"audio"}


def test_words_that_nobody_could_mean_are_refused_in_one_line(visitor):
    found = visitor.ask("compare-go", "click", compare_words="x" * 3000)
    assert "3,000 characters" in found["compare-notes"]
    found = visitor.ask("compare-go", "click", compare_words="\n".join(map(str, range(40))))
    assert "40 sentences" in found["compare-notes"]


# ---- limits


def test_large_images_and_long_sounds_are_refused(visitor, page):
    wide = io.BytesIO()
    Image.new("L", (6000, 5000)).save(wide, "PNG")
    long = samples.wav(np.zeros((1, 4000 * 601), np.float32), 4000, "PCM_U8")
    paths = visitor.upload(("wide.png", wide.getvalue()), ("long.wav", long))
    notes = visitor.ask("compare-files", "upload", compare_files=[*map(uploaded, paths)])[
        "compare-notes"
    ]
    assert "6000 x 5000 pixels: at most 25,000,000" in notes and "601 s: at most 600 s" in notes
    many = visitor.upload(*((f"{i}.txt", b"word %d" % i) for i in range(limits.FILES + 3)))
    found = visitor.ask("compare-files", "upload", compare_files=[*map(uploaded, many)])
    assert "3 more files: at most 12 at once" in found["compare-notes"]
    assert left(page) == []


def test_bodies_have_a_length_and_a_limit(visitor):
    body, headers = form([("a.bin", bytes(1000))])
    for size, status in (
        (limits.MAX_UPLOAD_BYTES + 1, 413),
        (10**14, 413),
        (None, 411),
    ):
        length = {"content-length": None if size is None else str(size)}
        assert visitor.send("POST", "/gradio_api/upload", b"", {**headers, **length})[0] == status
    for size in (10**30, "x", -1):  # some of which the server itself does not take
        length = {"content-length": str(size)}
        assert visitor.send("POST", "/gradio_api/upload", b"", {**headers, **length})[0] in (
            400,
            411,
        )
    chunked = {**headers, "transfer-encoding": "chunked", "content-length": None}
    assert visitor.send("POST", "/gradio_api/upload", b"5\r\nabcde\r\n0\r\n\r\n", chunked)[0] == 411
    question = json.dumps({"data": ["x" * limits.MAX_JSON_BYTES]}).encode()
    assert visitor.send("POST", "/gradio_api/queue/join", question)[0] == 413
    assert visitor.send("POST", "/gradio_api/queue/join", b"[" * 100_000)[0] == 400


def test_uploads_have_to_arrive_and_only_two_do_at_a_time(visitor, monkeypatch):
    monkeypatch.setattr(request_guard, "BODY_TIMEOUT", 0.5)
    body, headers = form([("a.bin", bytes(1000))])
    late = {**headers, "content-length": str(len(body) + 10)}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sent = [
            pool.submit(visitor.send, "POST", "/gradio_api/upload", body, late) for _ in range(4)
        ]
        assert sorted(each.result()[0] for each in sent) == [408, 408, 429, 429]
    assert isinstance(visitor.upload(("a.txt", b"a")), list)


def test_uploads_that_nobody_reads_do_not_fill_the_disk(visitor, page, monkeypatch):
    monkeypatch.setattr(request_guard, "MAX_UPLOAD_DIR_BYTES", 100_000)
    (path,) = visitor.upload(("a.bin", bytes(90_000)))
    assert visitor.upload(("b.bin", bytes(20_000))) == 429
    os.utime(path, (0, 0))
    page[1].sweep()
    assert not os.path.exists(path)
    (path,) = visitor.upload(("b.bin", bytes(20_000)))
    page[1].discard(path)
    page[1].discard(__file__)
    assert not os.path.exists(path) and os.path.exists(__file__)


@pytest.mark.goal("G31")
def test_a_full_queue_says_429_and_two_questions_are_answered_at_once(page, monkeypatch, measured):
    visitor, running, most = Visitor(page[0]), 0, 0
    lock, go = threading.Lock(), threading.Event()

    def slow(self, *args):
        nonlocal running, most
        with lock:
            running, most = running + 1, max(most, running + 1)
        go.wait(30)
        with lock:
            running -= 1
        return "", []

    monkeypatch.setattr(PageHandlers, "compare", slow)
    statuses, events = [], []
    for _ in range(limits.MAX_QUEUE + limits.MAX_CONCURRENCY + 8):
        status, said = visitor.join("compare-go", "click", compare_words="a")
        statuses.append(status)
        events.append(said.get("event_id"))
        time.sleep(0.06)  # the queue is looked at every 50 ms
    full = [status for status in statuses if status != 200]
    assert full and set(full) == {429} and len(full) <= 8
    go.set()
    assert visitor.heard(events[0])["success"]
    deadline = time.monotonic() + 30
    while running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert most == limits.MAX_CONCURRENCY
    monkeypatch.undo()
    while visitor.join("compare-go", "click")[0] == 429 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert Visitor(page[0]).ask("compare-go", "click", compare_words="a")["compare-matrix"]
    measured(f"{most} at once, {limits.MAX_QUEUE} wait, then 429")


# ---- who may ask, and for what


def test_other_names_and_other_sites_are_refused(visitor):
    port = visitor.address.port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "",
        "a b",
        "[::2]",
    ):
        assert visitor.get("/", host=host)[0] == 421, host
    for host in (f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
        assert visitor.get("/", host=host)[0] == 200, host
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
        assert visitor.get("/config", origin=origin)[0] == 403
        assert visitor.post("/gradio_api/queue/join", {}, origin=origin)[0] == 403
    assert visitor.get("/config", **{"sec-fetch-site": "cross-site"})[0] == 403
    assert visitor.get("/", **{"sec-fetch-site": "cross-site"})[0] == 200  # a link to the page
    body, headers = form([("a.txt", b"a")])
    assert (
        visitor.send("POST", "/gradio_api/upload", body, {**headers, "origin": "http://x"})[0]
        == 403
    )


@pytest.mark.parametrize("host,name,good", [
    ("127.0.0.1", "192.168.1.2", False), ("0.0.0.0", "192.168.1.2", True), ("0.0.0.0", "evil.example", False),
    ("::", "[fe80::1]:7860", True), ("lab.example", "lab.example:80", True), ("lab.example", "LAB.example", True),
])  # fmt: skip
def test_a_wider_address_answers_to_addresses_but_to_no_name_of_others(host, name, good):
    if good:
        request_guard.check_origin({b"host": name}, host)
    else:
        with pytest.raises(request_guard.HttpError):
            request_guard.check_origin({b"host": name}, host)


@pytest.mark.goal("G31")
def test_no_path_leads_out_of_the_uploads(
    visitor, page, files, stored, checkpoint, tmp_path, measured
):
    (mine,) = visitor.upload(("mine.txt", b"a sentence"))
    link = page[1].folder / "link.txt"
    link.symlink_to("/etc/hostname")
    (page[1].folder / "folder").symlink_to("/etc")
    secret = tmp_path / ".env"
    secret.write_text("SECRET=1")
    targets = ["/etc/passwd", "/proc/self/environ", str(stored / "store.json"), str(stored / "items.jsonl"),
               str(files / "words/0.txt"), str(secret), ".env", "setup.cfg", str(link), mine, str(page[1].folder),
               f"{page[1].folder}/../../etc/passwd", f"{page[1].folder}/folder/passwd", str(checkpoint)]  # fmt: skip
    routes = ("/gradio_api/file=", "/file=", "/file/", "/gradio_api/file/", "/gradio_api/proxy=", "/static/", "/assets/",
              "/svelte/", "/gradio_api/custom_component/1/2/3/", "/gradio_api/runs/", "/")  # fmt: skip
    tried = 0
    for route in routes:
        for target in targets:
            climbing = "../" * 12 + target.lstrip("/")
            for way in (target, climbing, urllib.parse.quote(target, safe=""), urllib.parse.quote(climbing, safe=""),
                        climbing.replace("../", "..%2f"), climbing.replace("../", "%2e%2e/"), climbing.replace("../", "..%5c"),
                        urllib.parse.quote(urllib.parse.quote(climbing, safe=""), safe=""), "//" + target,
                        f"http://127.0.0.1:{visitor.address.port}{target}", f"file://{target}"):  # fmt: skip
                status, data, _ = visitor.get(route + way)
                tried += 1
                assert status == 404, (route + way, status, data[:80])
                assert b"root:" not in data and b"SECRET" not in data and b"sentence" not in data
    outside = [t for t in targets if t != mine]
    forms = [
        lambda p: uploaded(p), lambda p: [uploaded(p)], lambda p: {**uploaded(mine), "path": p}, lambda p: {"path": p, "url": p},
        lambda p: {"url": p, "meta": {"_type": "gradio.FileData"}}, lambda p: {"path": [p]}, lambda p: uploaded(f"file://{p}"),
        lambda p: uploaded(f"http://127.0.0.1:{visitor.address.port}{p}"), lambda p: {"a": [{"b": uploaded(p)}]},
    ]  # fmt: skip
    for target in outside:
        for make in forms:
            for name, event in (("compare-files", "upload"), ("search-file-a", "upload")):
                status, said = visitor.join(
                    name, event, compare_files=make(target), search_file_a=make(target)
                )
                tried += 1
                assert status == 403, (target, said)
                assert not PATHS.search(json.dumps(said))
    for target in outside:  # behind the door, too
        with pytest.raises(UserError, match="not uploaded here"):
            page[1].file(target)
    link.unlink()
    (page[1].folder / "folder").unlink()
    page[1].discard(mine)
    measured(f"0 of {tried:,} paths and questions reach another file")


def test_gradio_serves_only_what_the_page_asks_for(visitor):
    shut = ("/gradio_api/openapi.json", "/gradio_api/runs", "/monitoring", "/monitoring/summary", "/docs", "/openapi.json",
            "/gradio_api/call/compared", "/gradio_api/vibe-code", "/gradio_api/deep_link", "/gradio_api/app_id",
            "/gradio_api/stream/a/1/2/playlist.m3u8", "/login", "/gradio_api/mcp/sse", "/pwa_icon")  # fmt: skip
    assert {path: visitor.get(path)[0] for path in shut} == dict.fromkeys(shut, 404)
    for path in ("/gradio_api/run/compared", "/gradio_api/api/compared", "/gradio_api/call/compared", "/gradio_api/vibe-edit",
                 "/gradio_api/process_recording", "/gradio_api/component_server", "/login"):  # fmt: skip
        assert visitor.post(path, {})[0] == 404
    assert visitor.send("DELETE", "/", b"")[0] in (404, 405)
    _, _, headers = visitor.get("/")
    assert "default-src 'self'" in headers["content-security-policy"] and "server" not in headers


def test_nothing_is_told_to_anybody(visitor, page):
    assert visitor.config["analytics_enabled"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    said = visitor.get("/")[1].decode() + visitor.get("/theme.css")[1].decode()
    assert not re.search(r"(src|href)=\"https?://|url\(['\"]?https?://|@import", said)
    assert visitor.address.hostname == "127.0.0.1"
    folder = page[1].folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.getuid()


# ---- mutants


@pytest.mark.fuzz
@pytest.mark.goal("G31")
def test_mutated_uploads_get_an_answer_and_leave_nothing(page, files, measured):
    count = goals.size(500, 5000)
    rng = np.random.default_rng(7)
    good = [file(files, name) for name in ("photos/red0.jpg", "photos/blue1.jpg", "sounds/0.flac", "moves/0.npy",
                                           "words/1.txt", "heat/1.png")]  # fmt: skip
    good += [("tone.wav", samples.wav(samples.tone(440, 8000, 0.5)[None], 8000, "PCM_16")),
             ("walk.csv", b"time,ax,ay,az,gx,gy,gz\n" + b"".join(b"%.3f,1,2,3,4,5,6\n" % (i / 40) for i in range(200)))]  # fmt: skip
    if movie := small_movie():
        good.append(("clip.mp4", movie))
    statuses, sent, usable, begun = {}, 0, 0, time.monotonic()
    before = after = resident()
    while sent < count:
        visitor = Visitor(page[0])
        batch = []
        for _ in range(10):
            name, data = good[rng.integers(len(good))]
            if rng.random() < 0.1:  # names are the visitor's, too
                name = (
                    "../../up.png",
                    "a/b.wav",
                    "con",
                    ".env",
                    "<b>x.jpg",
                    "x" * 300 + ".png",
                    "é\u202e.csv",
                )[rng.integers(7)]
            batch.append((name, damage.mutant(data, rng)))
        sent += len(batch)
        body, headers = form(batch)
        if rng.random() < 0.1:
            body = damage.mutant(body, rng)
        status, data, _ = visitor.send("POST", "/gradio_api/upload", body, headers)
        if status == 200:
            paths = json.loads(data)
            assert all(request_guard.is_upload(path, page[1].folder) for path in paths), paths
            if paths:
                found = visitor.ask(
                    "compare-files",
                    "upload",
                    compare_files=[uploaded(p) for p in dict.fromkeys(paths)],
                )
                shown = found["compare-notes"] + found["compare-matrix"]
                assert "Traceback" not in shown and handlers.INTERNAL_ERROR_MESSAGE not in shown, (
                    found["compare-notes"]
                )
                assert not PATHS.search(re.sub(r"base64,[\w+/=]+", "", shown)), found[
                    "compare-notes"
                ]
                usable += len(found["compare-chosen"].get("choices", []))
        for each, times in visitor.answers.items():
            statuses[each] = statuses.get(each, 0) + times
        after = resident()
        if sent == 100:
            before = after  # all is compiled
    seconds = time.monotonic() - begun
    assert not [status for status in statuses if status >= 500], statuses
    page[1].sweep()
    for path in left(page):
        assert path.is_relative_to(page[1].folder)
    grown = (after - before) >> 20
    assert grown < 300
    assert statuses[200] > 3 * count / 10
    measured(
        f"{sent:,} uploads in {seconds:.0f} s: 0 of {sum(statuses.values()):,} answers 5xx, {usable:,} still usable, "
        f"memory +{max(grown, 0)} MiB", sent, goals.size(500, 5000),
    )  # fmt: skip


def small_movie():
    try:
        from movies import movie

        return movie(12)
    except BaseException:  # without PyAV, pytest's skip
        return b""


def resident():
    """Bytes of this process, in which the page is served."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_questions_that_are_no_questions_are_refused(visitor):
    number, inputs, _ = visitor.function("compare-go", "click")
    for body in (b"", b"{", b"[]", b"1", b"null", b'{"data": []}', b'{"data": 1, "fn_index": 0}', b"\xff\xfe",
                 b'{"data": [], "fn_index": 99, "session_hash": "a"}', b'{"data": [], "fn_index": "x", "session_hash": "a"}',
                 b'{"data": [], "fn_index": -1, "session_hash": {"path": "/etc"}}'):  # fmt: skip
        for path in ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"):
            status, data, _ = visitor.send("POST", path, body, {"content-type": "application/json"})
            assert status < 500, (path, body, status, data)
    for data in ([None] * len(inputs), [], ["x"] * len(inputs), [{"a": 1}] * len(inputs), [1] * 50):
        status, said = visitor.put(data, number)
        if status == 200:
            message = json.dumps(visitor.heard(said["event_id"]))
            assert "Traceback" not in message and not PATHS.search(message), message


# ---- the command


@pytest.mark.processes
def test_the_command_ends_on_a_signal_and_leaves_no_folder(gradio, stored, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "imagebind_jax.cli", "page", "--index", str(stored), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "TMPDIR": str(made)},
    )  # fmt: skip
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    said = next(line for line in lines if "http://" in line)
    address = re.search(r"http://127\.0\.0\.1:\d+/", said).group()
    assert Visitor(address).get("/")[0] == 200
    assert len(list(made.glob("imagebind-jax-page-*"))) == 1
    process.terminate()
    rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0 and "Traceback" not in rest
    assert not list(made.glob("imagebind-jax-page-*"))


def test_another_address_is_warned_of(gradio, stored, monkeypatch):
    said = []
    monkeypatch.setattr(server, "_until_stopped", lambda: None)
    server.serve_forever(stored, host="0.0.0.0", port=0, say=said.append)
    assert any(line.startswith("warning: --host 0.0.0.0") for line in said)
