"""Towers that learn nothing: which they are, and whether anchors are a tower's."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from imagebind_jax import optimizer
from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.pairs import ModalityPair
from imagebind_jax.inputs.pipeline.precomputed import PrecomputedEmbeddings, assert_same_fields
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig, init
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.storage.fingerprint import flatten_config, json_sha256

# Of an encoder, what matters only to one that learns.
_LEARNING: Mapping[str, Any] = {"drop_path": 0.0, "head_dropout": 0.0, "position_std": None}


def frozen_modalities(model: ImageBindConfig, config: OptimizerConfig) -> set[str]:
    """The modalities of a model of which no parameter learns."""
    params = jax.eval_shape(functools.partial(init, model), jax.random.key(0))
    return params.keys() - optimizer.split_frozen(params, config)[0].keys()


def tower_fingerprint_fields(model: ImageBindConfig, modality: str) -> dict[str, Any]:
    """What anchors depend on of an encoder and how it is computed, as JSON gives it back.

    Raises UserError where it learns its logit scale or bias, which anchors do not hold.
    """
    encoder = model.encoders[modality]
    if encoder.learn_scale:
        raise UserError(
            f"the {modality} encoder learns its logit scale, which anchors do not hold: put the "
            "pair's other modality first, or set learn_scale=False"
        )
    if encoder.logit_bias is not None:
        raise UserError(
            f"the {modality} encoder has a learned logit bias, which anchors do not hold: give it "
            "to the pair's other modality, and set logit_bias=None here"
        )
    facts = {
        "encoder": flatten_config({modality: dataclasses.replace(encoder, **_LEARNING)}),
        "logit_scale": frozen_logit_scale(model.encoders, modality),
        "width": model.embed_dim,
        "dtype": model.dtype,
    }
    return json.loads(json.dumps(facts))


def frozen_logit_scale(encoders: Mapping[str, EncoderConfig], modality: str) -> float:
    """The logit scale of an anchored modality; the hub's, 1, of one that the model lacks."""
    scale = encoders[modality].logit_scale if modality in encoders else None
    return 1.0 if scale is None else scale


def params_fingerprint(tower: Mapping, dtype: str) -> str:
    """Of a frozen tower's parameters, in the types in which training keeps them."""
    every = OptimizerConfig(frozen=("",))
    return json_sha256(
        checkpointer.tree_checksums(optimizer.cast_frozen({"tower": tower}, every, dtype))[0]
    )


def check_precomputed_pairs(
    pairs: Sequence[ModalityPair], model: ImageBindConfig, config: OptimizerConfig
) -> None:
    """`check_precomputed` of all pairs that have some."""
    for pair in pairs:
        if pair.anchors is not None:
            check_precomputed(pair.anchors, pair.modalities[0], model, config)


def check_precomputed(
    anchors: PrecomputedEmbeddings, modality: str, model: ImageBindConfig, config: OptimizerConfig
) -> None:
    """Raises UserError unless a model can be trained against these anchors of a modality.

    It need not have that encoder; if it has, it must be the one they were made with, and frozen.
    """
    if modality not in model.encoders:
        wanted = {"width": model.embed_dim, "logit_scale": 1.0}
    elif modality in frozen_modalities(model, config):
        wanted = tower_fingerprint_fields(model, modality)
    else:
        raise UserError(
            f"the anchors in {anchors.folder} stand for a {modality} encoder that learns nothing, "
            f'and the config trains it: frozen=("{modality}/",), or take it out of the model'
        )
    assert_same_fields(anchors.folder, anchors.facts(), wanted)


def check_precomputed_params(pairs: Sequence[ModalityPair], params: Mapping) -> None:
    """Raises UserError where anchors were made with other parameters than the model's."""
    found: dict[str, str] = {}
    for pair in pairs:
        modality = pair.modalities[0]
        if pair.anchors is None or modality not in params:
            continue
        facts = pair.anchors.facts()
        if modality not in found:
            found[modality] = params_fingerprint(params[modality], facts["dtype"])
        assert_same_fields(pair.anchors.folder, facts, {"parameters": found[modality]})
