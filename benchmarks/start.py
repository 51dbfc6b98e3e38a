"""From the command to the end of the first training step, cold and with compiled programs kept.

    python benchmarks/start.py [--config configs/world.py] [--cache DIR] [--out start.json]

Each start is a process of its own on records that are already made (they are, first), so what is
left is imports, the state, compilation and the step. "new" begins a run and is stopped after its
first commit, "goes on" restores that; "cold" finds no compiled program, "warm" those of the start
before. The parts are those of the slowest thread as JAX counts them: what is traced, compiled or
read back; the rest is opening records, the first batch, and the step itself.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

STARTS = (("new", "cold"), ("new", "warm"), ("goes on", "cold"), ("goes on", "warm"))
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling or reading",
    "/jax/compilation_cache/cache_retrieval_time_sec": "of which reading",
}
PARTS = ("import", "restore", *EVENTS.values(), "first step ended at")


def start(config: str, folder: str, begun: float) -> dict[str, float]:
    """Seconds of the parts of one start, in this process."""
    seconds: collections.Counter[str] = collections.Counter()
    parts: dict[str, float] = {}  # of what came before the end of the first step
    from imagebind_jax.checkpointing import checkpointer
    from imagebind_jax.config import TrainConfig, load_config
    from imagebind_jax.runtime import compilation_cache, metrics_log
    from imagebind_jax.training import fit

    seconds["import"] = time.time() - begun
    import jax

    def heard(event: str, duration: float, **_) -> None:
        if event in EVENTS:
            seconds[EVENTS[event]] += duration

    jax.monitoring.register_event_duration_secs_listener(heard)

    class Restored(checkpointer.Checkpointer):
        def restore_newest(self, *arguments):
            before = time.perf_counter()
            found = super().restore_newest(*arguments)
            seconds["restore"] = time.perf_counter() - before
            return found

    class FirstStep(metrics_log.MetricsLog):
        def write(self, *arguments):
            if not parts:
                parts.update(seconds, **{"first step ended at": time.time() - begun})
            super().write(*arguments)

    checkpointer.Checkpointer, metrics_log.MetricsLog = Restored, FirstStep  # type: ignore[misc]

    def say(line: str) -> None:
        if line == "committed step 1":
            print(json.dumps(parts), flush=True)
            os._exit(0)

    settings = load_config(
        config, TrainConfig, ["--steps", "2", "--checkpoint-every", "1", "--log-every", "1"]
    )
    with compilation_cache.persistent_compilation_cache(say):
        fit.fit(settings, folder, say=say)
    return parts


def child(config: str, folder: str, programs: str, cache: str) -> dict[str, float]:
    """One start in a process of its own, whose time counts from before Python."""
    command = [sys.executable, __file__, "--config", config, "--begin", folder]
    variables = {"IMAGEBIND_JAX_CACHE": cache, "JAX_COMPILATION_CACHE_DIR": programs}
    variables |= {f"JAX_PERSISTENT_CACHE_{name}": value for name, value in
                  (("MIN_COMPILE_TIME_SECS", "0.1"), ("MIN_ENTRY_SIZE_BYTES", "-1"))}  # fmt: skip
    done = subprocess.run(
        [*command, "--since", str(time.time())],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/world.py")
    parser.add_argument("--cache", default=os.environ.get("IMAGEBIND_JAX_CACHE", ""))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("start.json"))
    parser.add_argument("--begin", help=argparse.SUPPRESS)
    parser.add_argument("--since", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.begin:
        print(json.dumps(start(options.config, options.begin, options.since)))
        return
    if options.cache:
        os.environ["IMAGEBIND_JAX_CACHE"] = options.cache
    from imagebind_jax.config import TrainConfig, cached_sources, load_config
    from imagebind_jax.inputs.sources import cache_folder
    from imagebind_jax.inputs.sources.cached import materialize

    materialize(cached_sources(load_config(options.config, TrainConfig, [])))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        begun = pathlib.Path(scratch) / "new cold"
        for kind, programs in STARTS:
            folder = pathlib.Path(scratch) / f"new {programs}" if kind == "new" else begun
            if kind == "goes on" and programs == "warm":
                folder = pathlib.Path(scratch) / "new warm"
            kept = pathlib.Path(scratch) / f"programs of {kind}"
            row = child(options.config, str(folder), str(kept), str(cache_folder()))
            rows.append({"start": kind, "programs": programs, **row})
    print(f"| start | compiled programs | {', s | '.join(PARTS)}, s |")
    print(f"|---|---|{'---|' * len(PARTS)}")
    for row in rows:
        numbers = " | ".join(f"{row[part]:.1f}" if part in row else "" for part in PARTS)
        print(f"| {row['start']} | {row['programs']} | {numbers} |")
    options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
