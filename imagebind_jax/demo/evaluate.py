"""What binds: zero-shot, retrieval and arithmetic over all six modalities of the built-in world."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.config import TrainConfig
from imagebind_jax.evaluation.benchmark import EvalConfig, EvalInputs
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.evaluation.tasks import arithmetic, linear_probe, retrieval, zero_shot
from imagebind_jax.inputs import world
from imagebind_jax.inputs.sources import Record
from imagebind_jax.models.imagebind import ImageBind
from imagebind_jax.reports.html import format_percent


@dataclasses.dataclass(frozen=True)
class EmbeddedWorld:
    """Embeddings of the records that were never trained on, and the classes of every task.

    `probe` has the attribute combinations of the training set and fits the linear probes,
    `test` only held-out ones.
    """

    probe: dict[str, Float[np.ndarray, "p e"]]
    test: dict[str, Float[np.ndarray, "n e"]]
    probe_labels: dict[str, Int[np.ndarray, "p"]]
    test_labels: dict[str, Int[np.ndarray, "n"]]
    classes: dict[str, Float[np.ndarray, "_ e"]]
    records: Sequence[Record]


def embed_all(
    config: TrainConfig,
    params: Mapping,
    probe: Sequence[Record],
    test: Sequence[Record],
    tell: Callable[[str], None] = lambda what: None,
) -> EmbeddedWorld:
    """Embeds every modality of the probe and test records, and the prompts of every task.

    `tell` is called, here and in `evaluate_world`, with what is done next.
    """
    settings = EvalConfig(
        (),
        unusable=0.0,
        batch_size=128,
        dtype=config.model.dtype,
        threads=config.threads,
        workers=config.workers,
        patience=config.patience,
    )
    bench = ModelEmbedder(settings, ImageBind(config.model), params, tell=tell)

    def embed_records(source):
        return {m: bench.embed(EvalInputs(source, m, config.inputs[m])) for m in world.MODALITIES}

    def labels(records):
        rows = [record["labels"] for record in records]
        return {task: np.array([row[task] for row in rows]) for task in rows[0]}

    classes = {
        task: bench.classes(task, world.CLASS_NAMES[task], world.PROMPTS[task])
        for task in world.PROMPTS
    }
    z = {
        name: embed_records(_InMemorySource(name, rows))
        for name, rows in (("probe", probe), ("test", test))
    }
    return EmbeddedWorld(z["probe"], z["test"], labels(probe), labels(test), classes, test)


@dataclasses.dataclass(frozen=True, eq=False)
class _InMemorySource:
    """Records that are open already, as a source of items."""

    name: str
    records: Sequence[Record]

    def open(self) -> Sequence[Record]:
        return self.records


def evaluate_world(
    space: EmbeddedWorld, tell: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """{"zero_shot", "retrieval", "arithmetic", "summary"}, numbers beside chance and ceiling.

    zero_shot: {modality: [{"task", "top1", "chance", "probe", "n"}]} by text prompts; `probe` is
    a supervised linear classifier on the same embeddings. retrieval: {"a->b": {"r1", "chance",
    "probe", "n"}}; `probe` first maps a's embeddings to b's linearly, fitted on true pairs (a
    reference, not an upper bound).
    summary: means over the modalities that never met text.
    """
    scored: dict[str, list[dict[str, Any]]] = {}
    for modality, tasks in world.TASKS.items():
        tell(f"{modality}: zero-shot and probes")
        scored[modality] = [_zero_shot(space, modality, task) for task in tasks]
    tell("retrieval")
    emergent = [rows for modality, rows in scored.items() if modality != "vision"]
    return {
        "zero_shot": scored,
        "retrieval": {f"{a}->{b}": _retrieval(space, a, b) for a, b in _ordered_pairs()},
        "arithmetic": _arithmetic(space),
        "summary": {
            "emergent_top1": _mean(_mean(row["top1"] for row in rows) for rows in emergent),
            "fraction_of_probe": _mean(
                _mean(row["top1"] / max(row["probe"], 1e-9) for row in rows) for rows in emergent
            ),
            "least_times_chance": min(
                row["top1"] / row["chance"] for rows in emergent for row in rows
            ),
        },
    }


def _mean(values) -> float:
    return float(np.mean(list(values)))


def _zero_shot(space: EmbeddedWorld, modality: str, task: str) -> dict[str, Any]:
    z, labels = space.test[modality], space.test_labels[task]
    return {
        "task": task,
        "top1": zero_shot.top1(z, space.classes[task], labels),
        "chance": 1 / len(space.classes[task]),
        "probe": linear_probe.linear_probe(
            space.probe[modality], space.probe_labels[task], z, labels
        ),
        "n": len(labels),
    }


def _ordered_pairs() -> Iterator[tuple[str, str]]:
    return ((a, b) for a in world.MODALITIES for b in world.MODALITIES if a != b)


def _retrieval(space: EmbeddedWorld, a: str, b: str) -> dict[str, Any]:
    mapped = linear_probe.append_bias(space.test[a]) @ linear_probe.fit_linear_map(
        space.probe[a], space.probe[b]
    )
    n = len(space.test[a])
    return {
        "r1": retrieval.recall_at_k(retrieval.retrieval_ranks(space.test[a], space.test[b])),
        "chance": 1 / n,
        "probe": retrieval.recall_at_k(retrieval.retrieval_ranks(mapped, space.test[b])),
        "n": n,
    }


def _arithmetic(space: EmbeddedWorld) -> dict[str, Any]:
    """A clip and the sound of another material: is that shape found, made of that material?"""
    clip, sound = audio_image_queries(len(space.records), space.test_labels["material"])
    labels = np.stack([space.test_labels["shape"], space.test_labels["material"]], axis=1)
    wanted = np.stack([labels[clip, 0], labels[sound, 1]], axis=1)

    def found(query):  # the clip itself is no answer
        keys = space.test["vision"]
        return float(np.mean(arithmetic.composed_hit(query, keys, wanted, labels, clip[:, None])))

    return {
        "question": "a clip plus the sound of another material finds that shape in that material",
        "top1": found(arithmetic.compose(space.test["vision"][clip], space.test["audio"][sound])),
        "image_alone": found(space.test["vision"][clip]),
        "chance": arithmetic.chance_hit_rate(wanted, labels),
        "n": len(clip),
    }


def audio_image_queries(n: int, material: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "m"], ...]:
    """Clips, and for each a sound of another material, drawn once and for all."""
    sound = np.random.default_rng(0).permutation(n)
    clip = np.flatnonzero(material[sound] != material)
    return clip, sound[clip]


def format_results(results: Mapping[str, Any]) -> list[str]:
    """The zero-shot results as lines for a terminal."""
    lines = ["", f"{'':9}{'task':10}{'zero-shot':>10}{'chance':>9}{'probe':>9}"]
    for modality, rows in results["zero_shot"].items():
        for row in rows:
            numbers = "".join(
                f"{format_percent(row[key]):>9}" for key in ("top1", "chance", "probe")
            )
            note = "  (trained with text)" if modality == "vision" else ""
            lines.append(f"{modality:9}{row['task']:10} {numbers}{note}")
    summary = results["summary"]
    lines.append(
        f"without ever meeting text: {format_percent(summary['emergent_top1'])} on average, "
        f"{format_percent(summary['fraction_of_probe'])} of the supervised probe"
    )
    return lines
