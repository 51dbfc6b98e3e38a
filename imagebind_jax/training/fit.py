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
from imagebind_jax.config import TrainConfig, precomputed_fingerprint, run_fingerprint
from imagebind_jax.distributed import agreement, initialize, sharding
from imagebind_jax.errors import RESTART_HINT
from imagebind_jax.inputs.pipeline import bad_records
from imagebind_jax.inputs.pipeline import batches as pair_batches
from imagebind_jax.porting import load, warm_start
from imagebind_jax.runtime import console, metrics_log
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic
from imagebind_jax.storage.fingerprint import flatten_config
from imagebind_jax.training import frozen_towers, periodic_eval, run_identity, skip_step
from imagebind_jax.training.goodput import GoodputRecorder
from imagebind_jax.training.loop import TrainLoop
from imagebind_jax.training.preemption import PreemptionNotice
from imagebind_jax.training.step import create_state, train_step
from imagebind_jax.training.watchdog import Watchdog

STEP_TIMEOUT_MARGIN = 5.0  # seconds by which a step has longer than a record
SAVE_GRACE_SECONDS = 20.0  # seconds that a run which an error ends waits for a save in flight
SAVE_GRACE_MULTI_PROCESS = 5.0  # where other hosts wait to hear of the error


def preflight_check(
    config: TrainConfig,
    folder: str | pathlib.Path,
    say: Callable[[str], None] = agreement.log_nothing,
) -> tuple[pathlib.Path, sharding.ShardedStrategy | sharding.PmapStrategy]:
    """(run folder, placement): what can be known to be wrong before anything slow begins.

    say: told of a damaged config.json, which is no reason to stop. Raises UserError where the batch
    does not divide over the devices, or the folder is not writable or holds a run of another config.
    """
    sharding.check_batch_size(config.batch_size, config.micro_batches)
    place = sharding.make_strategy(config.parallel, config.fsdp)
    folder = pathlib.Path(folder)
    atomic.check_writable(folder, "choose another --out")
    periodic_eval.check_requirements(config)
    frozen_towers.check_precomputed_pairs(config.pairs, config.model, config.optimizer)
    begun = run_identity.check_existing_run(folder, run_fingerprint(config), say)
    if not begun and not (folder / "checkpoints").exists():
        for path in config.initial:
            theirs = load.read_config(path, assumed=config.model.encoders)
            warm_start.check_compatible(config.model, theirs, path)
    return folder, place


def fit(
    config: TrainConfig,
    folder: str | pathlib.Path,
    *,
    say: Callable[[str], None] = console.print_line,
    fallback: bool = True,
):
    """Trains in a run folder, or goes on with the run found there; returns the parameters.

    The folder gets `checkpoints/`, `metrics.jsonl`, `goodput.json` and `tensorboard/`. fallback: where
    the newest checkpoint is damaged, the one before it is taken. Raises UserError where the batch
    does not divide over the devices or the folder holds a run of another config, CorruptCheckpointError,
    and what ends a run before its last step: Preemption (SIGTERM), TrainingDivergedError,
    CheckpointWriteError, FatalRunError.
    """
    if not agreement.is_main_process():
        say = agreement.log_nothing
    folder, place = agreement.raise_on_all(lambda: preflight_check(config, folder, say))
    agreement.assert_shared_dir(folder)
    agreement.assert_same_on_all("config", json.dumps(_process_invariant_fields(config)))
    if jax.process_count() > 1:
        agreement.assert_same_on_all("--no-fallback", str(fallback))
        agreement.assert_same_on_all("evaluate_every", str(config.evaluate_every))
        agreement.assert_same_on_all(
            "evaluation", json.dumps(periodic_eval.process_invariant_fields(config))
        )
    busy = f"another process is training in {folder}: wait for it, or choose another --out"
    with contextlib.ExitStack() as stack:
        stack.enter_context(agreement.global_file_lock(folder / ".lock", busy))
        notice = stack.enter_context(PreemptionNotice())
        clock = GoodputRecorder(folder, writes=agreement.is_main_process())
        checkpoints = checkpointer.Checkpointer(
            folder / "checkpoints",
            keep=config.keep,
            committed=lambda step: say(f"committed step {step}"),
            failed=say,
        )
        several = jax.process_count() > 1
        # Nothing is left to do where it was closed.
        stack.callback(
            checkpoints.abandon, SAVE_GRACE_MULTI_PROCESS if several else SAVE_GRACE_SECONDS
        )
        initialize.exit_note = last = functools.partial(exit_note, checkpoints)
        # Other hosts wait in a step for one that waits for its data, which ends by itself.
        least = max(
            config.patience_of_step, config.patience + STEP_TIMEOUT_MARGIN if several else 0
        )
        watch = stack.enter_context(Watchdog(least, last, initialize.abort_all))
        progress = stack.enter_context(
            Progress("train", config.steps, "making the state", shown=agreement.is_main_process())
        )
        state, start, before = _restore_or_init(config, checkpoints, place, say, fallback)
        _check_state(config, checkpoints, place.gather(state))
        # Each host opens records of its own: what one of them lacks ends all.
        batches = agreement.raise_on_all(lambda: _batches(config, folder, start, before, say))
        log = metrics_log.MetricsLog(folder, start, writes=agreement.is_main_process())
        loop = TrainLoop(
            config,
            folder,
            place,
            batches=batches,
            step=place.compile(functools.partial(train_step, config=config), state),
            checkpoints=checkpoints,
            log=log,
            evaluation=periodic_eval.PeriodicEval(config, place, progress.say, say),
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
    if bad := agreement.allreduce_sum(batches.bad.count.total()):
        where = " and those beside it" if jax.process_count() > 1 else ""
        say(f"{bad} rows were masked: see {folder / 'bad_records.jsonl'}{where}")
    return place.gather(state).params


def _check_state(config, checkpoints, state):
    """Of a state as it is saved, of which under pmap there is a copy only for so long. Raises UserError."""
    frozen_towers.check_precomputed_params(config.pairs, state.params)
    agreement.raise_on_all(lambda: checkpoints.check_space(state))  # rather now than after hours


def exit_note(checkpoints: checkpointer.Checkpointer) -> str:
    """What is to be known of a run that ends before its time."""
    return f"last committed step {checkpoints.last or 'none'}; {RESTART_HINT}"


def _process_invariant_fields(config: TrainConfig) -> dict[str, Any]:
    """What must be the same on all hosts: everything but how each reads; what it measures, apart."""
    own = ("threads", "workers", "patience", "bad_records", "evaluation", "evaluate_every")
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return flatten_config(
        {k: v for k, v in fields.items() if k not in own}
    ) | precomputed_fingerprint(config)


def _batches(config, folder, start, before, say):
    """This host's share of the batches. Raises UserError where records are missing, or others."""
    host = jax.process_index()
    batches = pair_batches.PairBatches(
        config.pairs,
        config.inputs,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        host=host,
        hosts=jax.process_count(),
        in_memory=config.in_memory,
        bad=bad_records.BadRecordLog(folder, config.bad_records, start, host=host),
    )
    now = run_identity.record_counts(batches)
    if start:
        run_identity.check_record_counts(folder, now, before.get("records"), say)
    if agreement.is_main_process():
        run_identity.write_record_counts(folder, now)
    return batches


def _restore_or_init(config, checkpoints, place, say, fallback):
    """(state, step, facts) to start from: the newest whole checkpoint, or a new state without facts."""
    checkpoints.check_begun()
    if not checkpoints.steps():
        state = place.create(functools.partial(create_state, config))
        for path in config.initial:
            say(f"starting from the encoders in {path}")
            params = warm_start.warm_start(place.gather(state).params, config.model, path)
            state = place.place(place.gather(state).replace(params=params))
        return state, 0, {}
    before = agreement.raise_on_all(lambda: run_identity.previous_run_info(checkpoints))
    run_identity.check_config(
        checkpoints.folder.parent, before["config"], run_fingerprint(config)["config"]
    )
    like = jax.eval_shape(functools.partial(create_state, config))
    sharded = sharding.ShardedStrategy(config.fsdp)
    if config.parallel == "pmap":
        sharded = sharding.ShardedStrategy(devices=jax.local_devices())
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        like,
        sharded.state_shardings(like),
    )
    step, state = checkpoints.restore_newest(
        like, say, fallback=fallback, defaults={"health": skip_step.init_step_guard(config)}
    )
    say(f"going on from step {step}")
    return (state if config.parallel == "sharded" else place.place(state)), step, before
