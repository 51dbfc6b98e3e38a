"""Clotho: recordings found by a caption (table 3).

    imagebind-jax prepare clotho --source clotho --out records/clotho --splits evaluation
    imagebind-jax evaluate configs/eval_clotho.py --checkpoint imagebind_huge.pth

Data: zenodo.org/records/4783391, version 2.1 (data/clotho/README.md).
Protocol: each of the 5 x 1,045 captions of `evaluation` is a query of its own among the 1,045
recordings of 15 to 30 s, each ceil(duration / 2) clips of 2 s, embeddings averaged; R@1 and R@10.
Reported: 6.0 / 28.4 by the paper (table 3), R@1 6.64 and R@5 17.28 by FreeBind with the released
weights (which direction is not in our notes). AVFIC and ARNLQ as the paper quotes them; of AVFIC
the first is paired with text, the second supervised.
Not settled: which version the paper had; the recordings of `evaluation` are as many in both.
"""

from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig
from imagebind_jax.evaluation.tasks.retrieval import Retrieval
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.inputs.transforms import audio

REPORTED = {
    "paper": {"r1": 6.0, "r10": 28.4},
    "FreeBind": {"r1": 6.64, "r5": 17.28},
    "AVFIC": {"r1": 3.0, "r10": 17.5},
    "AVFIC, supervised": {"r1": 8.4, "r10": 38.6},
    "ARNLQ, supervised": {"r1": 12.6, "r10": 45.4},
}


def get_config() -> EvalConfig:
    sounds = Prepared("clotho", "evaluation")
    found = Retrieval(sounds, {"text": 1.0}, {"audio": 1.0}, {"audio": audio.LogMelClips(None)})
    return EvalConfig((Benchmark("Clotho", found, REPORTED),))
