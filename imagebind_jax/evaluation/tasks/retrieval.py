"""Cross-modal retrieval: do a query's nearest neighbours in another modality belong to it?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import (
    UNUSABLE_KEY,
    Embedder,
    EvalInputs,
    EvalResult,
    source_name,
)
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.metrics.ranking import (
    bidirectional_ranks,
    chance_median_rank,
    chance_recall,
    median_rank,
    recall_at_k,
    retrieval_ranks,
)
from imagebind_jax.evaluation.metrics.similarity import weighted_sum
from imagebind_jax.inputs.pipeline.batches import Transform
from imagebind_jax.inputs.sources import Source

__all__ = ["Retrieval", "retrieval_ranks", "recall_at_k"]
RECALL_KS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Recall at 1, 5 and 10 and the median rank (1 is the best), and the same backwards (back_*).

    query, target: modality -> weight in the sum of unit vectors; a modality that a record lacks
    counts as zero. "text" is a record's captions, needs no transform, and may be several: each is
    a query of its own, as in the paper on Clotho, and backwards the best-placed counts. Mixed with another modality it has to be one a record. A record without anything on
    one side stays, as a miss. Captions that are the same in two records are two items: the one of
    the other record is a wrong answer. Intervals: a record's captions are drawn together.
    `EvalResult.unusable` counts the queries that cannot be right, as one side of theirs is missing.
    """

    source: Source
    query: Mapping[str, float]
    target: Mapping[str, float]
    inputs: Mapping[str, Transform] = dataclasses.field(default_factory=dict)
    optional: tuple[str, ...] = ()  # modalities that records may lack
    # Of its embeddings: by default the source's. Another where one source is asked with two inputs.
    name: str = ""

    def __post_init__(self):
        if not self.query or not self.target or set(self.query) & set(self.target):
            raise UserError(
                f"retrieval from {sorted(self.query)} to {sorted(self.target)}: "
                "both sides need modalities, and not the same ones"
            )
        for modality, weight in {**self.query, **self.target}.items():
            if not 0 < weight < float("inf"):
                raise UserError(f"{modality} weighs {weight}: weights are above 0, and finite")
            if modality != "text" and modality not in self.inputs:
                raise UserError(f"retrieval with {modality} needs inputs={{{modality!r}: ...}}")
        if unknown := set(self.optional) - self.modalities:
            raise UserError(f"optional names {sorted(unknown)[0]}, which is on neither side")

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.source,)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({**self.query, **self.target})

    def measure(self, bench: Embedder) -> EvalResult:
        """Raises UserError for records whose text is missing, or not one where it is mixed."""
        if not len(bench.notes(self.source)):
            raise UserError(f"{source_name(self.source)} has no records to retrieve")
        sides = [self._side(bench, weights) for weights in (self.query, self.target)]
        (query, query_items), (target, target_items) = sides
        bench.tell(f"ranking {len(query)} against {len(target)}")
        there, back = bidirectional_ranks(query, target, query_items, target_items)
        numbers = {
            **_numbers(there, query_items, len(target), bench),
            **{f"back_{k}": v for k, v in _numbers(back, target_items, len(query), bench).items()},
        }
        chances = {
            **_chances(query_items, target_items),
            **{f"back_{k}": v for k, v in _chances(target_items, query_items).items()},
        }
        unusable = int(np.sum(np.isinf(there)))
        return EvalResult(numbers, samples=len(query), unusable=unusable, chance=chances)

    def _side(self, bench: Embedder, weights: Mapping[str, float]):
        """Its vectors, and the record of each."""
        parts, items = [], None
        for modality in weights:
            if modality == "text":
                captions = _captions(bench.notes(self.source), one=len(weights) > 1)
                texts = [text for each in captions for text in each]
                parts.append(bench.texts(source_name(self.source), texts))
                items = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
            else:
                transform, optional = self.inputs[modality], modality in self.optional
                name = f"{self.name}.{modality}" if self.name else ""
                parts.append(
                    bench.embed(EvalInputs(self.source, modality, transform, name, optional))
                )
        found = parts[0] if len(parts) == 1 else weighted_sum(parts, tuple(weights.values()))
        return found, np.arange(len(found)) if items is None else items


def _captions(notes: Sequence[Mapping[str, Any]], one: bool) -> list[Sequence[str]]:
    """Every record's captions. Raises UserError."""
    captions: list[Sequence[str]] = []
    for i, note in enumerate(notes):
        if UNUSABLE_KEY in note:
            captions.append(())  # nobody asks for it; it is counted
            continue
        found = note.get("text") or ()
        found = (found,) if isinstance(found, str) else tuple(found)
        who = f"record {note.get('id', i)!r}"
        if not found:
            raise UserError(f"{who} has no text, which retrieval with text needs of every record")
        if one and len(found) > 1:
            raise UserError(
                f"{who} has {len(found)} texts: mixed with another modality, it must be one"
            )
        captions.append(found)
    return captions


def _numbers(rank, items, others: int, bench: Embedder) -> dict[str, Estimate]:
    how = {"groups": items, "resamples": bench.resamples, "seed": bench.seed}
    last = np.minimum(rank, others - 1).astype(int)  # what is never found has the last rank
    return {
        **{
            f"r{k}": bootstrap.bootstrap_mean((rank < k).astype(np.float64), **how)
            for k in RECALL_KS
        },
        "median_rank": bootstrap.bootstrap(
            lambda times: median_rank(last, times), len(rank), share=False, **how
        ),
    }


def _chances(items, others) -> dict[str, float]:
    own = np.bincount(others, minlength=int(items.max()) + 1)[items]
    return {
        **{f"r{k}": chance_recall(own, len(others), k) for k in RECALL_KS},
        "median_rank": chance_median_rank(own, len(others)),
    }
