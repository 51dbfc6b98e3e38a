"""Saving checkpoints in the background: committed and durable before it is told, or gone and told.

Orbax writes; what it leaves to others is here: durability, failures, remains, and what stays.
"""

import contextlib
import errno
import os
import pathlib
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp
from jax._src import distributed

from imagebind_jax.checkpointing import orbax_logging, step_dir
from imagebind_jax.distributed import agreement
from imagebind_jax.errors import CheckpointWriteError
from imagebind_jax.runtime import fault_injection

MAX_CONSECUTIVE_FAILURES = 3  # saves that fail in a row
SAVE_TIMEOUT = 600  # seconds of a save, after which it has failed
POLL_SECONDS = 2.0  # seconds between looks at the others' saves, where this host's is not over


class _PendingSave:
    """One save: in flight until its thread is over."""

    def __init__(self, step: int, number: int, before: int | None):
        self.step, self.number, self.before = step, number, before
        self.given_up = False  # as another host's part of it has failed
        self.thread: threading.Thread | None = None
        self.failed = ""  # why it is not committed
        self.raised: Exception | None = None  # by the one who was told


class AsyncCheckpointWriter:
    """Saves steps into a folder. Several hosts make the same calls, and get the same answers."""

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int,
        committed: Callable[[int], None],
        failed: Callable[[str], None],
    ):
        """Arguments as of `Checkpointer`. Removes what a killed run has left half-written."""
        self.folder = folder
        self.failures = 0  # saves, in all
        self._in_a_row, self._why = 0, ""
        self._keep = max(keep, 2)
        self._committed, self._failed = committed, failed
        self._save: _PendingSave | None = None  # not settled yet
        self._remains: set[int] = set()  # steps of saves that failed
        self._latest = _PendingSave(-1, 0, None)  # the one that orbax writes
        folder.mkdir(parents=True, exist_ok=True)

        def clean() -> None:
            for line in step_dir.remove_incomplete(folder) if agreement.is_main_process() else ():
                failed(line)

        agreement.raise_on_all(clean)
        self.last = max(step_dir.committed_steps(folder), default=None)  # committed
        orbax_logging.silence_orbax_tracebacks()
        self._checkpointer = self._new()

    def _new(self) -> ocp.AsyncCheckpointer:
        return ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            timeout_secs=SAVE_TIMEOUT,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._written, barrier_sync_fn=self._meet
            ),
            # A commit file and not a rename: a kill during a deletion, too, leaves no step that is
            # listed but cannot be read.
            atomicity_options=ocp.options.AtomicityOptions(
                mode=ocp.options.AtomicityMode.COMMIT_FILE
            ),
        )

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Starts saving the arrays of `state` and the JSON of `meta`. A saved step stays as it is.

        Where it fails, that is told, and its remains are removed. Raises CheckpointWriteError.
        """
        self.settle()
        self._check_failures()
        if step == self.last:
            return
        hindrance = self.lacking(state) or self._marked(step)
        if lacking := next(filter(None, agreement.allgather_text(hindrance)), ""):
            self._fail(step, lacking)
            self._check_failures()
            return
        if agreement.is_main_process() and jax.process_count() > 1:  # as all have met
            _store().key_value_delete(_kv_key(self._latest))
        self._remains.discard(step)
        self._save = self._latest = save = _PendingSave(step, self._latest.number + 1, self.last)
        try:
            self._checkpointer.save(
                self.folder / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )
        except Exception as error:  # orbax raises a different type for each thing that goes wrong
            save.failed = step_dir.write_error_reason(error)
            self._discard(step)
            return
        save.thread = threading.Thread(target=self._finish, args=(save,), daemon=True)
        save.thread.start()

    def _marked(self, step: int) -> str:
        """Why what is half-written will not be known as such, by the first host's mark, or ""."""
        try:
            if agreement.is_main_process():
                step_dir.mark_in_progress(self.folder / str(step))
        except OSError as error:
            return step_dir.write_error_reason(error)
        return ""

    def _written(self) -> None:
        """Called when a step's files are written, on the first host, before orbax commits it."""
        step = self._latest.step
        if any(
            fault.at(step)
            for fault in fault_injection.requested_faults("disk_full", host=jax.process_index())
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        step_dir.fsync_tree(self.folder / str(step))

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Called in the background: until all hosts are here, or one of them never will.

        A barrier of JAX's would hold this process to the end of its time, even when it ends.
        """
        save, client = self._latest, _store()
        place = f"{_kv_key(save)}/{key}"
        client.key_value_set(f"{place}/{jax.process_index()}", "here")
        until = time.monotonic() + timeout_ms / 1000
        while len(client.key_value_dir_get(place)) < jax.process_count():
            if save.given_up or time.monotonic() > until:
                raise TimeoutError("another host has not written its part")
            time.sleep(POLL_SECONDS / 4)

    def _finish(self, save: _PendingSave) -> None:
        """Until a save is committed, durable and told; or has failed, and nothing of it is left."""
        folder = self.folder / str(save.step)
        try:
            self._checkpointer.wait_until_finished()
            if agreement.is_main_process():
                step_dir.fsync_tree(folder)  # the commit file
                step_dir.clear_mark(folder)
        except Exception as error:
            save.failed = step_dir.write_error_reason(error)
            self._discard(save.step)
            return
        self.last = save.step
        try:
            self._committed(save.step)
        except Exception as error:
            save.raised = error
        with contextlib.suppress(OSError):  # the next one tries again
            for old in step_dir.committed_steps(self.folder)[self._keep :]:
                self._by_first(step_dir.delete_step, old)

    def _discard(self, step: int) -> None:
        """What a save that failed has left, and may still leave: looked at again at each call."""
        self._remains.add(step)
        self._by_first(step_dir.delete_failed_save, step)

    def set_aside(self, step: int) -> None:
        """Where a damaged step cannot be renamed nothing can be saved there, either."""
        self._by_first(step_dir.quarantine, step)

    def _by_first(self, do: Callable[[pathlib.Path], Any], step: int) -> None:
        """What the disk does not allow now is looked at again at the next start."""
        with contextlib.suppress(OSError):
            if agreement.is_main_process():
                do(self.folder / str(step))

    def settle(self) -> None:
        """Until the last save is over, for all hosts alike. Raises what `committed` raised."""
        for step in sorted(self._remains):
            self._discard(step)
        if (save := self._save) is None:
            return
        failed = self._outcome(save)
        self._save, save.given_up = None, bool(failed)
        if save.thread is not None:
            save.thread.join()
        if failed:
            self._checkpointer = self._new()  # nothing of it is in the next one's way
            # One whose time was over may have found the others there in the end: what the first
            # host has told as committed stays.
            failed = agreement.allgather_text(save.failed)[0] and failed
        if failed:
            self._discard(save.step)
            self.last = save.before
            self._fail(save.step, failed)
        else:
            self.last, self._in_a_row = save.step, 0
        if save.raised is not None:
            raise save.raised

    def _outcome(self, save: _PendingSave) -> str:
        """Why a save failed, or ""; the first host knows, as it commits."""
        alone = jax.process_count() == 1
        while True:
            if save.thread is not None:
                save.thread.join(None if alone else POLL_SECONDS)
            over = save.thread is None or not save.thread.is_alive()
            said = agreement.allgather_text(
                f"failed {save.failed}" if save.failed else "over" * over
            )
            if said[0] == "over":
                return ""
            # A host that failed never comes to where the others wait: nothing is committed.
            if failed := [each for each in said if each.startswith("failed ")]:
                return failed[0].removeprefix("failed ")

    def _fail(self, step: int, why: str) -> None:
        self.failures += 1
        self._in_a_row += 1
        self._why = why
        self._failed(f"checkpoint of step {step} failed ({why}): the run goes on; {self._safe()}")

    def _safe(self) -> str:
        return "none is committed yet" if self.last is None else f"last committed step {self.last}"

    def _check_failures(self) -> None:
        if self._in_a_row >= MAX_CONSECUTIVE_FAILURES:
            what = f"{self._in_a_row} checkpoints in a row could not be written to {self.folder}"
            self._refuse(what)

    def _refuse(self, what: str) -> NoReturn:
        remedy = "make room, and start the same command again"
        raise agreement.mark_collective(
            CheckpointWriteError(f"{what} ({self._why}): {remedy}; {self._safe()}")
        )

    def lacking(self, state: Any) -> str:
        """What a checkpoint of `state` would want, or ""."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return step_dir.space_problem(self.folder, size, jax.process_index())

    def close(self) -> None:
        """Waits for the last save. Raises CheckpointWriteError where it is not committed."""
        self.settle()
        self._checkpointer.close()
        if self._in_a_row:
            self._refuse(f"the last checkpoint could not be written to {self.folder}")

    def abandon(self, patience: float = 60.0) -> None:
        """In place of `close` where an error ends the run: a save in flight may still be committed.

        Waits for it, and not for other hosts, `patience` seconds at most; raises nothing.
        """
        save, self._save = self._save, None
        if save is not None and save.thread is not None:
            save.thread.join(patience)
            save.given_up = True
            if save.thread.is_alive():
                return
        with contextlib.suppress(Exception):
            if save is not None and save.failed:
                self._fail(save.step, save.failed)
            self._checkpointer.close()


def _store() -> Any:
    """What all hosts of a run can write to and read, by JAX."""
    return distributed.global_state.client


def _kv_key(save: _PendingSave) -> str:
    return f"checkpoints/{save.number}"
