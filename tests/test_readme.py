"""What the README shows is what happens."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run_as_they_stand(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    rows = re.findall(r"-?\d\.\d+", capsys.readouterr().out)
    assert len(rows) == 4  # cosines [2, 2]
    assert all(-1 <= float(cosine) <= 1 for cosine in rows)


def test_the_tree_is_the_one_there_is():
    tree = README.partition("## The tree")[2].partition("## Installing")[0]
    package = ROOT / "imagebind_jax"
    there = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    there |= {path.name for path in package.glob("*.py")} - {"__init__.py", "version.py"}
    assert set(re.findall(r"^  (\S+)", tree, re.MULTILINE)) == there
    for name in re.findall(r"^(\w+/)", tree, re.MULTILINE):
        assert (ROOT / name).is_dir(), name
    for name in re.findall(r"`([\w/]+\.py)`", tree):
        assert (package / name).exists(), name


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
