"""What of `mutants.py` is inside the processes that it starts: as `sitecustomize`, and as pytest's plugin.

The first makes `imagebind_jax.data` the copy's own: an installed package has it elsewhere. The second
runs the tests that are named, in files in the order of their names' list, and tells how each ended.
"""

import importlib.util
import json
import os
import pathlib
import sys

COPY, TESTS, SAID = (os.environ.get(f"MUTANTS_{name}", "") for name in ("COPY", "TESTS", "SAID"))


class _Data:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "imagebind_jax.data":
            return None
        folder = os.path.join(COPY, "data")
        file = os.path.join(folder, "__init__.py")
        return importlib.util.spec_from_file_location(
            name, file, submodule_search_locations=[folder]
        )


if COPY and __name__ == "sitecustomize":
    sys.meta_path.insert(0, _Data)


def pytest_collection_modifyitems(config, items):
    if not TESTS:
        return
    wanted = json.loads(pathlib.Path(TESTS).read_text())
    files = {name: i for i, name in enumerate(dict.fromkeys(t.partition("::")[0] for t in wanted))}
    known, every = set(wanted), list(items)
    # Within a file as it is: its tests share what its fixtures make.
    items[:] = [item for item in every if item.nodeid in known]
    items.sort(key=lambda item: files[item.nodeid.partition("::")[0]])
    config.hook.pytest_deselected(items=[item for item in every if item.nodeid not in known])


def pytest_collection_finish(session):
    """The package that is tested must be the copy's."""
    import imagebind_jax
    from imagebind_jax import data

    for module in (imagebind_jax, data):
        assert pathlib.Path(module.__file__).is_relative_to(COPY), module.__file__


def pytest_collectreport(report):
    if report.failed:
        _say(report.nodeid, "collect", "failed", 0.0)


def pytest_runtest_logreport(report):
    _say(report.nodeid, report.when, report.outcome, report.duration)


def _say(test, when, outcome, seconds):
    if SAID and "PYTEST_XDIST_WORKER" not in os.environ:  # whose reports come to the first process
        line = {"test": test, "when": when, "outcome": outcome, "seconds": seconds}
        with open(SAID, "a") as file:
            file.write(json.dumps(line) + "\n")
