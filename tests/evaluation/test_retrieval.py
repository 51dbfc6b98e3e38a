"""Ranks against brute force, and retrieval as a benchmark on embeddings that a test plants."""

import dataclasses
import itertools
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.metrics import ranking, similarity
from imagebind_jax.evaluation.tasks import retrieval
from imagebind_jax.evaluation.tasks.retrieval import Retrieval


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def signs(rng, n, d=16):
    """Rows whose cosines are exact: d is a power of 4, so that their length is one of 2."""
    return rng.choice(np.array([-1.0, 1.0], np.float32), size=(n, d))


@pytest.fixture(params=[1, 3, 1024])
def block(request, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", request.param)
    return request.param


def by_sorting(query, key, query_items, key_items):
    """Ranks by sorting Python's numbers, ties by index."""
    query, key = query.astype(np.float64), key.astype(np.float64)
    found = []
    for q, item in zip(query, query_items):
        cosines = [float(q @ k) / float(np.linalg.norm(q) * np.linalg.norm(k)) for k in key]
        usable = [i for i, c in enumerate(cosines) if c == c]
        order = sorted(usable, key=lambda i: (-cosines[i], i))  # noqa: B023
        own = [place for place, i in enumerate(order) if key_items[i] == item]
        found.append(own[0] if own else np.inf)
    return found


# ---- unit vectors and their cosines


def test_unit_vectors_have_length_one_and_a_zero_row_stays_zero():
    z = similarity.l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(z, [[0.6, 0.8], [0, 0]])


def test_unit_vectors_of_half_precision_are_single():
    z = similarity.l2_normalize(
        np.full((2, 4), 40_000, np.float16)
    )  # whose square is beyond float16
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, 0.5, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_none(bad):
    z = similarity.l2_normalize(np.array([[3.0, 4.0], [bad, 1.0]]))
    np.testing.assert_allclose(z[0], [0.6, 0.8])
    assert np.isnan(z[1]).all()


def test_scores_in_pieces_are_the_cosines_of_all():
    query, key = normal(7, 5), normal(4, 5, seed=1)
    parts = list(similarity.cosine_chunks(query, key, rows=3))
    assert [len(part) for _, part in parts] == [3, 3, 1]
    lengths = np.linalg.norm(query, axis=-1)[:, None] * np.linalg.norm(key, axis=-1)[None]
    np.testing.assert_allclose(
        np.concatenate([p for _, p in parts]), query @ key.T / lengths, atol=1e-6
    )


def test_a_mix_is_the_weighted_sum_of_unit_vectors_and_what_lacks_counts_as_zero(block):
    nan = [np.nan, np.nan]
    video = np.array([[9.0, 0], [0, 2], nan, nan])
    sound = np.array([[0, 0.1], nan, [0, 7], nan])
    mixed = similarity.weighted_sum([video, sound], (3.0, 4.0))
    np.testing.assert_allclose(mixed, [[0.6, 0.8], [0, 1], [0, 1], nan], atol=1e-6)
    with pytest.raises(ValueError):
        similarity.weighted_sum([video, sound], (1.0,))


# ---- nearest


def test_nearest_is_brute_force(block):
    query, key = normal(6, 8), normal(30, 8, seed=1)
    indices, values = similarity.top_k(query, key, k=4)
    cosines = similarity.l2_normalize(query) @ similarity.l2_normalize(key).T
    for row, found, value in zip(cosines, indices, values):
        best = sorted(range(30), key=lambda i: -row[i])[:4]  # noqa: B023
        assert found.tolist() == best
        np.testing.assert_allclose(value, row[best], atol=1e-6)


def test_nearest_goes_by_index_among_equals(block):
    rng = np.random.default_rng(0)
    query, key = signs(rng, 9, 4), signs(rng, 40, 4)  # only 5 different cosines
    key[7] = np.nan
    key[8] = 0  # a cosine of 0, of either sign
    indices, values = similarity.top_k(query, key, k=25)
    for q, found, value in zip(query, indices, values):
        cosines = [float(q @ k) / (4 if i != 8 else 1) for i, k in enumerate(key)]
        best = sorted((i for i in range(40) if i != 7), key=lambda i: (-cosines[i], i))[:25]  # noqa: B023
        assert found.tolist() == best
        assert value.tolist() == [cosines[i] for i in best]


def test_nearest_gives_all_keys_where_there_are_fewer_and_what_is_no_number_last():
    indices, values = similarity.top_k(np.eye(1, 2), np.array([[np.nan, 1], [-1, 0], [1, 0]]), k=5)
    assert indices.tolist() == [[2, 1, 0]]
    np.testing.assert_array_equal(values, np.float32([[1, -1, np.nan]]))


# ---- ranks


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ranks_both_ways_are_those_of_sorting(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    query, key = (signs(rng, data.draw(st.integers(1, 12)), 4) for _ in range(2))
    query_items, key_items = (rng.integers(6, size=len(z)) for z in (query, key))
    query[rng.random(len(query)) < 0.1] = np.nan
    key[rng.random(len(key)) < 0.1] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK", data.draw(st.integers(1, 13)))
        patch.setattr(ranking, "DENSE_LIMIT", data.draw(st.integers(1, 3)))
        there, back = ranking.bidirectional_ranks(query, key, query_items, key_items)
        alone = ranking.retrieval_ranks(query, key, query_items, key_items)
    assert there.tolist() == by_sorting(query, key, query_items, key_items)
    assert back.tolist() == by_sorting(key, query, key_items, query_items)
    assert alone.tolist() == there.tolist()


def test_ranks_of_many_dimensions_are_those_of_sorting(block):
    query, key = normal(40, 64), normal(40, 64, seed=1) + normal(40, 64)
    rows = np.arange(40)
    there, back = ranking.bidirectional_ranks(query, 1000 * key)  # of any length
    assert there.tolist() == by_sorting(query, key, rows, rows)
    assert back.tolist() == by_sorting(key, query, rows, rows)


def test_the_best_placed_of_several_captions_counts():
    # Two records, three captions: two are of record 0, one of them closer to record 1.
    captions = np.array([[1.0, 0], [0.2, 1], [0, 1]])
    records, items = np.eye(2), np.array([0, 0, 1])
    there, back = ranking.bidirectional_ranks(captions, records, items, np.arange(2))
    assert there.tolist() == [0, 1, 0]
    assert back.tolist() == [0, 0]


def test_item_numbers_may_be_any():
    items = np.array([70, -3, 10**12])
    there, back = ranking.bidirectional_ranks(
        np.eye(3), np.eye(3)[[2, 0, 1]], items, items[[2, 0, 1]]
    )
    assert there.tolist() == back.tolist() == [0, 0, 0]


def test_a_query_without_a_key_of_its_own_never_finds_it():
    there, back = ranking.bidirectional_ranks(
        np.eye(2), np.eye(3, 2), np.array([0, 5]), np.array([0, 0, 1])
    )
    assert there.tolist() == [0, np.inf]
    assert back.tolist() == [0, 1, np.inf]
    assert ranking.recall_at_k(there, k=100) == 0.5


def test_orthogonal_pairs_are_found_and_their_order_does_not_matter():
    z = normal(50, 64)
    order = np.random.default_rng(0).permutation(50)
    assert (
        retrieval.recall_at_k(retrieval.retrieval_ranks(z, z + 0.01 * normal(50, 64, seed=1)))
        == 1.0
    )
    noisy = z + 2 * normal(50, 64, seed=1)
    there, back = ranking.bidirectional_ranks(z, noisy)
    assert 0.1 < retrieval.recall_at_k(there) < 1
    moved = ranking.bidirectional_ranks(z[order], noisy[order])
    assert moved[0].tolist() == there[order].tolist()
    assert moved[1].tolist() == back[order].tolist()


@pytest.mark.parametrize(("n", "d"), [(2, 2), (3, 64), (20, 1000), (20, 1024)])
def test_embeddings_that_are_all_alike_score_chance(n, d, block):
    for vector in (np.ones(d), np.random.default_rng(0).random(d)):
        z = np.tile(vector.astype(np.float32), (n, 1))
        for rank in ranking.bidirectional_ranks(z, z.copy()):
            assert sorted(rank) == list(range(n))
            assert retrieval.recall_at_k(rank, 2) == pytest.approx(2 / n)


def test_embeddings_alike_but_for_a_last_bit_score_chance():
    z = np.nextafter(
        np.tile(similarity.l2_normalize(normal(1, 256)), (30, 1)), normal(30, 256, seed=1)
    )
    assert len(np.unique(z, axis=0)) == 30
    for rank in ranking.bidirectional_ranks(z, z):
        assert rank.tolist() == list(range(30))


@pytest.mark.parametrize(("gap", "wanted"), [(1e-5, [1, 0]), (1e-6, [0, 1]), (-1e-5, [0, 1])])
def test_what_is_closer_by_a_hundred_thousandth_is_no_tie(gap, wanted):
    cosines = np.array([0.5, 0.5 + gap])
    key = np.stack([cosines, (1 - cosines**2) ** 0.5], axis=1).astype(np.float32)
    assert retrieval.retrieval_ranks(np.eye(1, 2)[[0, 0]], key).tolist() == wanted


def test_embeddings_that_are_not_numbers_are_never_a_hit():
    z = np.eye(4)
    z[1] = np.nan
    assert retrieval.retrieval_ranks(z, np.eye(4)).tolist() == [0, np.inf, 0, 0]
    assert (
        retrieval.recall_at_k(retrieval.retrieval_ranks(np.full((4, 4), np.nan), np.eye(4)), k=10)
        == 0
    )


def test_a_file_of_half_precision_is_ranked_where_it_lies(tmp_path):
    z, noisy = normal(30, 16), normal(30, 16) + normal(30, 16, seed=1)
    for name, array in (("z", z), ("noisy", noisy)):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float16))
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("z", "noisy")]
    wanted = ranking.bidirectional_ranks(z.astype(np.float16), noisy.astype(np.float16))
    for found, rank in zip(ranking.bidirectional_ranks(*mapped), wanted):
        assert found.tolist() == rank.tolist()


def test_never_more_than_some_blocks_are_held(monkeypatch):
    """Of 300 x 300 at blocks of 10: nothing of all scores, nor all embeddings once more."""
    monkeypatch.setattr(similarity, "BLOCK", 10)
    z, sizes = normal(300, 8), []

    def spy(function):
        def called(x):
            sizes.append(x.shape)
            return function(x)

        return called

    counted = ranking._Side.count

    def count(side, rows, columns, cosines):
        sizes.append(cosines.shape)
        counted(side, rows, columns, cosines)

    monkeypatch.setattr(ranking, "l2_normalize_f32", spy(ranking.l2_normalize_f32))
    monkeypatch.setattr(ranking._Side, "count", count)
    ranking.bidirectional_ranks(z, z)
    assert {(10, 10), (10, 8), (80, 8)} <= set(sizes)
    assert max(n for n, _ in sizes) == 80 and max(n for _, n in sizes) == 10


# ---- recall, median rank, chance


def test_ranks_recall_and_median_rank_by_hand():
    query = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])  # each prefers 0, then 1, then 2
    rank = retrieval.retrieval_ranks(query, np.eye(3))
    assert rank.tolist() == [0, 1, 2]
    assert [retrieval.recall_at_k(rank, k) for k in (1, 2, 3, 9)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1]
    )
    assert ranking.median_rank(rank.astype(int)) == 2  # of 1, 2 and 3
    assert ranking.median_rank(np.array([0, 0, 6, 9])) == 4


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1).filter(
    lambda rows: sum(times for _, times in rows)
))  # fmt: skip
def test_a_weighted_median_rank_is_that_of_the_repeated(rows):
    rank, times = np.array(rows).T
    wanted = np.median(np.repeat(rank, times)) + 1
    assert ranking.median_rank(rank, times.astype(np.float64)) == wanted


@pytest.mark.parametrize(("own", "of"), [(1, 5), (1, 6), (2, 6), (3, 7), (5, 5), (1, 1)])
def test_chance_is_the_mean_over_all_rankings(own, of):
    places = [min(p) for p in itertools.combinations(range(of), own)]  # of the own keys: the best
    for k in (1, 2, 5, 10):
        wanted = np.mean([place < k for place in places])
        assert ranking.chance_recall(np.array([own]), of, k) == pytest.approx(wanted)
    assert ranking.chance_median_rank(np.array([own, own]), of) == np.median(places) + 1


def test_chance_without_a_right_key_is_none():
    assert ranking.chance_recall(np.array([0, 1]), 4, 1) == 0.125
    assert ranking.chance_recall(np.array([0]), np.array([0]), 3) == 0


# ---- the benchmark


@dataclasses.dataclass(frozen=True)
class Made:
    modality: str

    def __call__(self, record, rng):
        raise AssertionError("a bench gives what is needed")


class Planted:
    """A bench of embeddings by modality, "text" those of all captions."""

    resamples, seed, folder = 50, 0, pathlib.Path()

    def __init__(self, notes, **embeddings):
        self.held, self.embeddings, self.optional = notes, embeddings, {}

    def notes(self, source):
        return self.held

    def embed(self, items):
        assert items.transform == Made(items.modality)
        self.optional[items.modality] = items.optional
        return self.embeddings[items.modality].astype(np.float32)

    def texts(self, name, texts):
        assert name == "planted"
        self.told = list(texts)
        return self.embeddings["text"].astype(np.float32)

    def tell(self, what):
        pass

    def unasked(self, *_):
        raise AssertionError("retrieval needs no more than this")

    facts = records = inputs = classes = unasked


class Source:
    name = "planted"

    def open(self):
        raise AssertionError("a bench gives what is needed")


def benchmark(query, target, **options):
    inputs = {m: Made(m) for m in {*query, *target} - {"text"}}
    return Retrieval(Source(), query, target, inputs, **options)


def measured(bench, query, target, **options):
    return benchmark(query, target, **options).measure(bench)


TEXT, AUDIO = {"text": 1.0}, {"audio": 1.0}
FIVE = [{"id": i, "text": [f"{i}a", f"{i}b"] if i < 2 else f"{i}"} for i in range(5)]


def test_every_caption_is_a_query_of_its_own():
    # The second caption of record 0 is nearest to record 1, and the one of record 4 to record 3.
    text = np.eye(5)[[0, 1, 1, 1, 2, 3, 3]]
    text[1, 0] = text[6, 4] = 0.5
    bench = Planted(FIVE, text=text, audio=np.eye(5))
    found = measured(bench, TEXT, AUDIO)
    assert bench.told == ["0a", "0b", "1a", "1b", "2", "3", "4"]
    assert found.samples == 7 and found.unusable == 0
    values = {name: number.value for name, number in found.numbers.items()}
    # Backwards each recording's best caption is its own: only that of record 4 has length below 1
    # in its direction, and no other has any.
    assert list(values)[0] == "r1"
    assert values == pytest.approx(
        {"r1": 5 / 7, "r5": 1, "r10": 1, "median_rank": 1}
        | {"back_r1": 1, "back_r5": 1, "back_r10": 1, "back_median_rank": 1}
    )
    assert found.numbers["r1"].n == 5  # records are drawn, not captions
    assert found.numbers["r1"].samples.tolist() == [1, 0, 1, 1, 1, 1, 0]
    assert found.numbers["r1"].low <= 5 / 7 <= found.numbers["r1"].high
    assert not found.numbers["median_rank"].share
    assert found.chance["r1"] == pytest.approx(0.2)
    assert found.chance["r10"] == found.chance["back_r10"] == 1
    assert found.chance["back_r1"] == pytest.approx((2 * 2 / 7 + 3 * 1 / 7) / 5)
    assert found.chance["median_rank"] == 3  # of 1 to 5
    assert set(found.chance) == set(found.numbers)


def test_back_to_front_is_the_same_the_other_way_round():
    bench = Planted(FIVE, text=normal(7, 8), audio=normal(5, 8, seed=1))
    there, back = measured(bench, TEXT, AUDIO), measured(bench, AUDIO, TEXT)
    assert there.samples == 7 and back.samples == 5
    for name in ("r1", "r5", "r10", "median_rank"):
        for a, b in ((there, back), (back, there)):
            one, other = a.numbers[name], b.numbers[f"back_{name}"]
            assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
            assert a.chance[name] == b.chance[f"back_{name}"]


def test_a_record_without_sound_is_a_miss_and_counted():
    audio = np.eye(5)
    audio[2] = np.nan
    bench = Planted(FIVE, text=np.eye(5)[[0, 0, 1, 1, 2, 3, 4]], audio=audio)
    found = measured(bench, TEXT, AUDIO, optional=("audio",))
    assert bench.optional == {"audio": True}
    assert found.unusable == 1 and found.samples == 7
    assert found.numbers["r1"].value == found.numbers["r10"].value == pytest.approx(6 / 7)
    assert found.numbers["back_r10"].value == pytest.approx(4 / 5)
    assert found.numbers["median_rank"].value == 1


def test_embeddings_all_missing_have_the_last_rank():
    bench = Planted(FIVE, text=np.full((7, 5), np.nan), audio=np.eye(5))
    found = measured(bench, TEXT, AUDIO)
    assert found.unusable == found.samples == 7 and found.numbers["r10"].value == 0
    assert found.numbers["median_rank"].value == 5
    assert found.numbers["back_median_rank"].value == 7


def test_modalities_are_weighed_and_a_silent_video_is_its_picture():
    notes = [{"id": i, "text": f"{i}"} for i in range(3)]
    text, sound = np.eye(3), np.eye(3)[[1, 2, 0]]
    sound[2] = np.nan
    picture = np.eye(3)
    bench = Planted(notes, text=text, vision=picture, audio=sound)
    # By its sound, record 0 is taken for 1, and 1 for 2; but 0 is still the only one with any 0.
    for weights, right in (((0.95, 0.05), 1.0), ((0.05, 0.95), 2 / 3)):
        target = dict(zip(("vision", "audio"), weights))
        found = measured(bench, TEXT, target, optional=("audio",))
        assert found.numbers["r1"].value == pytest.approx(right)
        assert found.unusable == 0  # its picture is there
    assert bench.optional == {"vision": False, "audio": True}


def test_text_mixed_with_another_modality_is_one_a_record():
    notes = [{"id": i, "text": [f"{i}"]} for i in range(3)]
    bench = Planted(notes, text=np.eye(3), vision=np.eye(3), audio=np.eye(3))
    query = {"text": 0.5, "audio": 0.5}
    assert measured(bench, query, {"vision": 1.0}).numbers["r1"].value == 1
    bench = Planted(FIVE, text=np.eye(7, 5), vision=np.eye(5), audio=np.eye(5))
    with pytest.raises(UserError, match="record 0 has 2 texts"):
        measured(bench, query, {"vision": 1.0})


@pytest.mark.parametrize("note", [{}, {"text": []}, {"text": ""}])
def test_a_record_without_text_is_named(note):
    bench = Planted([*FIVE[:2], {"id": "dog.wav", **note}], text=np.eye(4), audio=np.eye(3))
    with pytest.raises(UserError, match="record 'dog.wav' has no text"):
        measured(bench, TEXT, AUDIO)


def test_no_records_are_refused():
    with pytest.raises(UserError, match="planted has no records"):
        measured(Planted([], text=np.empty((0, 3)), audio=np.empty((0, 3))), TEXT, AUDIO)


def test_a_benchmark_says_what_it_needs():
    found = benchmark(TEXT, {"vision": 0.95, "audio": 0.05})
    assert found.modalities == {"text", "vision", "audio"}
    assert len(found.sources) == 1
    for query, target, options, match in (
        (TEXT, TEXT, {}, "both sides"),
        (TEXT, {}, {}, "both sides"),
        (TEXT, {"audio": 0.0}, {}, "audio weighs 0.0"),
        (TEXT, {"audio": float("nan")}, {}, "audio weighs nan"),
        (TEXT, AUDIO, {"optional": ("vision",)}, "optional names vision"),
    ):
        with pytest.raises(UserError, match=match):
            benchmark(query, target, **options)
    with pytest.raises(UserError, match="needs inputs="):
        Retrieval(Source(), TEXT, AUDIO)
