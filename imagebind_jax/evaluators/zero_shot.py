"""Zero-shot classification: class names in prompts become a classifier, no label is ever seen."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.evaluators.common import scores, unit


def classifier(
    embed_text: Callable[[Sequence[str]], Float[np.ndarray, "n e"]],
    class_names: Sequence[str],
    prompts: Sequence[str],
) -> Float[np.ndarray, "classes e"]:
    """One unit vector a class: the normalised mean of its prompts' unit vectors.

    prompts: templates with one `{}`. Source: CLIP's prompt ensembling, which the paper follows.
    """
    texts = [prompt.format(name) for name in class_names for prompt in prompts]
    z = unit(np.asarray(embed_text(texts))).reshape(len(class_names), len(prompts), -1)
    return unit(z.mean(axis=1))


def predict(
    embeddings: Float[np.ndarray, "n e"], classes: Float[np.ndarray, "classes e"]
) -> Int[np.ndarray, "n"]:
    """The class of largest cosine of each embedding."""
    return np.concatenate([part.argmax(axis=-1) for _, part in scores(embeddings, classes)])


def top1(
    embeddings: Float[np.ndarray, "n e"],
    classes: Float[np.ndarray, "classes e"],
    labels: Int[np.ndarray, "n"],
) -> float:
    """Fraction of samples whose class of largest cosine is the label."""
    return float(np.mean(predict(embeddings, classes) == labels))
