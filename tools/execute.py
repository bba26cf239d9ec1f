"""Run notebooks and store their outputs: `python tools/execute.py book/foundations/images-as-numbers.ipynb ...`

With `--sources`, run only the cells that display source code of the package or the scoreboard, after a change that
alters no other result.

Kernel paths and times are removed, so that a diff shows only what changed.
"""

import ast
import base64
import re
import sys
import time
from pathlib import Path

from d2lcls.book.scoreboard import Scoreboard
from d2lcls.data import load

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

PICTURE = Path(__file__).resolve().parent.parent / "book/_static/mistakes.png"
SHOWN = re.compile(r"(?:from \S+ import .+\s+)*(show_source\([\w.]+\)|scoreboard\(.+\))")
CELL_KEYS = ("tags", "mystnb", "jupyter")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove metadata that a reader or nbval does not need, merge neighbouring streams, and renumber the cells."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in CELL_KEYS})
        for output in cell.get("outputs", []):
            output.pop("transient", None)
            if output.output_type == "error":  # the traceback holds paths of this machine
                output.traceback = [f"{output.ename}: {output.evalue}"]
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
        if "outputs" in cell:
            cell.outputs = _merged([o for o in cell.outputs if not _blank(o)])
    return notebook


def _blank(output):
    """Whether an output is the progress line, which is blank at the end of a run."""
    return (
        output.output_type == "display_data"
        and set(output.data) == {"text/plain"}
        and not output.data["text/plain"].strip()
    )


def _merged(outputs):
    merged: list[nbformat.NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == "stream" == merged[-1].output_type and output.name == merged[-1].name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def readme_picture(notebook: nbformat.NotebookNode) -> list[bytes]:
    """Return the pictures in the outputs of cells tagged `readme-picture`, as PNG files."""
    return [
        base64.b64decode(output.data["image/png"])
        for cell in notebook.cells
        if "readme-picture" in cell.metadata.get("tags", [])
        for output in cell.outputs
    ]


def refresh_sources(path: str | Path) -> None:
    """Run the cells of a notebook that show source code or the scoreboard, and the imports that they need."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    imports = "\n".join(
        ast.unparse(node)
        for cell in cells
        for node in ast.parse(TransformerManager().transform_cell(cell.source)).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    names: dict[str, object] = {}
    for cell in cells:
        if match := SHOWN.fullmatch(cell.source.strip()):
            if not names:
                exec(imports, names)
            shown = eval(match[1], names)
            (output,) = cell.outputs
            kind, text = (
                ("text/html", shown._repr_html_())
                if isinstance(shown, Scoreboard)
                else ("text/markdown", shown._repr_markdown_())
            )
            output.data = nbformat.from_dict({kind: text, "text/plain": repr(shown)})
    if names:
        nbformat.write(notebook, path)


def main(paths: list[str]) -> None:
    """Execute each notebook in its own folder and write it back."""
    if paths[0] == "--sources":
        for name in paths[1:]:
            refresh_sources(name)
        return
    load("cifar10", "test", fallback=False)  # stored outputs must come from the real data
    for path in map(Path, paths):
        notebook = nbformat.read(path, as_version=4)
        begun = time.monotonic()
        NotebookClient(
            notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
        ).execute()
        nbformat.write(tidy(notebook), path)
        for png in readme_picture(notebook):
            PICTURE.write_bytes(png)
        print(f"{path}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
