"""Encoders of the released model's size on a CPU, in float32, beside PyTorch's own modules.

    python benchmarks/cpu.py [--rounds 7] [--only audio,text] [--compile] [--out cpu.json]

Needs torch (CPU) beside the project. Each has a process of its own, whose threads and memory are no
one else's, on the same two cores; they take turns, so that a slow minute is everybody's, and a ratio
is the median over the turns (smallest to largest). A turn is two calls, and the second is timed.
"theirs" are the encoders of torch_encoders.py in evaluation under torch.inference_mode; --compile
also runs them under torch.compile. "step" is the audio encoder's training step: forward with
drop-path, backward, clipping and AdamW; ours keeps what REMAT says, PyTorch everything. Memory is
the peak from the moment the parameters are there: of ours with compilation, the same at any batch.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

CORES = 2
# Rows that two cores need 0.3 to 3 s for.
BATCH = {"vision": 1, "text": 8, "audio": 4, "depth": 16, "thermal": 4, "imu": 16, "step": 8}
REMAT = "products"  # of the step: faster and smaller here than keeping everything
KEYS = 64  # of the step's loss
RATE = 1e-4


def example(task: str) -> tuple[Any, Any, np.ndarray]:
    """(encoder's config, width of the space, inputs) of a task."""
    from imagebind_jax.models.imagebind import HUGE

    config = HUGE.encoders["audio" if task == "step" else task]
    rng, shape = np.random.default_rng(0), (BATCH[task], *config.shape)
    if config.vocab_size:
        return config, HUGE.embed_dim, rng.integers(0, config.vocab_size, shape, np.int32)
    return config, HUGE.embed_dim, rng.standard_normal(shape, np.float32)


def ours(task: str) -> Callable[[], None]:
    """What runs the task once, its parameters made and nothing compiled yet."""
    import jax
    import jax.numpy as jnp

    from imagebind_jax import optimizer
    from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig, embed, init

    config, width, x = example(task)
    settings = ImageBindConfig({"it": config}, embed_dim=width, remat=REMAT)
    shapes = jax.eval_shape(lambda: init(settings, jax.random.key(0)))
    rng = np.random.default_rng(0)
    # Leaf by leaf, so that next to nothing but the parameters is in memory.
    params = jax.tree.map(lambda leaf: jax.block_until_ready(_normal(rng, leaf.shape)), shapes)
    model, x = ImageBind(settings), jnp.asarray(x)
    if task != "step":
        return lambda: jax.block_until_ready(embed(model, params, {"it": x}))

    rule = optimizer.OptimizerConfig(learning_rate=RATE)
    keys = jnp.eye(KEYS, width)

    def step(params, state, x, number):
        def loss(params):
            key = jax.random.fold_in(jax.random.key(0), number)
            z, _ = model.apply({"params": params}, {"it": x}, train=True, rngs={"dropout": key})
            return -jnp.mean(jax.nn.log_softmax(20 * z["it"] @ keys.T, axis=-1)[:, 0])

        value, grads = jax.value_and_grad(loss)(params)
        return *optimizer.update(rule, grads, state, params, jnp.float32(RATE))[:2], value

    jitted = jax.jit(step, donate_argnums=(0, 1))
    state = [params, jax.jit(lambda p: optimizer.init(rule, p))(params)]
    del params

    def run() -> None:
        *state[:], value = jitted(*state, x, 0)
        jax.block_until_ready(value)

    return run


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    import jax.numpy as jnp

    array = rng.standard_normal(shape, np.float32)
    array *= 0.02
    return jnp.asarray(array)


def theirs(task: str, compiled: bool = False) -> Callable[[], None]:
    """The same of PyTorch's modules."""
    import torch
    import torch_encoders

    torch.set_num_threads(CORES)
    config, width, array = example(task)
    module = torch_encoders.encoder(config, width)
    x = torch.from_numpy(array).long() if config.vocab_size else torch.from_numpy(array)
    call = torch.compile(module) if compiled else module
    if task != "step":
        module.eval()

        def forward() -> None:
            with torch.inference_mode():
                call(x)

        return forward

    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.2, fused=True)
    keys, first = torch.eye(KEYS, width), torch.zeros(len(x), dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(20 * call(x) @ keys.T, first)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


CONTESTANTS: dict[str, Callable] = {
    "ours": ours,
    "theirs": theirs,
    "compiled": lambda task: theirs(task, compiled=True),
}


def serve(name: str, task: str) -> None:
    """Prints [seconds of the first call, bytes that it needed at most], then seconds each time it is asked."""
    run = CONTESTANTS[name](task)
    ctypes.CDLL(None).malloc_trim(0)  # what making parameters has left behind
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    first = timed(run)
    run()
    peak = re.search(r"VmHWM:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert peak, "peak memory is read from /proc/self/status: this needs Linux"
    print(json.dumps([first, 1024 * int(peak[1])]), flush=True)
    for _ in sys.stdin:
        run()  # what lay idle during the others' turn comes back: training has no such pauses
        print(timed(run), flush=True)


def timed(run: Callable[[], None]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def answer(name: str, process: subprocess.Popen) -> Any:
    try:
        return json.loads(process.stdout.readline())
    except json.JSONDecodeError:
        process.kill()
        raise SystemExit(f"{name} ended, or said something else: see above") from None


def measured(task: str, names: list[str], rounds: int) -> dict:
    command = [sys.executable, __file__, "--only", task, "--alone"]
    first, memory, running = {}, {}, {}
    for name in names:  # one is ready before the next begins
        running[name] = subprocess.Popen(
            [*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        first[name], memory[name] = answer(name, running[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            print("go", file=running[name].stdin, flush=True)
            seconds[name].append(answer(name, running[name]))
    for process in running.values():
        process.communicate()
    return {"task": task, "rows": BATCH[task], "seconds": seconds, "first": first, "memory": memory}


def line(row: dict) -> str:
    """The task's line of the table."""
    seconds, memory = row["seconds"], row["memory"]

    def ratio(other: str) -> str:
        if other not in seconds:
            return ""
        ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds[other]))
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    cells = [
        "audio, training step" if row["task"] == "step" else f"{row['task']}, forward",
        row["rows"],
        *(f"{statistics.median(seconds[name]):.2f}" for name in ("ours", "theirs")),
        ratio("theirs"),
        ratio("compiled"),
        *(f"{memory[name] / 2**30:.2f}" for name in ("ours", "theirs")),
        f"{memory['ours'] / memory['theirs']:.2f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(BATCH))
    parser.add_argument("--compile", action="store_true", help="also beside torch.compile")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("cpu.json"))
    parser.add_argument("--alone", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("torch") is None:
        sys.exit("benchmarks/cpu.py needs PyTorch beside the project: pip install torch")
    # Both take as many threads as there are cores to run on.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    tasks = options.only.split(",")
    if unknown := set(tasks) - BATCH.keys():
        raise SystemExit(f"--only {','.join(sorted(unknown))}: not of {', '.join(BATCH)}")
    if options.alone:
        serve(options.alone, tasks[0])
        return
    print(
        "| encoder | rows | ours, s | PyTorch, s | times as fast | as torch.compile "
        "| peak, GiB | PyTorch's, GiB | ratio |"
    )
    print(f"|{'---|' * 9}")
    rows = []
    for task in tasks:
        rows.append(measured(task, list(CONTESTANTS)[: 2 + options.compile], options.rounds))
        print(line(rows[-1]), flush=True)
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
