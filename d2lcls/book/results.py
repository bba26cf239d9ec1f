"""Measured numbers: written by benchmarks with all that is needed to reproduce them, read by the book."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.machine.cores import cpu_flags
from d2lcls.machine.files import write_atomically

import psutil

if TYPE_CHECKING:
    from d2lcls.data.download.dataset import Dataset

_INSTRUCTIONS = "avx2 avx512f avx_vnni avx512_vnni avx512_bf16 amx_bf16 amx_int8 asimddp bf16 i8mm"
FOLDER = Path(__file__).resolve().parents[2] / "results"


def write(name: str, command: str, values: dict[str, Any], data: Iterable[str] = ()) -> Path:
    """Write `results/NAME.json`: the measurements, the command, and the machine, versions and data they depend on.

    Args:
        name: file name without extension.
        command: the command line that writes the file again.
        values: measurements that JSON can hold; see `spread`.
        data: names of the data sets used; their checksums are written too.

    Returns:
        path of the file.
    """
    from d2lcls.data.download.catalog import DATASETS

    content = {
        "command": command,
        **values,
        "versions": versions(),
        "machine": machine(),
        "data": {n: _version(DATASETS[n]) for n in data},
    }
    path = _file(name)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers."""
    packages = {package: metadata.version(package) for package in ("mxnet", "gluoncv", "numpy")}
    return {"python": platform.python_version(), **packages}


def machine() -> dict[str, Any]:
    """Return what is known of this machine: its processor, instruction sets, cores, memory and system."""
    return {
        "processor": _processor(),
        "instructions": instructions(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
    }


def _version(dataset: Dataset) -> dict[str, str]:
    """Return what tells one version of a data set from another."""
    if dataset.revision:
        return {"commit": dataset.revision}
    return {file.name: file.sha1 for file in dataset.files}


def read(name: str) -> dict[str, Any]:
    """Return the content of `results/NAME.json`.

    Raises:
        FileNotFoundError: there is no such result; the message lists all results.
    """
    path = _file(name)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json"))) or "none"
        raise FileNotFoundError(f"No result is called {name!r} in {FOLDER}. There are: {names}.")
    return json.loads(path.read_text())


def value(address: str) -> Any:
    """Return one entry by its address, such as "cnn_cifar10.test_accuracy.mean".

    Raises:
        KeyError: the result has no such entry; the message names the missing part.
    """
    name, *keys = address.split(".")
    entry: Any = read(name)
    for key in keys:
        try:
            entry = entry[int(key) if isinstance(entry, list) else key]
        except (KeyError, IndexError, ValueError, TypeError):
            raise KeyError(f"results/{name}.json has no entry {'.'.join(keys)!r}: {key!r} is missing.") from None
    return entry


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Summarise repeated measurements: mean, sample standard deviation, extremes and the values themselves."""
    values = [float(v) for v in values]
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "values": values,
    }


def instructions() -> str:
    """Return the processor's instruction sets that affect speed and rounding, such as "avx2 avx512f"."""
    flags = cpu_flags()
    return " ".join(name for name in _INSTRUCTIONS.split() if name in flags) or platform.machine()


def _file(name):
    if not FOLDER.is_dir():
        raise FileNotFoundError(
            f"There is no folder {FOLDER}: results are part of the repository, not of the installed package. "
            "Run this in a clone of the repository, in which `make` installs the package."
        )
    return FOLDER / f"{name}.json"


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
