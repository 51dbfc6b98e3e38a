"""The command line: imagebind-jax <demo|train|evaluate|convert|prepare>.

Exit codes: 0 done, 2 the user's mistake (one line on stderr), 1 anything else.
"""

import argparse
import contextlib
import errno
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from imagebind_jax.errors import Stopped, UserError, one_line
from imagebind_jax.version import __version__

# What the machine, and not the program, is to be blamed for.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        _run(arguments)
        return 0
    except UserError as error:
        if debug:
            raise
        return _fail(str(error))
    except Stopped as error:
        _fail(str(error))
        sys.stdout.flush()
        os._exit(1)  # threads may hang that an ordinary exit would wait for
    except OSError as error:
        if debug or error.errno not in MACHINE:
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror}")
    except Exception as error:
        if debug or "No space left on device" not in str(error):
            raise
        return _fail(f"no space left on device ({str(error).splitlines()[0][:300]})")
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last committed step"
        on = "; the same command goes on"
        others = {"convert": "", "prepare": on, "evaluate": on}
        code = _fail(f"stopped{others.get(arguments[0], goes_on)}", code=1)
        if arguments[0] in ("train", "demo", "evaluate"):
            sys.stdout.flush()
            os._exit(code)  # JAX crashes if it is torn down while it compiles
        return code


def _fail(message: str, code: int = 2) -> int:
    line = one_line(message)
    print(f"imagebind-jax: error: {line}", file=sys.stderr, flush=True)
    return code


def _run(arguments: list[str]) -> None:
    parser = _Parser(prog="imagebind-jax", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    demo = commands.add_parser("demo", help="train on the built-in world, evaluate, write a report")
    demo.add_argument("--out", default="demo", help="folder of the results (default: demo)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--cache", help="folder for the rendered world (default: ~/.cache/...)")
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="train; goes on by itself if the run folder exists",
        description="CONFIG.py defines get_config(); any of its fields can be given as --field.",
        add_help=False,
    )
    train.add_argument("config", nargs="?", metavar="CONFIG.py")
    train.add_argument("--out", help="run folder (default: runs/<config's name>)")
    train.add_argument("--cache", help="folder for made records (default: ~/.cache/...)")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="the benchmarks of a config, on a checkpoint or on another system's embeddings",
        description="CONFIG.py defines get_config(); any of its fields can be given as --field.",
        add_help=False,
    )
    evaluate.add_argument("config", nargs="?", metavar="CONFIG.py")
    evaluate.add_argument("--checkpoint", metavar="CKPT", help="of any format, or a run folder")
    evaluate.add_argument("--embeddings", metavar="DIR", help="in place of a checkpoint")
    evaluate.add_argument("--wanted", metavar="DIR", help="write what --embeddings has to hold")
    evaluate.add_argument("--out", help="folder of the results (default: runs/<config>-<CKPT>)")
    evaluate.add_argument("--only", default="", help="names of benchmarks, e.g. ESC,Clotho")
    evaluate.add_argument("--compare", metavar="DIR", help="results of another run, beside ours")
    evaluate.set_defaults(run=_evaluate)

    convert = commands.add_parser(
        "convert",
        help="weights from PyTorch or CLIP to a folder of ours, safetensors or PyTorch",
        description="Formats are recognised by content; the target's suffix says what to write.",
    )
    convert.add_argument("source", metavar="SRC", help=".pth, .pt, .safetensors, or a folder")
    convert.add_argument("target", metavar="DST", help="folder, or file.safetensors, file.pth")
    convert.add_argument("--source", dest="kind", default="auto", metavar="KIND",
                         help="auto, imagebind, open_clip, hugging_face or lora")  # fmt: skip
    convert.add_argument("--format", default="", help="orbax, safetensors or pytorch")
    convert.add_argument("--modalities", default="", help="only these, e.g. vision,audio")
    convert.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    convert.add_argument("--heads", default="", help="where no rule gives them: vision=4,text=2")
    convert.add_argument("--activation", help="gelu or quick_gelu, for CLIP without a config")
    convert.add_argument("--base", metavar="CKPT", help="the model that adapters in SRC are for")
    convert.add_argument("--merge", action="store_true", help="adapters into the base's kernels")
    convert.add_argument("--layers", default="", help="that adapters of fewer layers are for: 0,5")
    convert.add_argument("--overwrite", action="store_true", help="replace an earlier DST")
    convert.add_argument("--verify", action="store_true",
                         help="read back; print what went where, with checksums")  # fmt: skip
    convert.set_defaults(run=_convert)

    prepare = commands.add_parser(
        "prepare",
        help="records from a dataset's official download; --list shows which",
        description="Goes on where it was stopped. --list, --verify and --sample stand alone.",
    )
    prepare.add_argument("dataset", nargs="?", metavar="DATASET", help="name, or DIR to --verify")
    prepare.add_argument("--source", metavar="DOWNLOAD", help="folder of the official download")
    prepare.add_argument("--out", metavar="DIR", help="folder of the records")
    prepare.add_argument(
        "--splits", default="", help="only these, e.g. train,test; others can follow"
    )
    prepare.add_argument("--workers", type=int, help="processes (default: one a core)")
    prepare.add_argument("--allow-missing", type=float, default=0.01, metavar="SHARE",
                         help="of rows that may be left out as unreadable (default: 0.01)")  # fmt: skip
    prepare.add_argument("--sample", action="store_true",
                         help="generate a small download in DIR/download and prepare that")  # fmt: skip
    prepare.add_argument("--list", action="store_true", help="the datasets that there are")
    prepare.add_argument("--verify", action="store_true", help="check every byte of a folder")
    prepare.set_defaults(run=_prepare)

    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("train", "evaluate"):
        raise UserError(
            f"unrecognized arguments: {' '.join(rest)} (see imagebind-jax {options.command} --help)"
        )
    if getattr(options, "cache", None):
        from imagebind_jax.inputs.sources import CACHE_VARIABLE

        os.environ[CACHE_VARIABLE] = options.cache
    options.run(options, rest)


def _demo(options: argparse.Namespace, _: list[str]) -> None:
    if options.seed < 0:
        raise UserError(f"--seed must not be negative, got {options.seed}")
    from imagebind_jax import demo

    demo.run(options.out, seed=options.seed)


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    if options.config is None:
        if {"-h", "--help"} & set(rest):
            print(
                "usage: imagebind-jax train CONFIG.py [--out DIR] [--cache DIR] [--any.field VALUE]"
            )
            print("all fields: imagebind-jax train CONFIG.py --help")
            return
        raise UserError("train needs a config: imagebind-jax train CONFIG.py")
    from imagebind_jax import train
    from imagebind_jax.config import TrainConfig, cached, load
    from imagebind_jax.demo import render

    config = load(options.config, TrainConfig, rest)
    folder = options.out or pathlib.Path("runs") / pathlib.Path(options.config).stem
    train.check(config, folder)  # before minutes of rendering
    render(cached(config))
    train.fit(config, folder)


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
    from imagebind_jax import evaluate
    from imagebind_jax.config import load
    from imagebind_jax.evaluators.benchmark import EvalConfig

    if {"-h", "--help"} & set(rest):
        print(EVALUATE)
    config = load(options.config, EvalConfig, rest)
    given = [each for each in (options.checkpoint, options.embeddings, options.wanted) if each]
    if len(given) > 1:
        raise UserError("evaluate takes one of --checkpoint CKPT, --embeddings DIR, --wanted DIR")
    only = tuple(filter(None, map(str.strip, options.only.split(","))))
    if options.wanted:
        evaluate.write_wanted(config, options.wanted, only=only)
        return
    default = pathlib.Path("runs") / "-".join(
        [pathlib.Path(options.config).stem, *map(evaluate.named, given)]
    )
    with _notes():
        evaluate.run(
            config,
            checkpoint=options.checkpoint,
            embeddings=options.embeddings,
            out=options.out or default,
            only=only,
            compare=options.compare,
        )


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Warnings as notes of one line."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        yield


def _convert(options: argparse.Namespace, _: list[str]) -> None:
    heads = {}
    for item in filter(None, options.heads.split(",")):
        modality, _, number = item.partition("=")
        if not number.isdecimal():
            raise UserError(f"--heads {item}: expected modality=number, e.g. vision=4")
        heads[modality] = int(number)
    from imagebind_jax.porting.converting import convert

    with _notes():
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
    from imagebind_jax.prepare import prepare, verify

    if options.list:
        print("\n".join(datasets.table()))
        return
    if options.dataset is None:
        raise UserError("prepare needs a dataset: imagebind-jax prepare --list shows them")
    if options.verify:
        verify(options.dataset, workers=options.workers)
        return
    if bool(options.source) == options.sample:
        raise UserError("prepare needs either --source DOWNLOAD or --sample")
    if not options.out:
        raise UserError("prepare needs --out DIR, a folder for the records")
    prepare(
        options.dataset,
        options.source,
        options.out,
        splits=tuple(filter(None, options.splits.split(","))),
        workers=options.workers,
        allow_missing=options.allow_missing,
    )


def _numbers(option: str, text: str) -> list[int] | None:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not all(item.isdecimal() for item in items):
        raise UserError(f"{option} {text}: expected numbers, e.g. 0,5")
    return [int(item) for item in items] or None


if __name__ == "__main__":
    sys.exit(main())
