"""Steps that must not be taken: nothing moves by a bit, they are counted, and the next one is as ever."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed.device_view import DeviceView
from imagebind_jax.distributed.sharding import PmapStrategy, ShardedStrategy
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.losses import contrastive
from imagebind_jax.models.encoder import Encoder, EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.runtime import fault_injection
from imagebind_jax.training import gradients, injected_faults, replica_check, skip_step
from imagebind_jax.training import step as training_step

pytestmark = pytest.mark.jax
ROWS = 16
SMALL = {"width": 16, "depth": 1, "heads": 2}
PLACES = {"sharded": lambda: ShardedStrategy(4), "pmap": PmapStrategy}


class Nothing:
    """A source of a config whose batches are made here."""

    def open(self):
        return []


CONFIG = TrainConfig(
    model=ImageBindConfig(
        {
            "vision": EncoderConfig((8, 4), patch=(2,), **SMALL),
            "imu": EncoderConfig((8, 4), patch=(2,), logit_scale=5.0, learn_scale=True, **SMALL),
        },
        embed_dim=8,
    ),
    inputs={"vision": np.asarray, "imu": np.asarray},
    pairs=(ModalityPair(("vision", "imu"), Nothing()),),
    steps=1000,
    batch_size=ROWS,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    skip_spikes=6.0,
)
PAIR = "imu+vision"
# When each happens; those of the batch to one row of one device.
AT = {"nan_batch": 2, "inf_batch": 4, "nan_loss": 6, "nan_grad": 8, "inf_grad": 10, "spike": 12}
TEN = 15  # the first of ten steps in a row
ASKED = ";".join(f"kind={kind},step={step}" for kind, step in AT.items())


def make_batch(step):
    rng = np.random.default_rng(step)
    return {
        "vision": rng.standard_normal((ROWS, 8, 4), dtype=np.float32),
        "imu": rng.standard_normal((ROWS, 8, 4), dtype=np.float32),
        "weight": np.float32([1] * (ROWS - 1) + [0]),
    }


def on_host(tree):
    return jax.tree.map(np.array, tree)  # a step takes its buffers


def assert_same_bits(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def first_state():
    """With losses of 40 steps before, so that a spike is one."""
    state = jax.jit(lambda: training_step.create_state(CONFIG))()
    recent = np.zeros(skip_step.LOSS_WINDOW, np.float32)
    recent[:40] = np.random.default_rng(0).normal(2 * np.log(ROWS), 0.5, 40)
    seen = {"recent": {PAIR: recent}, "accepted": {PAIR: np.int32(40)}}
    return on_host(state.replace(health={**state.health, **seen}))


class Run:
    """Steps of one placement, each on the batch of its number, with the faults that are asked for."""

    def __init__(self, place):
        self.place, self.number = place, 0
        self.state = place.place(first_state())
        step = functools.partial(training_step.train_step, config=CONFIG)
        self.step = place.compile(step, self.state)
        self.comparison = replica_check.ReplicaCheck(place, self.state)

    def __call__(self):
        asked = fault_injection.requested_faults("nan_batch", "inf_batch")
        batch = injected_faults.inject_batch_fault(make_batch(self.number), self.number, asked)
        self.state, values = self.step(self.state, self.place.batch(batch))
        self.number += 1
        return {name: float(value) for name, value in values.items()}

    def whole(self):
        return on_host(self.place.gather(self.state))

    def agrees(self):
        """Whether all devices decided alike."""
        return self.comparison.find(self.state) is None


@pytest.mark.goal("G27")
@pytest.mark.parametrize("name", [pytest.param("pmap", marks=pytest.mark.variants), "sharded"])
def test_no_fault_moves_a_bit_and_the_next_step_is_as_ever(name, monkeypatch, measured):
    place = PLACES[name]()
    monkeypatch.setenv(fault_injection.ENV_VAR, f"{ASKED};kind=nan_grad,step={TEN},steps=10")
    run = Run(place)
    kinds, checked = {step: kind for kind, step in AT.items()}, 0
    states, numbers = [run.whole()], []
    while run.number < TEN:
        kind, before = kinds.get(run.number), states[-1]
        values, after = run(), run.whole()
        assert after.step == run.number
        if kind is None:
            assert values["skipped"] == values["skipped_in_a_row"] == 0
            moments = [state.opt_state["imu"][0].mu["position"] for state in (before, after)]
            assert not np.array_equal(*moments)
        else:
            assert values["skipped"] == values["skipped_in_a_row"] == 1, kind
            assert_same_bits((after.params, after.opt_state), (before.params, before.opt_state))
            assert_same_bits(after.health["recent"], before.health["recent"])
            assert run.agrees(), kind
            checked += 1
        assert values["skipped_steps"] == after.health["skipped"] == checked
        states.append(after)
        numbers.append(values)
    assert checked == len(AT)
    in_a_row = [run()["skipped_in_a_row"] for _ in range(11)]
    assert in_a_row == [*range(1, 11), 0]
    assert run.agrees()
    # Each step after a fault, by a program that knows none.
    monkeypatch.delenv(fault_injection.ENV_VAR)
    plain = Run(place)
    for step in AT.values():
        plain.number, plain.state = step + 1, place.place(states[step + 1])
        assert plain() == numbers[step + 1]
        assert_same_bits(plain.whole(), states[step + 2])
    measured(
        f"{name}: {checked} of {len(AT)} kinds ({', '.join(AT)}) leave the state bitwise as it was, "
        "are counted, and the next step is bitwise the usual one"
    )


def test_spikes_are_those_of_numpy():
    rng = np.random.default_rng(3)
    losses = np.float32(rng.normal(5, 0.1, 300) - 0.005 * np.arange(300))
    losses[rng.random(300) < 0.05] += 2
    losses[[10, 100]] = np.nan, np.inf
    judge = jax.jit(functools.partial(skip_step.should_apply_step, pair=PAIR, deviations=3.0))
    found, counters = [], skip_step.init_step_guard(dataclasses.replace(CONFIG, skip_spikes=3.0))
    wanted, recent = [], []
    for loss in losses:
        good, counters = judge(counters, jnp.float32(loss), jnp.float32(1.0))
        found.append(bool(good))
        few = len(recent) < skip_step.MIN_LOSSES
        usual = few or loss <= np.mean(recent) + 3 * np.std(recent)
        wanted.append(bool(np.isfinite(loss) and usual))
        recent = [*recent, *([loss] if wanted[-1] else [])][-skip_step.LOSS_WINDOW :]
    assert found == wanted
    assert 5 < counters["skipped"] == 300 - sum(wanted)
    assert all(found[:10]), "before there are enough losses none is a spike"
    assert counters["accepted"][PAIR] == sum(wanted) > skip_step.LOSS_WINDOW
    np.testing.assert_allclose(np.sort(counters["recent"][PAIR]), np.sort(recent))


def test_losses_that_hardly_differ_have_no_spikes():
    judge = jax.jit(functools.partial(skip_step.should_apply_step, pair=PAIR, deviations=3.0))
    counters = skip_step.init_step_guard(dataclasses.replace(CONFIG, skip_spikes=3.0))
    for loss in [5.0] * skip_step.MIN_LOSSES + [5.01, 5.014]:
        good, counters = judge(counters, jnp.float32(loss), jnp.float32(1.0))
        assert good
    assert not judge(counters, jnp.float32(5.05), jnp.float32(1.0))[0]


def test_a_gradient_that_is_no_number_is_enough_and_pairs_keep_to_themselves():
    counters = skip_step.init_step_guard(CONFIG)
    counters["recent"]["other"] = other = jnp.arange(3.0)
    good, after = skip_step.should_apply_step(
        counters, jnp.float32(1), jnp.float32(np.inf), PAIR, 6.0
    )
    assert not good
    assert after["skipped"] == after["in_a_row"] == 1
    assert after["accepted"][PAIR] == 0
    good, after = skip_step.should_apply_step(after, jnp.float32(1), jnp.float32(1), PAIR, 6.0)
    assert good
    assert (after["skipped"], after["in_a_row"], after["accepted"][PAIR]) == (1, 0, 1)
    assert after["recent"]["other"] is other
    assert skip_step.init_step_guard(dataclasses.replace(CONFIG, skip_spikes=0.0)).keys() == {
        "skipped", "in_a_row",
    }  # fmt: skip


def test_without_faults_the_program_is_the_one_without_the_hook(monkeypatch):
    place = ShardedStrategy(devices=jax.devices()[:1])
    state = place.place(first_state())

    def lowered():
        step = functools.partial(training_step.train_step, config=CONFIG)
        return place.compile(step, state).lower(state, place.batch(make_batch(0))).as_text()

    monkeypatch.setenv(
        fault_injection.ENV_VAR, "kind=kill,step=3;kind=nan_batch;kind=nan_loss,host=1"
    )
    unset = lowered()
    monkeypatch.setenv(fault_injection.ENV_VAR, "kind=nan_loss,step=3")
    assert lowered() != unset
    monkeypatch.delenv(fault_injection.ENV_VAR)
    monkeypatch.setattr(
        injected_faults, "inject_loss_grad_fault", lambda loss, gradient, step: (loss, gradient)
    )
    assert lowered() == unset


def test_a_batch_is_spoilt_in_one_number_that_counts():
    batch = make_batch(0)
    batch["weight"][0] = 0
    batch = {"text": np.ones((ROWS, 6), np.int32), **batch}
    [nan, inf] = (
        fault_injection.InjectedFault(kind, step=5) for kind in ("nan_batch", "inf_batch")
    )
    for fault, value in ((nan, np.nan), (inf, np.inf)):
        found = injected_faults.inject_batch_fault(batch, 5, [fault])
        [where] = np.argwhere(found["vision"] != batch["vision"])
        assert where[0] == 1
        np.testing.assert_equal(found["vision"][tuple(where)], np.float32(value))
        assert np.isfinite(batch["vision"]).all()
        assert all(found[name] is batch[name] for name in ("text", "imu", "weight"))
    for asked, step in (
        ([nan], 4),
        ([nan], 6),
        ([], 5),
        ([fault_injection.InjectedFault("bitflip", 5)], 5),
    ):
        assert all(
            x is batch[name]
            for name, x in injected_faults.inject_batch_fault(batch, step, asked).items()
        )
    with pytest.raises(UserError, match="nan_batch needs floats, not text"):
        injected_faults.inject_batch_fault(
            {"text": batch["text"], "weight": batch["weight"]}, 5, [nan]
        )


# ---- what must have a gradient


def gradient(params, batch, **changes):
    """(loss, gradient) of a batch on one device."""
    settings = dataclasses.replace(CONFIG, **changes)
    of_pair = functools.partial(gradients.pair_loss_and_grad, config=settings, device=DeviceView())
    loss, _, found = jax.jit(of_pair)(params, {}, batch, jax.random.key(0))
    return on_host((loss, found))


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("parts", [1, 4])
def test_rows_of_weight_0_may_hold_anything(parts):
    params, batch = first_state().params, make_batch(0)
    dead = batch["weight"] == 0
    zeros = {**batch, "imu": np.where(dead[:, None, None], 0, batch["imu"])}
    broken = {**batch, "imu": np.where(dead[:, None, None], np.float32(np.nan), batch["imu"])}
    found = gradient(params, broken, micro_batches=parts)
    assert all_finite(found)
    assert_same_bits(found, gradient(params, zeros, micro_batches=parts))


@pytest.mark.parametrize("form", contrastive.LOSS_IMPLEMENTATIONS)
def test_an_embedding_of_zeros_has_a_finite_gradient(form):
    """From the head to the loss; only the head learns then, as its outputs know no direction."""
    params = first_state().params
    params["imu"]["head"]["kernel"] = np.zeros_like(params["imu"]["head"]["kernel"])
    loss, found = gradient(params, make_batch(0), loss=form)
    assert loss == pytest.approx(2 * np.log(ROWS - 1), rel=1e-5)
    assert all_finite(found)
    assert np.abs(found["imu"]["head"]["kernel"]).max() > 0


@pytest.mark.parametrize(("log", "scale"), [(4.0, np.exp(4.0)), (1e4, 100.0), (-1e4, 0.0)])
def test_a_logit_scale_that_overflows_has_a_finite_gradient(log, scale):
    params = first_state().params
    params["imu"]["log_logit_scale"] = np.float32(log)
    encoder = Encoder(CONFIG.model.encoders["imu"], CONFIG.model.embed_dim)
    _, found = encoder.apply({"params": params["imu"]}, jnp.asarray(make_batch(0)["imu"]))
    assert found == pytest.approx(scale, rel=1e-6)
    loss, slopes = gradient(params, make_batch(0))
    assert np.isfinite(loss)
    assert all_finite(slopes)
