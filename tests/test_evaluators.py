"""Evaluations of embeddings whose right answer is known by hand."""

import numpy as np
import pytest

from imagebind_jax.evaluators import arithmetic, common, few_shot, retrieval, zero_shot


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_unit_vectors_have_length_one_and_a_zero_row_stays_zero():
    z = common.unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(z, [[0.6, 0.8], [0, 0]])


def test_scores_in_pieces_are_the_cosines_of_all():
    query, key = normal(7, 5), normal(4, 5, seed=1)
    parts = list(common.scores(query, key, rows=3))
    assert [len(part) for _, part in parts] == [3, 3, 1]
    lengths = np.linalg.norm(query, axis=-1)[:, None] * np.linalg.norm(key, axis=-1)[None]
    np.testing.assert_allclose(
        np.concatenate([p for _, p in parts]), query @ key.T / lengths, atol=1e-6
    )


# ---- zero-shot


def test_three_orthogonal_classes_are_told_apart_whatever_the_length():
    labels = np.array([2, 0, 1, 1, 0])
    lengths = np.array([[1.0], [5.0], [0.1], [3.0], [2.0]])
    assert zero_shot.top1(lengths * np.eye(3)[labels], np.eye(3), labels) == 1.0
    assert zero_shot.top1(lengths * np.eye(3)[labels], np.eye(3), (labels + 1) % 3) == 0.0
    assert zero_shot.predict(np.eye(3)[labels], np.eye(3)).tolist() == labels.tolist()


def test_random_embeddings_classify_at_chance():
    n, classes = 4000, 5
    labels = np.random.default_rng(2).integers(classes, size=n)
    spread = (0.2 * 0.8 / n) ** 0.5
    assert (
        abs(zero_shot.top1(normal(n, 16), normal(classes, 16, seed=1), labels) - 0.2) < 5 * spread
    )


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

    classes = zero_shot.classifier(embed_text, ["cat", "dog"], ["a {}", "the {}"])
    half = 0.5**0.5  # the first prompt's length of 9 does not count
    np.testing.assert_allclose(classes, [[half, half, 0], [0, 0, 1]], atol=1e-7)
    assert asked == ["a cat", "the cat", "a dog", "the dog"]


# ---- retrieval


def test_ranks_and_recall_by_hand():
    key = np.eye(3)
    query = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])  # each prefers 0, then 1, then 2
    assert retrieval.ranks(query, key).tolist() == [0, 1, 2]
    rank = retrieval.ranks(query, key)
    assert [retrieval.recall(rank, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_orthogonal_pairs_are_found_and_their_order_does_not_matter():
    z = normal(50, 64)
    order = np.random.default_rng(0).permutation(50)
    assert retrieval.recall(retrieval.ranks(z, z + 0.01 * normal(50, 64, seed=1))) == 1.0
    noisy = z + 2 * normal(50, 64, seed=1)
    wanted = retrieval.recall(retrieval.ranks(z, noisy))
    assert 0.1 < wanted < 1
    assert retrieval.recall(retrieval.ranks(z[order], noisy[order])) == wanted


def test_more_queries_than_one_stretch_find_their_own_rows():
    z = np.eye(1030)  # common.scores goes by 1024 rows
    assert not retrieval.ranks(z, z).any()


@pytest.mark.parametrize("n", [2, 3, 10])
def test_embeddings_that_are_all_alike_score_chance(n):
    z = np.tile([[1.0, 0.0]], (n, 1))
    rank = retrieval.ranks(z, z)
    assert rank.mean() == (n - 1) / 2
    for k in (1, 2):
        assert retrieval.recall(rank, k) == pytest.approx(k / n)


def test_embeddings_that_are_not_numbers_are_never_a_hit():
    z = np.eye(4)
    z[1] = np.nan
    assert retrieval.recall(retrieval.ranks(z, np.eye(4))) == 0.75
    assert retrieval.recall(retrieval.ranks(np.full((4, 4), np.nan), np.eye(4))) == 0


def test_nearest_is_brute_force():
    query, key = normal(6, 8), normal(30, 8, seed=1)
    indices, values = retrieval.nearest(query, key, k=4)
    for row, (found, cosines) in enumerate(zip(indices, values)):
        by_hand = [
            float(query[row] @ k / np.linalg.norm(query[row]) / np.linalg.norm(k)) for k in key
        ]
        best = sorted(range(30), key=lambda i: -by_hand[i])[:4]  # noqa: B023
        assert found.tolist() == best
        np.testing.assert_allclose(cosines, [by_hand[i] for i in best], atol=1e-6)


# ---- probes


def blobs(n, seed):
    labels = np.arange(n) % 3
    return 10 * np.eye(3, 6)[labels].astype(np.float32) + normal(n, 6, seed=seed), labels


def test_a_linear_probe_separates_blobs_and_not_shuffled_labels():
    (train, labels), (test, truth) = blobs(150, 0), blobs(300, 1)
    assert few_shot.linear_probe(train, labels, test, truth) == 1.0
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(few_shot.linear_probe(train, shuffled, test, truth) - 1 / 3) < 0.15


def test_a_linear_probe_sees_what_differs_by_a_thousandth():
    (train, labels), (test, truth) = blobs(150, 0), blobs(300, 1)
    wide = np.array([1e-3, 1, 1, 1, 1, 1], np.float32)  # features are standardised
    assert few_shot.linear_probe(train * wide, labels, test * wide, truth) > 0.99


def test_a_linear_map_undoes_a_rotation_and_leaves_what_agrees_alone():
    turn = np.linalg.qr(normal(8, 8))[0]
    query, new = normal(400, 8, seed=1), normal(50, 8, seed=2)
    assert retrieval.recall(retrieval.ranks(new, new @ turn)) < 0.3
    for rotation in (turn, np.eye(8)):
        fitted = few_shot.linear_map(query, query @ rotation)
        assert fitted.shape == (9, 8)  # with the bias
        mapped = few_shot.with_bias(new) @ fitted
        assert retrieval.recall(retrieval.ranks(mapped, new @ rotation)) == 1.0


# ---- arithmetic


def test_compose_by_hand():
    right, up = np.array([[2.0, 0]]), np.array([[0, 5.0]])
    np.testing.assert_allclose(arithmetic.compose(right, up), [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(arithmetic.compose(right, up, weights=(3.0, 4.0)), [[0.6, 0.8]])
    np.testing.assert_allclose(
        arithmetic.compose(right, up, weights=(1.0, -1.0)), [[0.5**0.5, -(0.5**0.5)]]
    )
    with pytest.raises(ValueError):
        arithmetic.compose(right, up, weights=(1.0,))
