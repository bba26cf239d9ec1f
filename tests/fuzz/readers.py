"""Every reader of a file or a request that may come from a stranger, with the exceptions that it documents."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet
from d2lcls.data.decode import BrokenImage, read_image
from d2lcls.data.download import sources
from d2lcls.data.download.archives import ArchiveError, unpack_gzip, unpack_tar
from d2lcls.data.formats.records import read_records
from d2lcls.deploy.graph.symbol_json import SymbolError, read_symbol
from d2lcls.deploy.manifest import ModelError, read_manifest
from d2lcls.deploy.onnx_file import _call
from d2lcls.deploy.onnx_runtime import _try
from d2lcls.deploy.serve.limits import Limits, Refused
from d2lcls.deploy.serve.pictures import encoded
from d2lcls.models.symbols.allowed import NotAllowed, load_symbol
from d2lcls.training.checkpoints import CheckpointError, read_progress
from d2lcls.training.runs import read_run
from d2lcls.weights import store
from d2lcls.weights.params_file import ParamsError, read_params
from d2lcls.weights.tensors import WeightsError, read_tensors

from pieces import check_pieces


def read_tar(path: Path) -> None:
    """Unpack a tar archive, from the first layer of which damage is removed: the checksum of gzip would find it."""
    with tempfile.TemporaryDirectory() as folder, open(path, "rb") as file:
        unpack_tar(file, ["a.bin", "b.bin"], Path(folder))


def read_gzip(path: Path) -> None:
    """Unpack a single file."""
    with tempfile.TemporaryDirectory() as folder, gzip.open(path) as file:
        unpack_gzip(file, Path(folder, "a"))


def read_npm(path: Path) -> None:
    """Convert pictures and labels, from a tar archive without compression."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.tgz").write_bytes(gzip.compress(path.read_bytes(), 1))
        sources.cifar_from_png(Path(folder, "x.tgz"), ["data_batch_1.bin", "test_batch.bin"], Path(folder))


def read_zip(path: Path) -> None:
    """Unpack weights that have no checksum, into a cache of their own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["D2LCLS_HOME"] = folder
        store.weights_folder().mkdir()
        Path(folder, "x.zip").write_bytes(path.read_bytes())
        store._unpack("cnn", Path(folder, "x.zip"), "a.safetensors", 1 << 20, Path(folder))


def read_graph(path: Path) -> None:
    """Read a graph of any version, and let MXNet complete and build it."""
    read_symbol(path).complete().load()


def read_http(path: Path) -> None:
    """Answer requests, which may come in one piece or in several; the last bytes of the content say where it is cut."""
    data = path.read_bytes()
    check_pieces(data, {position % (len(data) + 1) for position in data[-4:]})


def read_body(path: Path) -> None:
    """Take the pictures from a request's body; the first line of the content is its Content-Type."""
    kind, _, body = path.read_bytes().partition(b"\n")
    encoded(kind.decode("latin-1"), body, Limits())


READERS: dict[str, tuple[Callable[[Path], object], tuple[type[Exception], ...]]] = {
    "pth": (read_tensors, (WeightsError,)),
    "legacy pth": (read_tensors, (WeightsError,)),
    "safetensors": (read_tensors, (WeightsError,)),
    "params": (read_params, (ParamsError,)),
    "npz": (read_progress, (CheckpointError,)),
    "rec": (lambda path: read_records(path, size=8), (BrokenImage, ValueError)),
    "idx": (lambda path: read_records(path.with_suffix(".rec"), size=8), (BrokenImage, ValueError)),
    "classes": (lambda path: read_records(path.with_suffix(".rec"), size=8), (BrokenImage, ValueError)),
    "symbol": (read_graph, (SymbolError, NotAllowed)),
    "network": (lambda path: load_symbol(path.read_bytes()), (NotAllowed,)),
    "manifest": (lambda path: read_manifest(path.parent), (ModelError,)),
    "run": (lambda path: read_run(path.parent), (ValueError,)),
    "onnx": (lambda path: _call(_try, path, (), "opening it", None), (ModelError,)),  # this process is the child
    **dict.fromkeys(("png", "jpeg", "gif", "bmp", "webp"), (read_image, (BrokenImage,))),
    "tar": (read_tar, (ArchiveError,)),
    "gzip": (read_gzip, (ArchiveError,)),
    "npm package": (read_npm, (ArchiveError,)),
    "zip": (read_zip, (store.SourceFailed,)),
    "http": (read_http, ()),
    "body": (read_body, (Refused,)),
}


def outcome(kind: str, path: Path) -> str:
    """Return "opened", "refused", or what went wrong: several lines, or an exception that no documentation names."""
    function, documented = READERS[kind]
    try:
        function(path)
    except documented as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "opened"
