"""Training: what can be known to be wrong at the door, and the loop."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from imagebind_jax import (
    checkpoint,
    files,
    frozen,
    health,
    hosts,
    metrics,
    same_run,
    saying,
    sharding,
)
from imagebind_jax.config import TrainConfig, anchored, facts
from imagebind_jax.evaluate import while_training
from imagebind_jax.goodput import Goodput
from imagebind_jax.inputs import bad_records, pipeline
from imagebind_jax.inputs.described import flat
from imagebind_jax.loop import Loop
from imagebind_jax.parting import RESTART
from imagebind_jax.porting import initial, loading
from imagebind_jax.preemption import Notice
from imagebind_jax.training_step import create_state, train_step
from imagebind_jax.watchdog import Watchdog

MARGIN = 5.0  # seconds by which a step has longer than a record
PATIENCE = 20.0  # seconds that a run which an error ends waits for a save in flight
AMONG_OTHERS = 5.0  # where other hosts wait to hear of the error


def check(
    config: TrainConfig, folder: str | pathlib.Path, say: Callable[[str], None] = hosts.unsaid
) -> tuple[pathlib.Path, sharding.Sharded | sharding.Replicated]:
    """(run folder, placement): what can be known to be wrong before anything slow begins.

    say: told of a damaged config.json, which is no reason to stop. Raises UserError where the batch
    does not divide over the devices, or the folder is not writable or holds a run of another config.
    """
    sharding.check_batch_size(config.batch_size, config.micro_batches)
    place = sharding.placement(config.parallel, config.fsdp)
    folder = pathlib.Path(folder)
    files.check_writable(folder, "choose another --out")
    while_training.check(config)
    frozen.check_pairs(config.pairs, config.model, config.optimizer)
    begun = same_run.begun_before(folder, facts(config), say)
    if not begun and not (folder / "checkpoints").exists():
        for path in config.initial:
            theirs = loading.read_config(path, assumed=config.model.encoders)
            initial.check_fits(config.model, theirs, path)
    return folder, place


def fit(
    config: TrainConfig,
    folder: str | pathlib.Path,
    *,
    say: Callable[[str], None] = saying.say,
    fallback: bool = True,
):
    """Trains in a run folder, or goes on with the run found there; returns the parameters.

    The folder gets `checkpoints/`, `metrics.jsonl`, `goodput.json` and `tensorboard/`. fallback: where
    the newest checkpoint is damaged, the one before it is taken. Raises UserError where the batch
    does not divide over the devices or the folder holds a run of another config, CheckpointCorrupt,
    and what ends a run before its last step: Preempted (SIGTERM), Diverged, SavesFail, Stopped.
    """
    if not hosts.first():
        say = hosts.unsaid
    folder, place = hosts.together(lambda: check(config, folder, say))
    hosts.check_shared(folder)
    hosts.alike("config", json.dumps(_of_all_hosts(config)))
    if jax.process_count() > 1:
        hosts.alike("--no-fallback", str(fallback))
        hosts.alike("evaluate_every", str(config.evaluate_every))
        hosts.alike("evaluation", json.dumps(while_training.of_all_hosts(config)))
    busy = f"another process is training in {folder}: wait for it, or choose another --out"
    with contextlib.ExitStack() as stack:
        stack.enter_context(hosts.locked(folder / ".lock", busy))
        notice = stack.enter_context(Notice())
        clock = Goodput(folder, writes=hosts.first())
        checkpoints = checkpoint.Checkpoints(
            folder / "checkpoints",
            keep=config.keep,
            committed=lambda step: say(f"committed step {step}"),
            failed=say,
        )
        several = jax.process_count() > 1
        # Nothing is left to do where it was closed.
        stack.callback(checkpoints.abandon, AMONG_OTHERS if several else PATIENCE)
        hosts.last_words = last = functools.partial(last_words, checkpoints)
        # Other hosts wait in a step for one that waits for its data, which ends by itself.
        least = max(config.patience_of_step, config.patience + MARGIN if several else 0)
        watch = stack.enter_context(Watchdog(least, last, hosts.leave))
        progress = stack.enter_context(
            metrics.Progress("train", config.steps, "making the state", shown=hosts.first())
        )
        state, start, before = _begin(config, checkpoints, place, say, fallback)
        _check_state(config, checkpoints, place.gather(state))
        # Each host opens records of its own: what one of them lacks ends all.
        batches = hosts.together(lambda: _batches(config, folder, start, before, say))
        log = metrics.Metrics(folder, start, writes=hosts.first())
        loop = Loop(
            config,
            folder,
            place,
            batches=batches,
            step=place.compile(functools.partial(train_step, config=config), state),
            checkpoints=checkpoints,
            log=log,
            evaluation=while_training.WhileTraining(config, place, progress.say, say),
            progress=progress,
            clock=clock,
            watch=watch,
            notice=notice,
        )
        try:
            state = loop.run(state, start)
            progress.say("waiting for the last checkpoint")
            with watch.paused(), clock.spent("saving"):
                checkpoints.close()
        finally:
            log.close()
            say(f"where the time went: {clock.close()}")
    if bad := hosts.total(batches.bad.count.total()):
        where = " and those beside it" if jax.process_count() > 1 else ""
        say(f"{bad} rows were masked: see {folder / 'bad_records.jsonl'}{where}")
    return place.gather(state).params


def _check_state(config, checkpoints, state):
    """Of a state as it is saved, of which under pmap there is a copy only for so long. Raises UserError."""
    frozen.check_towers(config.pairs, state.params)
    hosts.together(lambda: checkpoints.check_space(state))  # rather now than after hours


def last_words(checkpoints: checkpoint.Checkpoints) -> str:
    """What is to be known of a run that ends before its time."""
    return f"last committed step {checkpoints.last or 'none'}; {RESTART}"


def _of_all_hosts(config: TrainConfig) -> dict[str, Any]:
    """What must be the same on all hosts: everything but how each reads; what it measures, apart."""
    own = ("threads", "workers", "patience", "bad_records", "evaluation", "evaluate_every")
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return flat({k: v for k, v in fields.items() if k not in own}) | anchored(config)


def _batches(config, folder, start, before, say):
    """This host's share of the batches. Raises UserError where records are missing, or others."""
    host = jax.process_index()
    batches = pipeline.Batches(
        config.pairs,
        config.inputs,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        host=host,
        hosts=jax.process_count(),
        in_memory=config.in_memory,
        bad=bad_records.BadRecords(folder, config.bad_records, start, host=host),
    )
    now = same_run.records(batches)
    if start:
        same_run.check_records(folder, now, before.get("records"), say)
    if hosts.first():
        same_run.write_records(folder, now)
    return batches


def _begin(config, checkpoints, place, say, fallback):
    """(state, step, facts) to start from: the newest whole checkpoint, or a new state without facts."""
    checkpoints.check_begun()
    if not checkpoints.steps():
        state = place.create(functools.partial(create_state, config))
        for path in config.initial:
            say(f"starting from the encoders in {path}")
            params = initial.fill(place.gather(state).params, config.model, path)
            state = place.place(place.gather(state).replace(params=params))
        return state, 0, {}
    before = hosts.together(lambda: same_run.facts_before(checkpoints))
    same_run.check_facts(checkpoints.folder.parent, before["config"], facts(config)["config"])
    like = jax.eval_shape(functools.partial(create_state, config))
    sharded = sharding.Sharded(config.fsdp)
    if config.parallel == "pmap":
        sharded = sharding.Sharded(devices=jax.local_devices())
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        like,
        sharded.state_shardings(like),
    )
    step, state = checkpoints.restore_newest(
        like, say, fallback=fallback, defaults={"health": health.fresh(config)}
    )
    say(f"going on from step {step}")
    return (state if config.parallel == "sharded" else place.place(state)), step, before
