"""Zero-shot classification: by hand, against scikit-learn, and with planted embeddings."""

import dataclasses
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import UNUSABLE_KEY, Embedder, EvalInputs, Evaluator
from imagebind_jax.evaluation.metrics import accuracy, average_precision
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.evaluation.tasks import labels, zero_shot
from imagebind_jax.evaluation.tasks.zero_shot import ZeroShot
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.inputs.transforms import audio


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ones(n):
    return np.ones((n, 1), np.float32)


# ---- classes and scores


def test_three_orthogonal_classes_are_told_apart_whatever_the_length():
    right = np.array([2, 0, 1, 1, 0])
    lengths = np.array([[1.0], [5.0], [0.1], [3.0], [2.0]])
    assert zero_shot.top1(lengths * np.eye(3)[right], np.eye(3), right) == 1.0
    assert zero_shot.top1(lengths * np.eye(3)[right], np.eye(3), (right + 1) % 3) == 0.0
    assert zero_shot.predict_class(np.eye(3)[right], np.eye(3)).tolist() == right.tolist()


def test_random_embeddings_classify_at_chance():
    n, classes = 4000, 5
    right = np.random.default_rng(2).integers(classes, size=n)
    error = (0.2 * 0.8 / n) ** 0.5
    found = zero_shot.top1(normal(n, 16), normal(classes, 16, seed=1), right)
    assert abs(found - 0.2) < 5 * error


def test_a_class_is_the_normalised_mean_of_its_prompts_unit_vectors():
    asked = []

    def embed_text(texts):
        asked.extend(texts)
        vectors = {
            "a cat": [9.0, 0, 0],
            "the cat": [0, 1, 0],
            "a dog": [0, 0, 2],
            "the dog": [0, 0, 1],
        }
        return np.array([vectors[text] for text in texts])

    classes = zero_shot.zero_shot_weights(embed_text, ["cat", "dog"], ["a {}", "the {}"])
    half = 0.5**0.5  # the first prompt's length of 9 does not count
    np.testing.assert_allclose(classes, [[half, half, 0], [0, 0, 1]], atol=1e-7)
    assert asked == ["a cat", "the cat", "a dog", "the dog"]


def test_the_best_of_a_classs_names_counts():
    names = np.eye(4)  # of a class with one, one with two, one with one
    z = np.array([[3.0, 0, 1, 2], [0, 1, 4, 2], [1, -2, -1, -1]])
    parts = list(zero_shot.max_over_names(z, names, (1, 2, 1), rows=2))
    assert [len(part) for _, part in parts] == [2, 1]
    lengths = np.sqrt([[14], [21], [7]])
    wanted = np.array([[3.0, 1, 2], [0, 4, 2], [1, -1, -1]]) / lengths
    np.testing.assert_allclose(np.concatenate([part for _, part in parts]), wanted, atol=1e-6)


# ---- accuracy

tied = st.integers(2, 7).flatmap(
    lambda classes: st.lists(
        st.tuples(
            st.lists(st.integers(0, 4), min_size=classes, max_size=classes),
            st.integers(0, classes - 1),
        ),
        min_size=1,
        max_size=12,
    )
)


@settings(max_examples=60, deadline=None)
@given(tied, st.integers(1, 8))
def test_equal_scores_are_in_all_orders_alike(rows, k):
    """Each row against a count of the orders of its equal scores."""
    scores = np.array([row for row, _ in rows], float)
    right = np.array([label for _, label in rows])
    found = accuracy.top_k(scores, right, k)
    for score, label, share in zip(scores, right, found):
        above, equal = (score > score[label]).sum(), (score == score[label]).sum()
        places = above + np.arange(equal)  # each as likely
        assert share == pytest.approx((places < k).mean())


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_is_scikit_learns_over_random_orders_of_the_classes(k):
    rng = np.random.default_rng(k)
    scores, right = rng.integers(0, 5, (60, 6)).astype(float), rng.integers(6, size=60)
    found = []
    for _ in range(300):  # scikit-learn lets the order of the classes decide
        order = rng.permutation(6)
        found.append(
            sklearn_metrics.top_k_accuracy_score(
                np.argsort(order)[right], scores[:, order], k=k, labels=range(6)
            )
        )
    error = np.std(found) / 300**0.5
    assert abs(accuracy.top_k(scores, right, k).mean() - np.mean(found)) < 5 * error


def test_accuracies_without_ties_are_scikit_learns():
    rng = np.random.default_rng(0)
    scores, right = rng.normal(size=(300, 8)), np.minimum(np.arange(300) // 7, 7)
    scores[np.arange(300), right] += 1
    best = accuracy.top_k(scores, right)
    predicted = scores.argmax(axis=-1)
    assert best.mean() == pytest.approx(sklearn_metrics.accuracy_score(right, predicted))
    wanted = sklearn_metrics.balanced_accuracy_score(right, predicted)
    assert accuracy.mean_per_class(best, right) == pytest.approx(wanted) != best.mean()
    for k in (2, 5):
        wanted = sklearn_metrics.top_k_accuracy_score(right, scores, k=k, labels=range(8))
        assert accuracy.top_k(scores, right, k).mean() == pytest.approx(wanted)


def test_scores_that_are_all_equal_give_chance_and_those_that_are_no_numbers_nothing():
    right = np.array([0, 0, 0, 3])
    for k in (1, 2, 4):
        assert accuracy.top_k(np.ones((4, 4)), right, k).tolist() == [k / 4] * 4
        assert not accuracy.top_k(np.full((4, 4), np.nan), right, k).any()
    one = np.array([[1.0, np.nan, 0], [2.0, 1.0, np.nan]])
    assert accuracy.top_k(one, np.array([0, 2])).tolist() == [0, 0]
    assert accuracy.top_k(one, np.array([0, 2]), 2).tolist() == [1, 0]
    assert not accuracy.top_k(one, np.array([1, 2]), 9).any()


def test_mean_per_class_by_hand():
    assert accuracy.mean_per_class(
        np.array([1.0, 0, 0, 1]), np.array([4, 4, 4, 1])
    ) == pytest.approx(2 / 3)


def test_chance_by_hand():
    right = np.array([0, 0, 0, 1])
    assert accuracy.chance_accuracy(right, (1, 1)) == 0.5
    assert accuracy.chance_accuracy(right, (1, 1, 1, 1), 3) == 0.75
    assert accuracy.chance_accuracy(right, (4, 5)) == pytest.approx(0.75 * 4 / 9 + 0.25 * 5 / 9)
    assert accuracy.chance_accuracy(right, (4, 5), 2) == 1
    every = np.arange(10)  # NYU-D: 9 of one name, one of 18
    assert accuracy.chance_accuracy(every, (*[1] * 9, 18)) == pytest.approx(0.1)
    assert accuracy.chance_accuracy(every, (*[1] * 9, 18), 5) == pytest.approx(0.5)
    assert np.isnan(accuracy.chance_accuracy(np.empty(0, int), (1, 1)))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_chance_is_what_random_scores_of_names_give(k):
    counts, right = (1, 2, 7, 1), np.random.default_rng(0).choice(4, 40_000, p=[0.1, 0.2, 0.3, 0.4])
    names = np.random.default_rng(1).random((len(right), 11))
    scores = np.maximum.reduceat(names, np.cumsum([0, *counts[:-1]]), axis=-1)
    found = accuracy.top_k(scores, right, k)
    error = found.std() / len(found) ** 0.5
    assert abs(accuracy.chance_accuracy(right, counts, k) - found.mean()) < 4 * error


# ---- average precision


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 25), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.integers(0, 10**6)
)
def test_average_precision_is_scikit_learns_with_ties_and_weights(n, c, levels, whole, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, c)) / levels
    positive = rng.random((n, c)) < 0.3
    weights = rng.integers(0, 3, (n, 2)).astype(np.float32) if whole else rng.random((n, 2))
    ranking = average_precision.rank_scores(scores, positive)
    found = average_precision.average_precision(ranking, weights)
    for draw, column in itertools.product(range(2), range(c)):
        w, y = weights[:, draw].astype(float), positive[:, column]
        if (w * y).sum() == 0:
            assert np.isnan(found[draw, column])
            continue
        wanted = sklearn_metrics.average_precision_score(
            y[w > 0], scores[w > 0, column], sample_weight=w[w > 0]
        )
        assert found[draw, column] == pytest.approx(wanted, abs=1e-6)


def test_average_precision_by_hand():
    scores = np.array([[0.9, 1, 1], [0.8, 1, 0], [0.7, 1, 0], [0.6, 1, 0]])
    positive = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
    ranking = average_precision.rank_scores(scores, positive)
    found = average_precision.average_precision(ranking, ones(4))
    # The second and fourth place; all equal: the prevalence; no positive.
    np.testing.assert_allclose(found, [[(1 / 2 + 2 / 4) / 2, 0.5, np.nan]])
    assert average_precision.mean_average_precision(ranking, ones(4)) == pytest.approx([0.5])
    none = average_precision.rank_scores(scores, np.zeros((4, 3), bool))
    assert np.isnan(average_precision.mean_average_precision(none, ones(4))).all()


def test_a_positive_whose_score_is_no_number_is_never_found():
    scores = np.array([[1.0, np.nan], [np.nan, np.nan], [np.nan, 3.0]])
    positive = np.array([[1, 1], [1, 0], [0, 0]], bool)
    ranking = average_precision.rank_scores(scores, positive)
    found = average_precision.average_precision(ranking, ones(3))
    np.testing.assert_allclose(found, [[0.5, 0]])


@pytest.mark.parametrize("levels", [3, 10**6])
def test_chance_of_average_precision_is_the_mean_over_random_orders(levels):
    positive = np.arange(20)[:, None] < np.array([1, 4, 20, 0])
    rng = np.random.default_rng(0)
    found = [
        average_precision.mean_average_precision(
            average_precision.rank_scores(rng.integers(0, levels, (20, 4)) / levels, positive),
            ones(20),
        )[0]
        for _ in range(400)
    ]
    error, wanted = np.std(found) / 20, average_precision.chance_map(positive)
    prevalence = (1 + 4 + 20) / 60
    assert prevalence < wanted
    if levels == 3:  # between the two
        assert prevalence - 4 * error < np.mean(found) < wanted
    else:
        assert abs(np.mean(found) - wanted) < 4 * error


def test_the_interval_of_mean_average_precision_holds_the_mean_of_such_sets():
    """Resampled as it is, the number rises: what is drawn twice is found at once."""

    def ranking(seed):
        positive = np.random.default_rng(seed).random((200, 5)) < 0.1
        return average_precision.rank_scores(normal(200, 5, seed=seed + 1000) + positive, positive)

    found = [average_precision.bootstrap_map([ranking(seed)], resamples=100) for seed in range(100)]
    mean = np.mean([each.value for each in found])
    covered = np.mean([each.low <= mean <= each.high for each in found])
    assert 0.88 <= covered <= 1  # of 100, by 100 resamples
    assert np.mean([each.low < each.value < each.high for each in found]) == 1
    width = np.mean([each.high - each.low for each in found])
    assert width == pytest.approx(2 * 1.96 * np.std([each.value for each in found]), rel=0.25)


def test_resamples_of_average_precision_draw_groups_and_folds():
    positive = np.random.default_rng(0).random((60, 3)) < 0.2
    scores = normal(60, 3) + 2 * positive
    one = average_precision.rank_scores(scores[:30], positive[:30])
    two = average_precision.rank_scores(scores[30:], positive[30:])
    each = [average_precision.bootstrap_map([x], resamples=20).value for x in (one, two)]
    both = average_precision.bootstrap_map([one, two], resamples=200)
    assert both.value == pytest.approx(np.mean(each)) and both.n == 60
    assert both.spread == pytest.approx(np.std(each, ddof=1))
    grouped = average_precision.bootstrap_map([one, two], groups=np.arange(60) // 6, resamples=200)
    assert (grouped.value, grouped.n) == (both.value, 10)
    assert (grouped.low, grouped.high) != (both.low, both.high)


# ---- the evaluation

CLASSES = ["a", "b", "c", "d", "e", "f", "g"]


class Planted:
    """Records whose embeddings are those of their classes; or any others."""

    resamples, seed, folder = 50, 0, None

    def __init__(self, right, embeddings=None, classes=CLASSES, names=None, prompts=("a {}",)):
        """right: {split: labels}; embeddings: {split: [n, e]}."""
        self.right, self.embeddings = right, embeddings
        self.names, self.asked = names or {}, []
        empty = {"name": "set", "title": "", "licence": "", "homepage": "", "modalities": []}
        self.said = DatasetInfo(
            **empty, classes=classes, prompts=list(prompts), notes=[], splits={}, names=self.names
        )

    def facts(self, source):
        return self.said

    def notes(self, source):
        given = self.right[source.split]
        return [{"id": f"{i // 2}/{i}", "label": label} for i, label in enumerate(given)]

    def records(self, source):
        raise AssertionError("no media are needed")

    inputs = texts = records

    def vector(self, name):
        return np.eye(32, dtype=np.float32)[ord(name) - ord("a")]

    def classes(self, name, names, prompts):
        self.asked.append((name, list(names), list(prompts)))
        return np.stack([self.vector(each) for each in names])

    def embed(self, items):
        if self.embeddings:
            return self.embeddings[items.source.split]
        best = [self.names.get(each, [each])[-1] for each in self.said.classes]
        rows = self.right[items.source.split]
        several = [row if isinstance(row, list) else [row] for row in rows]
        return l2_normalize(np.stack([sum(self.vector(best[i]) for i in row) for row in several]))

    def tell(self, what):
        pass


def zero(*splits, **how):
    items = tuple(
        EvalInputs(Prepared("records/set", split), "audio", audio.LogMel()) for split in splits
    )
    return ZeroShot(items or zero("test").items, **how)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


EACH = list(range(7)) * 3
SEVERAL = [[i, (i * i + 1) % 7] if i % 7 != 1 else [1] for i in EACH]


def test_it_is_an_evaluation():
    assert isinstance(zero(), Evaluator) and isinstance(Planted({}), Embedder)
    one = zero("fold1", "fold2")
    assert one.sources == (Prepared("records/set", "fold1"), Prepared("records/set", "fold2"))
    assert one.modalities == {"audio", "text"}


@pytest.mark.parametrize(
    ("metrics", "right"),
    [(("top1", "top5"), EACH), (("mean_class", "top1"), EACH), (("mAP",), SEVERAL)],
)
def test_a_planted_answer_scores_one(metrics, right):
    bench = Planted({"test": right})
    found = zero(metrics=metrics).measure(bench)
    assert tuple(found.numbers) == metrics and found.chance.keys() == found.numbers.keys()
    for each in found.numbers.values():
        assert (each.value, each.low, each.high, each.n, each.spread) == (1, 1, 1, 21, None)
    assert (found.samples, found.unusable, found.notes) == (21, 0, ())
    assert bench.asked == [("set", CLASSES, ["a {}"])]  # once, by the folder's name


@pytest.mark.parametrize(
    ("metrics", "right"), [(("top1", "top5", "mean_class"), EACH[:-5]), (("mAP",), SEVERAL[:-5])]
)
def test_random_embeddings_score_chance(metrics, right):
    names = {"c": ["c", "h", "i", "j"], "f": ["f", "k"]}
    found = []
    for seed in range(60):
        bench = Planted(
            {"test": right}, {"test": l2_normalize(normal(len(right), 32, seed=seed))}, names=names
        )
        bench.resamples = 0
        measured = zero(metrics=metrics).measure(bench)
        found.append([each.value for each in measured.numbers.values()])
    error = np.std(found, axis=0) / len(found) ** 0.5
    wanted = np.array([measured.chance[metric] for metric in metrics])
    assert (np.abs(np.mean(found, axis=0) - wanted) < 4 * error).all()


def test_collapsed_embeddings_score_chance():
    z = np.tile(l2_normalize(normal(1, 32)), (21, 1))
    found = zero(metrics=("top1", "mean_class", "top5")).measure(
        Planted({"test": EACH}, {"test": z})
    )
    for metric, wanted in (("top1", 1 / 7), ("mean_class", 1 / 7), ("top5", 5 / 7)):
        assert found.numbers[metric].value == pytest.approx(wanted)
    found = zero(metrics=("mAP",)).measure(Planted({"test": SEVERAL}, {"test": z}))
    prevalence = np.mean([sum(i in row for row in SEVERAL) / 21 for i in range(7)])
    assert (
        found.numbers["mAP"].value == pytest.approx(prevalence) and prevalence < found.chance["mAP"]
    )


def test_records_without_an_input_are_left_out_and_counted():
    for metric, right in (("top1", EACH), ("mAP", SEVERAL)):
        bench = Planted({"test": right})
        z = bench.embed(zero().items[0])
        z[[0, 8, 20]] = np.nan
        bench.embeddings = {"test": z}
        found = zero(metrics=(metric,)).measure(bench)
        assert (found.samples, found.unusable, found.numbers[metric].n) == (21, 3, 18)
        assert found.numbers[metric].value == 1
        z[:] = np.nan
        found = zero(metrics=(metric,)).measure(bench)
        assert found.unusable == 21 and np.isnan(found.numbers[metric].value)
    z = Planted({"test": EACH}).embed(zero().items[0])
    z[3] = np.nan
    samples = zero().measure(Planted({"test": EACH}, {"test": z})).numbers["top1"].samples
    assert np.isnan(samples[3]) and np.isnan(samples).sum() == 1  # keeps its place


def test_folds_are_averaged_whatever_their_sizes():
    right = {"one": [0, 1, 2, 3], "two": [4, 5]}
    z = {
        split: np.stack([Planted({}).vector(CLASSES[i]) for i in row])
        for split, row in right.items()
    }
    z["two"] = z["two"][::-1].copy()  # both wrong
    z["one"][0] = z["one"][1]
    found = zero("one", "two", metrics=("top1", "mean_class")).measure(Planted(right, z))
    top1 = found.numbers["top1"]
    assert top1.value == pytest.approx((3 / 4 + 0) / 2)
    assert top1.spread == pytest.approx(0.75 / 2**0.5)
    assert top1.strata.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.numbers["mean_class"].value == pytest.approx(3 / 6)
    assert found.notes == ("1 of 7 classes have no sample",)
    # a is tied of four, b of two, c and d are found; e and f come second of two.
    several = {split: [[i] for i in row] for split, row in right.items()}
    found = zero("one", "two", metrics=("mAP",)).measure(Planted(several, z))
    assert found.numbers["mAP"].value == pytest.approx((2.75 / 4 + 1 / 2) / 2)


def test_names_of_a_class_are_asked_for_in_order_and_the_best_counts():
    names = {"b": ["h", "i"], "g": ["j"]}
    bench = Planted({"test": EACH}, names=names)
    found = zero().measure(bench)
    assert bench.asked[0][1] == ["a", "h", "i", "c", "d", "e", "f", "j"]
    assert found.numbers["top1"].value == 1  # by the last name of each
    given = zero(classes=("a", "b"), names={"a": ("x", "y")}, prompts=("{}!",))
    bench = Planted({"test": [0, 1, 0]}, {"test": np.stack([bench.vector(x) for x in "yby"])})
    assert given.measure(bench).numbers["top1"].value == 1
    assert bench.asked == [("set", ["x", "y", "b"], ["{}!"])]


def test_top5_of_five_classes_is_left_out():
    assert list(zero().measure(Planted({"test": [0, 1]}, classes=CLASSES[:5])).numbers) == ["top1"]
    with pytest.raises(UserError, match="top5 of 5 classes is always right"):
        zero(metrics=("top5",)).measure(Planted({"test": [0]}, classes=CLASSES[:5]))


def test_samples_are_drawn_together_by_what_their_ids_share():
    right = {"one": EACH[:8], "two": EACH[:8]}
    found = zero("one", "two", together=r"^\d+/").measure(Planted(right)).numbers["top1"]
    assert found.n == 8 and len(np.unique(found.groups)) == 8  # of each fold its own
    assert found.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    found = zero(metrics=("mAP",), together="^[0-9]+").measure(Planted({"test": SEVERAL}))
    assert found.numbers["mAP"].n == 11
    with pytest.raises(UserError, match="finds nothing in id '0/0'"):
        zero(together="x").measure(Planted({"test": EACH}))
    with pytest.raises(UserError, match="no mean_class of them"):
        zero(metrics=("mean_class",), together="^[0-9]+").measure(Planted({"test": EACH}))


def test_the_seed_and_number_of_resamples_are_the_benchs():
    z = {
        "test": l2_normalize(normal(21, 32) + 0.3 * Planted({"test": EACH}).embed(zero().items[0]))
    }

    def interval(seed, resamples=50):
        bench = Planted({"test": EACH}, z)
        bench.seed, bench.resamples = seed, resamples
        found = zero(metrics=("top1",)).measure(bench).numbers["top1"]
        return found.value, found.low, found.high

    assert interval(1) == interval(1) != interval(2)
    assert np.isnan(interval(1, resamples=0)[1])


@pytest.mark.parametrize(
    ("right", "how", "match"),
    [
        ([0, None], {}, "set-test: record '0/1' has no label"),
        ([0, 7], {}, r"label 7: it must be in 0\.\.6"),
        ([-1], {}, "label -1"),
        (["a"], {}, "label 'a': it must be"),
        ([1.0], {}, "label 1.0"),
        ([True], {}, "label True"),
        ([[0, 1]], {}, r"label \[0, 1\], for which the metric is mAP alone"),
        ([0], {"metrics": ("mAP",)}, "label 0, for which the metric is some of top1"),
        ([[0, 9]], {"metrics": ("mAP",)}, "label 9"),
        ([0], {"prompts": ("a dog",)}, "'a dog' is no template"),
        ([0], {"names": {"z": ("y",)}}, "names are given of 'z', which is no class"),
        ([0], {"names": {"a": ()}}, "class 'a' of set-test has an empty list"),
    ],
)
def test_what_does_not_fit_is_named(right, how, match):
    with pytest.raises(UserError, match=match):
        zero(**how).measure(Planted({"test": right}))


def test_classes_and_prompts_must_come_from_somewhere():
    class Bare(Planted):
        def facts(self, source):
            return None

    with pytest.raises(UserError, match="without classes: give ZeroShot"):
        zero().measure(Bare({"test": [0]}))
    with pytest.raises(UserError, match="without prompts: give ZeroShot"):
        zero(classes=("a", "b")).measure(Bare({"test": [0]}))
    found = zero(classes=("a", "b"), prompts=("{}",)).measure(Bare({"test": [0, 1]}))
    assert found.numbers["top1"].value == 1


def test_folds_of_different_classes_and_vectors_that_are_no_numbers_are_refused():
    class Other(Planted):
        def facts(self, source):
            return self.said if source.split == "one" else None

        def classes(self, name, names, prompts):
            return np.where(
                np.array(names)[:, None] == "c",
                np.float32("nan"),
                super().classes(name, names, prompts),
            )

    with pytest.raises(UserError, match="set-two has other classes than set-one"):
        zero("one", "two").measure(Other({"one": [0], "two": [0]}))
    with pytest.raises(UserError, match="embedding of 'c' is not a number"):
        zero("one").measure(Other({"one": [0]}))
    with pytest.raises(UserError, match="21 embeddings of 1 records"):
        zero().measure(Planted({"test": [0]}, {"test": normal(21, 32)}))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"metrics": ("top3",)}, "top3.*give some of top1, top5, mean_class, mAP"),
        ({"metrics": ()}, "give some of"),
        ({"metrics": ("top1", "mAP")}, "several labels"),
        ({"together": "("}, "cannot be searched"),
        ({"items": ()}, "no items"),
    ],
)
def test_settings_are_checked_at_the_door(how, match):
    with pytest.raises(UserError, match=match):
        dataclasses.replace(zero(), **how)


def test_a_label_may_be_any_whole_number():
    rows = [{"label": np.int32(2)}, {"label": np.array(1)}]
    assert labels.ground_truth(rows, 3, False, "x").tolist() == [2, 1]
    rows = [{"label": np.array([0, 2])}, {"label": []}]
    assert labels.ground_truth(rows, 3, True, "x").tolist() == [[True, False, True], [False] * 3]


def test_a_record_that_cannot_be_read_is_counted_and_not_a_mistake_of_the_config():
    class Unread(Planted):
        def notes(self, source):
            return [
                {UNUSABLE_KEY: "broken"} if i == 2 else x
                for i, x in enumerate(super().notes(source))
            ]

    found = zero(together="^[0-9]+").measure(Unread({"test": EACH}))
    assert found.unusable == 1 and found.numbers["top1"].value == 1
