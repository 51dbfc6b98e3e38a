"""Notebooks: their text and their rendered outputs are the same cells, and each runs in its time."""

import importlib.util
import os
import pathlib
import re
import resource
import shutil
import sys

import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.py"))
LARGEST = 400_000  # bytes of a rendered notebook
QUICKEST = "02_port_a_checkpoint"  # of the default tier
SECONDS = 120  # on two cores with nothing else to do, where no other notebook has trained anything
ABSOLUTE = re.compile(r"""(^|[\s"'(=])/[A-Za-z]""", re.M)

NEEDED = ("jupytext", "nbclient", "ipykernel", "matplotlib")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"no {', '.join(MISSING)}: pip install -e '.[notebooks]'"
)


@pytest.fixture(scope="module")
def render():
    """notebooks/render.py, which no package holds."""
    spec = importlib.util.spec_from_file_location("render", NOTEBOOKS / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rendered(request):
    import nbformat

    path = NOTEBOOKS / f"{request.param}.ipynb"
    assert path.stat().st_size < LARGEST, f"{path.name}: fewer or smaller figures"
    return nbformat.read(path, as_version=4)


each_rendered = pytest.mark.parametrize("rendered", NAMES, indirect=True)


def outputs(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", ())]


def test_there_are_seven_and_the_index_names_each():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, 8)]
    index = (NOTEBOOKS / "README.md").read_text()
    for name in NAMES:
        assert f"{name}.ipynb" in index, name
        assert f"{name}.py" in index, name


@pytest.mark.parametrize("name", NAMES)
def test_text_and_rendering_hold_the_same_cells(name, render):
    import nbformat

    text = render.read(NOTEBOOKS / f"{name}.py")
    shown = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    again = f"render it again: python notebooks/render.py {name}"
    assert [(c.id, c.cell_type, c.source) for c in shown.cells] == [
        (c.id, c.cell_type, c.source) for c in text.cells
    ], again
    assert shown.metadata == text.metadata, again
    assert all(cell.metadata == {} for cell in shown.cells), again


@each_rendered
def test_what_is_rendered_is_whole_and_says_nothing_of_a_machine(rendered):
    code = [cell for cell in rendered.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for out in outputs(rendered):
        assert out.output_type != "error", out
        assert out.get("name") != "stderr", out
        text = out.get("text", "") + out.get("data", {}).get("text/plain", "")
        assert "Warning" not in text, text
        assert not ABSOLUTE.search(text), text
        assert str(pathlib.Path.home()) not in text, text


@each_rendered
def test_somebody_who_only_reads_finds_text_numbers_and_figures(rendered):
    figures = [out for out in outputs(rendered) if "image/png" in out.get("data", {})]
    assert figures, "no figure"
    assert any(out.output_type == "stream" for out in outputs(rendered)), "no number"
    markdown = [cell for cell in rendered.cells if cell.cell_type == "markdown"]
    assert len(markdown) >= len(rendered.cells) // 2 - 2, "code that nobody explains"
    assert "assert" in rendered.cells[-1].source, "the last cell says what must hold"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(a folder with the notebooks' text, in which later ones find what earlier ones trained;
    the environment of their kernels)."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in NOTEBOOKS.glob("*.py"):
        shutil.copy(path, folder)
    cache = tmp_path_factory.mktemp("cache")
    # Not the eight devices that other tests pretend to have.
    return folder, {
        "IMAGEBIND_JAX_CACHE": str(cache),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "HOME": str(cache),  # of Jupyter's own files
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
    }


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == QUICKEST else pytest.mark.notebooks) for name in NAMES],
)
def test_a_notebook_runs_in_its_time_and_keeps_its_promise(name, render, place, monkeypatch):
    if name != QUICKEST:  # else what the other tests compile with, and where they keep it
        for variable in [each for each in os.environ if each.startswith("JAX_")]:
            monkeypatch.delenv(variable)
    folder, environment = place
    notebook = render.read(folder / f"{name}.py")
    before = processor()
    render.execute(notebook, folder, environment)  # raises what a cell raises, its asserts among it
    # Of two cores; and half as much again, as a second that is shared with other tests does less.
    assert processor() - before < 3 * SECONDS
    said = render.told(notebook)
    assert "Warning" not in said, said


def processor():
    """Seconds that processes which have ended have kept a core busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
