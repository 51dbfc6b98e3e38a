"""The loop over steps: what happens between two of them, and all that may end it."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.config import TrainConfig, run_fingerprint
from imagebind_jax.distributed import agreement
from imagebind_jax.errors import Preemption, TrainingDivergedError
from imagebind_jax.inputs.pipeline import batches as pair_batches
from imagebind_jax.runtime import fault_injection, metrics_log
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.training import (
    injected_faults,
    periodic_eval,
    replica_check,
    run_identity,
)
from imagebind_jax.training.goodput import GoodputRecorder
from imagebind_jax.training.injected_faults import inject_bit_flip
from imagebind_jax.training.preemption import PreemptionNotice
from imagebind_jax.training.watchdog import Watchdog

MAX_EVAL_SECONDS = 24 * 3600.0  # seconds that one may take


class TrainLoop:
    """Steps from `start` to the end of a run, with what looks after them."""

    def __init__(
        self,
        config: TrainConfig,
        folder: pathlib.Path,
        place: Any,
        *,
        batches: pair_batches.PairBatches,
        step: Callable,
        checkpoints: checkpointer.Checkpointer,
        log: metrics_log.MetricsLog,
        evaluation: periodic_eval.PeriodicEval,
        progress: Progress,
        clock: GoodputRecorder,
        watch: Watchdog,
        notice: PreemptionNotice,
    ):
        """step: (state, batch) -> (state, numbers), compiled at its first call for a pair."""
        self.config, self.folder, self.place = config, folder, place
        self.batches, self.step, self.checkpoints, self.log = batches, step, checkpoints, log
        self.evaluation, self.progress = evaluation, progress
        self.clock, self.watch, self.notice = clock, watch, notice
        self._of_run = run_fingerprint(config) | {"records": run_identity.record_counts(batches)}
        self._compiled: set[str] = set()
        self._waiting: tuple[int, Mapping] | None = None  # a step whose numbers are not here yet
        self._faults = fault_injection.requested_faults(
            "nan_batch", "inf_batch", "bitflip", host=jax.process_index()
        )

    def run(self, state: Any, start: int) -> Any:
        """The state after the last step. Raises Preemption, TrainingDivergedError, FatalRunError, other UserErrors."""
        self._start, self._begun = start, time.monotonic()
        for each in (self.progress, self.clock, self.watch):
            each.begin(start)
        self._comparison = replica_check.ReplicaCheck(self.place, state)
        with contextlib.closing(self._stream(start)) as stream:
            return self._steps(state, start, stream)

    def _steps(self, state: Any, start: int, stream: Iterator[dict[str, np.ndarray]]) -> Any:
        config, host = self.config, jax.process_index()
        # A step is only begun here: the next batch travels to the devices while it runs.
        for step in range(start, config.steps):
            if self.notice.reached(step):
                self._leave(step, state)
            fault_injection.inject_process_faults(step, host)
            batch = self.place.batch(next(stream))
            state = self._flipped(state, step)
            if config.compare_every and step and step % config.compare_every == 0:
                self._compare(state, step)
            state, values = self._step(step, state, batch)
            # The numbers of step n - 1 are fetched while the devices work on step n.
            self._tell()
            self._waiting = step, values
            commit = (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps
            measure = self.evaluation.due(step + 1)
            if measure or commit:
                self._tell()
            # Before the commit: a run that goes on from there has them.
            if measure:
                with self.watch.paused(MAX_EVAL_SECONDS), self.clock.spent("evaluation"):
                    numbers = self.evaluation.measure(state.params)
                if numbers:
                    self.log.write(step, numbers)
            if commit:
                self._save(step + 1, state)
        return state

    def _stream(self, start: int) -> Generator[dict[str, np.ndarray]]:
        """This host's batches. Waiting for them has a patience of its own."""
        config = self.config
        stream = self.batches.stream(
            start, config.threads, workers=config.workers, patience=config.patience
        )
        with contextlib.closing(stream):
            for step in range(start, config.steps):
                with self.watch.paused(), self.clock.spent("data"):
                    batch = next(stream)
                yield (
                    injected_faults.inject_batch_fault(batch, step, self._faults)
                    if self._faults
                    else batch
                )

    def _flipped(self, state: Any, step: int) -> Any:
        for fault in self._faults:
            if fault.kind == "bitflip" and fault.at(step):
                state = inject_bit_flip(state, fault)
        return state

    def _step(self, step: int, state: Any, batch: Mapping) -> tuple[Any, Mapping]:
        pair = self.batches.name(step)
        if pair in self._compiled:
            return self.step(state, batch)
        self._compiled.add(pair)
        self.progress.say(f"compiling the step of {pair}")
        # To its end: other hosts may compile for longer, and this one waits for them.
        with self.watch.paused(), self.clock.spent("compiling"):
            return jax.block_until_ready(self.step(state, batch))

    def _tell(self) -> None:
        """The numbers of the step that was begun before: waits for it, and looks at them."""
        if self._waiting is None:
            return
        (step, numbers), self._waiting = self._waiting, None
        # All at once, as each fetch takes its time.
        values = {name: float(value) for name, value in jax.device_get(numbers).items()}
        self.watch.beat(step)
        self.clock.alive()
        pair = self.batches.name(step)
        note = f"{pair}  loss {values['loss']:.3f}  accuracy {values['accuracy']:.2f}"
        self.progress.update(step + 1, note)
        if values["skipped"] or (step + 1) % self.config.log_every == 0 or self._is_last(step):
            seconds = time.monotonic() - self._begun - self.evaluation.seconds
            rate = (step + 1 - self._start) / seconds
            # Since the run (last) started, and where there were any.
            counts = {
                "checkpoint_failures": float(self.checkpoints.failures),
                "bad_rows": float(self.batches.bad.count.total()),
            }
            counts = {name: count for name, count in counts.items() if count}
            self.log.write(step, {"pair": pair, **values, "steps_per_second": rate, **counts})
        if values["skipped_in_a_row"] >= self.config.stop_after_skipped:
            raise TrainingDivergedError(
                f"step {step} ({pair}): {values['skipped_in_a_row']:.0f} steps in a row were skipped: "
                f"loss {values['loss']:g}, gradient norm {values['gradient_norm']:g}; its records: "
                f"{', '.join(self.batches.records(step)[:8])}, ...; last committed step "
                f"{self.checkpoints.last or 'none'}: lower the learning rate, or look at the records"
            )

    def _is_last(self, step: int) -> bool:
        return step + 1 == self.config.steps

    def _compare(self, state: Any, step: int) -> None:
        """Raises ReplicaMismatchError."""
        with self.watch.paused(), self.clock.spent("comparing"):
            self._comparison.check(state, step)

    def _save(self, step: int, state: Any) -> None:
        if self.config.compare_every:
            self._compare(state, step)  # one of them is what is saved
        with self.watch.paused(), self.clock.spent("saving"):
            self.clock.mark(step)
            self.checkpoints.save(step, self.place.gather(state), self._of_run)
        # From here on the folder is this run's: `check` compares without opening checkpoints.
        if agreement.is_main_process():
            with contextlib.suppress(OSError):  # a full disk, of which `save` has told
                run_identity.write_config(self.folder, run_fingerprint(self.config))

    def _leave(self, step: int, state: Any) -> None:
        """Saves before `step`, unless that is done. Raises Preemption."""
        self._tell()
        if step:
            self._save(step, state)
        with self.watch.paused(), self.clock.spent("saving"):
            self.checkpoints.close()
        done = (
            f"preempted at step {step}, saved" if step else "preempted at step 0: nothing to save"
        )
        raise Preemption(f"{done}; the same command goes on from there")
