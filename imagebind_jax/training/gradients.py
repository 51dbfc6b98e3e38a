"""The loss of a batch of one pair and its gradient, whole or in micro-batches, on one device of many."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from imagebind_jax import optimizer
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed.device_view import DeviceView
from imagebind_jax.inputs.pipeline.precomputed import PRECOMPUTED_PREFIX
from imagebind_jax.losses import contrastive
from imagebind_jax.losses.streamed import num_chunks, split_chunks
from imagebind_jax.models.imagebind import ImageBind
from imagebind_jax.training.frozen_towers import frozen_logit_scale

Metrics = dict[str, jax.Array]


def pair_loss_and_grad(
    trained: Mapping,
    frozen: Mapping,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    device: DeviceView,
    *,
    config: TrainConfig,
) -> tuple[jax.Array, Metrics, Any]:
    """(loss of the global batch, metrics, gradient by `trained`) of {modality: rows, "weight": [b]}.

    "anchor:vision" are embeddings in place of "vision": that tower is not run.
    trained, frozen: this device's parts of the two towers' parameters. key: of the step; what is
    dropped depends on it and on the row's number in the global batch.

    With `config.micro_batches` > 1 the embeddings of one micro-batch after the other are made
    first, then the loss of all of them with its gradient by the embeddings, and with that each
    micro-batch is run again, to its part of the gradient (GradCache, Gao et al. 2021,
    arXiv:2101.06983): the same gradient for the memory of one micro-batch.
    """
    encoders = config.model.encoders
    inputs = {modality: x for modality, x in batch.items() if modality in encoders}
    anchors = [
        (x, frozen_logit_scale(encoders, name.removeprefix(PRECOMPUTED_PREFIX)))
        for name, x in batch.items()
        if name.startswith(PRECOMPUTED_PREFIX)
    ]
    weight = batch["weight"]
    rows = device.rows(len(weight))
    model = ImageBind(config.model, gather=device.layer)

    def loss_fn(trained):
        # Frozen ones too: a gradient that is not derived (attention's) is of all its inputs alike.
        params = device.whole(device.own(optimizer.merge_params(frozen, trained)))

        def embed(modality, x, numbers):
            # A tower of which nothing learns is used as it is evaluated.
            embeddings, scales = model.apply(
                {"params": params},
                {modality: _zero_masked_rows(x, weight[numbers - rows[0]])},
                train=modality in trained,
                rows=numbers,
                rngs={"dropout": key},
            )
            return embeddings[modality], scales[modality]

        embedded = []
        for modality, x in inputs.items():
            parts = config.micro_batches
            if modality not in trained and config.frozen_rows:
                parts = max(parts, num_chunks(len(x), config.frozen_rows))
            embedded.append(_embed_in_micro_batches(embed, modality, x, rows, parts))
        (a, scale_a), (b, scale_b) = anchors + embedded
        form = contrastive.choose_implementation(config.loss, len(a), len(a) * device.count)
        biases = [params[m]["logit_bias"] for m in inputs if encoders[m].logit_bias is not None]
        return contrastive.training_loss(
            config.objective,
            a,
            b,
            scale_a * scale_b,  # the hub's scale is 1
            sum(biases, jnp.float32(0)),
            weight=weight,
            axis_name=device.axes,
            form=form,
        )

    (loss, numbers), gradient = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    return loss, numbers, gradient


def _zero_masked_rows(x, weight):
    """Rows of weight 0 may hold anything: a NaN, times their gradient of 0, would still be one."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return jnp.where(weight.reshape(-1, *(1,) * (x.ndim - 1)) > 0, x, 0)


def _embed_in_micro_batches(embed, modality, x, rows, count):
    """(embeddings, scale) of x, `count` parts of it one after the other, each kept by its input only."""
    if count == 1:
        return embed(modality, x, rows)
    part = jax.checkpoint(lambda part: embed(modality, *part), prevent_cse=False)
    z, scales = jax.lax.map(part, split_chunks((x, rows), count))
    return z.reshape(-1, z.shape[-1]), jnp.mean(scales)
