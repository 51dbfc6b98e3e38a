"""Doing jobs, several at once: each when what it needs is there, until all are done or time is up."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Sequence

from imagebind_jax.ablations import worker_process
from imagebind_jax.ablations.jobs import Job, run_job, runnable_jobs
from imagebind_jax.errors import UserError


def run_jobs(
    folder: pathlib.Path,
    jobs: Sequence[Job],
    workers: int,
    deadline: float,
    tell: Callable[[float, Job], None],
    work: Callable[[pathlib.Path, int, Job, float], None] = run_job,
) -> None:
    """Does jobs, `workers` at once, each as soon as it is `runnable_jobs`.

    tell: told the seconds' worth that is done, and of which job. deadline: of time.monotonic(), from
    which on no job and no run of another seed is begun. Raises what a job raises, and UserError where
    a process was killed.
    """
    context = worker_process.spawn_context()
    messages, turn = context.Queue(), context.Value("i", 0)
    waiting, shares = list(enumerate(jobs)), dict.fromkeys(range(len(jobs)), 0.0)
    others = set(multiprocessing.active_children())
    start = (os.getpid(), turn, messages)
    with (
        worker_process.single_threaded_blas(),
        concurrent.futures.ProcessPoolExecutor(
            workers, context, worker_process.init_worker, start
        ) as pool,
    ):
        running: dict[concurrent.futures.Future, int] = {}
        try:
            while waiting or running:
                late = time.monotonic() >= deadline
                while waiting and not late and len(running) < workers:
                    number, job = next(
                        runnable_jobs(waiting, {jobs[i] for i in running.values()}), (-1, None)
                    )
                    if job is None:
                        break
                    waiting.remove((number, job))
                    running[pool.submit(work, folder, number, job, deadline)] = number
                if late and not running:
                    return
                done, _ = concurrent.futures.wait(
                    running, 0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                while not messages.empty():
                    number, share = messages.get()
                    shares[number] = max(shares[number], share)  # it may come after the job's end
                for future in done:
                    number = running.pop(future)
                    future.result()
                    shares[number] = 1.0
                spent = sum(shares[i] * job.cost for i, job in enumerate(jobs))
                tell(spent, jobs[next(iter(running.values()), len(jobs) - 1)])
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a process of the bench ended before its time (2 GB of memory each are enough; a script "
                "calls this below `if __name__ == '__main__':`): the same command goes on, "
                "--workers 1 needs less"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # in the middle of a run, which is made again
            raise
