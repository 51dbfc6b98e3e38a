"""Training: the state, one step, the loop."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from imagebind_jax import checkpoint, files, metrics, optimizer, sharding
from imagebind_jax.config import TrainConfig, facts
from imagebind_jax.errors import UserError
from imagebind_jax.evaluate import while_training
from imagebind_jax.inputs import bad_records, pipeline
from imagebind_jax.model import ImageBind, init
from imagebind_jax.porting import initial, loading


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
    replica: Callable,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on a batch of one modality pair, {modality: inputs, "weight": [B]}.

    `pair_loss` and `mean` say how devices share their keys and their gradients, `replica` which
    of several programs this is (`sharding`).
    """
    inputs = {modality: x for modality, x in batch.items() if modality != "weight"}
    present = {modality: state.params[modality] for modality in inputs}
    trained, frozen = optimizer.split(present, config.optimizer)
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    key = jax.random.fold_in(key, replica())

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


def check(
    config: TrainConfig, folder: str | pathlib.Path
) -> tuple[pathlib.Path, sharding.Sharded | sharding.Replicated]:
    """(run folder, placement): what can be known to be wrong before anything slow begins.

    Raises UserError where the batch does not divide over the devices, or the folder is not
    writable or holds a run of another config.
    """
    sharding.check_batch_size(config.batch_size)
    place = sharding.placement(config.parallel, config.fsdp)
    folder = pathlib.Path(folder)
    files.check_writable(folder, "choose another --out")
    while_training.check(config)
    begun = folder / "config.json"
    if begun.exists():
        try:
            before = msgspec.json.decode(begun.read_bytes(), type=dict[str, dict[str, Any]])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{begun} is damaged ({error}): checkpoints do without it") from error
        _check_same_run(folder, {"config": {}} | before, facts(config))
    elif not (folder / "checkpoints").exists():
        for path in config.initial:
            theirs = loading.read_config(path, assumed=config.model.encoders)
            initial.check_fits(config.model, theirs, path)
    return folder, place


def fit(config: TrainConfig, folder: str | pathlib.Path, *, say: Callable[[str], None] = print):
    """Trains in a run folder, or goes on with the run found there; returns the parameters.

    The folder gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`. Raises UserError where the
    batch does not divide over the devices or the folder holds a run of another config.
    """
    folder, place = check(config, folder)
    busy = f"another process is training in {folder}: wait for it, or choose another --out"
    with (
        files.locked(folder / ".lock", busy),
        metrics.Progress("train", config.steps, "making the state") as progress,
    ):
        checkpoints = checkpoint.Checkpoints(
            folder / "checkpoints",
            keep=config.keep,
            committed=lambda step: say(f"committed step {step}"),
        )
        state, start = _begin(config, checkpoints, place, say)
        checkpoints.check_space(place.gather(state))  # rather now than after hours
        batches = pipeline.Batches(
            config.pairs,
            config.inputs,
            seed=config.seed,
            batch_size=config.batch_size,
            steps=config.steps,
            host=jax.process_index(),
            hosts=jax.process_count(),
            in_memory=config.in_memory,
            bad=bad_records.BadRecords(folder, config.bad_records, start),
        )
        _check_same_records(folder, batches, start)
        step_fn = place.compile(functools.partial(train_step, config=config), state)
        log = metrics.Metrics(folder, start)
        evaluation = while_training.WhileTraining(config, place, progress.say, say)
        compiled: set[str] = set()
        waiting: tuple[int, str, dict] | None = None
        begun = time.monotonic()

        def tell(step: int, pair: str, values: dict) -> None:
            values = {name: float(value) for name, value in values.items()}  # waits for that step
            loss = values["loss"]
            progress.update(step + 1, f"{pair}  loss {loss:.3f}  accuracy {values['accuracy']:.2f}")
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                rate = (step + 1 - start) / (time.monotonic() - begun - evaluation.seconds)
                log.write(step, {"pair": pair, **values, "steps_per_second": rate, **_bad(batches)})
            if not np.isfinite(loss):
                raise UserError(f"step {step} ({pair}): the loss is {loss}; lower the rate")

        progress.begin(start)
        stream = batches.stream(
            start, config.threads, workers=config.workers, patience=config.patience
        )
        for step, batch in zip(range(start, config.steps), _placed(stream, place)):
            pair = batches.name(step)
            if pair not in compiled:  # once for each pair
                compiled.add(pair)
                progress.say(f"compiling the step of {pair}")
            state, values = step_fn(state, batch)
            # The numbers of step n - 1 are fetched while the devices work on step n.
            if waiting:
                tell(*waiting)
            waiting = step, pair, values
            if evaluation.due(step + 1):  # before the commit: a run that goes on from there has it
                tell(*waiting)
                waiting = None
                if numbers := evaluation.measure(state.params):
                    log.write(step, numbers)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                if waiting:
                    tell(*waiting)
                waiting = None
                checkpoints.save(step + 1, place.gather(state), facts(config))
                # From here on the folder is this run's: `check` compares without opening checkpoints.
                files.replace_text(folder / "config.json", json.dumps(facts(config), indent=1))
        progress.say("waiting for the last checkpoint")
        checkpoints.close()
        log.close()
    if _bad(batches):
        say(f"{_bad(batches)['bad_rows']:.0f} rows were masked: see {folder / 'bad_records.jsonl'}")
    return place.gather(state).params


def _check_same_records(folder, batches, start):
    """The shuffle depends on how many records there are: a source that grew is another stream."""
    path = folder / "records.json"
    now = [(rows.name, len(rows)) for rows in batches.rows]
    if start and path.exists():
        try:
            before = msgspec.json.decode(path.read_bytes(), type=list[tuple[str, int]])
        except msgspec.MsgspecError as error:
            raise UserError(f"{path} is damaged ({error}): checkpoints do without it") from error
        for (pair, count), (_, found) in zip(before, now):
            if count != found:
                raise UserError(
                    f"{folder} was trained on {count} records of {pair} and now there are {found}: "
                    "batches would be others; restore them, or choose another --out"
                )
    files.replace_text(path, json.dumps(now))


def _placed(stream, place):
    """Batches on the devices, one ahead: each travels while the step before it runs."""
    waiting = None
    for batch in stream:
        batch, waiting = waiting, place.batch(batch)
        if batch is not None:
            yield batch
    if waiting is not None:
        yield waiting


def _bad(batches):
    """What metrics say of unusable records, if there were any since the run (last) started."""
    return {"bad_rows": float(batches.bad.count.total())} if batches.bad.count else {}


def _begin(config, checkpoints, place, say):
    """(state, step) to start from: the newest whole checkpoint, or a new state."""
    if not checkpoints.steps():
        state = place.create(functools.partial(create_state, config))
        for path in config.initial:
            say(f"starting from the encoders in {path}")
            params = initial.fill(place.gather(state).params, config.model, path)
            state = place.place(place.gather(state).replace(params=params))
        return state, 0
    _check_same_run(checkpoints.folder.parent, _facts_before(checkpoints), facts(config))
    like = jax.eval_shape(functools.partial(create_state, config))
    sharded = sharding.Sharded(config.fsdp)
    if config.parallel == "pmap":
        sharded = sharding.Sharded(devices=jax.local_devices())
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        like,
        sharded.state_shardings(like),
    )
    step, state = checkpoints.restore_newest(like, say)
    say(f"going on from step {step}")
    return (state if config.parallel == "sharded" else place.place(state)), step


def _check_same_run(folder: pathlib.Path, before: dict, now: dict) -> None:
    before, now = before["config"], now["config"]
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{folder} holds a run with {name} = {before.get(name)}, not {now.get(name)}: "
                "choose another --out, or the config it was started with"
            )


def _facts_before(checkpoints):
    """What the newest checkpoint whose facts can be read says of its run."""
    for step in checkpoints.steps():
        try:
            return checkpoints.meta(step)
        except checkpoint.CheckpointCorrupt:
            continue  # `restore_newest` tells
    raise checkpoint.CheckpointCorrupt(f"every checkpoint in {checkpoints.folder} is damaged")
