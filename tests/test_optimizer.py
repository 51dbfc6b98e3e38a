"""The optimizer: what must not move does not move by a bit, and what moves does as AdamW says."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from imagebind_jax import optimizer
from imagebind_jax.errors import UserError
from imagebind_jax.optimizer import OptimizerConfig

pytestmark = pytest.mark.jax

CONFIG = OptimizerConfig(clip_norm=1e9)


def tower(seed):
    keys = iter(jax.random.split(jax.random.key(seed), 4))
    return {
        "stem": {"kernel": jax.random.normal(next(keys), (3, 4))},
        "position": jax.random.normal(next(keys), (5, 4)),
        "trunk": {"norm": {"scale": jnp.ones(4), "bias": jax.random.normal(next(keys), (4,))}},
        "log_logit_scale": jnp.float32(2.0),
    }


@pytest.fixture
def params():
    return {"vision": tower(0), "audio": tower(1), "imu": tower(2)}


def like(tree, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), tree)


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def step(config, params, grads, state=None, rate=0.1):
    """One step as training does it: only the towers that have gradients are handed over."""
    state = optimizer.init(config, params) if state is None else state
    trained, frozen = optimizer.split_frozen({t: params[t] for t in grads}, config)
    grads, _ = optimizer.split_frozen(grads, config)
    new, state, norm = optimizer.update(config, grads, state, trained, jnp.float32(rate))
    return params | optimizer.merge_params(frozen, new), state, norm


def test_absent_towers_and_their_moments_do_not_move_by_a_bit(params):
    grads = {name: like(params[name], 0.5) for name in params}
    params, state, _ = step(CONFIG, params, grads)  # so that all have momentum
    present = {name: grads[name] for name in ("vision", "audio")}
    after, new, _ = step(CONFIG, params, present, state)
    assert_same_bits(after["imu"], params["imu"])
    assert_same_bits(new["imu"], state["imu"])
    for name in present:
        assert float(jnp.abs(after[name]["position"] - params[name]["position"]).min()) > 0
        assert new[name][0].count == 2
    assert new["imu"][0].count == 1  # the bias correction counts a tower's own steps


def test_frozen_parameters_do_not_move_and_have_no_state(params):
    config = OptimizerConfig(frozen=("vision/", r".*/trunk/norm/(scale|bias)"))
    grads = {name: like(params[name], 0.5) for name in ("vision", "audio")}
    after, state, _ = step(config, params, grads)
    assert_same_bits(after["vision"], params["vision"])
    assert_same_bits(after["audio"]["trunk"], params["audio"]["trunk"])
    assert float(jnp.abs(after["audio"]["position"] - params["audio"]["position"]).min()) > 0
    assert set(state) == {"audio", "imu"}
    assert set(state["audio"][0].mu) == {"stem", "position", "log_logit_scale"}
    assert jax.tree.structure(after) == jax.tree.structure(params)


def test_a_rule_matches_from_the_start_of_the_path(params):
    trained, frozen = optimizer.split_frozen(params, OptimizerConfig(frozen=("stem", "imu")))
    assert set(trained) == {"vision", "audio"}
    assert set(frozen) == {"imu"}


def test_split_and_merge_are_inverse(params):
    rules = (r"audio/stem", r".*/position")
    trained, frozen = optimizer.split_frozen(params, OptimizerConfig(frozen=rules))
    assert_same_bits(optimizer.merge_params(trained, frozen), params)
    assert len(jax.tree.leaves(frozen)) == 4
    assert len(jax.tree.leaves(trained)) == len(jax.tree.leaves(params)) - 4


def test_weight_decay_shrinks_kernels_and_nothing_else(params):
    config = OptimizerConfig(weight_decay=0.2)
    after, _, _ = step(config, params, {"audio": like(params["audio"], 0.0)}, rate=0.5)
    found, before = after["audio"], params["audio"]
    np.testing.assert_allclose(found["stem"]["kernel"], 0.9 * before["stem"]["kernel"], rtol=1e-6)
    for tree in (found, before):
        del tree["stem"]
    assert_same_bits(found, before)


def test_clipping_divides_a_gradient_of_norm_10_by_10(params):
    config = OptimizerConfig(
        clip_norm=1.0, weight_decay=0.0, epsilon=1.0
    )  # Adam is not scale-free here
    grads = {name: like(params[name], 1.0) for name in ("vision", "audio")}
    norm = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)) ** 0.5  # over both towers
    grads = jax.tree.map(lambda g: 10 * g / norm, grads)
    clipped, state, found = step(config, params, grads)
    assert found == pytest.approx(10, rel=1e-6)
    tenth = jax.tree.map(lambda g: g / 10, grads)
    wanted, wanted_state, found = step(config, params, tenth)
    assert found == pytest.approx(1, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), clipped, wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state, wanted_state)
    unclipped, _, _ = step(
        OptimizerConfig(clip_norm=11.0, weight_decay=0.0, epsilon=1.0), params, grads
    )
    assert (
        float(jnp.abs(unclipped["audio"]["position"] - clipped["audio"]["position"]).min()) > 1e-3
    )


def test_the_gradients_norm_is_that_of_all_its_numbers(params):
    grads = {"audio": jax.tree.map(jnp.zeros_like, params["audio"])}
    grads["audio"]["position"] = grads["audio"]["position"].at[0, 0].set(3)
    grads["audio"]["log_logit_scale"] = jnp.float32(-4)
    assert step(CONFIG, params, grads)[2] == pytest.approx(5)


def test_steps_are_those_of_optax_adamw(params):
    config = OptimizerConfig(weight_decay=0.3, beta1=0.8, beta2=0.9, epsilon=1e-6, clip_norm=1e9)
    wanted = {"audio": params["audio"]}
    adamw = optax.adamw(0.1, 0.8, 0.9, 1e-6, weight_decay=0.3, mask=optimizer.weight_decay_mask)
    wanted_state, state = adamw.init(wanted), None
    for seed in range(3):
        grads = {"audio": tower(10 + seed)}
        updates, wanted_state = adamw.update(grads, wanted_state, wanted)
        wanted = optax.apply_updates(wanted, updates)
        params, state, _ = step(config, params, grads, state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        params["audio"],
        wanted["audio"],
    )


def test_a_learned_temperature_moves_faster_by_its_rate_and_nothing_else_does(params):
    params = {name: {**leaves, "logit_bias": jnp.float32(-4.0)} for name, leaves in params.items()}
    grads = {name: like(params[name], 0.5) for name in ("vision", "audio")}
    plain, _, _ = step(CONFIG, params, grads)
    fast, _, _ = step(OptimizerConfig(clip_norm=1e9, scale_rate=30.0), params, grads)
    for name in grads:
        for scale in ("log_logit_scale", "logit_bias"):
            moved = [float(after[name].pop(scale) - params[name][scale]) for after in (plain, fast)]
            assert moved[0] and moved[1] == pytest.approx(30 * moved[0], rel=1e-4)
        assert_same_bits(plain[name], fast[name])


def test_the_schedule_is_known_at_its_corners():
    config = OptimizerConfig(learning_rate=0.8, warmup_steps=10, final_fraction=0.25)
    schedule = optimizer.learning_rate(config, 110)
    for at, value in ((0, 0.0), (5, 0.4), (10, 0.8), (60, 0.5), (110, 0.2), (200, 0.2)):
        assert schedule(at) == pytest.approx(value, rel=1e-5), at
    rates = [float(schedule(i)) for i in range(111)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_run_shorter_than_its_warm_up_still_learns(steps):
    schedule = optimizer.learning_rate(OptimizerConfig(learning_rate=1.0, warmup_steps=500), steps)
    rates = [float(schedule(i)) for i in range(steps)]
    assert max(rates) == pytest.approx(1.0)
    assert np.isfinite(rates).all()


@pytest.mark.parametrize("field", ["learning_rate", "clip_norm", "epsilon", "scale_rate"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_mistakes_are_named(field, value):
    with pytest.raises(UserError, match=rf"{field} must be > 0, got {value}"):
        OptimizerConfig(**{field: value})


@pytest.mark.parametrize(
    "mistake",
    [{"warmup_steps": -1}, {"weight_decay": -0.1}, {"beta2": 1.0}, {"frozen": ("vision/(",)}],
)
def test_mistakes_are_found_at_the_door(mistake):
    with pytest.raises(UserError, match=next(iter(mistake))):
        OptimizerConfig(**mistake)
