"""Checkpoints: bit for bit what was saved, on any devices; damage is found and stepped over."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.checkpointing.checkpointer import (
    Checkpointer,
    CheckpointError,
    CorruptCheckpointError,
    abstract_state,
    tree_checksums,
)
from imagebind_jax.distributed import sharding
from imagebind_jax.storage import checksummed

pytestmark = pytest.mark.jax
WIDTHS = (8, 2, 1)  # devices that share one copy


def state(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "params": {
            "w": jax.random.normal(keys[0], (64, 64)),
            "half": jax.random.normal(keys[1], (16, 8)).astype(jnp.bfloat16),
            "scale": jnp.float32(1.5),
        },
        "mu": jax.random.normal(keys[2], (256, 128)),
        "step": jnp.int32(seed),
    }


def place(tree, fsdp, devices=None):
    return sharding.ShardedStrategy(fsdp, devices).place(tree)


@pytest.fixture(autouse=True)
def split_small_arrays(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 64)


def bits(tree):
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def saved(folder, steps=(1,), **options):
    """A folder with `state(step)` at each step."""
    checkpoints = Checkpointer(folder, **options)
    for step in steps:
        checkpoints.save(step, state(step), {"config": {"seed": step}})
    checkpoints.close()
    return folder


@pytest.fixture
def opened(tmp_path):
    """A function that opens a folder's checkpoints, closed in the end."""
    kept = []

    def open_(folder=tmp_path / "run", **options):
        kept.append(Checkpointer(folder, **options))
        return kept[-1]

    yield open_
    for checkpoints in kept:
        checkpoints.close()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def biggest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# ---- the digest


def test_a_digest_is_the_same_however_the_arrays_are_split():
    wanted, finite = tree_checksums(state())
    assert finite
    assert set(wanted) == {"params/w", "params/half", "params/scale", "mu", "step"}
    assert wanted["params/w"].startswith("float32[64, 64]:")
    for fsdp in WIDTHS:
        placed = place(state(), fsdp)
        assert (placed["mu"].sharding.shard_shape(placed["mu"].shape) == (256, 128)) == (fsdp == 1)
        assert tree_checksums(placed) == (wanted, True)
    host = jax.tree.map(np.asarray, state())
    assert tree_checksums(jax.device_put(host, jax.devices()[3])) == (wanted, True)


def test_a_digest_is_another_for_any_other_array():
    w = np.asarray(jax.random.normal(jax.random.key(0), (64, 64)))
    flipped = w.copy()
    flipped.view(np.uint32)[17, 3] ^= 1
    sign = w.copy()
    sign[5, 5] = -sign[5, 5]
    swapped, columns = w[[1, 0, *range(2, 64)]], w[:, [1, 0, *range(2, 64)]]
    others = [w, flipped, sign, swapped, columns, w.T, w[::-1], np.roll(w, 1), w.reshape(32, 128)]
    assert len({tree_checksums({"w": jnp.asarray(other)})[0]["w"] for other in others}) == len(
        others
    )
    zeros = [jnp.zeros(3), -jnp.zeros(3), jnp.zeros(4), jnp.zeros(3, jnp.int32), jnp.zeros((3, 1))]
    assert len({tree_checksums({"w": zero})[0]["w"] for zero in zeros}) == len(zeros)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_digest_tells_what_is_not_finite(value):
    assert not tree_checksums({"a": jnp.ones(3), "b": jnp.ones(3).at[1].set(value)})[1]


# ---- save and restore


@pytest.mark.goal("G8")
@pytest.mark.parametrize("source", WIDTHS)
def test_any_placement_restores_into_any_other_bit_for_bit(source, opened, measured):
    checkpoints = opened()
    checkpoints.save(3, place(state(), source), {"config": {"seed": 0}})
    for target in WIDTHS:
        devices = jax.devices()[:1] if target == 1 else None
        like = abstract_state(place(state(9), target, devices))
        restored = checkpoints.restore(3, like)
        assert bits(restored) == bits(state())
        assert jax.tree.structure(restored) == jax.tree.structure(state())
        assert jax.tree.all(
            jax.tree.map(
                lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), restored, like
            )
        )
    measured("states in 8, 2 and 1 parts restored into each other: bit for bit")


def test_facts_are_kept_beside_the_state(opened):
    checkpoints = opened()
    checkpoints.save(3, state(), {"config": {"seed": 7, "pair": ["a", "b"], "fsdp": None}})
    meta = checkpoints.meta(3)
    assert meta["config"] == {"seed": 7, "pair": ["a", "b"], "fsdp": None}
    assert (meta["step"], meta["format"]) == (3, checkpointer.FORMAT)
    assert meta["digest"] == tree_checksums(state())[0]


def test_what_changes_after_the_save_is_not_saved(opened):
    checkpoints, tree = opened(), place(state(), 8)
    wanted = bits(tree)
    checkpoints.save(1, tree, {})
    tree = jax.jit(lambda t: jax.tree.map(lambda x: x * 0, t), donate_argnums=0)(
        tree
    )  # as training does
    assert bits(checkpoints.restore(1, abstract_state(tree))) == wanted


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_never_saved(value, opened):
    checkpoints = opened()
    checkpoints.save(1, state(), {})
    broken = state(2)
    broken["params"]["w"] = broken["params"]["w"].at[3, 3].set(value)
    with pytest.raises(CheckpointError, match="step 2 is not finite"):
        checkpoints.save(2, broken, {})
    checkpoints.close()
    assert checkpoints.steps() == [1]


def test_another_model_is_named_by_its_leaf(tmp_path, opened):
    saved(tmp_path / "run")
    checkpoints = opened()

    def message(change):
        like = state()
        change(like)
        with pytest.raises(CheckpointError) as raised:
            checkpoints.restore(1, abstract_state(like))
        assert not isinstance(raised.value, CorruptCheckpointError)
        return str(raised.value)

    shape = message(lambda like: like["params"].update(w=jnp.zeros((64, 32))))
    assert "params/w: float32[64, 64] saved, float32[64, 32] wanted" in shape
    dtype = message(lambda like: like["params"].update(w=jnp.zeros((64, 64), jnp.bfloat16)))
    assert "params/w" in dtype
    assert "extra: missing saved, float32[2] wanted" in message(
        lambda like: like.update(extra=jnp.zeros(2))
    )
    assert "mu: float32[256, 128] saved, none wanted" in message(lambda like: like.pop("mu"))
    assert "and 2 more" in message(
        lambda like: [like.pop(name) for name in ("mu", "params", "step")]
    )


def test_the_newest_two_stay_and_commits_are_told(tmp_path, opened):
    told = []
    run = tmp_path / "run"

    def committed(step):
        told.append((step, checkpointer.COMMITTED in os.listdir(run / str(step))))

    saved(run, (1, 2, 3, 4), keep=1, committed=committed)
    assert told == [(step, True) for step in (1, 2, 3, 4)]
    checkpoints = opened()
    assert checkpoints.steps() == [4, 3]
    assert bits(checkpoints.restore(3, abstract_state(state()))) == bits(state(3))
    assert bits(checkpoints.restore_newest(abstract_state(state()))[1]) == bits(state(4))


def test_a_folder_without_a_checkpoint_says_so(opened):
    with pytest.raises(FileNotFoundError):
        opened().restore_newest(abstract_state(state()))


# ---- damage


def newest(checkpoints):
    lines = []
    step, tree = checkpoints.restore_newest(abstract_state(state()), lines.append)
    assert bits(tree) == bits(state(step))
    assert all("\n" not in line for line in lines)
    return step, lines


def meta_file(folder, step):
    return next(p for p in (folder / str(step) / "meta").rglob("*") if b"digest" in p.read_bytes())


def test_bytes_that_read_well_but_are_others_are_found_by_the_digest(tmp_path, opened):
    folder = saved(tmp_path / "run", (1, 2))
    path = meta_file(folder, 2)
    good, bad = (tree_checksums(state(seed))[0]["params/w"] for seed in (2, 3))
    meta = json.loads(path.read_text().replace(good, bad))
    meta.pop("seal")
    path.write_text(json.dumps(checksummed.add_checksum(meta)))
    with pytest.raises(
        CorruptCheckpointError, match="1 leaves are not what was saved, first params/w"
    ):
        opened().restore(2, abstract_state(state()))


def test_all_damaged_is_one_error(tmp_path, opened):
    folder = saved(tmp_path / "run", (1, 2))
    for step in (1, 2):
        flip(biggest(folder / str(step)))
    lines = []
    with pytest.raises(CorruptCheckpointError, match="every checkpoint in"):
        opened().restore_newest(abstract_state(state()), lines.append)
    assert len(lines) == 2


def test_a_step_that_was_damaged_can_be_saved_again(tmp_path, opened):
    flip(biggest(saved(tmp_path / "run", (1, 2)) / "2"))
    checkpoints = opened()
    assert newest(checkpoints)[0] == 1
    checkpoints.save(2, state(2), {"config": {}})
    checkpoints.close()
    assert newest(opened()) == (2, [])
