"""Compiled programs are kept in a folder that only the user can write, JAX's own settings first."""

import contextlib
import os
import stat
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from imagebind_jax.runtime import compilation_cache as program_cache

pytestmark = pytest.mark.jax
DAMAGED = 20  # programs
JAXS_OWN = {  # settings, as they are where no variable is set
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 1.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
EVENTS = ("/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """JAX as it is without variables, before and after."""
    ours = {name: getattr(jax.config, name) for name in JAXS_OWN}
    for name, value in JAXS_OWN.items():
        monkeypatch.delenv(name.upper())
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    assert {name: getattr(jax.config, name) for name in JAXS_OWN} == JAXS_OWN
    for name, value in ours.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def said():
    return []


@pytest.fixture
def every_program(monkeypatch):
    """However quickly it is compiled."""
    monkeypatch.setitem(program_cache.SETTINGS, "jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def counted():
    """How often a program was (found, looked for in vain)."""
    seen, found = [], []

    def listener(event, **_):
        seen.append(event)

    jax.monitoring.register_event_listener(listener)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(listener)
        found += [seen.count(event) for event in EVENTS]


def program(x):
    return jnp.tanh(x) * 3 + x


def run():
    """The program's result, compiled anew as in another process."""
    jax.clear_caches()
    return jax.jit(program)(jnp.arange(4.0)).tolist()


def test_a_program_is_compiled_once(cache, said, every_program):
    with program_cache.persistent_compilation_cache(said.append), counted() as first:
        wanted = run()
    assert [path for path in (cache / "compiled").iterdir() if "program" in path.name]
    with program_cache.persistent_compilation_cache(said.append), counted() as second:
        assert run() == wanted
    assert first[0] == 0
    assert first[1] >= 1
    assert second[0] >= 1
    assert second[1] == 0
    assert not said


def test_nothing_is_kept_outside_the_block(cache, said, every_program):
    with program_cache.persistent_compilation_cache(said.append):
        pass
    run()
    assert not list((cache / "compiled").iterdir())


def test_what_is_quickly_compiled_is_not_kept(cache, said, monkeypatch):
    # Whatever else this machine does: a hundredth of a second can take a tenth.
    monkeypatch.setitem(program_cache.SETTINGS, "jax_persistent_cache_min_compile_time_secs", 60.0)
    with program_cache.persistent_compilation_cache(said.append):
        run()
    assert not list((cache / "compiled").iterdir())


def damaged(content, number):
    """Cut, emptied, with bytes changed, of zeros, or with what does not belong there."""
    rng, made = np.random.default_rng(number), bytearray(content)
    at = int(rng.integers(len(made)))
    match number % 6:
        case 0:
            del made[at:]
        case 1:
            made[at] ^= 1 << int(rng.integers(8))
        case 2:
            made[at : at + 100] = rng.bytes(len(made[at : at + 100]))
        case 3:
            made[:] = bytes(len(made))
        case 4:
            del made[at : at + 9]
        case 5:
            made[:at] = rng.bytes(at + 1)
    return bytes(made)


@pytest.mark.goal("G30")
def test_a_damaged_program_is_compiled_again(cache, said, every_program, measured):
    with program_cache.persistent_compilation_cache(said.append):
        wanted = run()
    good = {path: path.read_bytes() for path in programs(cache)}
    assert good
    again = 0
    for number in range(DAMAGED):
        changed = {path: damaged(content, number) for path, content in good.items()}
        for path, content in changed.items():
            path.write_bytes(content)
        with program_cache.persistent_compilation_cache(said.append):
            assert run() == wanted
        if said:
            (line,) = said
            assert line.endswith("is damaged: compiled again")
            again += 1
            said.clear()
        assert changed == good or again == number + 1
        with (
            program_cache.persistent_compilation_cache(said.append),
            counted() as found,
        ):  # it is whole again
            assert run() == wanted
        assert found[0] >= 1 and not said
    measured(f"{DAMAGED} of {DAMAGED} damaged entries: the same result, {again} compiled again")


def test_of_a_large_program_each_flip_is_noticed(tmp_path, said):
    """Whatever JAX packs it with: zstandard, where it is installed, has no checksum."""
    folder = program_cache.open_private_dir(tmp_path / "compiled")
    kept = program_cache.VerifiedCompilationCache(folder, said.append)
    program = np.random.default_rng(0).bytes(5000)
    kept.put("a", program)
    assert kept.get("a") == program
    assert kept.get("b") is None and not said
    [path] = folder.iterdir()
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert kept.get("a") is None
        assert not path.exists()
    assert len(said) == 1  # and not a line for each


def programs(cache):
    return [path for path in (cache / "compiled").iterdir() if path.name.endswith("-cache")]


def test_settings_of_the_user_go_first(cache, said, tmp_path, monkeypatch):
    theirs = str(tmp_path / "theirs")
    jax.config.update("jax_compilation_cache_dir", theirs)
    try:
        with program_cache.persistent_compilation_cache(said.append):
            assert jax.config.jax_compilation_cache_dir == theirs
            assert (
                jax.config.jax_persistent_cache_min_compile_time_secs
                != program_cache.MIN_COMPILE_SECONDS
            )
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
    assert not cache.exists()
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    with program_cache.persistent_compilation_cache(said.append):
        assert jax.config.jax_persistent_cache_min_compile_time_secs == before
        assert jax.config.jax_compilation_cache_dir == str(cache / "compiled")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


# ---- the folder: what lies in it will run


@pytest.mark.goal("G30")
def test_the_folder_is_the_users_alone(cache, measured, tmp_path, monkeypatch):
    known_groups(monkeypatch, tmp_path.stat().st_gid, "me")
    before = os.umask(0o002)
    try:
        folder = program_cache.open_private_dir(cache / "compiled")
    finally:
        os.umask(before)
    assert folder == cache / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    measured("its folder is the user's alone (0700)")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(mode, cache):
    folder = program_cache.open_private_dir(cache / "compiled")
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="others can write into it"):
        program_cache.open_private_dir(folder)


def test_a_folder_that_others_could_replace_is_refused(cache):
    program_cache.open_private_dir(cache / "compiled")
    cache.chmod(0o777)
    with pytest.raises(PermissionError, match="others could replace"):
        program_cache.open_private_dir(cache / "compiled")
    cache.chmod(0o1777)  # as /tmp: only the owner can rename what is in it
    program_cache.open_private_dir(cache / "compiled")


@pytest.mark.parametrize(
    ("group", "members", "refused"),
    [("me", [], False), ("me", ["me"], False), ("me", ["me", "other"], True), ("users", [], True)],
)
def test_a_group_that_could_replace_it_is_refused_unless_it_is_the_users_own(
    group, members, refused, cache, monkeypatch
):
    cache.mkdir()
    known_groups(monkeypatch, cache.stat().st_gid, group, members)
    cache.chmod(0o2775)
    with pytest.raises(PermissionError, match="replace") if refused else contextlib.nullcontext():
        program_cache.open_private_dir(cache / "compiled")
    cache.chmod(0o3775)  # sticky: only the owner can rename what is in it
    program_cache.open_private_dir(cache / "compiled")


def test_a_group_without_a_name_is_no_private_one(cache):
    cache.mkdir()
    assert not program_cache._private(2**31 - 7)


def known_groups(monkeypatch, gid, name, members=()):
    """The user is `me`, first of all in the group of this number."""
    me = types.SimpleNamespace(pw_name="me", pw_gid=gid)
    group = types.SimpleNamespace(gr_name=name, gr_mem=list(members))
    monkeypatch.setattr(program_cache.pwd, "getpwuid", lambda _: me)
    monkeypatch.setattr(program_cache.grp, "getgrgid", lambda _: group)


def test_another_users_folder_is_refused(cache, monkeypatch):
    folder = program_cache.open_private_dir(cache / "compiled")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match=r"others could replace|another user's"):
        program_cache.open_private_dir(folder)


@pytest.mark.parametrize("name", ["file", "link"])
def test_what_is_no_folder_is_refused(name, cache, tmp_path):
    cache.mkdir()
    (cache / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (cache / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        program_cache.open_private_dir(cache / name)


@pytest.mark.goal("G30")
def test_a_folder_that_cannot_be_used_is_a_note(said, monkeypatch, measured):
    monkeypatch.setenv("IMAGEBIND_JAX_CACHE", "/proc/nowhere")
    with program_cache.persistent_compilation_cache(said.append):
        assert run() == run()
    (line,) = said
    assert "compiled programs are not kept" in line
    assert "/proc/nowhere" in line
    assert "--cache" in line
    measured("one line where it cannot be used")


def test_a_user_without_a_home_is_told(said, monkeypatch):
    for name in ("HOME", "IMAGEBIND_JAX_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with program_cache.persistent_compilation_cache(said.append):
        assert run() == run()
    (line,) = said
    assert "home" in line and "--cache" in line


def test_the_oldest_programs_go_first(cache, monkeypatch):
    folder = program_cache.open_private_dir(cache / "compiled")
    for age, name in enumerate(["new", "old", "older", "oldest"]):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    (folder / "folder").mkdir()
    monkeypatch.setattr(program_cache, "MAX_CACHE_BYTES", 250)
    program_cache.open_private_dir(folder)
    assert {path.name for path in folder.iterdir()} == {"new", "old", "folder"}
