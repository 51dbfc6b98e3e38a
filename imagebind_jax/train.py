"""Training: the configuration, the state, one step, the loop."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from imagebind_jax import checkpoint, metrics, optimizer, sharding
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import pipeline
from imagebind_jax.inputs.sources import Cached
from imagebind_jax.model import ImageBind, ImageBindConfig, init
from imagebind_jax.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole training run; a config file returns one from `get_config()`."""

    model: ImageBindConfig
    inputs: Mapping[str, pipeline.Transform]  # modality -> record to model input
    pairs: tuple[pipeline.Pair, ...]
    steps: int
    batch_size: int  # global, over all devices and hosts
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = 0
    in_memory: bool = False  # decode each record once, without augmentation, and keep it
    # How it is run: none of these changes what is computed, so a run may go on with others.
    parallel: str = "sharded"  # or pmap
    fsdp: int | None = None  # devices that share one copy of the parameters; None: all
    threads: int = 2  # reading and decoding
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.parallel not in sharding.PARALLEL:
            raise UserError(
                f"parallel {self.parallel!r}: not one of {', '.join(sharding.PARALLEL)}"
            )
        for pair in self.pairs:
            for modality in pair.modalities:
                for name, known in (
                    ("model.encoders", self.model.encoders),
                    ("inputs", self.inputs),
                ):
                    if modality not in known:
                        raise UserError(f"a pair needs {modality!r}, which {name} lacks")


HOW = ("parallel", "fsdp", "threads", "log_every", "checkpoint_every", "keep")


class TrainState(flax.struct.PyTreeNode):
    """Everything a checkpoint holds; batches and random keys are functions of (seed, step)."""

    step: Any  # an int32; any leaf, as JAX builds trees of shapes and shardings too
    params: Any
    opt_state: Any


def create_state(config: TrainConfig) -> TrainState:
    """The state before the first step."""
    params = init(config.model, jax.random.key(config.seed))
    return TrainState(jnp.int32(0), params, optimizer.init(config.optimizer, params))


def train_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    config: TrainConfig,
    pair_loss: Callable,
    mean: Callable,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on a batch of one modality pair, {modality: inputs, "weight": [B]}.

    `pair_loss` and `mean` say how devices share their keys and their gradients (`sharding`).
    """
    inputs = {modality: x for modality, x in batch.items() if modality != "weight"}
    present = {modality: state.params[modality] for modality in inputs}
    trained, frozen = optimizer.split(present, config.optimizer)
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)

    def loss_fn(trained):
        params = optimizer.merge(frozen, trained)
        embeddings, scales = ImageBind(config.model).apply(
            {"params": params}, inputs, train=True, rngs={"dropout": key}
        )
        (a, b), (scale_a, scale_b) = embeddings.values(), scales.values()
        return pair_loss(a, b, scale_a * scale_b, batch["weight"])  # the hub's scale is 1

    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
    rate = optimizer.learning_rate(config.optimizer, config.steps)(state.step)
    trained, opt_state, norm = optimizer.update(
        config.optimizer, mean(grads), state.opt_state, trained, rate
    )
    state = TrainState(state.step + 1, state.params | optimizer.merge(frozen, trained), opt_state)
    return state, {"loss": loss, "learning_rate": rate, "gradient_norm": norm, **metrics}


def cached(config: TrainConfig) -> list[Cached]:
    """The sources of a run that are made on this machine, to be made before training."""
    return [pair.source for pair in config.pairs if isinstance(pair.source, Cached)]


def fit(config: TrainConfig, folder: str | pathlib.Path, *, say: Callable[[str], None] = print):
    """Trains in a run folder, or goes on with the run found there; returns the parameters.

    The folder gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`. Raises UserError where the
    batch does not divide over the devices or the folder holds a run of another config.
    """
    sharding.check_batch_size(config.batch_size)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = sharding.placement(config.parallel, config.fsdp)
    checkpoints = checkpoint.Checkpoints(
        folder / "checkpoints",
        keep=config.keep,
        committed=lambda step: say(f"committed step {step}"),
    )
    state, start = _begin(config, checkpoints, place, say)
    batches = pipeline.Batches(
        config.pairs,
        config.inputs,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        host=jax.process_index(),
        hosts=jax.process_count(),
        in_memory=config.in_memory,
    )
    step_fn = place.compile(functools.partial(train_step, config=config), state)
    log = metrics.Metrics(folder, start)
    waiting: tuple[int, str, dict] | None = None

    def tell(step: int, pair: str, values: dict) -> None:
        values = {name: float(value) for name, value in values.items()}  # waits for that step
        progress.update(
            step + 1, f"{pair}  loss {values['loss']:.3f}  accuracy {values['accuracy']:.2f}"
        )
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            rate = (step + 1 - start) / (time.monotonic() - begun)
            log.write(step, {"pair": pair, **values, "steps_per_second": rate})
        if not np.isfinite(values["loss"]):
            raise UserError(f"step {step} ({pair}): the loss is {values['loss']}; lower the rate")

    begun = time.monotonic()
    with metrics.Progress("train", config.steps, start) as progress:
        for step, batch in zip(range(start, config.steps), batches.stream(start, config.threads)):
            state, values = step_fn(state, place.batch(batch))
            # The numbers of step n - 1 are fetched while the devices work on step n.
            if waiting:
                tell(*waiting)
            waiting = step, batches.name(step), values
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                tell(*waiting)
                waiting = None
                checkpoints.save(step + 1, place.gather(state), _facts(config))
    checkpoints.close()
    log.close()
    return place.gather(state).params


def _begin(config, checkpoints, place, say):
    """(state, step) to start from: the newest whole checkpoint, or a new state."""
    if not checkpoints.steps():
        return place.create(functools.partial(create_state, config)), 0
    newest = checkpoints.steps()[0]
    before, now = checkpoints.meta(newest)["config"], _facts(config)["config"]
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{checkpoints.folder.parent} holds a run with {name} = {before.get(name)}, "
                f"not {now.get(name)}: choose another folder, or the config it was started with"
            )
    like = jax.eval_shape(functools.partial(create_state, config))
    sharded = sharding.Sharded(config.fsdp)
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        like,
        sharded.state_shardings(like),
    )
    step, state = checkpoints.restore_newest(like, say)
    say(f"going on from step {step}")
    return (state if config.parallel == "sharded" else place.place(state)), step


def _facts(config: TrainConfig) -> dict[str, Any]:
    """What a checkpoint says of its run: every field that changes what is computed."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in HOW:
            _flatten(name, value, flat)
    return {"config": flat}


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if dataclasses.is_dataclass(value):
        into[name] = type(value).__name__
        for field in dataclasses.fields(value):
            _flatten(f"{name}.{field.name}", getattr(value, field.name), into)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, into)
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for i, item in enumerate(value):
            _flatten(f"{name}.{i}", item, into)
    else:
        into[name] = list(value) if isinstance(value, tuple) else value
