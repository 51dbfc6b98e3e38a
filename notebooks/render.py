"""Runs the notebooks and writes them, outputs and all, beside their text: `python notebooks/render.py [NAME ...]`."""

import base64
import io
import os
import pathlib
import re
import resource
import sys
import time

import jupytext
import nbclient
import nbformat
from PIL import Image

HERE = pathlib.Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
LIMIT = 600  # seconds that one cell may take on a machine that is busy


def names() -> list[str]:
    """Of all notebooks, in their order."""
    return sorted(path.stem for path in HERE.glob("[0-9][0-9]_*.py"))


def read(path: pathlib.Path) -> nbformat.NotebookNode:
    """A notebook's text as cells without outputs, named by their place."""
    notebook = jupytext.read(path)
    for place, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem[:2]}-{place:02}"
        cell.metadata = {}
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path, env=None) -> None:
    """Runs all cells in a folder; env: the kernel's environment (default: this process's)."""
    env = {**os.environ, **(env or {}), "TF_CPP_MIN_LOG_LEVEL": "2"}
    client = nbclient.NotebookClient(
        notebook,
        timeout=LIMIT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    client.execute(env=env)


def told(notebook: nbformat.NotebookNode) -> str:
    """All that came out on stderr: progress, and any warning."""
    outputs = (out for cell in notebook.cells for out in cell.get("outputs", ()))
    return "".join(out.text for out in outputs if out.get("name") == "stderr")


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Keeps of the outputs what somebody reads, and what is the same wherever they are made."""
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel has put its version there
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept: list[nbformat.NotebookNode] = []
        for out in cell.outputs:
            if out.get("name") == "stderr":  # progress
                continue
            if "data" in out:
                out.metadata = {}
                if "image/png" in out.data:
                    out.data = {
                        "image/png": small(out.data["image/png"]),
                        "text/plain": "<Figure>",
                    }
            if "text" in out:
                out.text = re.sub(r" in \d+ s(, [\d.]+ a second)?", "", out.text)
                if kept and kept[-1].get("name") == out.name:  # they come in pieces
                    kept[-1].text += out.text
                    continue
            kept.append(out)
        cell.outputs = kept


def small(png: str) -> str:
    """The same picture in 256 colours: a third of the bytes."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main(chosen: list[str]) -> None:
    for name in chosen or names():
        begun, busy = time.monotonic(), processor()
        notebook = read(HERE / f"{name}.py")
        execute(notebook, HERE)
        tidy(notebook)
        path = HERE / f"{name}.ipynb"
        path.write_text(nbformat.writes(notebook, indent=1) + "\n")
        print(
            f"{name}: {time.monotonic() - begun:.0f} s ({processor() - busy:.0f} s of a processor), "
            f"{path.stat().st_size / 1000:.0f} kB",
            flush=True,
        )


def processor() -> float:
    """Seconds that all kernels so far, and what they started, have kept a processor busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main([pathlib.Path(name).stem for name in sys.argv[1:]])
