"""Damaged checkpoints: exactly what was saved, or one line; never something else without a word."""

import errno
import gc
import json
import pathlib
import random
import shutil
from typing import Any

import goals
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from saver import bits, facts, state

from imagebind_jax.checkpointing import restore, step_dir
from imagebind_jax.checkpointing.checkpointer import (
    Checkpointer,
    CheckpointError,
    CorruptCheckpointError,
    abstract_state,
)
from imagebind_jax.checkpointing.step_dir import UnreadableCheckpointError
from imagebind_jax.storage import checksummed

FORMAT_1 = pathlib.Path(__file__).parents[1] / "golden" / "run_format_1"
KINDS = ("delete", "empty", "truncate", "append", "zero", "flip", "flip", "flip")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with steps 1 and 2."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    checkpoints = Checkpointer(folder)
    for step in (1, 2):
        checkpoints.save(step, state(step), facts(step))
    checkpoints.close()
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "run"))


def mutate(path, kind, chance):
    """Damages a file; another call with the same chance does the same."""
    content = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return
    at = chance.randrange(len(content) or 1)
    if kind == "empty":
        content.clear()
    elif kind == "truncate":
        del content[at:]
    elif kind == "append":
        content += chance.randbytes(chance.choice((1, 100)))
    elif kind == "zero":
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    elif content:
        content[at] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def outcome(read, expected):
    """Whether it is refused in one line; else it must be what was saved."""
    try:
        found = read()
    except CorruptCheckpointError as error:  # and no word of another model, version or disk
        assert str(error)
        assert "\n" not in str(error)
        return True
    assert found == expected
    return False


# ---- G4, G26: mutants


@pytest.mark.fuzz
@pytest.mark.goal("G4")
def test_a_damaged_file_gives_exact_values_or_one_line(run, capfd, measured):
    gc.freeze()  # so that what failed reads leave is collected in little time
    checkpoints, like, chance = Checkpointer(run), abstract_state(state(0)), random.Random(4)
    files = sorted(path for path in (run / "2").rglob("*") if path.is_file())
    expected = bits(state(2)), facts(2)["config"]
    refused, mutants = 0, goals.size(300, 5000)
    for number in range(mutants):
        path = files[number % len(files)]
        good = path.read_bytes()
        mutate(path, KINDS[number // len(files) % len(KINDS)], chance)
        refused += outcome(
            lambda: (bits(checkpoints.restore(2, like)), checkpoints.meta(2)["config"]), expected
        )
        path.write_bytes(good)
    gc.unfreeze()
    assert 0 < refused < mutants
    checkpoints.close()
    assert capfd.readouterr().err == ""
    measured(
        f"{mutants} mutants of {len(files)} files: {refused} refused in one line, "
        f"{mutants - refused} exact, 0 silent wrong loads"
    )


@pytest.mark.goal("G26")
def test_damaged_meta_is_what_was_saved_or_refused(run, measured):
    path, chance = run / "2" / "meta" / "metadata", random.Random(26)
    good, expected = path.read_bytes(), step_dir.read_meta(run / "2")
    refused, mutants = 0, goals.size(300, 5000)
    for number in range(mutants):
        mutate(path, KINDS[number % len(KINDS)], chance)
        refused += outcome(lambda: step_dir.read_meta(run / "2"), expected)
        path.write_bytes(good)
    assert refused > mutants / 2
    measured(f"{mutants} mutants of a checkpoint's meta: {refused} refused, the others exact")


# ---- G5: the one before


def biggest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.goal("G5")
def test_a_damaged_newest_is_told_in_one_line_and_the_one_before_used(run, measured):
    chance, like = random.Random(5), abstract_state(state(0))
    for kind in ("flip", "empty", "delete"):
        damaged = shutil.copytree(run, run.with_name(kind))
        mutate(biggest(damaged / "2" / "state" / "ocdbt.process_0"), kind, chance)
        checkpoints, lines = Checkpointer(damaged), []
        with pytest.raises(CorruptCheckpointError) as refused:
            checkpoints.restore_newest(like, lines.append, fallback=False)
        assert refused.value.code == 4
        assert (lines, checkpoints.steps()) == ([], [2, 1])
        step, found = checkpoints.restore_newest(like, lines.append)
        assert (step, bits(found), checkpoints.last) == (1, bits(state(1)), 1)
        assert len(lines) == 1
        assert lines[0].startswith("checkpoint 2: ")
        assert checkpoints.steps() == [1]  # the damaged one does not count among those to keep
        assert {each.name for each in damaged.iterdir()} == {"1", "2.damaged"}  # and is not lost
        checkpoints.close()
    measured("3 of 3: one line, the one before is used; without fallback refused with code 4")


# ---- what the system does not give out


STALE = 'ABORTED: Error opening "zarr" driver: Failed to open: "manifest.ocdbt": Stale file handle'


def failing(error, times):
    """Reads the arrays, but fails so often before."""
    read, left = restore._arrays, [error] * times

    def arrays(*arguments):
        if left:
            raise left.pop()
        return read(*arguments)

    return arrays


@pytest.mark.parametrize("error", [OSError(errno.EIO, "?"), ValueError(STALE)], ids=str)
def test_a_passing_error_is_waited_for(error, run, monkeypatch):
    monkeypatch.setattr(restore, "RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(restore, "_arrays", failing(error, 2))
    checkpoints, lines = Checkpointer(run), []
    step, found = checkpoints.restore_newest(abstract_state(state(0)), lines.append)
    assert (step, lines, bits(found)) == (2, [], bits(state(2)))
    checkpoints.close()


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "?"), ValueError(STALE), MemoryError()], ids=repr
)
def test_what_cannot_be_read_is_no_damage_and_stays(error, run, monkeypatch):
    monkeypatch.setattr(restore, "RETRY_DELAYS", (0.01, 0.01))
    monkeypatch.setattr(restore, "_arrays", failing(error, 99))
    checkpoints, lines = Checkpointer(run), []
    with pytest.raises(
        UnreadableCheckpointError, match=r"cannot be read \(.*start the same command"
    ) as end:
        checkpoints.restore_newest(abstract_state(state(0)), lines.append)
    assert (end.value.code, lines, checkpoints.steps()) == (1, [], [2, 1])
    checkpoints.close()


# ---- formats


def test_a_newer_format_says_so_and_is_not_stepped_over(run):
    path = run / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["seal"]
    newer = checksummed.add_checksum(meta | {"format": step_dir.FORMAT + 1})
    path.write_text(json.dumps(newer))
    checkpoints = Checkpointer(run)
    with pytest.raises(CheckpointError, match="written by a newer version") as refused:
        checkpoints.restore_newest(abstract_state(state(0)))
    assert not isinstance(refused.value, CorruptCheckpointError)
    checkpoints.close()


def test_a_flipped_bit_in_the_format_is_damage_and_no_newer_version(run):
    path = run / "2" / "meta" / "metadata"
    text = path.read_text()
    number = f'"format": {step_dir.FORMAT}'
    assert number in text
    checkpoints, lines = Checkpointer(run), []
    for other in ("1", "3", "6"):
        path.write_text(text.replace(number, f'"format": {other}'))
        with pytest.raises(CorruptCheckpointError):
            checkpoints.meta(2)
    assert checkpoints.restore_newest(abstract_state(state(0)), lines.append)[0] == 1
    assert len(lines) == 1
    checkpoints.close()


def test_meta_tells_the_versions_that_wrote_it(run):
    meta = step_dir.read_meta(run / "2")
    assert meta["versions"]["jax"] == jax.__version__
    assert {"imagebind-jax", "orbax-checkpoint"} <= meta["versions"].keys()


def test_a_target_without_placement_is_no_damage(run):
    checkpoints = Checkpointer(run)
    bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(0))
    with pytest.raises(TypeError, match="like has no sharding at "):
        checkpoints.restore_newest(bare)
    checkpoints.close()


def test_a_folder_under_another_step_is_refused(run):
    shutil.copytree(run / "2", run / "3")
    checkpoints, lines = Checkpointer(run), []
    assert checkpoints.restore_newest(abstract_state(state(0)), lines.append)[0] == 2
    assert len(lines) == 1
    checkpoints.close()


class OldState(struct.PyTreeNode):
    """As a train state was when format 1 was written."""

    step: Any
    params: Any
    opt_state: Any


class NewState(OldState):
    """A train state that has gained leaves."""

    health: Any = None


def format_1():
    """What was saved into golden/run_format_1, made again."""
    kernel = np.arange(24, dtype=np.float32).reshape(4, 6) / np.float32(7)
    params = {
        "image": {"kernel": jnp.asarray(kernel)},
        "logit_scale": jnp.float32(2.5),
        "half": jnp.arange(5, dtype=jnp.bfloat16),
    }
    optimizer = optax.adamw(1e-3)
    grads = jax.tree.map(lambda x: jnp.ones_like(x) / 3, params)
    updates, opt_state = optimizer.update(grads, optimizer.init(params), params)
    return OldState(jnp.int32(30), optax.apply_updates(params, updates), opt_state)


@pytest.fixture
def old(tmp_path):
    """Never write these files anew: runs of that format must go on for ever."""
    checkpoints = Checkpointer(shutil.copytree(FORMAT_1, tmp_path / "old") / "checkpoints")
    yield checkpoints
    checkpoints.close()


@pytest.mark.jax
def test_a_checkpoint_of_format_1_loads(old):
    like = abstract_state(format_1())
    step, found = old.restore_newest(like)
    assert step == 30
    assert jax.tree.structure(found) == jax.tree.structure(like)
    # Not bit for bit: other versions may round the optimizer's arithmetic in another way.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, format_1())
    assert old.meta(30)["config"] == {"seed": 7, "model.width": 6, "pairs": ["image", "text"]}


@pytest.mark.jax
def test_leaves_that_an_older_version_lacked_get_defaults_and_no_others(old):
    made = format_1()
    new = NewState(
        made.step, made.params, made.opt_state, {"skipped": jnp.int32(9), "mean": jnp.ones(3)}
    )
    like = abstract_state(new)
    with pytest.raises(CheckpointError, match="health/mean: missing saved, float32"):
        old.restore(30, like)
    found = old.restore(30, like, {"health": {"skipped": 0, "mean": np.full(3, 2.0)}})
    assert found.health["skipped"] == 0
    np.testing.assert_array_equal(found.health["mean"], np.full(3, 2.0))
    assert found.health["mean"].dtype == jnp.float32
    assert found.health["mean"].sharding == like.health["mean"].sharding
    assert bits(found.opt_state) == bits(old.restore(30, abstract_state(made)).opt_state)
    with pytest.raises(CheckpointError, match="logit_scale: float32.* saved, float32.2. wanted"):
        wrong = made.replace(params=made.params | {"logit_scale": jnp.ones(2)})
        old.restore(30, abstract_state(wrong), {"params": {"logit_scale": np.ones(2)}})
    # What is saved counts, and not a default.
    old.save(31, new, {"config": {}})
    found = old.restore(31, like, {"health": {"skipped": 0, "mean": np.zeros(3)}})
    assert bits(found) == bits(new)
