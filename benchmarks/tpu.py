"""Full-size training steps compiled for every named TPU slice, without a TPU: memory, time, MFU.

    python benchmarks/tpu.py [--only WORD ...] [--out tpu-plans]

Needs the TPU's compiler (pip install libtpu). A plan takes minutes on two cores, one process each; its
JSON is kept in the folder, so that a run that was stopped goes on with the next one. Prints the table
that stands in BENCHMARKS.md and writes tpu.json beside the plans. Nothing is run: all times are the
compiler's schedule, and what the chip needs at least for kernels of ours, waits and memory.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table. goal: the MFU that it should reach, and 20 % of the memory to spare."""

    config: str
    topology: str
    batch: int
    goal: float | None = None

    @property
    def name(self) -> str:
        return f"{self.config}-{self.topology.replace(':', '-')}-{self.batch}"


AUDIO, ALL = "train_audioset", "imagebind_huge_all"
CASES = (
    Case(AUDIO, "v5e:4x4", 2_048, 0.50),
    Case(AUDIO, "v5e:16x16", 32_768, 0.50),
    Case(ALL, "v5e:16x16", 8_192, 0.50),
    Case(ALL, "v5p:4x4x4", 8_192, 0.50),
    Case(AUDIO, "v5e:2x4", 1_024),
    Case(AUDIO, "v5p:4x4x4", 8_192),
    Case(AUDIO, "v5p:8x8x16", 131_072),
    Case(AUDIO, "v6e:4x4", 2_048),
    Case(AUDIO, "v6e:16x16", 32_768),
    Case(ALL, "v5p:8x8x16", 32_768),
    Case(ALL, "v6e:16x16", 8_192),
)


def planned(case: Case, folder: pathlib.Path) -> dict:
    """The numbers of a case, made by the command where they are not yet there."""
    path = folder / f"{case.name}.json"
    if not path.exists():
        command = [
            *(sys.executable, "-m", "imagebind_jax.cli", "plan"),
            str(CONFIGS / f"{case.config}.py"),
            *("--topology", case.topology, "--json", str(path)),
            *("--batch-size", str(case.batch)),
        ]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode == 2:  # it does not fit, or cannot be compiled: that is a result, too
            return {"error": done.stderr.strip().splitlines()[-1].partition("error: ")[2]}
        if done.returncode:
            raise SystemExit(f"{case.name}: {done.stderr[-2000:]}")
    return json.loads(path.read_text())


def row(case: Case, plan: dict) -> str:
    """The case in Markdown."""
    goal = f"{case.goal:.2f}" if case.goal else "–"
    start = f"| {case.config} | {case.topology} | {case.batch:,} | "
    if "error" in plan:
        return f"{start}{plan['error']} | | | | | {goal} | |"
    run, pairs = plan["run"], plan["pairs"]
    memory = plan["chip"]["memory"]
    ours = sum(pair["kernels"] for pair in pairs.values())
    share = ours / sum(pair["seconds"] for pair in pairs.values())
    bounds = ", ".join(sorted({pair["bound"] for pair in pairs.values()}))
    least = {name: max(pair["limits"].values()) for name, pair in pairs.items()}
    return (
        f"{start}{run['memory'] / 1e9:.1f} of {memory / 1e9:.0f} | {1e3 * run['seconds']:,.0f} | "
        f"{1e3 * max(least.values()):,.0f} ({bounds}) | {share:.0%} | {run['utilisation']:.2f} | "
        f"{goal} | {sum(pair['compile_seconds'] for pair in pairs.values()):,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="parts of cases' names, e.g. v5e-4x4")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tpu-plans"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [
        case for case in CASES if not options.only or any(w in case.name for w in options.only)
    ]
    plans: dict[str, dict] = {}
    for done, case in enumerate(cases, 1):
        begun = time.monotonic()
        print(f"{done}/{len(cases)}  {case.name}", file=sys.stderr, flush=True)
        plans[case.name] = planned(case, options.out)
        print(f"     {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    (options.out / "tpu.json").write_text(json.dumps(plans, indent=1))
    print(
        "| config | slice | batch | GB a device | ms a step, estimated | of one pair at least "
        "(bound) | share of our kernels' bound | MFU, estimated | goal | s to compile |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in cases:
        print(row(case, plans[case.name]))


if __name__ == "__main__":
    main()
