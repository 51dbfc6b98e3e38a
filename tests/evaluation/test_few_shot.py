"""Few-shot classification, and the linear probes it learns with, where the answer is known."""

import collections
import dataclasses

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, Evaluator
from imagebind_jax.evaluation.tasks import few_shot, linear_probe, retrieval
from imagebind_jax.evaluation.tasks.few_shot import FewShot, LabelledPool

# What is compiled here takes longer to compile than to run.


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Named:
    """A source of records that only the bench knows."""

    name: str

    def open(self):
        raise AssertionError("the bench knows")


def items(name):
    return EvalInputs(Named(name), "audio", lambda record, rng: record["audio"])


class Planted:
    """A bench with arrays: name -> (embeddings, labels)."""

    resamples, seed, folder = 50, 0, None

    def __init__(self, arrays):
        self.arrays, self.told = arrays, []

    def notes(self, source):
        return [{"id": str(i), "label": x} for i, x in enumerate(self.arrays[source.name][1])]

    def embed(self, items):
        return self.arrays[items.source.name][0]

    def tell(self, what):
        self.told.append(what)

    def unused(self, *_):
        raise AssertionError("few-shot evaluation asks for embeddings and labels alone")

    facts = records = inputs = texts = classes = unused


def folds(count, make):
    """A bench of `count` folds, make(fold) -> (embeddings, labels), and their items."""
    return Planted({f"fold{f}": make(f) for f in range(count)}), tuple(
        items(f"fold{f}") for f in range(count)
    )


def clusters(n, classes, noise, seed, width=64):
    """Around orthogonal directions, the same for every seed."""
    labels = np.arange(n) % classes
    directions = np.linalg.qr(normal(width, classes, seed=99))[0].T
    z = directions[labels] + noise * normal(n, width, seed=seed)
    return z / np.linalg.norm(z, axis=-1, keepdims=True), labels.tolist()


# ---- episodes


def pool_of(labels, splits, usable=None):
    usable = np.ones(len(labels), bool) if usable is None else usable
    return LabelledPool(np.asarray(labels), usable, splits)


def halves(n):
    return ((np.arange(n // 2), np.arange(n // 2, n)), (np.arange(n // 2, n), np.arange(n // 2)))


def test_an_episode_has_k_samples_of_each_class_and_none_that_it_is_tested_on():
    labels = np.arange(60) % 5 + 10
    for each in few_shot.sample_episodes(pool_of(labels, halves(60)), 3, draws=2, seed=0):
        assert collections.Counter(labels[each.train]) == dict.fromkeys(range(10, 15), 3)
        assert (each.labels + 10 == labels[each.train]).all() and each.classes == 5
        assert len(np.unique(each.train)) == 15 and not set(each.train) & set(each.test)
        assert sorted(each.test) == list(halves(60)[each.split][1])


def test_the_samples_of_fewer_shots_are_among_those_of_more():
    pool = pool_of(np.arange(60) % 5, halves(60))
    for one, four in zip(*(few_shot.sample_episodes(pool, k, draws=3, seed=0) for k in (1, 4))):
        assert (one.split, one.draw) == (four.split, four.draw)
        assert set(one.train) < set(four.train)


def test_draws_follow_the_seed_and_differ_from_each_other():
    pool = pool_of(np.arange(60) % 5, halves(60))
    first, again, other = (few_shot.sample_episodes(pool, 2, draws=3, seed=s) for s in (0, 0, 1))
    drawn = [tuple(each.train) for each in (*first, *other)]
    assert drawn[:6] == [tuple(each.train) for each in again]
    assert len(set(drawn)) == 12


def test_a_sample_that_is_not_usable_is_not_drawn_and_changes_no_other():
    pool = pool_of(np.arange(60) % 5, halves(60))
    whole = few_shot.sample_episodes(pool, 2, draws=1, seed=0)[0]
    usable = np.ones(60, bool)
    usable[[whole.train[0], whole.test[0]]] = False
    part = few_shot.sample_episodes(dataclasses.replace(pool, usable=usable), 2, draws=1, seed=0)[0]
    assert usable[part.train].all() and usable[part.test].all()
    assert len(part.train) == 10 and len(part.test) == 29
    assert set(whole.train) - set(part.train) == {whole.train[0]}


# ---- the protocol


def constant(answer):
    return lambda drawn: [np.full(len(each.test), answer(each)) for each in drawn]


def test_numbers_by_hand_from_learners_that_answer_always_the_same():
    # Fold 0 is tested on 1 x class 0 and 3 x class 1, fold 1 on 2 and 2.
    pool = pool_of([0, 1, 1, 1, 0, 0, 1, 1], ((np.arange(4, 8), np.arange(4)), halves(8)[0]))
    learners = {"": constant(lambda each: 0), "turns": constant(lambda each: each.draw)}
    found = few_shot.run_episodes(Planted({}), pool, learners, shots=(1, 2), draws=2)
    assert list(found.numbers) == ["shot1", "shot1_turns", "shot2", "shot2_turns"]
    assert (found.samples, found.unusable) == (8, 0) and found.chance["shot1_turns"] == 0.5
    zero, turns = found.numbers["shot1"], found.numbers["shot1_turns"]
    assert zero.value == (1 / 4 + 2 / 4) / 2 and zero.spread == 0
    assert zero.samples.tolist() == [1, 0, 0, 0, 1, 1, 0, 0] and zero.n == 8
    assert turns.value == 0.5 and turns.samples.tolist() == [0.5] * 8
    assert turns.spread == pytest.approx(np.std([3 / 8, 5 / 8], ddof=1))
    assert (turns.low, turns.high) == (0.5, 0.5) and zero.low < zero.value < zero.high


def test_folds_count_alike_whatever_their_sizes():
    pool = pool_of([0] * 10 + [1] * 2 + [0], ((np.arange(10, 13), np.arange(10)), halves(26)[0]))
    pool = dataclasses.replace(pool, splits=(pool.splits[0], (np.arange(10), np.arange(10, 13))))
    found = few_shot.run_episodes(
        Planted({}), pool, {"": constant(lambda each: 0)}, shots=(1,), draws=1
    )
    assert found.numbers["shot1"].value == pytest.approx((1 + 1 / 3) / 2)
    assert found.numbers["shot1"].spread is None


def test_a_class_without_samples_counts_as_wrong_and_short_classes_are_said():
    # To learn from: 3 of class 4, 1 of class 5, none of class 7, on which one test sample is.
    pool = pool_of([4, 4, 4, 5, 4, 7], ((np.arange(4), np.arange(4, 6)),))
    learners = {"": constant(lambda each: 0), "lucky": constant(lambda each: 2)}
    found = few_shot.run_episodes(Planted({}), pool, learners, shots=(1, 2), draws=2)
    assert found.numbers["shot2"].value == 0.5 and found.numbers["shot2_lucky"].value == 0
    assert found.chance["shot1"] == 1 / 3
    (note,) = found.notes
    assert "5 (1), 7 (0)" in note and "4 (" not in note and "counts as wrong" in note


@pytest.mark.parametrize("rows, what", [([0, 1], "learn from"), ([2, 3], "tested on")])
def test_a_split_of_which_nothing_is_usable_is_refused(rows, what):
    usable = np.ones(4, bool)
    usable[rows] = False
    pool = pool_of([0, 1, 0, 1], ((np.arange(2), np.arange(2, 4)),), usable)
    with pytest.raises(UserError, match=what):
        few_shot.run_episodes(
            Planted({}), pool, {"": constant(lambda each: 0)}, shots=(1,), draws=1
        )


# ---- embeddings


def test_a_planted_embedding_is_told_apart_at_every_shot():
    bench, parts = folds(2, lambda f: clusters(40, 4, 0.0, f))
    evaluation = FewShot(parts, shots=(1, 2), draws=2)
    assert isinstance(evaluation, Evaluator) and isinstance(bench, Embedder)
    assert evaluation.sources == tuple(part.source for part in parts)
    found = evaluation.measure(bench)
    assert list(found.numbers) == ["shot1", "shot1_ridge", "shot2", "shot2_ridge"]
    for each in found.numbers.values():
        assert (each.value, each.low, each.high, each.spread) == (1, 1, 1, 0)
    assert found.samples == 80 and found.notes == () and found.chance["shot2"] == 0.25
    assert any("shot2_ridge" in line for line in bench.told)


def test_random_embeddings_score_chance():
    labels = [i % 4 for i in range(1600)]
    arrays = {"train": (normal(40, 8), labels[:40]), "test": (normal(1600, 8, seed=1), labels)}
    found = FewShot((items("train"),), (items("test"),), shots=(4,), draws=2).measure(
        Planted(arrays)
    )
    for each in found.numbers.values():
        assert abs(each.value - 0.25) < 4 * (0.25 * 0.75 / 1600) ** 0.5
    assert found.samples == 1600


def test_more_shots_are_better():
    arrays = {"train": clusters(80, 8, 0.3, 0), "test": clusters(400, 8, 0.3, 1)}
    evaluation = FewShot((items("train"),), (items("test"),), shots=(1, 8), draws=3)
    numbers = evaluation.measure(Planted(arrays)).numbers
    assert 0.25 < numbers["shot1"].value < numbers["shot8"].value - 0.2 < 0.8
    assert 0.25 < numbers["shot1_ridge"].value < numbers["shot8_ridge"].value - 0.2 < 0.8


def test_folds_are_never_tested_on_what_was_learnt():
    """Each fold has an order of labels of its own: only a leak tells them right."""

    def make(fold):
        z, labels = clusters(40, 4, 0.0, fold)
        return z, [(label + fold) % 4 for label in labels]

    bench, parts = folds(2, make)
    found = FewShot(parts, shots=(1, 2), draws=2).measure(bench)
    assert {each.value for each in found.numbers.values()} == {0.0}


def test_rows_of_nan_are_left_out_and_counted():
    def make(fold):
        z, labels = clusters(20, 4, 0.0, fold)
        z[fold] = np.nan
        return z, labels

    bench, parts = folds(2, make)
    found = FewShot(parts, shots=(8,), draws=2).measure(bench)
    assert (found.samples, found.unusable) == (40, 2)
    assert (
        len(found.notes) == 2 and "0 (4)" in found.notes[1]
    )  # fold 0, learnt from last, lacks one
    for each in found.numbers.values():
        assert each.value == 1 and each.n == 38
        assert np.flatnonzero(np.isnan(each.samples)).tolist() == [0, 21]


def test_the_same_seed_gives_the_same_numbers():
    bench, parts = folds(2, lambda f: clusters(40, 4, 0.5, f))
    evaluation = FewShot(parts, shots=(2,), draws=2)
    first, again = evaluation.measure(bench).numbers, evaluation.measure(bench).numbers
    bench.seed = 1
    other = evaluation.measure(bench).numbers
    for name in first:
        assert (first[name].samples == again[name].samples).all()
        assert (first[name].samples != other[name].samples).any()


def test_the_probe_gets_the_fields_and_vectors_of_the_scale(monkeypatch):
    asked = {}

    def adamw(x, rows, labels, classes, **settings):
        asked.update(settings, lengths=np.linalg.norm(x, axis=-1))
        classifier = np.zeros((len(rows), 4, classes), np.float32)
        classifier[:, 0, 0], classifier[:, 3, 1] = 1, 6  # class 0 from a first coordinate of 6 on
        return classifier

    monkeypatch.setattr(linear_probe, "fit_probe_adamw", adamw)
    z = np.tile(np.float32([[1, 0, 0]]), (8, 1))
    bench, parts = folds(2, lambda f: (z, [0, 1, 1, 1] * 2))
    fields = {"learning_rate": 0.1, "weight_decay": 0.2, "epochs": 3, "batch_size": 4}
    found = FewShot(parts, shots=(1,), draws=1, scale=7.0, **fields).measure(bench)
    assert found.numbers["shot1"].value == 0.25
    np.testing.assert_allclose(asked.pop("lengths"), 7)
    assert asked == {**fields, "seed": 0}


def test_any_vectors_are_probed_alike_whatever_their_length():
    bench, parts = folds(2, lambda f: clusters(40, 4, 0.5, f))
    evaluation = FewShot(parts, shots=(2,), draws=2)
    longer = evaluation.probe(bench, lambda part: 3 * bench.embed(part).astype(np.float64))
    assert longer.numbers["shot2"].value == evaluation.measure(bench).numbers["shot2"].value
    blank = evaluation.probe(bench, lambda part: 0 * bench.embed(part) + 1)
    assert blank.numbers["shot2"].value == 0.25


@pytest.mark.parametrize("label", [[1, 2], None, "dog", True, 1.0])
def test_records_without_one_class_are_refused(label):
    bench, parts = folds(2, lambda f: (np.eye(4, dtype=np.float32), [0, 1, 0, label]))
    with pytest.raises(UserError, match="record '3'"):
        FewShot(parts).measure(bench)


def test_records_to_learn_from_may_have_no_label_and_are_left_out():
    arrays = {name: clusters(24, 4, 0.0, 0) for name in ("train", "test")}
    arrays["train"][1][:3] = [None] * 3
    evaluation = FewShot((items("train"),), (items("test"),), shots=(6,), draws=1)
    found = evaluation.measure(bench := Planted(arrays))
    assert found.numbers["shot6"].value == 1 and found.chance["shot6"] == 0.25
    assert "of classes 0 (5), 1 (5), 2 (5)" in found.notes[0]
    assert any("3 of 24 have no label" in line for line in bench.told)
    arrays["test"][1][3] = None
    with pytest.raises(UserError, match="record '3'"):
        evaluation.measure(bench)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"train": (items("a"),)}, "folds"),
        ({"train": (items("a"),), "test": (items("a"),)}, "twice"),
        ({"train": (items("a"), items("b"), items("a"))}, "twice"),
        ({"shots": ()}, "shots"),
        ({"shots": (2, 1)}, "rising"),
        ({"shots": (0, 1)}, "at least 1"),
        ({"draws": 0}, "draws"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        FewShot(**{"train": (items("a"), items("b")), **fields})


# ---- AdamW


def by_hand(x, labels, batches, learning_rate, weight_decay):
    """Loshchilov and Hutter's algorithm 2 with numpy alone, for three classes."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    weights, first, second = (np.zeros((x.shape[1], 3)) for _ in range(3))
    for step, batch in enumerate(batches, start=1):
        logits = x[batch] @ weights
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        gradient = x[batch].T @ (shares - np.eye(3)[labels[batch]]) / len(batch)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        move = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weights = weights - learning_rate * (move + weight_decay * weights)
    return weights


SETTINGS = {"learning_rate": 0.1, "weight_decay": 0.3}
# No class is a third: its bias would have a first gradient of 0, and Adam blow up its rounding.
LABELS = np.array([0, 1, 2, 0, 1, 2, 2, 2, 2])


def test_the_probe_is_adamw_by_hand_and_sets_do_not_mix():
    x, labels = normal(9, 3), LABELS
    rows = [np.array([0, 1, 2, 3]), np.array([8, 4, 1, 7]), np.arange(9)]
    given = [labels[each] for each in rows]
    found = linear_probe.fit_probe_adamw(x, rows, given, 3, batch_size=9, epochs=4, **SETTINGS)
    assert found.shape == (3, 4, 3)
    for weights, each in zip(found, rows):
        wanted = by_hand(x, labels, [each] * 4, **SETTINGS)
        np.testing.assert_allclose(weights, wanted, rtol=1e-4, atol=1e-5)


def test_an_epoch_is_every_sample_once_in_batches_of_like_size():
    x, labels = normal(9, 3), LABELS
    given = {"batch_size": 5, "epochs": 3, "seed": 7}
    (found,) = linear_probe.fit_probe_adamw(x, [np.arange(9)], [labels], 3, **given, **SETTINGS)
    rng = np.random.default_rng(7)
    batches = [part for _ in range(3) for part in np.array_split(rng.permutation(9), 2)]
    assert [len(part) for part in batches] == [5, 4] * 3
    wanted = by_hand(x, labels, batches, **SETTINGS)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_one_program_serves_all_sets_of_a_size():
    x, labels = normal(12, 5), np.arange(12) % 2
    before = linear_probe._descend._cache_size()
    for seed, rate in ((0, 0.1), (1, 0.2), (2, 0.3)):
        settings = {"learning_rate": rate, "weight_decay": rate, "epochs": 3, "batch_size": 5}
        linear_probe.fit_probe_adamw(x, [np.arange(12)] * 2, [labels] * 2, 2, seed=seed, **settings)
    assert linear_probe._descend._cache_size() == before + 1


def test_the_papers_rate_tells_one_sample_a_class_apart():
    """At ESC-50's settings and size: 50 samples, 50 steps; at scale 1 they would be too few."""
    x, labels = normal(50, 1024), np.arange(50)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    fields = {f.name: f.default for f in dataclasses.fields(FewShot)}
    names = ("learning_rate", "weight_decay", "epochs", "batch_size")

    def share(scale):
        (weights,) = linear_probe.fit_probe_adamw(
            scale * x, [labels], [labels], 50, **{name: fields[name] for name in names}
        )
        logits = scale * x @ weights[:-1] + weights[-1]
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.mean((shares / shares.sum(axis=-1, keepdims=True))[labels, labels])

    assert share(fields["scale"]) > 0.95
    assert share(1.0) < 0.5


# ---- ridge


def brute(x, targets, penalty):
    """Every sample predicted by a ridge regression with intercept of all others."""
    size = np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=-1))
    d = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    decay = penalty * size * np.diag([1.0] * x.shape[1] + [0.0])
    found = []
    for row in range(len(x)):
        rest = np.arange(len(x)) != row
        gram = d[rest].T @ d[rest] + decay
        found.append(d[row] @ np.linalg.solve(gram, d[rest].T @ targets[rest]))
    return np.stack(found)


@pytest.mark.parametrize("width", [3, 20])  # fewer and more than samples
def test_leaving_out_in_closed_form_is_leaving_out(width):
    x, labels = normal(12, width) + 2, np.arange(12) % 3
    targets = np.eye(3)[labels]
    for penalty, found in zip(
        (0.01, 1.0), linear_probe.leave_one_out_predictions(x, targets, (0.01, 1.0))
    ):
        np.testing.assert_allclose(found, brute(x, targets, penalty), atol=1e-5)


def test_ridge_takes_the_penalty_that_leaves_out_best():
    x, labels = (
        normal(30, 40) + np.eye(3, 40, dtype=np.float32)[np.arange(30) % 3],
        np.arange(30) % 3,
    )
    targets = np.eye(3)[labels]
    errors = [
        np.mean((brute(x, targets, penalty) - targets) ** 2)
        for penalty in linear_probe.RIDGE_PENALTIES
    ]
    best = linear_probe.RIDGE_PENALTIES[int(np.argmin(errors))]
    assert best != linear_probe.RIDGE_PENALTIES[0]
    np.testing.assert_allclose(
        linear_probe.fit_probe_ridge(x, labels, 3), solved(x, targets, best), atol=1e-5
    )


def solved(x, targets, penalty):
    size = np.mean(np.sum((x - x.mean(axis=0)) ** 2, axis=-1))
    d = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64)
    decay = penalty * size * np.diag([1.0] * x.shape[1] + [0.0])
    return np.linalg.solve(d.T @ d + decay, d.T @ targets)


def test_ridge_at_one_shot_has_its_fixed_penalty_and_finds_every_sample():
    x, labels = normal(6, 32) + 3, np.array([3, 0, 1, 5, 4, 2])
    classifier = linear_probe.fit_probe_ridge(x, labels, 7)  # of the class 6 there is none
    np.testing.assert_allclose(
        classifier, solved(x, np.eye(7)[labels], linear_probe.NO_LEAVE_ONE_OUT_BELOW), atol=1e-5
    )
    assert linear_probe.predict_class(x, classifier).tolist() == labels.tolist()


def test_samples_that_are_all_alike_give_a_finite_classifier():
    classifier = linear_probe.fit_probe_ridge(
        np.ones((4, 3), np.float32), np.array([0, 0, 0, 1]), 2
    )
    assert linear_probe.predict_class(np.ones((1, 3), np.float32), classifier).tolist() == [0]
    assert np.isfinite(
        linear_probe.fit_probe_ridge(np.ones((1, 3), np.float32), np.array([0]), 2)
    ).all()


# ---- of many samples


def blobs(n, seed):
    labels = np.arange(n) % 3
    return 10 * np.eye(3, 6)[labels].astype(np.float32) + normal(n, 6, seed=seed), labels


def test_a_linear_probe_separates_blobs_and_not_shuffled_labels():
    (train, labels), (test, truth) = blobs(150, 0), blobs(300, 1)
    assert linear_probe.linear_probe(train, labels, test, truth) == 1.0
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(linear_probe.linear_probe(train, shuffled, test, truth) - 1 / 3) < 0.15


def test_a_linear_probe_sees_what_differs_by_a_thousandth():
    (train, labels), (test, truth) = blobs(150, 0), blobs(300, 1)
    wide = np.array([1e-3, 1, 1, 1, 1, 1], np.float32)  # features are standardised
    assert linear_probe.linear_probe(train * wide, labels, test * wide, truth) > 0.99


def test_a_linear_map_undoes_a_rotation_and_leaves_what_agrees_alone():
    turn = np.linalg.qr(normal(8, 8))[0]
    query, new = normal(400, 8, seed=1), normal(50, 8, seed=2)
    assert retrieval.recall_at_k(retrieval.retrieval_ranks(new, new @ turn)) < 0.3
    for rotation in (turn, np.eye(8)):
        fitted = linear_probe.fit_linear_map(query, query @ rotation)
        assert fitted.shape == (9, 8)  # with the bias
        mapped = linear_probe.append_bias(new) @ fitted
        assert retrieval.recall_at_k(retrieval.retrieval_ranks(mapped, new @ rotation)) == 1.0


def test_an_unusable_first_row_reaches_no_classifier():
    """Sets of unequal sizes are filled up: with rows of their own, or NaN times 0 would be learnt."""
    x = np.concatenate([np.full((1, 4), np.nan), 5 * np.eye(4)[[0, 1, 0, 1]]]).astype(np.float32)
    rows, labels = [np.array([1, 2, 3, 4]), np.array([1, 2])], [np.array([0, 1, 0, 1])] * 2
    found = linear_probe.fit_probe_adamw(
        x, rows, [labels[0], labels[1][:2]], 2, learning_rate=0.1, weight_decay=0.0, epochs=20,
        batch_size=4,
    )  # fmt: skip
    assert np.isfinite(found).all()
    assert all(linear_probe.predict_class(x[1:3], each).tolist() == [0, 1] for each in found)
