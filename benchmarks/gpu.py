"""Encoders and training steps on a GPU: share of its peak, and ratios to PyTorch in the same run.

    python benchmarks/gpu.py [--only ROW ...] [--rounds 7] [--remat POLICY] [--json FILE]
    python benchmarks/gpu.py --device cpu --tiny      only that everything runs: its times mean nothing

For each encoder of HUGE in bfloat16: the forward pass, and a training step against embeddings that
are given; then the step of a frozen ViT-H with the audio encoder. Beside ours the same encoders of
torch_encoders.py, eager and under torch.compile. A training step is the loss of all rows with all
in float32, the gradient, its norm clipped to 1, and AdamW on float32 parameters that are used in
bfloat16; frozen weights are stored in bfloat16. The contestants take turns; a row's numbers are
medians over the rounds, ratios the median of other / ours in seconds (smallest to largest). MFU
counts matrix products, none of them twice. Needs neither grain nor any media library.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants some memory, too

# ruff: noqa: E402
import argparse
import dataclasses
import functools
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from imagebind_jax import optimizer
from imagebind_jax.losses import contrastive
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, TINY, ImageBind, ImageBindConfig, init

Steps = Callable[[int], None]  # runs so many steps, and waits for the last

# Dense bfloat16 FLOP/s, by what the device calls itself: NVIDIA's data sheets, SXM.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
BATCH = {"vision": 64}  # rows of a batch; of the others:
OTHERS = 256
PAIR = "frozen vision + audio"
OPTIMIZER = optimizer.OptimizerConfig()
FROZEN = optimizer.OptimizerConfig(frozen=("",))  # every parameter
TURN = 1.0  # seconds that a contestant has at a time, at least one step


@dataclasses.dataclass(frozen=True)
class Row:
    """What is timed: one encoder, forwards or in training; `hub` names one that is frozen."""

    name: str
    modality: str
    train: bool
    hub: str | None = None

    def needed(self, config: ImageBindConfig, rows: int) -> float:
        """FLOPs of a step."""
        of = lambda modality: flops(config.encoders[modality], config.embed_dim)  # noqa: E731
        passes = (3 if self.train else 1) * of(self.modality)
        return rows * (passes + (of(self.hub) if self.hub else 0))


def flops(config: EncoderConfig, embed_dim: int) -> int:
    """Of the matrix products of one input, forwards.

    `plan.flops.forward_flops`, which needs what training needs to be installed.
    """
    c, keys = config, config.tokens + config.bias_kv
    block = c.tokens * c.width * (4 * c.width + 2 * round(c.mlp_ratio * c.width) + 2 * keys)
    stem = (c.tokens - 1) * math.prod(c.patch) * c.shape[-1] * c.width if c.patch else 0
    return 2 * (c.depth * block + stem + c.width * embed_dim)


def table(config: ImageBindConfig) -> list[Row]:
    rows = [
        Row(f"{modality}, {what}", modality, what == "training")
        for what in ("forward", "training")
        for modality in config.encoders
    ]
    return [*rows, Row(f"{PAIR}, training", "audio", True, "vision")]


def batch_of(config: ImageBindConfig, row: Row, count: int) -> dict[str, np.ndarray]:
    """Random inputs of the row's encoders, and what stands for the hub's embeddings."""
    rng = np.random.default_rng(0)
    made = {"anchor": rng.normal(size=(count, config.embed_dim)).astype(np.float32)}
    made["anchor"] /= np.linalg.norm(made["anchor"], axis=-1, keepdims=True)
    for modality in filter(None, (row.modality, row.hub)):
        c = config.encoders[modality]
        shape = (count, *c.shape)
        x = rng.integers(0, c.vocab_size, shape) if c.vocab_size else rng.normal(size=shape)
        made[modality] = x.astype(np.int32 if c.vocab_size else np.float32)
    return made


# ---- ours


def ours(config: ImageBindConfig, row: Row, batch: dict[str, np.ndarray]) -> Steps:
    wanted = [modality for modality in config.encoders if modality in batch]
    config = dataclasses.replace(config, encoders={m: config.encoders[m] for m in wanted})
    model, params = ImageBind(config), init(config, jax.random.key(0))
    frozen = optimizer.cast_frozen(params, FROZEN, config.dtype)
    placed = jax.device_put(batch)
    if not row.train:
        forward = jax.jit(lambda params, x: model.apply({"params": params}, {row.modality: x})[0])
        x = placed[row.modality]
        return lambda count: jax.block_until_ready([forward(frozen, x) for _ in range(count)][-1])
    trained = {row.modality: params[row.modality]}
    frozen = {row.hub: frozen[row.hub]} if row.hub else {}
    state = [(trained, optimizer.init(OPTIMIZER, trained), jnp.int32(0))]
    step = jax.jit(functools.partial(our_step, model, row), donate_argnums=0)

    def steps(count: int) -> None:
        for _ in range(count):
            state[0], loss = step(state[0], frozen, placed)
        jax.block_until_ready(loss)

    return steps


def our_step(model: ImageBind, row: Row, state: Any, frozen: Any, batch: Any) -> Any:
    """What `training.step.train_step` does, on one device."""
    trained, moments, count = state

    def loss_fn(trained):
        key = jax.random.fold_in(jax.random.key(0), count)
        x = {row.modality: batch[row.modality]}
        z, scales = model.apply({"params": trained}, x, train=True, rngs={"dropout": key})
        anchors = batch["anchor"]
        if row.hub:
            anchors = model.apply({"params": frozen}, {row.hub: batch[row.hub]})[0][row.hub]
        return contrastive.symmetric_info_nce(z[row.modality], anchors, scales[row.modality])[0]

    loss, gradient = jax.value_and_grad(loss_fn)(trained)
    rate = jnp.float32(1e-4)
    trained, moments, _ = optimizer.update(OPTIMIZER, gradient, moments, trained, rate)
    return (trained, moments, count + 1), loss


# ---- PyTorch's


def theirs(
    config: ImageBindConfig, row: Row, batch: dict[str, np.ndarray], device: str, mode: str | None
) -> Steps:
    """mode: of torch.compile; None: eager."""
    import torch
    from torch_encoders import encoder

    placed = {name: torch.tensor(rows, device=device) for name, rows in batch.items()}
    compiled = (lambda f: torch.compile(f, mode=mode)) if mode else (lambda f: f)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    module = encoder(config.encoders[row.modality], config.embed_dim).to(device)
    if row.hub:
        hub = encoder(config.encoders[row.hub], config.embed_dim).to(device, torch.bfloat16).eval()
        run_hub = compiled(hub)
    if not row.train:
        run = compiled(module.to(torch.bfloat16).eval())

        def forward(count: int) -> None:
            with torch.inference_mode():
                x = placed[row.modality]
                x = x.to(torch.bfloat16) if x.is_floating_point() else x
                for _ in range(count):
                    run(x)
            wait()

        return forward
    scale = config.encoders[row.modality].logit_scale or 1.0
    labels = torch.arange(len(placed["anchor"]), device=device)
    o = OPTIMIZER
    adamw = torch.optim.AdamW(
        module.parameters(),
        lr=1e-4,
        betas=(o.beta1, o.beta2),
        eps=o.epsilon,
        weight_decay=o.weight_decay,
        fused=True,
    )

    def loss_fn(x: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            z = module(x)
        with torch.autocast(device, enabled=False):
            logits = scale * z.float() @ anchors.T
            cross_entropy = torch.nn.functional.cross_entropy
            return cross_entropy(logits, labels) + cross_entropy(logits.T, labels)

    run_loss = compiled(loss_fn)

    def steps(count: int) -> None:
        for _ in range(count):
            anchors = placed["anchor"]
            if row.hub:
                with torch.no_grad():
                    anchors = run_hub(placed[row.hub].to(torch.bfloat16))
            adamw.zero_grad(set_to_none=True)
            run_loss(placed[row.modality], anchors).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), o.clip_norm)
            adamw.step()
        wait()

    return steps


def have_torch(device: str) -> str:
    """Why PyTorch is not measured, or ""."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    return "" if device == "cpu" or torch.cuda.is_available() else "PyTorch sees no GPU"


# ---- the table


def turn(steps: Steps, seconds: float) -> float:
    """Seconds a step: as many at a time, without waiting between them, as fit into a turn."""
    begun = time.perf_counter()
    steps(1)
    count = max(int(seconds / (time.perf_counter() - begun)), 1)
    begun = time.perf_counter()
    steps(count)
    return (time.perf_counter() - begun) / count


def measured(row: Row, config: ImageBindConfig, peak: float | None, options: Any) -> dict[str, Any]:
    rows = options.batch or (4 if options.tiny else BATCH.get(row.modality, OTHERS))
    batch = batch_of(config, row, rows)
    device = "cpu" if options.device == "cpu" else "cuda"
    contestants = {"ours": functools.partial(ours, config, row, batch)}
    if not have_torch(options.device):
        for name, mode in (("eager", None), ("compiled", options.compile_mode)):
            contestants[name] = functools.partial(theirs, config, row, batch, device, mode)
    running = {name: make() for name, make in contestants.items()}
    for steps in running.values():
        steps(2)  # compiled, warm
    times: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, steps in running.items():
            times[name].append(turn(steps, 0 if options.tiny else TURN))
    found: dict[str, Any] = {"row": row.name, "batch": rows}
    needed = row.needed(config, rows)
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        found[name] = {"seconds": middle, "mfu": needed / middle / peak if peak else None}
        ratios = sorted(other / our for other, our in zip(seconds, times["ours"]))
        found[name] |= {"ratio": statistics.median(ratios), "range": [ratios[0], ratios[-1]]}
    return found


def line(found: dict[str, Any]) -> str:
    cells = [found["row"], str(found["batch"])]
    for name in ("ours", "eager", "compiled"):
        one = found.get(name)
        if one is None:
            cells += ["not measured"] * 2
            continue
        share = "" if one["mfu"] is None else f", {one['mfu']:.2f}"
        cells.append(f"{1000 * one['seconds']:.2f}{share}")
        low, high = one["range"]
        cells.append(f"{one['ratio']:.2f} ({low:.2f} to {high:.2f})")
    del cells[3]  # ours to ours
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="rows with one of these words")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--tiny", action="store_true", help="small encoders, one step a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help=f"rows (default: vision 64, others {OTHERS})")
    parser.add_argument("--remat", default="none", help="what ours keeps for the backward pass")
    parser.add_argument("--unroll", type=int, default=1, help="blocks in one turn of ours")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile")
    parser.add_argument("--json", help="file to write the numbers to")
    options = parser.parse_args()
    devices = [device for device in jax.devices() if device.platform == options.device]
    if not devices:
        print(f"JAX sees no {options.device} here ({jax.devices()[0]}): nothing was measured")
        sys.exit(2)
    kind = devices[0].device_kind
    peak = next((flops for name, flops in PEAKS.items() if name in kind), None)
    config = dataclasses.replace(
        TINY if options.tiny else HUGE,
        dtype="bfloat16",
        remat=options.remat,
        unroll=options.unroll,
    )
    print(*filter(None, (f"{kind}, JAX {jax.__version__}", have_torch(options.device))), sep="; ")
    if peak is None:
        print("no peak is known of this device: no MFU")
    if options.tiny:
        print("TINY encoders, a step a turn: these times mean nothing")
    print("\n| row | batch | ours, ms, MFU | PyTorch, ms, MFU | / ours", end=" ")
    print("| torch.compile, ms, MFU | / ours |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for row in table(config):
        if any(word in row.name for word in options.only):
            rows.append(measured(row, config, peak, options))
            print(line(rows[-1]), flush=True)
            gc.collect()
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": kind, "jax": jax.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
