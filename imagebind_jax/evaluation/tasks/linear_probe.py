"""Linear probes on frozen embeddings: what a supervised reader could get out of them."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.evaluation.tasks import retrieval

# ---- of a few samples of each class; a last row of every classifier is its bias


def fit_probe_adamw(
    x: Float[np.ndarray, "n e"],
    rows: Sequence[Int[np.ndarray, "_"]],
    labels: Sequence[Int[np.ndarray, "_"]],
    classes: int,
    *,
    learning_rate: float,
    weight_decay: float,
    epochs: int,
    batch_size: int,
    seed: int = 0,
) -> Float[np.ndarray, "probes d classes"]:
    """Linear classifiers by softmax cross-entropy and AdamW, one for each set of rows, all at once.

    rows: of x, to learn from; labels: their classes. The paper names optimizer, rate, decay and
    epochs, and neither batches, nor schedule, nor initialisation: here an epoch goes through a
    set in shuffled batches of equal size (up to one), of at most batch_size samples unless a set
    has too few for as many batches as the largest; the rate is constant, weights start at 0. Adam
    moves a weight by at most about its rate in a step, so the length of x matters: see
    `few_shot.FewShot.scale`.
    """
    counts = [len(each) for each in rows]
    most = max(counts)
    batches = min(-(-most // batch_size), min(counts))  # so that none is empty
    rng = np.random.default_rng(seed)
    order = np.full((len(rows), epochs * batches, -(-most // batches)), -1)
    padded = np.zeros((2, len(rows), most), int)
    for probe, (count, *drawn) in enumerate(zip(counts, rows, labels)):
        padded[:, probe, :count] = drawn
        padded[0, probe, count:] = drawn[0][0]  # of its own: a NaN elsewhere would reach gradients
        for epoch in range(epochs):
            parts = np.array_split(rng.permutation(count), batches)
            for step, part in enumerate(parts, start=epoch * batches):
                order[probe, step, : len(part)] = part
    found = _descend(
        jnp.asarray(_with_ones(x)[padded[0]]),
        jnp.asarray(padded[1]),
        jnp.asarray(order),
        jnp.asarray(learning_rate),
        jnp.asarray(weight_decay),
        classes=classes,
    )
    if not np.isfinite(found).all():
        raise UserError("a classifier is not finite: lower the learning rate or the scale")
    return np.asarray(found)


@functools.partial(jax.jit, static_argnames="classes")
def _descend(
    x: Float[Array, "probes a d"],
    labels: Int[Array, "probes a"],
    order: Int[Array, "probes steps b"],  # rows of x; -1 is none
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""],
    *,
    classes: int,
) -> Float[Array, "probes d classes"]:
    optimizer = optax.adamw(learning_rate, weight_decay=weight_decay)

    def fit(x, labels, order):
        def loss(weights, batch):
            logits = jnp.matmul(x[batch], weights, precision="highest")
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
            return jnp.mean(each, where=batch >= 0)

        def step(state, batch):
            weights, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(weights, batch), moments, weights)
            return (optax.apply_updates(weights, updates), moments), None

        start = jnp.zeros((x.shape[-1], classes), x.dtype)
        return jax.lax.scan(step, (start, optimizer.init(start)), order)[0][0]

    return jax.vmap(fit)(x, labels, order)


RIDGE_PENALTIES = tuple(10.0 ** (power / 2) for power in range(-6, 3))  # of the mean squared length
NO_LEAVE_ONE_OUT_BELOW = 10.0**-0.5  # what is mostly chosen where there is a choice


def fit_probe_ridge(
    x: Float[np.ndarray, "a e"], labels: Int[np.ndarray, "a"], classes: int
) -> Float[np.ndarray, "d classes"]:
    """One-against-rest least squares on centred features, in closed form.

    The penalty is the one with the smallest squared error when each sample is left out in turn
    (`leave_one_out_predictions`). A class cannot be found when its only sample is left out, so such samples have
    no say; where there are no others, as at one shot, the penalty is `NO_LEAVE_ONE_OUT_BELOW`.
    """
    targets = np.eye(classes)[labels]
    judges = np.bincount(labels)[labels] > 1
    penalty = NO_LEAVE_ONE_OUT_BELOW
    if judges.any():
        errors = [
            np.mean((found - targets)[judges] ** 2)
            for found in leave_one_out_predictions(x, targets, RIDGE_PENALTIES)
        ]
        penalty = RIDGE_PENALTIES[int(np.argmin(errors))]
    centre, prior = x.mean(axis=0, dtype=np.float64), targets.mean(axis=0)
    eigenvalues, vectors, size = _dual(x - centre)
    shrunk = vectors / (eigenvalues + penalty * size)
    weights = (x - centre).T @ (shrunk @ (vectors.T @ (targets - prior)))
    return np.concatenate([weights, (prior - centre @ weights)[None]])


def leave_one_out_predictions(
    x: Float[np.ndarray, "a e"], targets: Float[np.ndarray, "a c"], penalties: Sequence[float]
) -> list[Float[np.ndarray, "a c"]]:
    """What a ridge regression of all other samples says of each, for every penalty.

    penalties: of the squared weights, in mean squared lengths of the centred samples, all counted.
    Nothing is fitted again: the residual of a sample that is left out is its own residual times
    1 / (1 - h), h its leverage, the diagonal of the hat matrix, with the intercept's 1 / a.
    Source: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 7.10.
    """
    eigenvalues, vectors, size = _dual(x - x.mean(axis=0, dtype=np.float64))
    found = []
    for penalty in penalties:
        hat = (vectors * (eigenvalues / (eigenvalues + penalty * size))) @ vectors.T + 1 / len(x)
        leverage = np.minimum(np.diag(hat), 1 - 1e-9)[:, None]
        found.append(targets - (targets - hat @ targets) / (1 - leverage))
    return found


def _dual(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Eigenvalues and eigenvectors of the Gram matrix, and the mean squared length."""
    eigenvalues, vectors = np.linalg.eigh(centred @ centred.T)
    size = max(float(np.mean(np.sum(centred**2, axis=-1))), 1e-12)  # where all are alike
    return np.maximum(eigenvalues, 0), vectors, size


def predict_class(
    x: Float[np.ndarray, "n e"], classifier: Float[np.ndarray, "d classes"]
) -> Int[np.ndarray, "n"]:
    """The class of the largest score."""
    return (_with_ones(x) @ classifier).argmax(axis=-1)


def _with_ones(x: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n d"]:
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=-1)


# ---- of many samples


def linear_probe(
    train: Float[np.ndarray, "n e"],
    train_labels: Int[np.ndarray, "n"],
    test: Float[np.ndarray, "m e"],
    test_labels: Int[np.ndarray, "m"],
) -> float:
    """Top-1 accuracy on `test` of a logistic regression fitted to `train`.

    Its L2 penalty is chosen by 5-fold cross-validation on `train`.
    """
    from sklearn.linear_model import LogisticRegressionCV

    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    probe = LogisticRegressionCV(
        Cs=[0.003, 0.03, 0.3, 3.0, 30.0],
        cv=5,
        max_iter=2000,
        scoring="accuracy",
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    probe.fit((train - mean) / std, train_labels)
    return float(np.mean(probe.predict((test - mean) / std) == test_labels))


PENALTIES = (1e-3, 1e-2, 1e-1)
IDENTITY_PRIORS = (0.0, 0.1, 0.3, 1.0, 3.0)


def fit_linear_map(
    query: Float[np.ndarray, "n e"], key: Float[np.ndarray, "n e"]
) -> Float[np.ndarray, "d e"]:
    """A linear map (its last row a bias) from query embeddings to those of their keys.

    A ridge regression on true pairs plus a multiple of the identity; penalty and multiple are the
    ones that retrieve best on a held-out third of the pairs. A supervised reference for retrieval
    by cosine, not an upper bound: it minimises squares, not ranks.
    """
    x, y = append_bias(query), l2_normalize(key)
    fit, choose = slice(0, 2 * len(x) // 3), slice(2 * len(x) // 3, None)

    def solve(rows, penalty, identity):
        gram = x[rows].T @ x[rows]
        gram += penalty * np.trace(gram) / len(gram) * np.eye(len(gram))
        found = np.linalg.solve(gram, x[rows].T @ y[rows])
        return found + identity * np.eye(*found.shape)

    def score(setting):
        return retrieval.recall_at_k(
            retrieval.retrieval_ranks(x[choose] @ solve(fit, *setting), y[choose]), k=5
        )

    best = max(itertools.product(PENALTIES, IDENTITY_PRIORS), key=score)
    return solve(slice(None), *best)


def append_bias(x: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n d"]:
    """Unit vectors with a last column of ones."""
    return _with_ones(l2_normalize(x))
