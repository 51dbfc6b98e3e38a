"""docs/porting.md: every command and every snippet in it runs, in order, on the golden files."""

import pathlib
import re
import shlex
import shutil

import pytest

from imagebind_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
BLOCK = re.compile(r"^( *)```(bash|python)\n(.*?)^ *```", re.M | re.S)


def blocks(page):
    """(language, code) of every block, without the indentation of its list."""
    for indent, language, code in BLOCK.findall(page.read_text()):
        yield language, "".join(line.removeprefix(indent) for line in code.splitlines(True))


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """A folder with small checkpoints under the names of the real downloads."""
    monkeypatch.chdir(tmp_path)
    small = GOLDEN / "imagebind"
    shutil.copy(small / "imagebind_tiny.pth", "imagebind_huge.pth")
    shutil.copy(small / "imagebind_tiny_config.json", "imagebind_huge_config.json")
    shutil.copy(GOLDEN / "clip" / "open_clip.pt", "open_clip_pytorch_model.bin")
    shutil.copy(GOLDEN / "clip" / "open_clip_config.json", "open_clip_config.json")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*a vocabulary of 40")
def test_porting(downloads, capsys):
    page, names, run = ROOT / "docs" / "porting.md", {}, 0
    for language, code in blocks(page):
        run += 1
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
            continue
        for line in code.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "imagebind-jax"
            assert cli.main(arguments) == 0, capsys.readouterr().err
    assert run == len(re.findall(r"```(?:bash|python)", page.read_text())) >= 8
    assert {
        "imagebind",
        "back.pth",
        "back.safetensors",
        "clip",
        "adapters.safetensors",
        "merged",
    } <= {path.name for path in downloads.iterdir()}


def test_readme_and_docs_name_each_other():
    assert "docs/porting.md" in (ROOT / "README.md").read_text()
