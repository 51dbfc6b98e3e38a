"""Lines that cannot be said cost a command nothing; those that can are seen at once."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from imagebind_jax.runtime import console, progress as bar
with bar.Progress("train", 3, every=0.01) as progress:
    for step in range(2000):
        console.print_line(f"committed step {step}")
        progress.update(step % 3)
console.print_line("the last line", to_stderr=True)
sys.exit(7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize(
    "where", ["> /dev/full", ">&-", "2> /dev/full", "2>&-", "> /dev/full 2>&1", "| head -1"]
)
def test_a_stream_that_takes_nothing_changes_no_exit_code(where):
    command = f"{sys.executable} -c '{PROGRAM}' {where}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done
    assert "Error" not in done.stderr + done.stdout
    assert ("the last line" in done.stderr) == ("2>" not in where)
    assert ("committed step 1999" in done.stdout) == (where in ("2> /dev/full", "2>&-"))


def test_a_line_is_out_at_once(tmp_path):
    log = tmp_path / "log"
    code = (
        "import os, sys; from imagebind_jax.runtime import console; console.print_line('committed step 4'); "
        "console.print_line('note', to_stderr=True); os._exit(0)"
    )
    with log.open("w") as out:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=out, stderr=out, timeout=60)
    assert log.read_text().splitlines() == ["committed step 4", "note"]
