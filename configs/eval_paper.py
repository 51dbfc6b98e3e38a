"""All of the paper's benchmarks whose records are there, in one table.

    imagebind-jax evaluate configs/eval_paper.py --checkpoint imagebind_huge.pth

Data: what the other configs/eval_*.py prepare into records/, as much of it as you have; the rest is
named as missing, with the reason.
Protocol and reported numbers: of each, in its own file. The few-shot baselines that train encoders
of their own (FromScratch, Masked) are not among them, as no checkpoint is measured by them.
"""

import pathlib

from imagebind_jax.config import load_config
from imagebind_jax.evaluation.benchmark import EvalConfig
from imagebind_jax.evaluation.trained.from_scratch import FromScratch
from imagebind_jax.evaluation.trained.masked_autoencoder import MaskedAutoencoderBaseline

# In the order of tables 2 to 4 and figure 3.
CONFIGS = (
    "imagenet",
    "places365",
    "kinetics400",
    "msrvtt",
    "nyuv2",
    "sunrgbd",
    "audioset",
    "vggsound",
    "esc50",
    "llvip",
    "ego4d",
    "clotho",
    "audiocaps",
    "esc50_few_shot",
    "sunrgbd_few_shot",
)


def get_config() -> EvalConfig:
    here = pathlib.Path(__file__).parent
    configs = (load_config(here / f"eval_{name}.py", EvalConfig) for name in CONFIGS)
    return EvalConfig(
        tuple(
            benchmark
            for config in configs
            for benchmark in config.benchmarks
            if not isinstance(benchmark.evaluation, (FromScratch, MaskedAutoencoderBaseline))
        )
    )
