"""Every test runs on 8 fake CPU devices, with shapes checked and implicit broadcasting forbidden."""

import json
import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

# ruff: noqa: E402
import pytest
from jaxtyping import install_import_hook

install_import_hook("imagebind_jax", "beartype.beartype")
pytest.register_assert_rewrite(
    "one_host", "own_files"
)  # as of a test, its asserts tell what they have seen

import goals
import jax
from jax.experimental.compilation_cache import compilation_cache

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Made records go to the test's own folder."""
    monkeypatch.setenv("IMAGEBIND_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def quick_compilation(tmp_path_factory):
    """Each program is compiled once, and not for speed; runs in other processes share it."""
    options = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    defaults = dict(zip(options, (False, None, 1.0, 0)))
    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield
    for name, value in defaults.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def mistake(capsys):
    """The one line that a mistaken command prints."""

    from imagebind_jax import cli

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert code == 2, said
        assert len(lines) == 1, lines
        assert lines[0].startswith("imagebind-jax: error: ")
        assert "Traceback" not in said.out + said.err
        return lines[0]

    return run


def pytest_make_parametrize_id(val):
    """Bytes name no test: a file made anew may hold the time, and all processes of one run have to
    find the same names."""
    return "bytes" if isinstance(val, bytes) else None


# ---- goals (tests/goals.py)


@pytest.fixture
def measured(record_property):
    """measured("20 of 20 equal"): what the table of goals says of this test. made, asked: where there
    were fewer of something than the goal asks for, how many."""

    def say(text, made=0, asked=0):
        record_property("measured", text)
        if made < asked:
            record_property("short", f"{made:,} of {asked:,}")

    return say


def pytest_collection_finish(session):
    """What does not end, as its process is killed, is not taken for reached."""
    for item in session.items:
        record(item, goals.BEGUN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" or not report.passed:
        # A skip's is (file, line, "Skipped: reason").
        reason = report.longrepr[-1].removeprefix("Skipped: ") if report.skipped else ""
        record(item, report.outcome, reason)
    return report


def record(item, outcome, reason=""):
    """One more line on this test for the table of goals, if it is of any."""
    asked = [goal for mark in item.iter_markers("goal") for goal in mark.args]
    assert set(asked) <= goals.GOALS.keys(), asked
    path = os.environ.get(goals.RESULTS)
    if asked and path:
        said = {name: text for name, text in item.user_properties if name == "short"}
        said["measured"] = [text for name, text in item.user_properties if name == "measured"]
        about = {"test": item.nodeid, "goals": asked, "outcome": outcome, "reason": reason}
        with open(path, "a") as file:  # one write: processes may share it
            file.write(json.dumps(about | said) + "\n")
