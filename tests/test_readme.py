"""What the README shows is what happens."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run_as_they_stand(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"-?\d\.\d+", done.stdout)
    assert len(rows) == 4  # cosines [2, 2]
    assert all(-1 <= float(cosine) <= 1 for cosine in rows)


def test_the_tree_names_every_module():
    tree = README.partition("## The tree")[2].partition("## Installing")[0]
    package = ROOT / "imagebind_jax"
    modules = {p.name for p in package.glob("*.py")} | {p.name for p in package.glob("inputs/*.py")}
    missing = {
        name for name in modules - {"__init__.py", "version.py", "errors.py"} if name not in tree
    }
    assert not missing, f"not in the README's tree: {missing}"
    for name in re.findall(r"(\w+\.py)\b", tree):
        assert list(ROOT.rglob(name)), f"the README names {name}, which is not there"


def test_every_command_shown_exists():
    from imagebind_jax import cli

    shown = set(re.findall(r"^imagebind-jax (\w+)", README, re.MULTILINE))
    assert shown
    for command in shown:
        try:
            code = cli.main([command, "--help"])
        except SystemExit as stop:
            code = stop.code
        assert code == 0, command
