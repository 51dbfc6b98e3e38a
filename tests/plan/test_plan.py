"""Plans: what the compiler's text says, a model's operations, estimates, and the command around them."""

import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import pytest

from imagebind_jax.config import TrainConfig
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import Encoder, EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.plan import (
    aot_compile,
    flops,
    hlo_parser,
    hlo_schedule,
    hlo_traffic,
    roofline,
    step_estimate,
    sweep,
    table,
    tpu_topologies,
)

pytestmark = pytest.mark.jax

# Cut by hand from a program compiled for v5e:2x4: a loop of 5 layers, a kernel of ours, and an
# exchange that goes on inside of three fusions.
PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%fused_start (p0: f32[256,128]) -> (f32[256,16], f32[256,128], u32[]) {
  %p0 = f32[256,128]{1,0:T(8,128)} parameter(0)
  %all-gather.1 = f32[256,512]{1,0:T(8,128)} all-gather(%p0), channel_id=8, replica_groups=[2,4]<=[8], dimensions={1}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
  ROOT %start = (f32[256,16]{1,0}, f32[256,512]{1,0}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%fused_on (p1: f32[256,128]) -> f32[256,128] {
  %p1 = f32[256,128]{1,0:T(8,128)} parameter(0)
  %all-gather.2 = f32[256,512]{1,0:T(8,128)} all-gather(%p1), channel_id=8, replica_groups=[2,4]<=[8], dimensions={1}, backend_config={"async_collective_fusion_config":{"flag_start":"-1"}}
  ROOT %tanh.1 = f32[256,128]{1,0:T(8,128)} tanh(%p1)
}

%fused_slice (p2: bf16[5,256,256], p3: s32[]) -> bf16[256,256] {
  %p2 = bf16[5,256,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p3 = s32[]{:T(128)} parameter(1)
  ROOT %slice.1 = bf16[1,256,256]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p2, %p3), dynamic_slice_sizes={1,256,256}
}

%body (arg: (s32[], f32[128,256], bf16[5,256,256])) -> (s32[], f32[128,256], bf16[5,256,256]) {
  %arg = (s32[]{:T(128)}, f32[128,256]{1,0:T(8,128)S(1)}, bf16[5,256,256]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = f32[128,256]{1,0:T(8,128)S(1)} get-tuple-element(%arg), index=1
  %ws = bf16[5,256,256]{2,1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=2
  %w = bf16[256,256]{1,0:T(8,128)(2,1)S(1)} fusion(%ws, %i), kind=kLoop, calls=%fused_slice, backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-gather.9 = f32[1024,256]{1,0:T(8,128)S(1)} all-gather(%x), channel_id=1, replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}, dimensions={0}, metadata={op_name="jit(step)/while/body/gather"}
  %dot.1 = f32[1024,256]{1,0:T(8,128)S(1)} fusion(%all-gather.9, %w), kind=kOutput, calls=%none, metadata={op_name="jit(step)/while/body/dot_general"}, backend_config={"window_config":{"estimated_cycles":"1280"}}
  %scatter.1 = f32[128,256]{1,0:T(8,128)S(1)} reduce-scatter(%dot.1), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}, to_apply=%sum
  %next = s32[]{:T(128)} add(%i, %one)
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[128,256]{1,0:T(8,128)S(1)}, bf16[5,256,256]{2,1,0:T(8,128)(2,1)}) tuple(%next, %scatter.1, %ws)
}

%condition (arg.1: (s32[], f32[128,256], bf16[5,256,256])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %arg.1 = (s32[]{:T(128)}, f32[128,256]{1,0:T(8,128)S(1)}, bf16[5,256,256]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[128,256], b: bf16[5,256,256], c: f32[256,128]) -> f32[128,256] {
  %a = f32[128,256]{1,0:T(8,128)} parameter(0)
  %b = bf16[5,256,256]{2,1,0:T(8,128)(2,1)} parameter(1)
  %c = f32[256,128]{1,0:T(8,128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %copy-start = (f32[128,256]{1,0:T(8,128)S(1)}, f32[128,256]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %fusion.1 = (f32[256,16]{1,0}, f32[256,512]{1,0}, u32[]{:S(2)}) fusion(%c), kind=kLoop, calls=%fused_start
  %copy-done = f32[128,256]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion.2 = f32[256,128]{1,0:T(8,128)S(1)} fusion(%c), kind=kLoop, calls=%fused_on, backend_config={"window_config":{"estimated_cycles":"500"}}
  %expo = f32[128,256]{1,0:T(8,128)S(1)} custom-call(%copy-done), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/expo/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"32768","transcendentals":"7","bytes_accessed":"262144"}}}
  %tuple.2 = (s32[]{:T(128)}, f32[128,256]{1,0:T(8,128)S(1)}, bf16[5,256,256]{2,1,0:T(8,128)(2,1)}) tuple(%zero, %expo, %b)
  %while.1 = (s32[]{:T(128)}, f32[128,256]{1,0:T(8,128)S(1)}, bf16[5,256,256]{2,1,0:T(8,128)(2,1)}) while(%tuple.2), condition=%condition, body=%body
  %out = f32[128,256]{1,0:T(8,128)S(1)} get-tuple-element(%while.1), index=1
  ROOT %copy.1 = f32[128,256]{1,0:T(8,128)} copy(%out), backend_config={"window_config":{"estimated_cycles":"20"}}
}
"""
ROWS = 128 * 256 * 4  # bytes of what a device has in PROGRAM


# ---- the compiler's text


def test_cycles_count_as_often_as_their_loop_turns():
    found = hlo_schedule.read_schedule(PROGRAM)
    assert found.cycles == 5 * (100 + 1280) + 500 + 20
    assert found.unclear == 0


def test_every_exchange_is_found_once():
    found = {
        (each.kind, each.runs): each for each in hlo_schedule.read_schedule(PROGRAM).collectives
    }
    assert found.keys() == {("all-gather", 5), ("reduce-scatter", 5), ("all-gather", 1)}
    assert found["all-gather", 5].sent == 7 * ROWS  # of 8 devices, to each of the others
    assert found["reduce-scatter", 5].sent == 7 / 8 * 8 * ROWS
    spread = found["all-gather", 1]  # begins in one fusion, goes on in another
    assert spread.hidden and spread.sent == 3 * 256 * 128 * 4
    assert not found["all-gather", 5].hidden


def test_a_kernel_of_ours_says_what_it_needs():
    (kernel,) = hlo_schedule.read_schedule(PROGRAM).kernels
    assert kernel.stated and kernel.runs == 1
    assert (kernel.flops, kernel.bytes, kernel.transcendentals) == (32768, 262144, 7)
    silent = hlo_schedule.read_schedule(PROGRAM.replace('"cost_estimate"', '"other"')).kernels[0]
    assert not silent.stated and silent.bytes == 2 * ROWS


def test_traffic_is_of_main_memory_and_of_the_part_that_is_read():
    layer = 256 * 256 * 2
    # Each turn one of five layers; c twice, what was gathered of it; a in and the result out.
    gathered = 256 * 512 * 4 + 256 * 16 * 4
    assert (
        hlo_schedule.read_schedule(PROGRAM).traffic
        == 5 * layer + 2 * (256 * 128 * 4) + gathered + 2 * ROWS
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, 5),
        ({"constant(5)": "constant(7)"}, 7),
        ({"direction=LT": "direction=LE"}, 6),
        ({"%zero = s32[]{:T(128)} constant(0)": "%zero = s32[]{:T(128)} constant(2)"}, 3),
        ({"%one = s32[]{:T(128)} constant(1)": "%one = s32[]{:T(128)} constant(2)"}, 3),
        ({"compare(%i.1, %limit)": "custom(%i.1, %limit)"}, 0),
    ],
)
def test_how_often_a_loop_turns(change, wanted):
    text = PROGRAM
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    computations, entry = hlo_parser.parse_hlo(text)
    around = computations[entry]
    assert hlo_schedule.trip_count(computations, around, around["while.1"]) == wanted
    assert hlo_schedule.read_schedule(text).unclear == (wanted == 0)


@pytest.mark.parametrize(
    ("shape", "plain", "padded"),
    [
        ("f32[3,5]{1,0:T(8,128)}", 60, 8 * 128 * 4),
        ("bf16[2048,229,48]{0,2,1:T(8,128)(2,1)}", 2048 * 229 * 48 * 2, 2048 * 229 * 48 * 2),
        ("bf16[257,80]{1,0:T(8,128)(2,1)}", 257 * 80 * 2, 264 * 128 * 2),
        ("pred[7]{0:T(512)}", 7, 512),
        ("s32[]{:T(128)}", 4, 4),
        ("(f32[2]{0}, u8[3]{0}, token[])", 11, 11),
    ],
)
def test_bytes_of_a_shape(shape, plain, padded):
    assert hlo_parser.shape_bytes(shape) == plain
    assert hlo_parser.shape_bytes(shape, padded=True) == padded
    assert hlo_parser.shape_bytes(shape.replace(")}", ")S(1)}"), only_hbm=True) in (0, plain)


def test_an_update_writes_its_part():
    text = """\
%fused (p0: f32[9,8,128], p1: f32[1,8,128], p2: s32[]) -> f32[9,8,128] {
  %p0 = f32[9,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %u = f32[9,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%p0, %p1, %p2)
}

ENTRY %main (a: f32[9,8,128], b: f32[1,8,128], i: s32[]) -> f32[9,8,128] {
  %a = f32[9,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)S(4)} parameter(2)
  ROOT %f = f32[9,8,128]{2,1,0:T(8,128)} fusion(%a, %b, %i), kind=kLoop, calls=%fused
}
"""
    computations, entry = hlo_parser.parse_hlo(text)
    main = computations[entry]
    assert hlo_traffic.hbm_bytes(computations, main, main["f"]) == 2 * 8 * 128 * 4


# ---- operations of a model

WIDE = EncoderConfig((16, 16, 3), width=64, depth=1, heads=4, patch=(4, 4))
LONG = EncoderConfig((512, 2), width=64, depth=1, heads=1, patch=(2,), bias_kv=True)
FLAT = EncoderConfig((64, 64, 3), width=64, depth=1, heads=1, patch=(32, 32), mlp_ratio=0.25)
TEXT = EncoderConfig((32,), width=64, depth=1, heads=4, vocab_size=100, lora=("qkv",), lora_rank=32)


@pytest.mark.parametrize("encoder", [WIDE, LONG, FLAT, TEXT])
def test_the_operations_of_an_encoder_are_xlas(encoder):
    """Products make up nearly all of what XLA counts; each case makes another term of them large."""
    module = Encoder(encoder, embed_dim=512)
    x = jnp.zeros((4, *encoder.shape), jnp.int32 if encoder.vocab_size else jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    compiled = jax.jit(module.apply).lower(params, x).compile()
    cost = compiled.cost_analysis()
    ours, theirs = 4 * flops.forward_flops(encoder, 512), cost["flops"]
    assert ours <= theirs < 1.25 * ours


def test_a_hidden_layer_before_the_head_costs_its_product():
    hidden = dataclasses.replace(WIDE, mlp_head=True)
    assert flops.forward_flops(hidden, 512) - flops.forward_flops(WIDE, 512) == 2 * 64 * 64


@dataclasses.dataclass(frozen=True)
class Closed:
    """A source that must not be opened."""

    def open(self):
        raise AssertionError("a plan opens no records")


@dataclasses.dataclass(frozen=True)
class Never:
    def __call__(self, record, rng):
        raise AssertionError("a plan makes no inputs")


def config(frozen=(), **fields):
    encoder = EncoderConfig((8, 4), width=64, depth=2, heads=4, patch=(2,))
    return TrainConfig(
        model=ImageBindConfig({"vision": encoder, "imu": encoder}, embed_dim=16),
        inputs={"vision": Never(), "imu": Never()},
        pairs=(ModalityPair(("vision", "imu"), Closed()),),
        steps=2,
        optimizer=OptimizerConfig(frozen=frozen),
        **{"batch_size": 16} | fields,
    )


def test_a_frozen_tower_costs_one_pass_and_a_trained_one_three():
    one = 16 * flops.forward_flops(config().model.encoders["imu"], 16)
    product = 2 * 16 * 16 * 16
    for frozen, passes, products in (((), 6, 3), (("vision/",), 4, 2)):
        settings = config(frozen)
        shares = flops.trainable_fraction(settings)
        assert (
            flops.train_step_flops(settings, ("vision", "imu"), shares)
            == passes * one + products * product
        )


def test_a_tower_trained_in_part_lies_between():
    settings = config(("vision/(?!head)",))
    share = flops.trainable_fraction(settings)["vision"]
    assert 0 < share < 0.1
    whole = flops.train_step_flops(settings, ("vision", "imu"), {"vision": 1.0, "imu": 1.0})
    part = flops.train_step_flops(settings, ("vision", "imu"), flops.trainable_fraction(settings))
    assert whole / 2 < part < whole


# ---- estimates


def test_times_add_up_and_what_is_hidden_does_not():
    chip = tpu_topologies.Chip("round", 1e9, 1e9, 1e6, 1e6, 1e6, "")
    found = roofline.estimate_step(hlo_schedule.read_schedule(PROGRAM), chip, flops=1e6)
    assert found.computing == pytest.approx((5 * 1380 + 520) / 1e6)
    assert found.kernels == pytest.approx(262144 / 1e6)  # by its bytes, which take longer
    assert found.waiting == pytest.approx(5 * 14 * ROWS / 1e6)
    assert found.hidden == pytest.approx(3 * 256 * 128 * 4 / 1e6)
    assert found.seconds == pytest.approx(found.computing + found.kernels + found.waiting)
    assert found.utilisation == pytest.approx(1e-3 / found.seconds)
    assert found.bound == "network"
    assert {kind: each["runs"] for kind, each in found.collectives.items()} == {
        "all-gather": 6,
        "reduce-scatter": 5,
    }
    names = [row["of"] for row in found.slowest]
    assert {"expo/pallas_call", "dot_general"} <= set(names)


def numbers(seconds=1.0, gb=1.0):
    chip = tpu_topologies.CHIPS["v5e"]
    found = dataclasses.replace(
        roofline.estimate_step(hlo_schedule.read_schedule(PROGRAM), chip, 1e12), computing=seconds
    )
    return table.pair_report(
        aot_compile.CompiledStep("", {"parameters": gb * 1e9}, 3.0), found, chip
    )


def test_the_table_says_whether_it_fits_and_what_to_do():
    for gb, words in (
        (4.0, "fits, with 75% of the memory to spare"),
        (15.0, "only 6% of the memory to spare, and 20% are wise: try a thing"),
        (17.0, "does not fit: try a thing"),
    ):
        pairs = {"vision+imu": numbers(gb=gb)}
        plan = {
            "topology": "v5e:4x4",
            "devices": 16,
            "chip": dataclasses.asdict(tpu_topologies.CHIPS["v5e"]),
            "batch_size": 2048,
            "pairs": pairs,
            "run": table.run_report(
                pairs, {"vision+imu": 1.0}, tpu_topologies.CHIPS["v5e"], rows=2048, devices=16
            ),
            "remedy": "try a thing",
        }
        text = "\n".join(table.format_plan(plan))
        assert words in text and "128 rows a device" in text and "never run" in text
        json.dumps(plan)


def test_a_run_is_the_mean_of_its_pairs_by_weight():
    pairs = {"a": numbers(1.0), "b": numbers(3.0)}
    chip = tpu_topologies.CHIPS["v5e"]
    run = table.run_report(pairs, {"a": 3.0, "b": 1.0}, chip, rows=100, devices=16)
    assert run["seconds"] == pytest.approx(1.5, rel=1e-2)
    assert run["samples_per_second"] == pytest.approx(100 / 1.5, rel=1e-2)
    assert run["utilisation"] == pytest.approx(1e12 / 197e12 / 1.5, rel=1e-2)


def test_the_programs_of_all_pairs_stay_on_the_devices():
    pairs = {name: {**numbers(), "memory": {"program": 2e9, "total": 5e9}} for name in "abc"}
    run = table.run_report(pairs, dict.fromkeys("abc", 1.0), tpu_topologies.CHIPS["v5e"], 100, 16)
    assert run["memory"] == 3e9 + 3 * 2e9 and run["fits_with_room"]


# ---- slices


def test_slices_have_their_devices():
    counts = {name: tpu_topologies.device_count(name) for name in tpu_topologies.SLICES}
    assert counts["v5e:16x16"] == 256 and counts["v5p:8x8x16"] == 1024 and counts["v6e:4x4"] == 16
    assert counts["v4:4x4x4"] == 128  # of 64 chips with two cores each
    assert {
        tpu_topologies.chip_of_slice(name).name for name in counts
    } == tpu_topologies.CHIPS.keys()


@pytest.mark.parametrize(
    ("name", "near"), [("v5e:4x5", "v5e:4x4"), ("v5:16x16", "v5e:16x16"), ("x", "v6e:16x16")]
)
def test_an_unknown_slice_names_the_nearest(name, near):
    with pytest.raises(UserError, match=f"no TPU slice '{name}'.*{near}"):
        tpu_topologies.chip_of_slice(name)


# ---- the step that is compiled


def test_a_step_is_compiled_without_opening_a_source():
    settings = config(("vision/",), batch_size=4)
    compiled = aot_compile.compile_step(settings, settings.pairs[0], jax.devices()[:2])
    assert "HloModule" in compiled.text and compiled.seconds > 0
    rows = 2 * (2 * 8 * 4 + 1) * 4  # of a device: two, each twice 8 x 4, and a weight
    assert compiled.memory["batch and the next one"] == 2 * rows
    of_one = math.ceil(compiled.memory["moments"] / 2)
    assert 0 < of_one < compiled.memory["parameters"]  # one tower of two is trained


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 12}, "batch_size 12 is not divisible by 8 devices"),
        ({"parallel": "pmap"}, "--parallel sharded"),
        ({"micro_batches": 4}, "micro_batches 4 does not divide the 2 rows"),
    ],
)
def test_what_cannot_run_there(fields, words):
    with pytest.raises(UserError, match=words):
        aot_compile.check_plannable(config(**fields), 8)


def test_what_does_not_fit_says_how_much_and_what_to_change():
    said = RuntimeError("RESOURCE_EXHAUSTED: ... Used 34.22G of 15.75G hbm. Exceeded by 18.47G.")
    error = aot_compile._not_compiled(said, config(batch_size=64, fsdp=2), 8)
    assert isinstance(error, aot_compile.OutOfMemoryError)
    assert (error.wanted, error.there) == (34.22 * 2**30, 15.75 * 2**30)
    for words in ("36.7 GB", "16.9 GB", "--model.remat full", "--micro-batches 2", "--fsdp 8"):
        assert words in str(error)
    temporaries = (
        "the total memory required for HLO temporaries (17.10G) exceeds available HBM (15.75G)."
    )
    error = aot_compile._not_compiled(RuntimeError(temporaries), config(), 8)
    assert (error.wanted, error.there) == (17.10 * 2**30, 15.75 * 2**30)
    other = RuntimeError("INTERNAL")
    assert aot_compile._not_compiled(other, config(), 8) is other


# ---- sweeps


def test_a_sweep_keeps_the_fastest_that_fits(monkeypatch):
    """Remat as it is, in 4 parts: as stated below; each field is tried from the best before it."""

    def of_pair(config, pair, topology, devices):
        seconds = {"none": 1.0, "full": 2.0}.get(config.model.remat, 4.0) * config.batch_size
        if config.micro_batches == 1 and config.model.remat == "none":
            raise aot_compile.OutOfMemoryError("does not fit: 17 GB; try less", 17e9, 16e9)
        return numbers(seconds, gb=14.0 if config.batch_size > 64 else 4.0)

    monkeypatch.setattr(step_estimate, "plan_pair", of_pair)
    lines = []
    settings = config(batch_size=64)
    fields = ["micro_batches", "model.remat", "batch_size"]
    found = sweep.sweep(settings, "v5e:2x4", list(range(8)), fields, lines.append)
    best = found["best"]["settings"]
    assert best["micro_batches"] > 1 and best["model.remat"] == "none"
    assert best["batch_size"] <= 64  # twice that is as fast, and leaves too little room
    assert any("does not fit" in line for line in lines) and "min left" in lines[1]
    assert lines[-1].splitlines()[-1].startswith("fastest that fits: ")
    json.dumps(found)


def test_a_sweep_of_a_field_it_does_not_know():
    with pytest.raises(UserError, match="--sweep steps: not one of .*batch_size"):
        sweep.sweep(config(), "v5e:2x4", [], ["steps"])


# ---- the command

CONFIG = """
from test_plan import config as get_config
"""


@pytest.fixture
def file(tmp_path, monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


def test_mistakes(mistake, file):
    assert "imagebind-jax plan CONFIG.py" in mistake("plan")
    assert "plan needs --topology" in mistake("plan", file)
    assert "v5e:4x4" in mistake("plan", file, "--topology", "v5e:4x5")
    assert "--batchsize" in mistake("plan", file, "--topology", "v5e:2x4", "--batchsize", "3")
    if importlib.util.find_spec("libtpu") is None:
        assert "pip install" in mistake("plan", file, "--topology", "v5e:2x4")


def test_a_plan_by_the_tpus_compiler(file, tmp_path, capsys):
    """The whole way, on a program of seconds; only where the compiler is installed."""
    pytest.importorskip("libtpu")
    from imagebind_jax import cli

    there = tmp_path / "plan.json"
    assert cli.main(["plan", str(file), "--topology", "v5e:2x4", "--json", str(there)]) == 0
    assert "compiled for the slice and never run" in capsys.readouterr().out
    plan = json.loads(there.read_text())
    pair = plan["pairs"]["vision+imu"]
    assert plan["run"]["fits_with_room"] and pair["unclear"] == 0
    assert pair["computing"] > 0 and pair["collectives"]
