"""Ablations that the paper has not: a control, and questions of our own."""

import dataclasses

from imagebind_jax.ablations.baselines import AUDIO_AND_DEPTH, BASELINE, THERMAL, claims, row
from imagebind_jax.ablations.spec import Ablation, AblationRow, Hypothesis, TrialConfig


def _pairs(count: int) -> AblationRow:
    """As many steps for every count: epochs are in inverse proportion."""

    def setting(task: str) -> TrialConfig:
        base = BASELINE[task]
        batch = min(64, base.batch_size)
        return dataclasses.replace(
            base, pairs=count, batch_size=batch, epochs=base.epochs * base.pairs // count
        )

    return AblationRow(f"{count:,}", {task: setting(task) for task in AUDIO_AND_DEPTH})


CONTROL: Ablation = Ablation(
        "null",
        "Nothing changed",
        "",
        (row("once"), row("again", repeat=1)),
        claims("the first of two equal settings is the better one", "once", "again", *AUDIO_AND_DEPTH, ours=True),
        "The control: two settings that are the same, from other initial weights and with other "
        "batches. Of a hundred such benches two would call one of these two verdicts by chance.",
    )  # fmt: skip

ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        "pairs",
        "How many pairs a new modality needs",
        "",
        tuple(_pairs(count) for count in (64, 128, 256, 512, 1024)),
        (
            *claims("1,024 pairs are better than 512", "1,024", "512", *AUDIO_AND_DEPTH, ours=True),
            *claims("128 pairs are better than 64", "128", "64", *AUDIO_AND_DEPTH, ours=True),
        ),
        "Every row takes the same number of steps, in batches of 64 (depth: 32); chance is 12.5 %. A pair of audio is a "
        "recording, whose three moments are three sounds.",
    ),
    Ablation(
        "gap",
        "The modality gap, and centring",
        "",
        tuple(
            row(f"temperature {temperature}", temperature=temperature)
            for temperature in (0.05, 0.1, 0.2, 1.0)
        ),
        (
            *claims("a high temperature leaves a smaller gap", "temperature 0.05", "temperature 1.0", *AUDIO_AND_DEPTH, number="gap", ours=True),
            *(
                Hypothesis(f"centring helps {what} at {row}", task, row, row, f"{number}_centred", number, ours=True)
                for row in ("temperature 0.05", "temperature 1.0")
                for number, what in (("r10", "retrieval of images"), ("top1", "zero-shot"))
                for task in AUDIO_AND_DEPTH
            ),
        ),
        "The gap is the distance between the mean embeddings of a modality and of its images (Liang "
        "et al. 2022, arXiv:2203.02053). Centred: each side less its own mean, of all test samples at once (of "
        "classes, of their names), which takes no labels. Frozen towers do not move, so that the gap is what the "
        "new encoder leaves.",
        numbers=("top1", "top1_centred", "r10", "r10_centred", "gap"),
    ),
    Ablation(
        "sigmoid",
        "Sigmoid loss or InfoNCE",
        "",
        (
            row("InfoNCE, batch 32", batch_size=32, temperature=0.1, learned=True),
            row("sigmoid, batch 32", batch_size=32, temperature=0.1, learned=True, objective="sigmoid"),
            row("InfoNCE, batch 256", batch_size=256, temperature=0.1, learned=True),
            row("sigmoid, batch 256", batch_size=256, temperature=0.1, learned=True, objective="sigmoid"),
        ),
        tuple(
            claim
            for batch in (32, 256)
            for claim in claims(f"the sigmoid loss beats InfoNCE in batches of {batch}", f"sigmoid, batch {batch}", f"InfoNCE, batch {batch}", *AUDIO_AND_DEPTH, ours=True)
        ),
        "SigLIP's loss (arXiv:2303.15343) with a learned scale and bias, which starts at "
        "-log(batch - 1), against InfoNCE with a learned temperature; both from a temperature of 0.1, and "
        "learned 30 times as fast as all else, as runs are short.",
    ),
    Ablation(
        "chained",
        "Chained binding",
        "",
        (
            AblationRow("to images", {"thermal": THERMAL}),
            AblationRow("to depth maps only", {"thermal": dataclasses.replace(THERMAL, hub="depth")}),
            # One step, whose rate is all there is of a schedule.
            AblationRow("not trained", {"thermal": dataclasses.replace(THERMAL, pairs=32, epochs=1)}),
        ),
        (
            *claims("binding to images is better than to what is bound to them", "to images", "to depth maps only", "thermal", ours=True),
            *claims("a chain over depth carries text", "to depth maps only", "not trained", "thermal", ours=True),
        ),
        "Thermal images are bound to depth maps alone, whose encoder was bound to images alone, of other "
        "scenes; and asked by text, three links away: which shape is it? Chance is 12.5 %; the last row "
        "has learned for one step. Thermal images are not augmented; the depth encoder is the baseline's.",
    ),
)  # fmt: skip
