"""Search: answers known by hand, every filter, every mixture, every way of telling; the index as well."""

import contextlib
import json
import random
import re
import shutil

import goals
import numpy as np
import own_files
import pytest

from imagebind_jax import cli
from imagebind_jax.errors import UserError
from imagebind_jax.search import approximate
from imagebind_jax.search import exact as exact_search
from imagebind_jax.search import query as search_query
from imagebind_jax.search.approximate import ApproximateIndex
from imagebind_jax.search.encoders import compose_query
from imagebind_jax.search.exact import exact_top_k, parse_filter
from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.search.store_writer import open_writer

pytest_plugins = ["own_files"]


def make(folder, vectors, items=None):
    """A store of any vectors, as vision."""
    vectors = np.asarray(vectors, np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    with open_writer(folder, vectors.shape[1], "c", "family") as writer:
        writer.describe("vision", {})
        writer.describe("audio", {})
        for i, vector in enumerate(vectors):
            item = {"key": f"k{i}", "modality": "vision", "file": f"/f/{i}.jpg", "stamp": 0}
            writer.add(vector, {**item, **(items[i] if items else {})}, b"")
    return EmbeddingStore(folder)


CORNERS = np.eye(4)


def rows(hits):
    return [hit.row for hit in hits]


# ---- exact


def test_orthogonal_vectors_have_known_neighbours(tmp_path):
    store = make(tmp_path / "s", CORNERS)
    hits = exact_search.search_store(store, np.array([0.0, 3, 4, 0], np.float32), 3)
    assert rows(hits) == [2, 1, 0]
    np.testing.assert_allclose([hit.cosine for hit in hits], [0.8, 0.6, 0.0], atol=1e-6)
    assert hits[0].file == "/f/2.jpg" and hits[0].modality == "vision"


def test_equal_cosines_go_by_row(tmp_path):
    store = make(tmp_path / "s", np.ones((9, 4)))
    assert rows(exact_search.search_store(store, np.ones(4, np.float32), 4)) == [0, 1, 2, 3]
    assert rows(exact_search.search_store(store, np.ones(4, np.float32), 2, without=[0, 2])) == [
        1,
        3,
    ]


def test_the_same_as_sorting_everything_over_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("imagebind_jax.search.store.ROWS_PER_BLOCK", 64)
    monkeypatch.setattr("imagebind_jax.search.exact.ROWS_PER_BLOCK", 64)
    monkeypatch.setattr(
        "imagebind_jax.search.exact.MAX_SCORES_IN_MEMORY", 1000
    )  # two of the queries at once
    rng = np.random.default_rng(0)
    store = make(tmp_path / "s", rng.standard_normal((500, 16)))
    queries = rng.standard_normal((7, 16)).astype(np.float32)
    found, cosines = exact_top_k(store, queries, 20)
    scores = (queries / np.linalg.norm(queries, axis=-1, keepdims=True)) @ store.vectors.T
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=-1, kind="stable")[:, :20])
    np.testing.assert_allclose(cosines, np.take_along_axis(scores, found, -1), atol=1e-6)


def test_fewer_rows_than_asked_for(tmp_path):
    assert (
        len(exact_search.search_store(make(tmp_path / "s", CORNERS), np.ones(4, np.float32), 10))
        == 4
    )


@pytest.mark.parametrize(
    ("query", "k", "line"),
    [
        (np.zeros(4), 3, "zero, or not finite"),
        (np.full(4, np.nan), 3, "zero, or not finite"),
        (np.ones(5), 3, "a query of 5 numbers, and .* holds vectors of 4"),
        (np.ones(4), 0, "k must be from 1"),
    ],
)
def test_a_query_that_makes_no_sense(query, k, line, tmp_path):
    with pytest.raises(UserError, match=line):
        exact_search.search_store(make(tmp_path / "s", CORNERS), query.astype(np.float32), k)


# ---- filters

ITEMS = [
    {"modality": "vision", "label": 3, "seconds": 4.5, "caption": "a dog"},
    {"modality": "audio", "label": 10, "seconds": 12, "file": "/beach/waves.wav"},
    {"modality": "vision", "label": "x", "file": "/beach/sand.jpg"},
    {"modality": "audio", "caption": "a cat"},
]


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("label=3", [0]),
        ("label!=3", [1, 2]),
        ("label>3", [1, 2]),  # 10 as a number, x as text
        ("seconds>=4.5", [0, 1]),
        ("seconds<5", [0]),
        ("file~/beach/*", [1, 2]),
        ("caption = a dog", [0]),
        ("modality=audio", [1, 3]),
    ],
)
def test_conditions(where, wanted, tmp_path):
    store = make(tmp_path / "s", CORNERS, ITEMS)
    assert np.flatnonzero(exact_search.candidate_mask(store, where=[where])).tolist() == wanted
    found = exact_search.search_store(store, np.ones(4, np.float32), where=[where])
    assert sorted(rows(found)) == wanted


def test_all_conditions_hold(tmp_path):
    store = make(tmp_path / "s", CORNERS, ITEMS)
    where = ["file~/beach/*", "modality=vision"]
    assert np.flatnonzero(exact_search.candidate_mask(store, ["vision"], where)).tolist() == [2]
    assert not exact_search.candidate_mask(store, ["audio"], ["label=3"]).any()
    assert (
        exact_search.search_store(
            store, np.ones(4, np.float32), modalities=["audio"], where=["label=3"]
        )
        == []
    )


def test_conditions_that_make_no_sense(tmp_path):
    store = make(tmp_path / "s", CORNERS, ITEMS)
    with pytest.raises(UserError, match="expected FIELD=VALUE"):
        parse_filter("label")
    with pytest.raises(UserError, match="no row has 'colour': only caption, file"):
        exact_search.candidate_mask(store, where=["colour=red"])
    with pytest.raises(UserError, match="no depth in .*: only vision, audio"):
        exact_search.candidate_mask(store, ["depth"])


# ---- mixtures


def test_mixtures_are_weighted_sums_on_the_sphere():
    x, y = CORNERS[0].astype(np.float32), CORNERS[1].astype(np.float32)
    np.testing.assert_allclose(compose_query([x, y], [1.0, 1.0]), (x + y) / 2**0.5, atol=1e-6)
    np.testing.assert_allclose(compose_query([x, y], [3.0, 4.0]), 0.6 * x + 0.8 * y, atol=1e-6)
    np.testing.assert_allclose(compose_query([x, y], [1.0, -1.0]), (x - y) / 2**0.5, atol=1e-6)
    with pytest.raises(UserError, match="cancel each other"):
        compose_query([x, x], [1.0, -1.0])


# ---- the command


@pytest.fixture
def ask(stored, capsys):
    def run(*arguments, index=stored):
        code = cli.main(["search", "--index", str(index), *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


class TestCommand:
    @pytest.mark.jax
    def test_a_file_finds_itself(self, ask, files):
        for option, name in (("--image", "photos/red1.jpg"), ("--audio", "sounds/2.flac"),
                             ("--imu", "moves/1.npy"), ("--thermal", "heat/3.png")):  # fmt: skip
            code, out, err = ask(option, files / name, "-k", 1, "--imu-rate", 40)
            assert code == 0, err
            first = out.splitlines()[1]
            assert first.split()[0] == "1.000" and first.endswith(name)

    def test_depth_with_its_camera(self, ask, files):
        code, out, _ = ask("--depth", files / "depth/2.png", *own_files.OPTIONS[:4], "-k", 1)
        assert code == 0 and out.splitlines()[1].split()[:2] == ["1.000", "depth"]
        code, _, err = ask("--depth", files / "depth/2.png")
        assert code == 2 and "focal_length" in err

    def test_words_find_texts_and_filters_hold(self, ask):
        code, out, _ = ask("--text", "two cups of tea, and a cake", "--modality", "text", "-k", 2)
        assert code == 0 and re.search(r"1.000  text +.*3.txt: two cups of tea", out)
        assert len(out.splitlines()) == 3
        code, out, _ = ask(
            "--text", "red", "--modality", "vision", "--where", "file~*red*", "-k", 50
        )
        assert code == 0 and len(out.splitlines()) == 5 and "green" not in out

    def test_weights_and_json(self, ask, files):
        def cosines(*arguments):
            code, out, err = ask(*arguments, "--json", "-k", 32)
            assert code == 0, err
            return {each["row"]: each["cosine"] for each in json.loads(out)}

        red, sound = files / "photos/red0.jpg", files / "sounds/0.flac"
        both = cosines("--image", red, "--audio", sound, "--weight", 0.0)
        alone = cosines("--image", red)
        assert both == pytest.approx(alone, abs=1e-5)
        assert cosines("--image", red, "--audio", sound) != pytest.approx(alone, abs=1e-3)

    def test_a_page(self, ask, files, tmp_path):
        page = tmp_path / "found.html"
        code, out, _ = ask("--text", "<b>loud</b>", "--image", files / "photos/blue0.jpg", "-k", 32,
                           "--weight", 2, "--page", page)  # fmt: skip
        assert code == 0 and "open it in a browser" in out
        html = page.read_text()
        assert "&lt;b&gt;loud" in html and "<b>loud" not in html
        assert "vision × 2" in html
        assert html.count('<figure class="hit">') == 32
        assert html.count("<audio") == html.count('class="wave"') == 4
        assert "http" not in html.replace("http-equiv", "").replace("https://www.w3.org", "")

    def test_mistakes(self, mistake, stored, tmp_path, monkeypatch):
        index = ["search", "--index", stored]
        assert "nothing is asked" in mistake(*index)
        assert "--weight goes after" in mistake(*index, "--weight", 2)
        assert "holds no store" in mistake("search", "--index", tmp_path, "--text", "a")
        assert "no_file.jpg" in mistake(*index, "--image", tmp_path / "no_file.jpg")
        assert "has no index" in mistake(*index, "--text", "a", "--approximate")
        assert "no row has 'colour'" in mistake(*index, "--text", "a", "--where", "colour=red")
        other = own_files.save(tmp_path / "other.safetensors", seed=5)
        line = mistake(*index, "--text", "a", "--checkpoint", other)
        assert "is not the checkpoint that" in line

    def test_a_checkpoint_that_has_moved(self, stored, checkpoint, tmp_path):
        store = EmbeddingStore(stored)
        store.note.checkpoint = str(tmp_path / "gone")
        with pytest.raises(UserError, match="is gone: give --checkpoint"):
            search_query.load_store_encoders(store)
        assert search_query.load_store_encoders(store, checkpoint).family == store.note.family


# ---- the index

usearch = pytest.importorskip("usearch", reason="the extra `index` is not installed")


@pytest.fixture
def many(tmp_path):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 16))
    return make(
        tmp_path / "s", centres[rng.integers(30, size=2000)] + rng.standard_normal((2000, 16))
    )


def test_an_index_finds_what_it_says(many):
    said = []
    note = approximate.build_index(many, say=said.append)
    assert note.recall >= 0.95 and re.search(r"index of 2,000 rows .*% of the 10 nearest", said[0])
    opened, rng = ApproximateIndex(many), np.random.default_rng(1)
    found = []
    for query in rng.standard_normal((100, 16)).astype(np.float32):
        rows, cosines = opened.nearest(query, 10)
        truth, exact = exact_top_k(many, query[None], 10)
        found.append(len(set(rows.tolist()) & set(truth[0].tolist())) / 10)
        assert np.all(np.diff(cosines) <= 0) and len(rows) == 10
        if rows.tolist() == truth[0].tolist():
            np.testing.assert_allclose(cosines, exact[0], atol=1e-6)
    assert np.mean(found) > 0.85


def test_an_index_of_other_rows_is_refused(many):
    approximate.build_index(many)
    with open_writer(many.folder, 16, "c", "family") as writer:
        writer.add(np.eye(16)[0].astype(np.float32), ITEMS[0] | {"key": "n", "stamp": 0}, b"")
    with pytest.raises(UserError, match="the index is of 2,000 rows, and .* has 2,001 now"):
        ApproximateIndex(EmbeddingStore(many.folder))


def test_a_recall_that_is_not_reached(many, monkeypatch):
    monkeypatch.setattr(approximate, "EF_SEARCH_CANDIDATES", (1,))
    monkeypatch.setattr(approximate, "OVERFETCH", 1)
    monkeypatch.setattr(approximate, "CONNECTIVITY", 2)
    monkeypatch.setattr(approximate, "EF_CONSTRUCTION", 2)
    with pytest.raises(UserError, match="search exactly, or ask for less"):
        approximate.build_index(many, recall=1.0)
    with pytest.raises(UserError, match="has no index"):
        ApproximateIndex(many)


@pytest.mark.parametrize(
    "kills",
    [1, pytest.param(goals.size(8, 40), marks=[pytest.mark.processes, pytest.mark.goal("G32")])],
)
def test_killed_while_an_index_is_built_the_old_one_answers(kills, many, zygote, measured):
    approximate.build_index(many)
    queries = np.random.default_rng(2).standard_normal((20, 16)).astype(np.float32)

    def answers():
        opened = ApproximateIndex(EmbeddingStore(many.folder))
        return [tuple(part.tobytes() for part in opened.nearest(query, 10)) for query in queries]

    rng, halfway = random.Random(0), 0
    while halfway < kills:
        note, before = (many.folder / approximate.METADATA_FILE).read_bytes(), answers()
        child = zygote.start([many.folder], call="test_search:build_again")
        child.until("begun")
        with contextlib.suppress(TimeoutError):
            child.wait(rng.uniform(0.0, 0.3))  # then it is killed
        child.wait()
        if (many.folder / approximate.METADATA_FILE).read_bytes() == note:
            assert answers() == before
            halfway += 1
        else:  # it was quicker: a new one, whole
            assert all(len(np.frombuffer(found, np.int64)) == 10 for found, _ in answers())
    assert len(list(many.folder.glob("index-*.usearch"))) <= 2  # the last one may have been killed
    measured(f"{kills} kills: the same answers, bitwise")


def build_again(arguments):
    """In a process of its own."""
    store = EmbeddingStore(arguments[0])
    print("begun", flush=True)
    approximate.build_index(store)
    return 0


@pytest.mark.parametrize(
    "mutants",
    [10, pytest.param(goals.size(100, 1000), marks=[pytest.mark.fuzz, pytest.mark.goal("G32")])],
)
def test_mutants_of_an_index(mutants, many, rotating_seed, measured):
    from test_written_files import damaged

    approximate.build_index(many)
    query = np.random.default_rng(3).standard_normal(16).astype(np.float32)
    before, rng = ApproximateIndex(many).nearest(query, 10), random.Random(rotating_seed)
    good = {path: path.read_bytes() for path in sorted(many.folder.glob("index*"))}
    assert len(good) == 2
    told = 0
    for mutant in range(mutants):
        for path, content in good.items():
            path.write_bytes(content)
        path = list(good)[mutant % 2]
        path.write_bytes(damaged(good[path], rng))
        try:
            rows, cosines = ApproximateIndex(many).nearest(query, 10)
            assert (rows == before[0]).all() and (cosines == before[1]).all()
        except UserError as error:
            assert "\n" not in str(error) and "--build makes it anew" in str(error)
            told += 1
    assert told > mutants // 2
    measured(f"{mutants} mutants of an index: 0 silent")


def test_the_command_builds_and_uses_it(stored, files, tmp_path, capsys):
    index = ["search", "--index", str(shutil.copytree(stored, tmp_path / "copy"))]
    assert cli.main([*index, "--build"]) == 0
    assert "index of 32 rows" in capsys.readouterr().out
    photo = str(files / "photos" / "red1.jpg")
    assert cli.main([*index, "--image", photo, "-k", "3"]) == 0
    exact = capsys.readouterr().out
    assert cli.main([*index, "--image", photo, "-k", "3", "--approximate"]) == 0
    assert capsys.readouterr().out == exact
    assert cli.main([*index, "--image", photo, "--approximate", "--modality", "vision"]) == 2


def test_an_index_does_not_hide_a_damaged_row(many):
    approximate.build_index(many)
    query = np.array(many.vectors[70])
    path = many.folder / "embeddings.npy"
    data = bytearray(path.read_bytes())
    data[128 + 70 * 64 + 5] ^= 64
    path.write_bytes(data)
    with pytest.raises(UserError, match="embeddings.npy is damaged"):
        ApproximateIndex(EmbeddingStore(many.folder)).nearest(query, 3)
    with pytest.raises(UserError, match="k must be from 1"):
        ApproximateIndex(EmbeddingStore(many.folder)).nearest(query, 0)


def test_weights_that_were_changed_are_no_longer_the_stores(stored, checkpoint, tmp_path):
    from imagebind_jax.porting import load
    from imagebind_jax.porting.files import own_checkpoint, provenance
    from imagebind_jax.porting.files.parameter_source import InMemoryParams
    from imagebind_jax.search.encoders import CheckpointEncoders

    model, params = load.load(checkpoint)
    kernel = params["vision"]["trunk"]["blocks"]["attn"]["qkv"]["kernel"]
    params["vision"]["trunk"]["blocks"]["attn"]["qkv"]["kernel"] = kernel + 1e-3
    weights = InMemoryParams(model.config, params)
    other = tmp_path / "other"
    own_checkpoint.write_checkpoint(
        other, weights, lambda d: provenance.WeightsMetadata(model.config, {"licence": ""}, dict(d))
    )
    with pytest.raises(UserError, match="is not the checkpoint that"):
        search_query.load_store_encoders(EmbeddingStore(stored), other)
    encoders = CheckpointEncoders(other)
    encoders.expected = {"vision": EmbeddingStore(stored).note.of["vision"]["parameters"]}
    with pytest.raises(UserError, match="another encoder of vision than the store was made with"):
        encoders.tower("vision")
