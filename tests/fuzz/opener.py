"""A process that opens files: reads lines of JSON, [kind, path], and answers each with how it went.

Its memory is limited to 500 MB beyond what it starts with and four times the file's size.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet
from d2lcls.data.decode import BrokenImage, read_image
from d2lcls.data.formats.records import read_records
from d2lcls.deploy.graph.symbol_json import SymbolError, read_symbol
from d2lcls.deploy.manifest import ModelError, read_manifest
from d2lcls.deploy.onnx_file import _call
from d2lcls.deploy.onnx_runtime import _try
from d2lcls.training.checkpoints import CheckpointError, read_progress
from d2lcls.training.runs import read_run
from d2lcls.weights.params_file import ParamsError, read_params
from d2lcls.weights.tensors import WeightsError, read_tensors

OPEN: dict[str, tuple[Callable[[Path], object], tuple[type[Exception], ...]]] = {
    "pth": (read_tensors, (WeightsError,)),
    "legacy pth": (read_tensors, (WeightsError,)),
    "safetensors": (read_tensors, (WeightsError,)),
    "params": (read_params, (ParamsError,)),
    "npz": (read_progress, (CheckpointError,)),
    "rec": (lambda path: read_records(path, size=8), (BrokenImage, ValueError)),
    "symbol": (read_symbol, (SymbolError, ValueError)),
    "manifest": (lambda path: read_manifest(path.parent), (ModelError,)),
    "run": (lambda path: read_run(path.parent), (ValueError,)),
    "onnx": (lambda path: _call(_try, path, (), "opening it", None), (ModelError,)),  # this process is the child
    "png": (read_image, (BrokenImage,)),
    "jpeg": (read_image, (BrokenImage,)),
    "gif": (read_image, (BrokenImage,)),
}


def memory() -> int:
    """Return the bytes of address space in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    """Answer each line with "opened", or with the class and the message of an exception that is documented or not."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), io.StringIO()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for line in sys.stdin:
        kind, name = json.loads(line)
        path = Path(name)
        resource.setrlimit(resource.RLIMIT_AS, (memory() + 500_000_000 + 4 * path.stat().st_size, hard))
        function, documented = OPEN[kind]
        try:
            function(path)
            answer = "opened"
        except documented as error:
            answer = "refused" if "\n" not in str(error) else f"several lines: {error}"
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
