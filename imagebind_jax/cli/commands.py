"""The command line: imagebind-jax <demo|train|evaluate|ablate|embed|search|page|convert|prepare|plan|launch>.

Exit codes: 0 done, 2 the user's mistake (one line on stderr), 1 anything else; docs/running.md has
those of runs that could not go on.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from imagebind_jax.cli import exit_codes, file_commands, interrupts
from imagebind_jax.cli.arguments import build_parser
from imagebind_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments and arguments[0] != "launch"
    if debug:
        arguments.remove("--debug")
    try:
        with interrupts.deliver_keyboard_interrupts():
            return _run(arguments) or 0
    except SystemExit:
        raise
    except BaseException as error:
        if debug and not isinstance(error, KeyboardInterrupt):
            raise
        return exit_codes.report_and_exit(exit_codes.exit_status(error, arguments))


def _run(arguments: list[str]) -> int | None:
    """The exit code of a command that has one of its own."""
    options, rest = build_parser(__doc__.splitlines()[0]).parse_known_args(arguments)
    if rest and options.command not in ("train", "evaluate", "plan"):
        raise UserError(
            f"unrecognized arguments: {' '.join(rest)} (see imagebind-jax {options.command} --help)"
        )
    if getattr(options, "cache", None):
        from imagebind_jax.inputs.sources import CACHE_VARIABLE

        os.environ[CACHE_VARIABLE] = options.cache
    run = {
        "demo": _demo,
        "train": _train,
        "evaluate": _evaluate,
        "ablate": _ablate,
        "embed": file_commands.embed,
        "search": file_commands.search,
        "page": file_commands.serve_command,
        "convert": _convert,
        "prepare": _prepare,
        "plan": _plan,
        "launch": _launch,
    }[options.command]
    return run(options, rest)


def _demo(options: argparse.Namespace, _: list[str]) -> None:
    if options.seed < 0:
        raise UserError(f"--seed must not be negative, got {options.seed}")
    from imagebind_jax.demo import run as demo

    with file_commands.with_compilation_cache():
        demo.run_demo(options.out, seed=options.seed)


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    if options.config is None:
        if {"-h", "--help"} & set(rest):
            print(
                "usage: imagebind-jax train CONFIG.py [--out DIR] [--cache DIR] [--any.field VALUE]"
            )
            print("           [--coordinator HOST:PORT --hosts N --host I] [--wait SECONDS]")
            print("           [--no-fallback]")
            print("all fields: imagebind-jax train CONFIG.py --help")
            return
        raise UserError("train needs a config: imagebind-jax train CONFIG.py")
    from imagebind_jax.config import TrainConfig, cached_sources, load_config
    from imagebind_jax.distributed import agreement
    from imagebind_jax.inputs.sources.cached import materialize
    from imagebind_jax.training import fit

    config = load_config(options.config, TrainConfig, rest)
    _start_hosts(options)
    folder = options.out or pathlib.Path("runs") / pathlib.Path(options.config).stem
    agreement.raise_on_all(
        lambda: fit.preflight_check(config, folder)
    )  # before minutes of rendering
    materialize(cached_sources(config))
    with file_commands.with_compilation_cache():
        fit.fit(config, folder, fallback=not options.no_fallback)


def _launch(options: argparse.Namespace, _: list[str]) -> int:
    from imagebind_jax.cli import launch

    if not options.arguments:
        raise UserError("launch needs a command: imagebind-jax launch train CONFIG.py")
    return launch.supervise(options.arguments, options.restarts)


def _start_hosts(options: argparse.Namespace) -> None:
    from imagebind_jax.distributed import initialize

    initialize.initialize(
        options.coordinator,
        options.hosts,
        options.host,
        wait=options.wait,
        preemptible=options.command == "train",
    )


EVALUATE = """usage: imagebind-jax evaluate CONFIG.py --checkpoint CKPT [--out DIR] [--only NAME,NAME]
           [--compare DIR] [--any.field VALUE]
       imagebind-jax evaluate CONFIG.py --wanted DIR          what another system has to embed
       imagebind-jax evaluate CONFIG.py --embeddings DIR ...  its embeddings in place of a checkpoint
all fields: imagebind-jax evaluate CONFIG.py --help"""


def _evaluate(options: argparse.Namespace, rest: list[str]) -> None:
    if options.config is None:
        if {"-h", "--help"} & set(rest):
            print(EVALUATE)
            return
        raise UserError("evaluate needs a config: imagebind-jax evaluate CONFIG.py")
    from imagebind_jax.config import load_config
    from imagebind_jax.evaluation import run as evaluate
    from imagebind_jax.evaluation.benchmark import EvalConfig

    if {"-h", "--help"} & set(rest):
        print(EVALUATE)
    config = load_config(options.config, EvalConfig, rest)
    given = [each for each in (options.checkpoint, options.embeddings, options.wanted) if each]
    if len(given) > 1:
        raise UserError("evaluate takes one of --checkpoint CKPT, --embeddings DIR, --wanted DIR")
    only = tuple(filter(None, map(str.strip, options.only.split(","))))
    if options.wanted:
        evaluate.write_embedding_requests(config, options.wanted, only=only)
        return
    _start_hosts(options)
    default = pathlib.Path("runs") / "-".join(
        [pathlib.Path(options.config).stem, *map(evaluate.qualified_checkpoint_name, given)]
    )
    with file_commands.warnings_as_notes(), file_commands.with_compilation_cache():
        evaluate.run_benchmarks(
            config,
            checkpoint=options.checkpoint,
            embeddings=options.embeddings,
            out=options.out or default,
            only=only,
            compare=options.compare,
        )


def _ablate(options: argparse.Namespace, _: list[str]) -> None:
    from imagebind_jax.ablations import budget, registry
    from imagebind_jax.ablations import run as ablate

    if options.list:
        print("\n".join(f"{each.name:20}{each.title}" for each in registry.ABLATIONS))
        return
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers must be at least 1, got {options.workers}")
    ablate.run_ablations(
        options.names,
        options.out,
        seeds=options.seeds,
        first_seed=ablate.FIRST_SEED if options.first_seed is None else options.first_seed,
        budget=None if options.budget is None else budget.parse_duration(options.budget),
        workers=options.workers,
    )


def _convert(options: argparse.Namespace, _: list[str]) -> None:
    heads = {}
    for item in filter(None, options.heads.split(",")):
        modality, _, number = item.partition("=")
        if not number.isdecimal():
            raise UserError(f"--heads {item}: expected modality=number, e.g. vision=4")
        heads[modality] = int(number)
    from imagebind_jax.porting.convert import convert

    with file_commands.warnings_as_notes():
        convert(
            options.source,
            options.target,
            to=options.format,
            overwrite=options.overwrite,
            verify=options.verify,
            base=options.base,
            merge=options.merge,
            layers=_numbers("--layers", options.layers),
            source=options.kind,
            modalities=tuple(filter(None, options.modalities.split(","))),
            dtype=options.dtype,
            heads=heads,
            activation=options.activation,
        )


def _prepare(options: argparse.Namespace, _: list[str]) -> None:
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers must be at least 1, got {options.workers}")
    from imagebind_jax.inputs import datasets
    from imagebind_jax.prepare.run import prepare_dataset
    from imagebind_jax.prepare.verify import verify_dataset

    if options.list:
        print("\n".join(datasets.format_datasets()))
        return
    if options.dataset is None:
        raise UserError("prepare needs a dataset: imagebind-jax prepare --list shows them")
    if options.anchors:
        _anchors(options)
        return
    if options.verify:
        verify_dataset(options.dataset, workers=options.workers)
        return
    if bool(options.source) == options.sample:
        raise UserError("prepare needs either --source DOWNLOAD or --sample")
    if not options.out:
        raise UserError("prepare needs --out DIR, a folder for the records")
    prepare_dataset(
        options.dataset,
        options.source,
        options.out,
        splits=tuple(filter(None, options.splits.split(","))),
        workers=options.workers,
        allow_missing=options.allow_missing,
    )


def _anchors(options: argparse.Namespace) -> None:
    from imagebind_jax.config import TrainConfig, cached_sources, load_config
    from imagebind_jax.inputs.sources.cached import materialize
    from imagebind_jax.prepare import precompute

    if options.seed is not None and options.views is None:
        raise UserError("--seed is of the views that --views asks for; a pair's own have theirs")
    config = load_config(options.dataset, TrainConfig)
    materialize(cached_sources(config))
    with file_commands.warnings_as_notes():
        precompute.precompute(
            config,
            options.anchors,
            views=options.views,
            seed=options.seed or 0,
            out=options.out,
            workers=options.workers,
        )


PLAN = """usage: imagebind-jax plan CONFIG.py --topology v5e:16x16 [--json FILE] [--sweep [FIELD ...]]
           [--any.field VALUE]
all fields: imagebind-jax plan CONFIG.py --help"""


def _plan(options: argparse.Namespace, rest: list[str]) -> None:
    help_asked = bool({"-h", "--help"} & set(rest))
    if help_asked:
        print(PLAN)
    if options.config is None:
        if help_asked:
            return
        raise UserError("plan needs a config: imagebind-jax plan CONFIG.py --topology v5e:4x4")
    from imagebind_jax.config import TrainConfig, load_config
    from imagebind_jax.plan import run as plan

    config = load_config(options.config, TrainConfig, rest, command="plan")
    plan.run_plan(config, options.topology, json_file=options.json, sweep=options.sweep)


def _numbers(option: str, text: str) -> list[int] | None:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not all(item.isdecimal() for item in items):
        raise UserError(f"{option} {text}: expected numbers, e.g. 0,5")
    return [int(item) for item in items] or None


if __name__ == "__main__":
    sys.exit(main())
