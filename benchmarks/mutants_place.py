"""Where `mutants.py` runs tests: in copies of the project's files, each of which has one run at a time."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
COVERAGE = "[run]\nbranch = true\nrelative_files = true\nsource =\n  imagebind_jax\n  data\n"

_running: set[subprocess.Popen] = set()
_stopped = threading.Event()


class Place:
    """A copy of the files, in which one run of the tests is at a time."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.copy, self._inside = folder, folder / "copy", folder / "inside"
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if os.path.lexists(ROOT / name):
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.copy / name, follow_symlinks=False)
        self._inside.mkdir()
        for name in ("sitecustomize", "mutants_inside"):
            shutil.copy(ROOT / "benchmarks/mutants_inside.py", self._inside / f"{name}.py")
        self.coverage = self._inside / "coverage.ini"
        self.coverage.write_text(COVERAGE)
        self._written = 1_000_000_000  # times of change, of which no two are the same: see `write`

    def write(self, file: str, text: str) -> None:
        """Python compiles a file again only where its size or its second of change is another."""
        self._written += 10
        (self.copy / file).write_text(text)
        os.utime(self.copy / file, (self._written, self._written))

    def run(self, log: pathlib.Path, said: pathlib.Path, *arguments: str, **limits) -> int | str:
        """pytest's exit code, "hangs" or "time over"; said: the file that the plugin writes to."""
        tests = self.folder / "tests.json"
        tests.write_text(json.dumps(limits.get("tests", [])))
        paths = (self._inside, self.copy, os.environ.get("PYTHONPATH"))
        variables = {
            "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
            "MUTANTS_COPY": str(self.copy),
            "MUTANTS_SAID": str(said),
            "MUTANTS_TESTS": str(tests) if "tests" in limits else "",
            "COVERAGE_FILE": str(self.folder / "coverage"),
            "COVERAGE_CORE": "ctrace",  # another one knows no contexts
        }
        plugins = ("-p", "no:cacheprovider", "-p", "mutants_inside")
        command = [sys.executable, "-m", "pytest", *plugins, f"--basetemp={self.folder / 't'}"]
        if _stopped.is_set():
            raise KeyboardInterrupt
        said.write_bytes(b"")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*command, *arguments], cwd=self.copy, env=os.environ | variables,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
            _running.add(process)
            try:
                return self._ended(process, said, **limits)
            finally:
                _end(process)

    @staticmethod
    def _ended(process, said, until=float("inf"), patience=float("inf"), **_) -> int | str:
        size, since = 0, time.monotonic()
        while True:
            if _stopped.is_set():
                raise KeyboardInterrupt
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(1)
                if not _stopped.is_set():
                    return code
            now = time.monotonic()
            if said.stat().st_size != size:
                size, since = said.stat().st_size, now
            if now - since > patience:
                return "hangs"
            if now > until:
                return "time over"


def _end(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _running.discard(process)


def end_all() -> None:
    """Ends what runs, and lets nothing more begin."""
    _stopped.set()
    for process in list(_running):
        _end(process)


@contextlib.contextmanager
def places(count: int) -> Iterator[list[Place]]:
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        paths = [pathlib.Path(folder) / str(i) for i in range(count)]
        yield [Place(path) for path in paths]
