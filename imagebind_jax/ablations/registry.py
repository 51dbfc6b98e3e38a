"""All ablations there are, in the order in which they are run."""

from collections.abc import Mapping

from imagebind_jax.ablations import beyond_paper, paper
from imagebind_jax.ablations.spec import Ablation

ABLATIONS: tuple[Ablation, ...] = (beyond_paper.CONTROL, *paper.ABLATIONS, *beyond_paper.ABLATIONS)
BY_NAME: Mapping[str, Ablation] = {ablation.name: ablation for ablation in ABLATIONS}
