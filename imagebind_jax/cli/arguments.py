"""What each command takes.

A config's own fields are not here: they come out of the config (`config.load_config`).
"""

import argparse
from typing import NoReturn

from imagebind_jax.errors import UserError
from imagebind_jax.version import __version__


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def build_parser(description: str) -> argparse.ArgumentParser:
    """The commands and their options; a mistake is a UserError."""
    parser = _Parser(prog="imagebind-jax", description=description)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    demo = commands.add_parser("demo", help="train on the built-in world, evaluate, write a report")
    demo.add_argument("--out", default="demo", help="folder of the results (default: demo)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--cache", help="folder for the rendered world (default: ~/.cache/...)")

    train = _add_config_command(
        commands, "train", "train; goes on by itself if the run folder exists"
    )
    train.add_argument("--out", help="run folder (default: runs/<config's name>)")
    train.add_argument("--cache", help="folder for made records (default: ~/.cache/...)")
    train.add_argument("--no-fallback", action="store_true",
                       help="end, exit 4, where the newest checkpoint is damaged")  # fmt: skip
    _add_hosts(train)

    evaluate = _add_config_command(
        commands,
        "evaluate",
        "the benchmarks of a config, on a checkpoint or on another system's embeddings",
    )
    evaluate.add_argument("--checkpoint", metavar="CKPT", help="of any format, or a run folder")
    evaluate.add_argument("--embeddings", metavar="DIR", help="in place of a checkpoint")
    evaluate.add_argument("--wanted", metavar="DIR", help="write what --embeddings has to hold")
    evaluate.add_argument("--out", help="folder of the results (default: runs/<config>-<CKPT>)")
    evaluate.add_argument("--only", default="", help="names of benchmarks, e.g. ESC,Clotho")
    evaluate.add_argument("--compare", metavar="DIR", help="results of another run, beside ours")
    _add_hosts(evaluate)

    ablate = commands.add_parser(
        "ablate",
        help="the paper's ablations on the built-in world, with verdicts; goes on by itself",
    )
    ablate.add_argument("names", metavar="NAME", nargs="*", help="all, or some (--list)")
    ablate.add_argument("--list", action="store_true", help="what there is")
    ablate.add_argument("--out", default="runs/ablate", help="folder (default: runs/ablate)")
    ablate.add_argument(
        "--seeds", type=int, help="worlds (default: 9; what 10 min allow for a NAME)"
    )
    ablate.add_argument("--first-seed", type=int, help="number of the first (default: 100)")
    ablate.add_argument("--budget", metavar="TIME", help="such as 30m: what fits is run")
    ablate.add_argument("--workers", type=int, help="processes (default: one a core)")

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
    prepare.add_argument("--anchors", metavar="CKPT",
                         help="DATASET is a CONFIG.py: embed what its frozen towers see, once")  # fmt: skip
    prepare.add_argument("--views", type=int, metavar="K", help="of each record, for --anchors")
    prepare.add_argument("--seed", type=int, help="of the views of --views (default: 0)")
    prepare.add_argument("--list", action="store_true", help="the datasets that there are")
    prepare.add_argument("--verify", action="store_true", help="check every byte of a folder")

    launch = commands.add_parser(
        "launch",
        help="run another command, say in one line how it ended, and start it again if told to",
        description="E.g. imagebind-jax launch --restarts 3 train CONFIG.py --out runs/mine",
    )
    launch.add_argument("--restarts", type=int, default=0, metavar="R",
                        help="times, where a host was lost or hung (default: 0)")  # fmt: skip
    launch.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND ...")

    _add_embed(commands)
    _add_search(commands)

    plan = _add_config_command(
        commands,
        "plan",
        "compile the training step for a TPU slice without one: memory, time, collectives",
    )
    plan.add_argument("--topology", metavar="SLICE", help="e.g. v5e:16x16")
    plan.add_argument("--json", metavar="FILE", help="the report as JSON, too")
    plan.add_argument("--sweep", nargs="*", metavar="FIELD", help="also try other values of these")
    return parser


def _add_embed(commands) -> None:
    embed = commands.add_parser(
        "embed",
        help="files of any modality into a store of embeddings; goes on if stopped",
        description="FILES are files, folders, globs or manifests (.jsonl, .csv); what each holds decides "
        "its modality. Depth maps and thermal images look like other images: name them by an option.",
    )
    embed.add_argument("files", nargs="*", metavar="FILES")
    embed.add_argument(
        "--checkpoint", metavar="CKPT", required=True, help="any format, or a run folder"
    )
    embed.add_argument("--out", metavar="DIR", required=True, help="the store, begun or added to")
    embed.add_argument("--sound", action="store_true", help="of videos their sound, too")
    embed.add_argument("--thermal", nargs="+", default=[], metavar="FILES", help="thermal images")
    embed.add_argument("--thermal-range", nargs=3, metavar=("SCALE", "LOW", "HIGH"),
                       help="what their numbers mean, e.g. kelvin*100 -20 60 (Celsius)")  # fmt: skip
    embed.add_argument("--depth", nargs="+", default=[], metavar="FILES", help="depth maps")
    _add_sensor_options(embed)
    embed.add_argument("--retry", action="store_true", help="files that were unusable before, too")
    embed.add_argument("--dtype", default="float32", help="of the computation, or bfloat16")
    embed.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: 64")
    embed.add_argument(
        "--threads", type=int, metavar="N", help="reading files (default: one a core)"
    )
    embed.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes in their place"
    )
    embed.add_argument("--patience", type=float, default=60.0, metavar="SECONDS",
                       help="that one file may take (default: 60)")  # fmt: skip


QUERIES = {
    "text": "text",
    "image": "vision",
    "video": "vision",
    "audio": "audio",
    "depth": "depth",
    "thermal": "thermal",
    "imu": "imu",
}


def _add_search(commands) -> None:
    search = commands.add_parser(
        "search",
        help="a store of embeddings, by words, pictures, sounds, ... and any mixture of them",
        description="Several queries are added, each times the --weight after it (default 1; a negative "
        "one takes away): --image beach.jpg --text rain --weight 0.5",
    )
    search.add_argument("--index", metavar="DIR", required=True, help="a store that embed has made")
    search.set_defaults(queries=[])
    for name, modality in QUERIES.items():
        search.add_argument(f"--{name}", action=_AppendQuery, dest="queries", metavar=name[0].upper(),
                            help=f"ask by {'words' if name == 'text' else f'a file of {modality}'}")  # fmt: skip
    search.add_argument("--weight", action=_SetQueryWeight, dest="queries", type=float, metavar="W",
                        help="of the query before it")  # fmt: skip
    search.add_argument("-k", type=int, default=10, help="answers (default: 10)")
    search.add_argument("--modality", default="", help="answers of these only, e.g. vision,audio")
    search.add_argument("--where", action="append", default=[], metavar="COND",
                        help="seconds>5, label=3, file~*/beach/*; several must all hold")  # fmt: skip
    search.add_argument("--json", action="store_true", help="JSON in place of a table")
    search.add_argument("--page", metavar="FILE.html", help="also a page with pictures and sounds")
    search.add_argument(
        "--build", action="store_true", help="make the approximate index, and measure it"
    )
    search.add_argument("--recall", type=float, help="that it must reach (default: 0.95)")
    search.add_argument(
        "--approximate", action="store_true", help="by that index: for millions of rows"
    )
    search.add_argument("--checkpoint", metavar="CKPT", help="if it was moved since")
    _add_sensor_options(search)

    page = commands.add_parser(
        "page",
        help="a local web page: compare files, and search a store by pictures, sounds and words",
        description="Needs the extra `demo`. Only this machine can reach it, unless --host says otherwise.",
    )
    page.add_argument("--index", metavar="DIR", help="a store to search in")
    page.add_argument("--checkpoint", metavar="CKPT", help="default: the store's")
    page.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    page.add_argument("--port", type=int, default=7860, help="0: any that is free (default: 7860)")
    _add_sensor_options(page)


class _AppendQuery(argparse.Action):
    """One more query: (its modality, what was said, its weight)."""

    def __call__(self, parser, namespace, values, option_string=None):
        name = (option_string or "").lstrip("-")
        namespace.queries = [*namespace.queries, (QUERIES[name], values, 1.0)]


class _SetQueryWeight(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        if not namespace.queries:
            parser.error("--weight goes after the query that it is of")
        modality, said, _ = namespace.queries[-1]
        namespace.queries = [*namespace.queries[:-1], (modality, said, values)]


def _add_sensor_options(command: argparse.ArgumentParser) -> None:
    """What files of some modalities do not say themselves."""
    command.add_argument(
        "--config", metavar="CONFIG.py", help="the run's, for transforms of its own"
    )
    command.add_argument("--focal-length", type=float, metavar="PIXELS", help="of the depth camera")
    command.add_argument("--baseline", type=float, metavar="METRES",
                         help="between the lenses of its stereo pair, e.g. 0.075")  # fmt: skip
    command.add_argument(
        "--imu-rate", type=float, metavar="HZ", help="of tables without time stamps"
    )


def _add_config_command(commands, name: str, help: str) -> argparse.ArgumentParser:
    """A command for a config, whose own fields are options, too, and in its help."""
    description = "CONFIG.py defines get_config(); any of its fields can be given as --field."
    command = commands.add_parser(name, help=help, description=description, add_help=False)
    command.add_argument("config", nargs="?", metavar="CONFIG.py")
    return command


def _add_hosts(command: argparse.ArgumentParser) -> None:
    """Where no cluster says how many hosts there are: docs/pods.md."""
    command.add_argument("--coordinator", metavar="HOST:PORT", help="of host 0")
    command.add_argument("--hosts", type=int, metavar="N", help="processes in all, one a host")
    command.add_argument("--host", type=int, metavar="I", help="which of them this is, from 0")
    command.add_argument("--wait", type=int, default=300, metavar="SECONDS",
                         help="for all hosts to come together (default: 300)")  # fmt: skip
