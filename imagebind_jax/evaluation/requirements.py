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
from imagebind_jax.evaluation.results import MadeOf
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.sources import Prepared, Source, prepared
from imagebind_jax.inputs.sources.array_records import FACTS
from imagebind_jax.inputs.sources.fingerprint import identity
from imagebind_jax.inputs.sources.prepared import Facts
from imagebind_jax.storage.fingerprint import code, digest, flat
from imagebind_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Plan:
    """What of a config is to be run."""

    ready: tuple[Benchmark, ...]  # asked for, and everything is there
    missing: Mapping[str, str]  # asked for -> what it lacks, and the remedy
    others: tuple[Benchmark, ...]  # not run now: what was measured of them earlier is kept
    gone: frozenset[str]  # those of `others` whose records are not there now


def plan(
    config: EvalConfig,
    only: Sequence[str],
    encoders: Collection[str] | None,
    where: str,
    stored: pathlib.Path | None = None,
) -> Plan:
    """Which benchmarks are run. Raises UserError on an unknown name, and where none can be run.

    only: names, or empty for all. encoders, where, stored: as of `lacking`.
    """
    chosen = asked(config, only)
    lacks = {
        each.name: lacking(each, config, encoders, where, stored) for each in config.benchmarks
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
    return Plan(ready, missing, others, frozenset(b.name for b in others if lacks[b.name]))


def _check_names(benchmarks: Sequence[Benchmark], records: str) -> None:
    """Raises UserError where two sources would have their files under one name."""
    known: dict[str, Source] = {}
    for benchmark in benchmarks:
        for source in benchmark.evaluation.sources:
            found, name = record_reader.resolved(source, records), source_name(source)
            if known.setdefault(name, found) != found:
                raise UserError(f"two sources are named {name}: {known[name]} and {found}")


def asked(config: EvalConfig, only: Sequence[str]) -> tuple[Benchmark, ...]:
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


def lacking(
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
        if stored and record_reader.notes_path(stored, source).is_file():
            continue
        try:
            record_reader.resolved(source, config.records).open()
        except UserError as error:
            return _remedy(source, benchmark, config.records) or one_line(str(error))
    return ""


def _remedy(source: Source, benchmark: Benchmark, records: str) -> str:
    """What to run for a prepared folder or split that is not there; empty for any other trouble."""
    if not isinstance(source, Prepared):
        return ""
    folder = os.path.join(records, source.folder)
    name = pathlib.PurePath(folder).name
    known = [each for each in datasets.names() if name == each or name.startswith(f"{each}-")]
    there = os.path.exists(os.path.join(folder, FACTS))
    try:
        have = prepared.facts(folder).splits if there else {}
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


def made_of(
    benchmark: Benchmark,
    config: EvalConfig,
    towers: Mapping[str, str],
    stored: pathlib.Path | None = None,
    *,
    there: bool = True,
) -> MadeOf:
    """What a benchmark's numbers depend on. Raises UserError on a setting that no file can hold.

    there: whether its records are; without them nothing is said of these.
    """
    fields = {name: getattr(config, name) for name in ("resamples", "seed", "unusable")}
    return MadeOf(
        version=__version__,
        settings=flat({"evaluation": benchmark.evaluation, **fields})
        | {f"code.{name}": each for name, each in code(benchmark.evaluation).items()},
        records=dict(_records(source, config, stored) for source in benchmark.evaluation.sources)
        if there
        else {},
        towers={m: towers[m] for m in sorted(benchmark.evaluation.modalities)},
    )


def _records(source: Source, config: EvalConfig, stored: pathlib.Path | None) -> tuple[str, str]:
    """(a source's name, a digest of what it holds), wherever its records lie."""
    if not isinstance(source, Prepared):
        return source_name(source), digest(identity(source))
    folder = os.path.join(config.records, source.folder)
    path = record_reader.facts_path(stored, source) if stored else None
    here = os.path.exists(os.path.join(folder, FACTS))
    if path and path.is_file() and not (here and source.split in prepared.facts(folder).splits):
        try:
            facts = msgspec.json.decode(path.read_bytes(), type=Facts)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    else:
        facts = prepared.facts(folder)
    if source.split not in facts.splits:
        raise UserError(
            f"{path or folder} has no split {source.split!r}: {', '.join(facts.splits)}"
        )
    shards = [shard.sha256 for shard in facts.splits[source.split].shards]
    said = [facts.classes, facts.prompts, facts.names, shards]
    return source_name(source), digest(said)
