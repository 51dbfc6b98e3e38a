"""`imagebind-jax evaluate`: the benchmarks of a config, on a checkpoint or on another system's embeddings."""

import dataclasses
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import msgspec
import numpy as np

from imagebind_jax.distributed import agreement, lockstep
from imagebind_jax.errors import UserError, one_line
from imagebind_jax.evaluation import comparison as run_comparison
from imagebind_jax.evaluation import open_embedder, request_list, requirements, results
from imagebind_jax.evaluation.benchmark import Benchmark, Embedder, EvalConfig
from imagebind_jax.evaluation.results import (
    BenchmarkResult,
    CheckpointInfo,
    Provenance,
    ResultsFile,
)
from imagebind_jax.runtime import console
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage import atomic
from imagebind_jax.storage.fingerprint import flatten_config
from imagebind_jax.version import __version__

__all__ = [
    "checkpoint_name",
    "qualified_checkpoint_name",
    "run_benchmarks",
    "write_embedding_requests",
]

Say = Callable[[str], None]


def run_benchmarks(
    config: EvalConfig,
    *,
    checkpoint: str | os.PathLike | None = None,
    embeddings: str | os.PathLike | None = None,
    out: str | os.PathLike,
    only: Sequence[str] = (),
    compare: str | os.PathLike | None = None,
    say: Say = console.print_line,
) -> ResultsFile:
    """Measures what is not measured yet; writes results.json, results.md and results.html to `out`.

    checkpoint: anything that `porting.load.load` takes; or embeddings: a folder of another system's; or
    neither, for benchmarks that train encoders of their own. only: names of benchmarks. compare:
    results of another run. A benchmark whose data or encoder is missing is left out, with the
    remedy. Each is committed when it is done, and not measured again unless something changed that
    its numbers depend on. Raises UserError where none can be run, and at the
    end where one could not be measured.
    """
    source = checkpoint or embeddings
    if checkpoint and embeddings:
        raise UserError("evaluate takes either --checkpoint CKPT or --embeddings DIR")
    if compare is not None:
        results.read_results(compare)  # now, and not after hours
    requirements.select_benchmarks(config, only)
    stored = open_embedder.check_embedding_dir(embeddings) if embeddings else None
    encoders = None if stored else open_embedder.checkpoint_modalities(checkpoint, config)
    called, folder = checkpoint_name(source) if source else "", pathlib.Path(out)
    plan = requirements.plan_run(config, only, encoders, called, stored)
    agreement.raise_on_all(lambda: atomic.check_writable(folder, "choose another --out"))
    agreement.assert_shared_dir(folder)
    if not agreement.is_main_process():
        say = agreement.log_nothing
    busy = f"another process is evaluating into {folder}: wait for it, or choose another --out"
    with (
        agreement.global_file_lock(folder / ".lock", busy),
        Progress("evaluate", len(plan.ready), shown=agreement.is_main_process()) as progress,
    ):
        before = agreement.raise_on_all(lambda: _load_previous(folder, say))
        if plan.missing:
            say(f"not run, see below: {', '.join(plan.missing)}")
        others = [each for each in plan.others if each.name in before]
        gone = plan.gone & before.keys()
        needed, known = _modalities(plan.ready), _modalities(others)
        bench, towers = (
            open_embedder.open_stored(stored, config, progress.say)
            if stored
            else open_embedder.open_model(checkpoint, config, needed, known, folder, progress.say)
        )
        made_of = {
            each.name: requirements.provenance_of(
                each, config, towers, stored, there=each.name not in gone
            )
            for each in (*plan.ready, *others)
        }
        for each in gone:  # as it was measured, if nothing but the records could be another
            made_of[each].records = before[each].records
        found = _new_results(config, plan.missing)
        if checkpoint:
            found.checkpoint = CheckpointInfo(called, towers)
        elif embeddings:
            found.embeddings = called
        found.benchmarks = _reuse_previous(before, config, made_of)
        for each in sorted(gone & found.benchmarks.keys()):
            found.missing.pop(each, None)
            say(f"{each}: its records are not there now, its numbers stay")
        for each in before.keys() - found.benchmarks.keys() - {b.name for b in plan.ready}:
            say(f"{each}: left out, measured earlier with other weights, records or settings")
        failed = _measure(plan.ready, bench, made_of, found, folder, progress, say)
        _write(found, folder, config, [b.name for b in config.benchmarks], compare, say)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]} could not be measured{more}: {found.missing[failed[0]]}")
    return found


def _load_previous(folder: pathlib.Path, say: Say) -> dict[str, BenchmarkResult]:
    """What was measured earlier; a file that cannot be read is set aside."""
    path = folder / results.FILE
    if not path.exists():
        return {}
    try:
        return results.read_results(folder).benchmarks
    except UserError as error:
        if agreement.is_main_process():
            path.replace(path.with_name(f"{path.name}.damaged"))
        say(f"{error}: set aside as {path.name}.damaged, and measured again")
        return {}


def checkpoint_name(path: str | os.PathLike) -> str:
    """What a checkpoint or folder is called: imagebind_huge for imagebind_huge.pth."""
    path = pathlib.Path(path).resolve()
    return path.stem if path.is_file() else path.name


def qualified_checkpoint_name(path: str | os.PathLike) -> str:
    """The same with the folders that lead to it: every demo's run is called "run"."""
    path = pathlib.Path(path).resolve()
    here = path.is_relative_to(pathlib.Path.cwd())
    folders = path.parent.relative_to(pathlib.Path.cwd()).parts if here else path.parent.parts[-1:]
    return "-".join([*(part for part in folders if part != "/"), checkpoint_name(path)])


def write_embedding_requests(
    config: EvalConfig, folder: str | os.PathLike, *, only: Sequence[str] = (), say: Say = print
) -> None:
    """Writes what another system has to embed for these benchmarks. Raises UserError."""
    asked = requirements.select_benchmarks(config, only)
    request_list.write_embedding_requests(
        dataclasses.replace(config, benchmarks=asked), pathlib.Path(folder), say
    )


def _modalities(benchmarks: Iterable[Benchmark]) -> set[str]:
    return {modality for each in benchmarks for modality in each.evaluation.modalities}


def _new_results(config: EvalConfig, missing: Mapping[str, str]) -> ResultsFile:
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    del fields["benchmarks"]  # which tell of themselves
    devices = jax.devices()
    return ResultsFile(
        format=results.FORMAT,
        benchmarks={},
        missing=dict(missing),
        config=flatten_config(fields),
        versions={
            "imagebind_jax": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        device=f"{devices[0].device_kind} x {len(devices)}",
    )


def _reuse_previous(
    before: Mapping[str, BenchmarkResult], config: EvalConfig, made_of: Mapping[str, Provenance]
) -> dict[str, BenchmarkResult]:
    """What was measured earlier of the same things."""
    return {
        each.name: msgspec.structs.replace(entry, reported=results.reported_numbers(each))
        for each in config.benchmarks
        if (entry := before.get(each.name))
        and each.name in made_of
        and entry.key == made_of[each.name].key
        and entry == entry.sealed
    }


def _measure(
    benchmarks: Sequence[Benchmark],
    bench: Embedder,
    made_of: Mapping[str, Provenance],
    found: ResultsFile,
    folder: pathlib.Path,
    progress: Progress,
    say: Say,
) -> list[str]:
    """Adds to `found`, and commits, one benchmark after the other; returns those that failed."""
    from imagebind_jax.evaluation import tables  # training needs neither them nor reports

    failed = []
    for i, benchmark in enumerate(benchmarks):
        name, again = benchmark.name, benchmark.name in found.benchmarks
        if not again:
            progress.update(i, name)
            begun = time.monotonic()
            try:
                with lockstep.lockstep(name, (UserError,)):
                    measured = benchmark.evaluation.measure(bench)
            except UserError as error:  # the others can be measured all the same
                found.missing[name] = one_line(str(error))
                failed.append(name)
                say(f"failed {name}: {found.missing[name]}")
                continue
            seconds = time.monotonic() - begun
            found.benchmarks[name] = results.make_result(
                benchmark, measured, made_of[name], seconds
            )
            if agreement.is_main_process():
                results.write_samples(folder, name, made_of[name].key, measured)
                results.write_results(folder, found)
        line = tables.headline(name, msgspec.to_builtins(found))
        say(f"{line} (measured before)" if again else line)
        progress.update(i + 1)
    return failed


def _write(
    found: ResultsFile,
    folder: pathlib.Path,
    config: EvalConfig,
    order: Sequence[str],
    compare: str | os.PathLike | None,
    say: Say,
) -> None:
    """The three files, and the tables on the terminal."""
    from imagebind_jax.evaluation import report_html, tables

    found.benchmarks = {each: found.benchmarks[each] for each in order if each in found.benchmarks}
    if not agreement.is_main_process():
        return
    results.write_results(folder, found)
    plain = msgspec.to_builtins(found)
    comparison = None
    if compare is not None:
        comparison = dataclasses.asdict(
            run_comparison.compare_runs(
                found, folder, compare, names=order, resamples=config.resamples, seed=config.seed
            )
        )
    title = f"Benchmarks of {found.of}"
    atomic.write_text_atomic(
        folder / "results.md", tables.format_markdown(title, plain, comparison)
    )
    report_html.write_benchmark_html(
        folder / "results.html", title=title, results=plain, comparison=comparison
    )
    for line in ["", *tables.format_terminal(plain)]:
        say(line)
    for line in ["", *tables.format_comparison(comparison)] if comparison else []:
        say(line)
    say(f"written: {folder / 'results.md'}, results.html, {results.FILE}")
