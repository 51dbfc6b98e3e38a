"""What the demo's report shows of a space: similarity tables, and searches as they come."""

import numpy as np

from imagebind_jax.demo.evaluate import EmbeddedWorld, audio_image_queries
from imagebind_jax.demo.report_gallery import ExampleSearch
from imagebind_jax.demo.report_tables import SimilarityTable
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.evaluation.tasks import arithmetic
from imagebind_jax.inputs import world
from imagebind_jax.inputs.sources import Record


def class_similarity_tables(space: EmbeddedWorld) -> list[SimilarityTable]:
    """The mean embedding of each class of records against each class's prompts."""
    tables = (("audio", "material"), ("depth", "shape"), ("thermal", "material"), ("imu", "motion"))
    return [
        SimilarityTable(
            f"{modality} against text: {task}",
            np.stack(
                [
                    l2_normalize(
                        space.test[modality][space.test_labels[task] == label].mean(axis=0)
                    )
                    for label in range(len(space.classes[task]))
                ]
            )
            @ space.classes[task].T,
            world.ATTRIBUTES[task],
            world.ATTRIBUTES[task],
        )
        for modality, task in tables
    ]


def example_searches(space: EmbeddedWorld, hits: int = 3) -> list[ExampleSearch]:
    """Searches of the first test records, as they come: none was chosen for its answer."""
    rows = []
    directions = (("audio", "vision"), ("imu", "vision"), ("text", "audio"), ("thermal", "depth"),
                ("audio", "thermal"), ("depth", "vision"), ("text", "thermal"))  # fmt: skip
    records = iter(range(len(space.records)))
    for query, key in directions:
        for row in records:  # the next one whose query says something that the key can show
            told = [
                t for t in _described_attributes(space.records[row], query) if t in world.TASKS[key]
            ]
            if told:
                wanted = {task: space.test_labels[task][row] for task in told}
                title = f"{query} finds {key}: the same {' and '.join(told)}?"
                queries = [(query, row)]
                rows.append(
                    _search(space, title, queries, space.test[query][row], key, wanted, hits)
                )
                break
    clips, sounds = audio_image_queries(len(space.records), space.test_labels["material"])
    for clip, sound in list(zip(clips, sounds))[:3]:
        sum_ = arithmetic.compose(space.test["vision"][clip], space.test["audio"][sound])
        wanted = {
            "shape": space.test_labels["shape"][clip],
            "material": space.test_labels["material"][sound],
        }
        title = "clip + sound: that shape, of the material that one hears"
        queries = [("vision", clip), ("audio", sound)]
        rows.append(_search(space, title, queries, sum_, "vision", wanted, hits))
    return rows


def _described_attributes(record: Record, modality: str) -> tuple[str, ...]:
    """The attributes that a record's modality tells: of a sentence, those it names."""
    if modality != "text":
        return world.TASKS[modality]
    return tuple(world.caption_attributes(record["text"]))


def _search(space, title, queries, embedding, key, wanted, hits) -> ExampleSearch:
    cosines = l2_normalize(embedding) @ l2_normalize(space.test[key]).T
    used = [row for modality, row in queries if modality == key]
    best = [row for row in np.argsort(-cosines, kind="stable") if row not in used][:hits]
    return ExampleSearch(
        title,
        [(modality, space.records[row]) for modality, row in queries],
        [
            (
                key,
                space.records[row],
                float(cosines[row]),
                all(space.test_labels[task][row] == label for task, label in wanted.items()),
            )
            for row in best
        ],
    )
