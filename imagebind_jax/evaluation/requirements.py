"""What can be known before anything is embedded: which benchmarks lack data or an encoder, and the remedy."""

import dataclasses
import difflib
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

import msgspec

from imagebind_jax.errors import UserError, first_line, one_line
from imagebind_jax.evaluation import record_reader
from imagebind_jax.evaluation.benchmark import Benchmark, EvalConfig, source_name
from imagebind_jax.evaluation.results import Provenance
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.sources import Prepared, Source, prepared
from imagebind_jax.inputs.sources.array_records import DATASET_JSON
from imagebind_jax.inputs.sources.fingerprint import source_fingerprint
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.storage.fingerprint import code_checksums, flatten_config, json_sha256
from imagebind_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What of a config is to be run."""

    ready: tuple[Benchmark, ...]  # asked for, and everything is there
    missing: Mapping[str, str]  # asked for -> what it lacks, and the remedy
    others: tuple[Benchmark, ...]  # not run now: what was measured of them earlier is kept
    gone: frozenset[str]  # those of `others` whose records are not there now


def plan_run(
    config: EvalConfig,
    only: Sequence[str],
    encoders: Collection[str] | None,
    where: str,
    stored: pathlib.Path | None = None,
) -> RunPlan:
    """Which benchmarks are run. Raises UserError on an unknown name, and where none can be run.

    only: names, or empty for all. encoders, where, stored: as of `missing_requirement`.
    """
    chosen = select_benchmarks(config, only)
    lacks = {
        each.name: missing_requirement(each, config, encoders, where, stored)
        for each in config.benchmarks
    }
    missing = {each.name: lacks[each.name] for each in chosen if lacks[each.name]}
    if len(missing) == len(chosen):
        name, why = next(iter(missing.items()))
        raise UserError(f"no benchmark can be run: {name}: {why}")
    ready = tuple(each for each in chosen if not lacks[each.name])
    _check_names(ready, config.records)
    others = tuple(
        each
        for each in config.benchmarks
        if each not in ready and (encoders is None or each.evaluation.modalities <= set(encoders))
    )
    return RunPlan(ready, missing, others, frozenset(b.name for b in others if lacks[b.name]))


def _check_names(benchmarks: Sequence[Benchmark], records: str) -> None:
    """Raises UserError where two sources would have their files under one name."""
    known: dict[str, Source] = {}
    for benchmark in benchmarks:
        for source in benchmark.evaluation.sources:
            found, name = record_reader.resolve_source(source, records), source_name(source)
            if known.setdefault(name, found) != found:
                raise UserError(f"two sources are named {name}: {known[name]} and {found}")


def select_benchmarks(config: EvalConfig, only: Sequence[str]) -> tuple[Benchmark, ...]:
    """The benchmarks of these names, in the config's order. Raises UserError with the nearest name."""
    names = [benchmark.name for benchmark in config.benchmarks]
    if not names:
        raise UserError("the config has no benchmarks")
    for name in only:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
            raise UserError(f"--only: no benchmark {name!r} in the config: {hint}")
    return tuple(each for each in config.benchmarks if not only or each.name in only)


def missing_requirement(
    benchmark: Benchmark,
    config: EvalConfig,
    encoders: Collection[str] | None,
    where: str,
    stored: pathlib.Path | None = None,
) -> str:
    """What a benchmark lacks, and the remedy; empty where it can be run.

    encoders: those of the checkpoint called `where`; None for embeddings in the folder `stored`,
    which may hold what is needed of the records, too.
    """
    if encoders is not None:
        absent = sorted(benchmark.evaluation.modalities - set(encoders))
        if absent and not encoders:
            return "it needs one of --checkpoint CKPT, --embeddings DIR, --wanted DIR"
        if absent:
            return f"no {absent[0]} encoder in {where}: only {', '.join(encoders)}"
    for source in benchmark.evaluation.sources:
        if stored and record_reader.annotations_path(stored, source).is_file():
            continue
        try:
            record_reader.resolve_source(source, config.records).open()
        except UserError as error:
            return _remedy(source, benchmark, config.records) or one_line(str(error))
    return ""


def _remedy(source: Source, benchmark: Benchmark, records: str) -> str:
    """What to run for a prepared folder or split that is not there; empty for any other trouble."""
    if not isinstance(source, Prepared):
        return ""
    folder = os.path.join(records, source.folder)
    name = pathlib.PurePath(folder).name
    known = [
        each for each in datasets.dataset_names() if name == each or name.startswith(f"{each}-")
    ]
    there = os.path.exists(os.path.join(folder, DATASET_JSON))
    try:
        have = prepared.read_dataset_info(folder).splits if there else {}
    except UserError:
        return ""
    if source.split in have:
        return ""
    splits = dict.fromkeys(  # all that it needs, and not a training set beside them
        each.split
        for each in benchmark.evaluation.sources
        if isinstance(each, Prepared) and each.folder == source.folder and each.split not in have
    )
    missing = f"no split {source.split!r} in {folder}, only {', '.join(have)}"
    return (
        f"{missing if there else f'no records in {folder}'}: "
        f"`imagebind-jax prepare {known[-1] if known else 'DATASET'} --source DOWNLOAD "
        f"--out {folder} --splits {','.join(splits)}`"
    )


def provenance_of(
    benchmark: Benchmark,
    config: EvalConfig,
    towers: Mapping[str, str],
    stored: pathlib.Path | None = None,
    *,
    there: bool = True,
) -> Provenance:
    """What a benchmark's numbers depend on. Raises UserError on a setting that no file can hold.

    there: whether its records are; without them nothing is said of these.
    """
    fields = {name: getattr(config, name) for name in ("resamples", "seed", "unusable")}
    return Provenance(
        version=__version__,
        settings=flatten_config({"evaluation": benchmark.evaluation, **fields})
        | {f"code.{name}": each for name, each in code_checksums(benchmark.evaluation).items()},
        records=dict(_records(source, config, stored) for source in benchmark.evaluation.sources)
        if there
        else {},
        towers={m: towers[m] for m in sorted(benchmark.evaluation.modalities)},
    )


def _records(source: Source, config: EvalConfig, stored: pathlib.Path | None) -> tuple[str, str]:
    """(a source's name, a digest of what it holds), wherever its records lie."""
    if not isinstance(source, Prepared):
        return source_name(source), json_sha256(source_fingerprint(source))
    folder = os.path.join(config.records, source.folder)
    path = record_reader.dataset_info_path(stored, source) if stored else None
    here = os.path.exists(os.path.join(folder, DATASET_JSON))
    if (
        path
        and path.is_file()
        and not (here and source.split in prepared.read_dataset_info(folder).splits)
    ):
        try:
            facts = msgspec.json.decode(path.read_bytes(), type=DatasetInfo)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    else:
        facts = prepared.read_dataset_info(folder)
    if source.split not in facts.splits:
        raise UserError(
            f"{path or folder} has no split {source.split!r}: {', '.join(facts.splits)}"
        )
    shards = [shard.sha256 for shard in facts.splits[source.split].shards]
    said = [facts.classes, facts.prompts, facts.names, shards]
    return source_name(source), json_sha256(said)
