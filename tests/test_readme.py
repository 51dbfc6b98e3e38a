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


def test_the_tree_names_every_module():
    tree = README.partition("## The tree")[2].partition("## Installing")[0]
    package = ROOT / "imagebind_jax"
    modules = {p.name for p in package.glob("*.py")} | {p.name for p in package.glob("inputs/*.py")}
    missing = {
        name for name in modules - {"__init__.py", "version.py", "errors.py"} if name not in tree
    }
    assert not missing, f"not in the README's tree: {missing}"
    folders = ("imagebind_jax", "configs", "data", "docs", "notebooks", "benchmarks", "tests")
    there = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    unknown = set(re.findall(r"(\w+\.py)\b", tree)) - there
    assert not unknown, f"the README names {unknown}, which are not there"


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
