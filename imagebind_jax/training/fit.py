"""Training: what can be known to be wrong at the door, and the loop."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.config import TrainConfig, anchored, facts
from imagebind_jax.distributed import agreement, initialize, sharding
from imagebind_jax.errors import RESTART
from imagebind_jax.inputs.pipeline import bad_records
from imagebind_jax.inputs.pipeline import batches as pipeline
from imagebind_jax.porting import load, warm_start
from imagebind_jax.runtime import console, metrics_log
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic
from imagebind_jax.storage.fingerprint import flat
from imagebind_jax.training import frozen_towers, periodic_eval, run_identity, skip_step
from imagebind_jax.training.goodput import Goodput
from imagebind_jax.training.loop import Loop
from imagebind_jax.training.preemption import Notice
from imagebind_jax.training.step import create_state, train_step
from imagebind_jax.training.watchdog import Watchdog

MARGIN = 5.0  # seconds by which a step has longer than a record
PATIENCE = 20.0  # seconds that a run which an error ends waits for a save in flight
AMONG_OTHERS = 5.0  # where other hosts wait to hear of the error


def check(
    config: TrainConfig, folder: str | pathlib.Path, say: Callable[[str], None] = agreement.unsaid
) -> tuple[pathlib.Path, sharding.Sharded | sharding.Replicated]:
    """(run folder, placement): what can be known to be wrong before anything slow begins.

    say: told of a damaged config.json, which is no reason to stop. Raises UserError where the batch
    does not divide over the devices, or the folder is not writable or holds a run of another config.
    """
    sharding.check_batch_size(config.batch_size, config.micro_batches)
    place = sharding.placement(config.parallel, config.fsdp)
    folder = pathlib.Path(folder)
    atomic.check_writable(folder, "choose another --out")
    periodic_eval.check(config)
    frozen_towers.check_pairs(config.pairs, config.model, config.optimizer)
    begun = run_identity.begun_before(folder, facts(config), say)
    if not begun and not (folder / "checkpoints").exists():
        for path in config.initial:
            theirs = load.read_config(path, assumed=config.model.encoders)
            warm_start.check_fits(config.model, theirs, path)
    return folder, place


def fit(
    config: TrainConfig,
    folder: str | pathlib.Path,
    *,
    say: Callable[[str], None] = console.say,
    fallback: bool = True,
):
    """Trains in a run folder, or goes on with the run found there; returns the parameters.

    The folder gets `checkpoints/`, `metrics.jsonl`, `goodput.json` and `tensorboard/`. fallback: where
    the newest checkpoint is damaged, the one before it is taken. Raises UserError where the batch
    does not divide over the devices or the folder holds a run of another config, CheckpointCorrupt,
    and what ends a run before its last step: Preempted (SIGTERM), Diverged, SavesFail, Stopped.
    """
    if not agreement.first():
        say = agreement.unsaid
    folder, place = agreement.together(lambda: check(config, folder, say))
    agreement.check_shared(folder)
    agreement.alike("config", json.dumps(_of_all_hosts(config)))
    if jax.process_count() > 1:
        agreement.alike("--no-fallback", str(fallback))
        agreement.alike("evaluate_every", str(config.evaluate_every))
        agreement.alike("evaluation", json.dumps(periodic_eval.of_all_hosts(config)))
    busy = f"another process is training in {folder}: wait for it, or choose another --out"
    with contextlib.ExitStack() as stack:
        stack.enter_context(agreement.locked(folder / ".lock", busy))
        notice = stack.enter_context(Notice())
        clock = Goodput(folder, writes=agreement.first())
        checkpoints = checkpointer.Checkpoints(
            folder / "checkpoints",
            keep=config.keep,
            committed=lambda step: say(f"committed step {step}"),
            failed=say,
        )
        several = jax.process_count() > 1
        # Nothing is left to do where it was closed.
        stack.callback(checkpoints.abandon, AMONG_OTHERS if several else PATIENCE)
        initialize.last_words = last = functools.partial(last_words, checkpoints)
        # Other hosts wait in a step for one that waits for its data, which ends by itself.
        least = max(config.patience_of_step, config.patience + MARGIN if several else 0)
        watch = stack.enter_context(Watchdog(least, last, initialize.leave))
        progress = stack.enter_context(
            Progress("train", config.steps, "making the state", shown=agreement.first())
        )
        state, start, before = _begin(config, checkpoints, place, say, fallback)
        _check_state(config, checkpoints, place.gather(state))
        # Each host opens records of its own: what one of them lacks ends all.
        batches = agreement.together(lambda: _batches(config, folder, start, before, say))
        log = metrics_log.Metrics(folder, start, writes=agreement.first())
        loop = Loop(
            config,
            folder,
            place,
            batches=batches,
            step=place.compile(functools.partial(train_step, config=config), state),
            checkpoints=checkpoints,
            log=log,
            evaluation=periodic_eval.WhileTraining(config, place, progress.say, say),
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
    if bad := agreement.total(batches.bad.count.total()):
        where = " and those beside it" if jax.process_count() > 1 else ""
        say(f"{bad} rows were masked: see {folder / 'bad_records.jsonl'}{where}")
    return place.gather(state).params


def _check_state(config, checkpoints, state):
    """Of a state as it is saved, of which under pmap there is a copy only for so long. Raises UserError."""
    frozen_towers.check_towers(config.pairs, state.params)
    agreement.together(lambda: checkpoints.check_space(state))  # rather now than after hours


def last_words(checkpoints: checkpointer.Checkpoints) -> str:
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
    now = run_identity.records(batches)
    if start:
        run_identity.check_records(folder, now, before.get("records"), say)
    if agreement.first():
        run_identity.write_records(folder, now)
    return batches


def _begin(config, checkpoints, place, say, fallback):
    """(state, step, facts) to start from: the newest whole checkpoint, or a new state without facts."""
    checkpoints.check_begun()
    if not checkpoints.steps():
        state = place.create(functools.partial(create_state, config))
        for path in config.initial:
            say(f"starting from the encoders in {path}")
            params = warm_start.fill(place.gather(state).params, config.model, path)
            state = place.place(place.gather(state).replace(params=params))
        return state, 0, {}
    before = agreement.together(lambda: run_identity.facts_before(checkpoints))
    run_identity.check_facts(checkpoints.folder.parent, before["config"], facts(config)["config"])
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
        like, say, fallback=fallback, defaults={"health": skip_step.fresh(config)}
    )
    say(f"going on from step {step}")
    return (state if config.parallel == "sharded" else place.place(state)), step, before
