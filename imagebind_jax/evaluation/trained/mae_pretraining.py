"""Pretraining of a masked autoencoder on records of one modality, which goes on where it stopped."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from imagebind_jax import optimizer
from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.distributed import agreement, lockstep, sharding
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import EvalInputs, source_name
from imagebind_jax.inputs.pipeline.bad_records import BadRecordLog
from imagebind_jax.inputs.pipeline.batches import unpaired_batches
from imagebind_jax.inputs.pipeline.examples import Examples, ToModelInputs
from imagebind_jax.inputs.sources import Record
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedConfig,
    random_order,
    reconstruction_loss,
)
from imagebind_jax.runtime import metrics_log
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic
from imagebind_jax.version import __version__

# AudioMAE's encoder for clips of two seconds: ViT-B on 8 x 12 patches that do not overlap, so the
# last 12 of 204 frames are not seen. (ImageBind's has patches every 10: 12 x 19 of them.)
AUDIO = EncoderConfig((128, 204, 1), patch=(16, 16), width=768, depth=12, heads=12)


@dataclasses.dataclass(frozen=True)
class MaePretraining:
    """How a masked autoencoder is learned; rates as AudioMAE's published command for AudioSet.

    That is 33 epochs of 2 M clips, of which 3 warm up: 129,000 steps of 512.
    """

    items: EvalInputs  # of which no label is used; its transform is given random numbers, as in training
    steps: int
    model: MaskedConfig = MaskedConfig(AUDIO)
    batch_size: int = 512  # over all devices
    learning_rate: float = 4e-4  # 2e-4 for every 256 samples of a batch; goes with batch_size
    weight_decay: float = 1e-4
    warmup: float = 1 / 11  # share of the steps; then a cosine to 0
    seed: int = 0
    # How it is run.
    threads: int = 2  # reading and decoding
    patience: float = 60.0  # seconds that one record may take before the run ends, naming it
    bad_records: float = 0.01  # share of the rows that may be unusable
    checkpoint_every: int = 1000
    log_every: int = 10

    def __post_init__(self):
        for name in ("steps", "batch_size", "threads", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1 or not 0 <= self.bad_records <= 1 or not self.patience > 0:
            raise UserError(
                f"warmup {self.warmup}, bad_records {self.bad_records}, patience {self.patience}: "
                "the first two must be within [0, 1], the last above 0"
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be in [0, 2**32), got {self.seed}")
        _ = self.optimizer  # for its errors

    @property
    def optimizer(self) -> optimizer.OptimizerConfig:
        return optimizer.OptimizerConfig(
            learning_rate=self.learning_rate,
            warmup_steps=round(self.warmup * self.steps),
            weight_decay=self.weight_decay,
            beta1=0.9,
            beta2=0.95,
            clip_norm=math.inf,  # MAE clips no gradient
        )

    def digest(self, records: Any) -> str:
        """Tells runs apart: of everything that changes what is learned. Raises UserError.

        records: what tells them from others (`identity`).
        """
        how = {"threads", "patience", "bad_records", "checkpoint_every", "log_every"}
        fields = [f.name for f in dataclasses.fields(self) if f.name not in how]
        text = repr([__version__, records, *((name, getattr(self, name)) for name in fields)])
        if " at 0x" in text:  # an address: another in each process
            raise UserError(
                f"{self.items.name}: a run that is kept needs a source and a transform that are "
                f"dataclasses, and not {text[max(text.index(' at 0x') - 60, 0) :][:80]}"
            )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def pretrain_mae(
    config: MaePretraining,
    records: Sequence[Record],
    folder: pathlib.Path | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The parameters of an encoder as `Encoder` has them, but for its head: host arrays.

    folder: where checkpoints and metrics.jsonl are kept, to go on from after an interruption, to
    the same parameters, and to have them at once when finished. Raises UserError where the loss is
    not finite, or where too many records cannot be used.
    """
    sharding.check_batch_size(config.batch_size)
    if not len(records):
        raise UserError(f"{config.items.name}: there are no records to pretrain on")
    place = sharding.ShardedStrategy(fsdp=1)
    create = functools.partial(create_mae_state, config.model, config.optimizer, config.seed)
    if folder is None:
        state = _train(config, records, place, place.create(create), 0)
        return jax.device_get(state["params"]["encoder"])
    atomic.check_writable(folder, "choose another folder for results")
    with agreement.global_file_lock(
        folder / ".lock", f"another process is pretraining in {folder}: wait for it"
    ):
        checkpoints = checkpointer.Checkpointer(folder / "checkpoints")
        if checkpoints.steps():
            like = jax.eval_shape(create)
            like = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                like,
                place.state_shardings(like),
            )
            start, state = checkpoints.restore_newest(like, tell)
        else:
            start, state = 0, place.create(create)
        said = {"pretraining": repr(config), "records": len(records)}
        state = _train(
            config,
            records,
            place,
            state,
            start,
            folder=folder,
            commit=lambda step, state: checkpoints.save(step, state, said),
        )
        checkpoints.close()
        return jax.device_get(state["params"]["encoder"])


def _train(
    config: MaePretraining,
    records: Sequence[Record],
    place: sharding.ShardedStrategy,
    state: Any,
    start: int,
    *,
    folder: pathlib.Path | None = None,
    commit: Callable[[int, Any], None] = lambda step, state: None,
) -> Any:
    """The state after the last step."""
    if start == config.steps:
        return state
    items = config.items
    rows = Examples(
        records, ToModelInputs({items.modality: items.transform}), source_name(items.source)
    )
    stream = unpaired_batches(
        rows,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        start=start,
        host=jax.process_index(),
        hosts=jax.process_count(),
        threads=config.threads,
        patience=config.patience,
        bad=BadRecordLog(folder, config.bad_records, start, host=jax.process_index()),
    )
    step_fn = _step_fn(config, place, state)
    with contextlib.ExitStack() as stack:
        log = (
            metrics_log.MetricsLog(folder, start, writes=agreement.is_main_process())
            if folder is not None
            else None
        )
        if log is not None:
            stack.callback(log.close)
        progress = stack.enter_context(
            Progress(f"pretrain on {rows.name}", config.steps, "compiling the step")
        )

        def tell(step: int, values: Mapping[str, jax.Array]) -> None:
            numbers = {name: float(value) for name, value in values.items()}
            progress.update(step + 1, f"loss {numbers['loss']:.3f}")
            if log is not None and ((step + 1) % config.log_every == 0 or step + 1 == config.steps):
                log.write(step, numbers)
            if not np.isfinite(numbers["loss"]):
                raise UserError(
                    f"pretraining, step {step}: the loss is {numbers['loss']}; lower the "
                    f"learning_rate {config.learning_rate}"
                )

        progress.begin(start)
        waiting: tuple[int, Mapping[str, jax.Array]] | None = None
        for step, batch in zip(range(start, config.steps), stream):
            if batch[items.modality].shape[1:] != config.model.encoder.shape:
                raise UserError(
                    f"{items.name}: inputs of shape {batch[items.modality].shape[1:]} for an "
                    f"encoder of {config.model.encoder.shape}: pretraining takes one view at a time"
                )
            lockstep.lockstep_barrier(f"step {step} of pretraining")
            state, values = step_fn(state, place.batch(batch))
            if waiting:  # the numbers of a step are fetched while the next one runs
                tell(*waiting)
            waiting = step, values
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                tell(*waiting)
                waiting = None
                commit(step + 1, state)
    return state


def _step_fn(config: MaePretraining, place: sharding.ShardedStrategy, state: Any) -> Callable:
    step = functools.partial(
        mae_train_step,
        config=config.model,
        rates=config.optimizer,
        steps=config.steps,
        seed=config.seed,
    )
    return place.compile(step, state)


def create_mae_state(
    config: MaskedConfig, rates: optimizer.OptimizerConfig, seed: int
) -> dict[str, Any]:
    """The state before the first step: {"step", "params": {"encoder", "decoder"}, "opt_state"}."""
    x = jnp.zeros((1, *config.encoder.shape))
    order = jnp.arange(config.patches)[None]
    params = MaskedAutoencoder(config).init(jax.random.key(seed), x, order)["params"]
    return {"step": jnp.int32(0), "params": params, "opt_state": optimizer.init(rates, params)}


def mae_train_step(
    state: Mapping[str, Any],
    batch: Mapping[str, Array],
    *,
    config: MaskedConfig,
    rates: optimizer.OptimizerConfig,
    steps: int,
    seed: int,
    **_: Any,  # what `sharding` gives contrastive steps
) -> tuple[dict[str, Any], dict[str, Array]]:
    """One step of `steps` on {modality: inputs, "weight": [B], 0 for rows that count for nothing}.

    What is hidden is a function of the seed, the step and the row.
    """
    weight = batch["weight"]
    [x] = (values for name, values in batch.items() if name != "weight")
    key = jax.random.fold_in(jax.random.key(seed), state["step"])
    order = random_order(key, len(x), config.patches)

    def loss_fn(params):
        prediction = MaskedAutoencoder(config).apply({"params": params}, x, order)
        errors = reconstruction_loss(config, jnp.asarray(prediction), x, order)
        return jnp.sum(weight * errors) / jnp.maximum(jnp.sum(weight), 1.0)

    loss, grads = jax.value_and_grad(loss_fn)(state["params"])
    rate = optimizer.learning_rate(rates, steps)(state["step"])
    params, opt_state, norm = optimizer.update(
        rates, grads, state["opt_state"], state["params"], rate
    )
    state = {"step": state["step"] + 1, "params": params, "opt_state": opt_state}
    return state, {"loss": loss, "learning_rate": rate, "gradient_norm": norm}
