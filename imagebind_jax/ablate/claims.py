"""All ablations there are, in the order in which they are run."""

from collections.abc import Mapping

from imagebind_jax.ablate import papers, questions
from imagebind_jax.ablate.ablation import Ablation

ABLATIONS: tuple[Ablation, ...] = (questions.CONTROL, *papers.ABLATIONS, *questions.ABLATIONS)
BY_NAME: Mapping[str, Ablation] = {ablation.name: ablation for ablation in ABLATIONS}
