"""The contrastive loss in all its forms, compiled for a TPU slice that is not there.

    python benchmarks/losses.py [--topology v5e:16x16] [--sizes 32768 262144 1048576] [--json FILE]

Value and gradient of both directions by both embeddings and the scale, with a weight a row, at
width 1024 in float32. "naive" is what people write: all keys gathered, all logits, differentiated.
Needs the TPU compiler (the `tpu` extra), and no TPU. Time is the compiler's own estimate of each
instruction's cycles, over the chip's clock; it counts neither what an exchange takes nor the branch
that only rows far from all others take (`streamed._of_piece`). The ideal is four matrix
products at the chip's peak. Exchanged are bytes that a device sends. Takes about three minutes.
"""

import argparse
import collections
import json
import pathlib
import re
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.losses import contrastive
from imagebind_jax.plan import aot_compile, hlo_schedule, tpu_topologies

WIDTH = 1024  # ImageBind's
FORMS = ("naive", *contrastive.LOSS_IMPLEMENTATIONS[1:])
ROWS = P(sharding.BATCH_AXES)


def naive(a, b, scale, weight):
    total = jax.lax.psum(jnp.sum(weight), sharding.BATCH_AXES)
    live = jax.lax.all_gather(weight, sharding.BATCH_AXES, tiled=True) > 0

    def one(query, key):
        key = jax.lax.all_gather(key, sharding.BATCH_AXES, tiled=True)
        logits = jnp.where(live[None, :], scale * query @ key.T, -jnp.inf)
        labels = jnp.arange(len(query)) + len(query) * jax.lax.axis_index(sharding.BATCH_AXES)
        positive = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits, axis=1) - positive

    rows = jnp.where(weight > 0, weight * (one(a, b) + one(b, a)), 0)
    return jax.lax.psum(jnp.sum(rows), sharding.BATCH_AXES) / total


def program(form: str):
    """(a, b, scale, weight) of one device -> (loss, gradient)."""

    def loss(a, b, scale, weight):
        if form == "naive":
            return naive(a, b, scale, weight)
        return contrastive.symmetric_info_nce(
            a, b, scale, weight=weight, axis_name=sharding.BATCH_AXES, form=form
        )[0]

    return jax.value_and_grad(loss, argnums=(0, 1, 2))


def measure(topology: str, devices: list, size: int, form: str) -> dict:
    """One form at one global batch: bytes, seconds and exchanged bytes, of one device."""
    mesh = sharding.make_mesh(devices=devices)
    run = jax.shard_map(
        program(form),
        mesh=mesh,
        in_specs=(ROWS, ROWS, P(), ROWS),
        out_specs=(P(), (ROWS, ROWS, P())),
    )

    def shape(spec, *shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    rows = shape(ROWS, size, WIDTH)
    chip, begun = tpu_topologies.chip_of_slice(topology), time.monotonic()
    said = {
        "size": size,
        "form": form,
        "ideal": 8 * size / len(devices) * size * WIDTH / chip.flops,
    }
    try:
        compiled = jax.jit(run).lower(rows, rows, shape(P()), shape(ROWS, size)).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = re.search(r"(?:temporaries \(|Used )([\d.]+)G", str(error))
        if not wanted:
            raise
        return said | {"does_not_fit": float(wanted[1]) * 2**30}
    read = hlo_schedule.read_schedule(compiled.as_text())
    exchanged: collections.Counter = collections.Counter()
    for each in read.collectives:
        exchanged[each.kind] += each.sent * each.runs
    taken = [each.cycles for each in read.operations if "/cond/branch" not in each.source]
    return said | {
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "seconds": sum(taken) / chip.clock,
        "exchanged": dict(exchanged),
        "compile_seconds": time.monotonic() - begun,
    }


def table(found: list[dict]) -> str:
    lines = [
        "| global batch | form | temporaries, MB | estimated, ms | ideal, ms | of naive | exchanged, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    naive = {each["size"]: each.get("seconds") for each in found if each["form"] == "naive"}
    for each in found:
        row = [f"{each['size']:,}", each["form"]]
        if "seconds" in each:
            base = naive.get(each["size"])
            sent = sum(each["exchanged"].values()) / 1e6
            row += [f"{each['temporaries'] / 1e6:,.1f}", f"{each['seconds'] * 1e3:.3g}"]
            row += [f"{each['ideal'] * 1e3:.3g}", f"{each['seconds'] / base:.2f}" if base else ""]
            row += [f"{sent:,.0f}"]
        else:
            row += [f"does not fit: {each['does_not_fit'] / 1e9:,.0f} GB", "", ""]
            row[-1:] = [f"{each['ideal'] * 1e3:.3g}", "", ""]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32_768, 262_144, 1_048_576])
    parser.add_argument(
        "--forms", nargs="+", default=FORMS, choices=("naive", *contrastive.LOSS_IMPLEMENTATIONS)
    )
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    try:
        devices = aot_compile.topology_devices(options.topology)
        found = []
        for size in options.sizes:
            for form in options.forms:
                found.append(measure(options.topology, devices, size, form))
                print(f"{size:,} {form}", file=sys.stderr)
    except UserError as error:
        print(f"losses.py: error: {error}", file=sys.stderr)
        return 2
    print(table(found))
    if options.json:
        options.json.write_text(
            json.dumps({"topology": options.topology, "found": found}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
