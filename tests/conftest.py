"""Every test runs on 8 fake CPU devices, with shapes checked and implicit broadcasting forbidden."""

import contextlib
import fcntl
import functools
import gc
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import sys
import time

# Programs run for milliseconds here and are compiled for seconds: no optimizations, and the emitter and the
# way of cutting modules that compile fastest. Together a fifth of the default's time, or less (BENCHMARKS.md).
QUICK = (
    "--xla_force_host_platform_device_count=8",
    "--xla_cpu_parallel_codegen_split_count=1",
    # XLA ends a process for a flag that it does not know: of JAX 0.10 alone.
    *["--xla_cpu_use_fusion_emitters=false"]
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK])
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "True"
os.environ["JAX_PLATFORMS"] = "cpu"
# One compile cache for all test processes and their children, kept for the next run of the tests: what is
# compiled is most of the time. JAX's keys contain its version, all flags and the program itself.
ROOT = pathlib.Path(__file__).parents[1]
COMPILED = ROOT / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# ruff: noqa: E402
import pytest
from jaxtyping import install_import_hook

# Shapes are checked where they are claimed; but for the world's renderer, which takes twice as long then.
CLAIMED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "imagebind_jax").rglob("*.py")
    if "jaxtyping" in path.read_text() and path.parent.name != "world"
]
install_import_hook(CLAIMED, "beartype.beartype")
pytest.register_assert_rewrite(
    "one_host", "own_files"
)  # as of a test, its asserts tell what they have seen

import goals
import jax
from zygote import FOLDERS, Zygote

sys.path[:0] = FOLDERS  # what tests share, and toys of other tests

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes millions of small objects, which the collector would look through again and again.
gc.set_threshold(200_000, 20, 20)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Made records go to the test's own folder."""
    monkeypatch.setenv("IMAGEBIND_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What one file's tests have compiled: the next file's would not find it, and the memory grows."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def full_compilation():
    """Compile as for users: for what is numerically strict, or computes for long."""
    name = "jax_disable_most_optimizations"
    jax.config.update(name, False)
    yield
    jax.config.update(name, True)


@pytest.fixture(scope="module")
def two_devices():
    """Let runs find two devices: a state is split among them as among eight, which save four times as long."""
    with few_devices(2):
        yield


@pytest.fixture(scope="module")
def four_devices():
    """As `two_devices`, for what two hosts with two devices each do, too."""
    with few_devices(4):
        yield


@contextlib.contextmanager
def few_devices(count):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("devices", "local_devices"):
            find = getattr(jax, name)
            patch.setattr(
                jax, name, functools.partial(lambda find, *about: find(*about)[:count], find)
            )
        for name in ("device_count", "local_device_count"):
            patch.setattr(jax, name, lambda *about: count)
        yield


UNSEEN = {"inputs", "pairs", "evaluation", "evaluate_every", "checkpoint_every", "log_every"}


@pytest.fixture(scope="module")
def compiled_once():
    """Let runs of one file share a compiled step, which takes longer to trace than to run.

    UNSEEN are the fields of a config that a step does not depend on.
    """
    from imagebind_jax.distributed import sharding
    from imagebind_jax.runtime import fault_injection

    compiled = {}

    def once(compile):
        def of(place, step, state):
            config = vars(step.keywords["config"])
            seen = {name: value for name, value in config.items() if name not in UNSEEN}
            about = (
                type(place),
                vars(place),
                seen,
                os.environ.get(fault_injection.ENV_VAR),
                shapes(state),
            )
            if (key := repr(about)) not in compiled:
                compiled[key] = compile(place, step, state)
            return compiled[key]

        return of

    def shapes(state):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)), state)

    with pytest.MonkeyPatch.context() as patch:
        for kind in (sharding.ShardedStrategy, sharding.PmapStrategy):
            patch.setattr(kind, "compile", once(kind.compile))
        yield


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    """A process that has imported everything and is forked into others, quickly."""
    cache = str(tmp_path_factory.mktemp("cache"))
    zygote = Zygote(tmp_path_factory.mktemp("processes"), IMAGEBIND_JAX_CACHE=cache)
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """made_once(name, make): the folder that make(folder) has filled, once for all test processes.

    It is read only by agreement: a test that changes something copies it first.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def folder(name, make):
        whole = shared / f"once-{name}"
        with open(shared / f"once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                partial = shared / f"once-{name}-{worker_id}"
                shutil.rmtree(partial, ignore_errors=True)  # of a making that failed
                partial.mkdir()
                make(partial)
                partial.rename(whole)
        return whole

    return folder


@pytest.fixture
def theirs():
    """A handler of those who call `fit`: what it was told."""
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def rotating_seed(request):
    """Another number in each run of the fuzz tier, 0 in the others; IBJ_SEED=number repeats that run.

    It is printed: pytest shows that of a test that fails.
    """
    if request.node.get_closest_marker("fuzz") is None:
        return 0
    seed = int(os.environ.get("IBJ_SEED") or time.time_ns() // 1000 % 2**32)
    print(f"IBJ_SEED={seed}")
    return seed


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
    gc.freeze()  # what all tests share is never garbage


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
