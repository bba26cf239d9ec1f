"""How long does each chapter of the book take to run?

Executes copies of the notebooks one after another at the scale of a lesson, as a reader would, without earlier runs.
The run times at the top of the chapters are compared with the result by tests/book/test_pages.py. Nothing else may run
meanwhile. About half an hour for the first half of the book on two cores without AVX-512.

Writes results/run_times.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from d2lcls.book import results
from d2lcls.data import load

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("start", "foundations", "networks")


def main() -> None:
    """Execute the chapters and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=PARTS, metavar="FOLDER", help="folders in book/")
    options = parser.parse_args()
    load("cifar10", "train", fallback=False)  # the download does not count
    os.environ["D2LCLS_SCALE"] = "lesson"
    with tempfile.TemporaryDirectory() as folder:
        book = shutil.copytree(ROOT / "book", Path(folder, "book"))
        paths = [path for part in options.parts for path in sorted((book / part).glob("*.ipynb"))]
        minutes = {path.stem: measured(path) for path in paths}
    written = results.write(
        "run_times",
        f"python benchmarks/run_times.py --parts {' '.join(options.parts)}",
        {
            "minutes": minutes,
            "units": {"minutes": "of one execution of the chapter's notebook, start of Python included"},
        },
        data=["cifar10"],
    )
    print(written)


def measured(path: Path) -> float:
    """Return the minutes that a notebook takes."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    begun = time.monotonic()
    NotebookClient(notebook, timeout=3600, kernel_name="python3", resources=resources).execute()
    minutes = (time.monotonic() - begun) / 60
    print(f"{path.stem}: {minutes:.1f} minutes", flush=True)
    return minutes


if __name__ == "__main__":
    main()
