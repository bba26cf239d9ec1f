"""Make ``import mxnet`` work on a current machine; runs when d2lcls is imported.

MXNet 1.9.1 was released in 2022 and retired in 2023. `prepare` adapts to what has changed since: it restores names
that numpy removed, loads the CUDA libraries that the loader does not find and the BLAS that the wheel for 64-bit Arm
lacks, asks Linux for the matrix units (Intel AMX), and sets the number of threads, for which MXNet would use half of
the processors. The only large library that it imports is numpy.

Tested on Linux x86-64 with MXNet 1.9.1: all tests on Python 3.11 with numpy 1.26.4 and on Python 3.13, for which there
is no numpy 1, with 2.2.6; half of them on Python 3.12 with 1.26.4. On Python 3.11 also with numpy 1.23.5, 1.24.4,
1.25.2, 2.0.2 and 2.2.6: training and exporting a network, saving and loading every dtype, random numbers, ``mx.np``,
the data pipeline, RecordIO, int8, GluonCV and mxboard. All of it works, except that numpy's own ``linalg.svd``, from
1.25 on, does not accept an ``mx.np`` array (MXNet's does). With numpy 2.3.5, which removed ``ndarray.tostring``,
``mx.recordio.pack`` fails for more than one label. With numpy 2.4.0 mxboard and int8 calibration fail too ("only
0-dimensional arrays can be converted to Python scalars"). On Python 3.14, which has no numpy before 2.3.2, MXNet,
GluonCV and mxboard can be imported; ``mx.recordio.pack`` fails and, without an onnx below 1.19, the export to ONNX.
The GPU part has only been tested with stand-ins, without a GPU.
"""

import ast
import builtins
import contextvars
import csv
import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import platform
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from d2lcls.machine import armpl
from d2lcls.machine.cores import cpu_flags, usable_cores

import numpy

INSTALL_HINT = 'pip install "d2lcls[cpu]" (or "d2lcls[cu118]" for an NVIDIA GPU)'

# Results of `prepare`, for `d2lcls.machine.doctor`.
mxnet_came_first = False  # mxnet was imported before d2lcls, which is too late to prepare it
unloadable: dict[Path, str] = {}  # CUDA library -> the loader's error
amx = "absent"  # as `open_amx` returns it

_prepared = False

# Removed in numpy 1.24. numpy 2 has its own `bool`, which MXNet works with.
_BUILTINS = ("bool", "int", "float", "complex", "object", "str")
# Removed in numpy 2.0 or later.
_CONSTANTS = {
    "PZERO": 0.0,
    "NZERO": -0.0,
    "PINF": numpy.inf,
    "NINF": -numpy.inf,
    "Inf": numpy.inf,
    "NAN": numpy.nan,
    "NaN": numpy.nan,
    "compat": types.SimpleNamespace(basestring=str),  # all that mx.np.pad uses
}
_RENAMED = {
    "alltrue": "all",
    "in1d": "isin",
    "msort": "sort",
    "product": "prod",
    "round_": "round",
    "row_stack": "vstack",
    "sometrue": "any",
    "trapz": "trapezoid",
}
# Removed in numpy 1.20; MXNet only re-exports them.
_FINANCIAL = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")

# They replace the BLAS and FFT functions of every library loaded after them.
_DROP_IN_LIBRARIES = ("libnvblas", "libcufftw")

_AMX = "AVX512_CORE_AMX"  # oneDNN's name for all instruction sets up to AMX
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # x86-64 Linux


def prepare() -> None:
    """Prepare this process so that ``import mxnet`` works; a second call does nothing.

    OMP_NUM_THREADS is set to the number of usable cores and GOMP_SPINCOUNT to 10,000, unless you have set them; where
    the processor has AMX, DNNL_MAX_CPU_ISA is set too. Child processes inherit these settings, but not the permission
    to use AMX: a child that imports mxnet has to import d2lcls first.
    """
    global _prepared, mxnet_came_first, unloadable, amx
    if _prepared:
        return
    _prepared = True
    mxnet_came_first = "mxnet" in sys.modules
    if not mxnet_came_first:
        forget_failed_import()
        sys.meta_path.insert(0, ImportHook())
    restore_numpy_names()
    if numpy.lib.NumpyVersion(numpy.__version__) >= "2.0.0":
        write_plain_numbers()
    # Otherwise MXNet uses half of the processors, as if each core appeared twice.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    # Waiting threads keep their core busy, so that two programs on the same cores wait for the scheduler at every
    # operation; after this many turns a thread goes to sleep.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # otherwise every fused network writes a line to stderr
    if sys.platform == "linux":
        preload(sorted(Path(sys.prefix, "lib", "system").glob("*.so.?")))  # those that tools/venv.sh found missing
        if any(wheel.startswith("mxnet-cu11") for wheel in mxnet_wheels()):
            unloadable = preload(cuda_libraries())
        if platform.machine() == "x86_64":
            amx = open_amx()
        elif platform.machine() == "aarch64":
            with tempfile.TemporaryDirectory() as folder:
                preload(armpl.substitutes(folder))


def forget_failed_import() -> None:
    """Remove the modules that a failed ``import mxnet`` left behind.

    Python removes only the package itself. A new import would find the submodules loaded and not attach them to the
    package: ``mxnet.autograd`` and a dozen others would be missing.
    """
    for name in [name for name in sys.modules if name.startswith("mxnet.")]:
        del sys.modules[name]


class ImportHook(importlib.abc.MetaPathFinder):
    """Finds the few modules of MXNet and GluonCV whose import needs a changed environment.

    Two packages take a third of the time of ``import mxnet``, and hardly any program needs them there. scikit-learn
    only gives the deprecated `mxnet.model.FeedForward` a base class, for which MXNet has a replacement. scipy.stats,
    which `mxnet.test_utils` uses, is imported when it is first used.

    `gluoncv.data` makes Pillow fill up truncated images with grey, for the whole process; that is undone.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module that `_SURROUNDINGS` lists; other modules are left to Python."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname in _SURROUNDINGS else None
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        with _SURROUNDINGS[self.name]():
            super().exec_module(module)


@contextmanager
def _with_stand_in(name: str, stand_in: Any) -> Iterator[None]:
    """Put an object in the place of a module that is not imported yet; None makes importing it fail."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _with_pillow_unchanged() -> Iterator[None]:
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES = before


class _Later(types.ModuleType):
    """A module that is imported when something in it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


_SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "mxnet.model": lambda: _with_stand_in("sklearn", None),
    "mxnet.test_utils": lambda: _with_stand_in("scipy.stats", _Later("scipy.stats")),
    "mxnet.contrib.quantization": lambda: _with_stand_in("scipy.stats", _Later("scipy.stats")),
    "gluoncv.data.mhp": _with_pillow_unchanged,
}


def restore_numpy_names(module: types.ModuleType = numpy) -> None:
    """Restore the names that MXNet 1.9.1 and GluonCV use and that numpy no longer has."""
    # vars(), because hasattr() makes numpy warn about the names it removed.
    present = vars(module)
    names: dict[str, Any] = {name: getattr(builtins, name) for name in _BUILTINS}
    names.update(_CONSTANTS)
    names.update((old, present[new]) for old, new in _RENAMED.items() if new in present)
    names.update((name, _financial(name)) for name in _FINANCIAL)
    for name, value in names.items():
        if name not in present:
            setattr(module, name, value)


def write_plain_numbers() -> None:
    """Make numpy 2 write a number in a tuple or list as 0.5, like numpy 1, not as np.float64(0.5).

    MXNet passes parameters such as learning rates, shapes and axes to its operators as text.
    """
    legacy: Any = "1.25"  # unknown to the types of numpy 1
    numpy.set_printoptions(legacy=legacy)
    options = sys.modules.get("numpy._core.printoptions")
    if options:  # from numpy 2.1 on, other threads start with the defaults
        contextvars.Context().run(options.format_options.get)["legacy"] = 125


def _financial(name: str) -> Callable[..., None]:
    def removed(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"numpy.{name} was removed in numpy 1.20: use the numpy-financial package")

    return removed


def mxnet_wheels() -> list[str]:
    """Return the names of the installed MXNet distributions, such as ``["mxnet", "mxnet-cu117"]``."""
    # Read from the names of folders, because importlib.metadata is slow to import.
    return sorted(
        {
            info.name.split("-")[0].replace("_", "-")
            for pattern in ("mxnet-*.dist-info", "mxnet_cu*-*.dist-info")
            for folder in sys.path
            for info in Path(folder).glob(pattern)
        }
    )


def cuda_libraries() -> list[Path]:
    """Return the paths of the shared libraries in the installed ``nvidia-*-cu11`` wheels."""
    # Read from the wheels' lists of files, because wheels for CUDA 12 use the same folders.
    libraries: list[Path] = []
    for folder in sys.path:
        for record in Path(folder).glob("nvidia_*_cu11-*.dist-info/RECORD"):
            with record.open(newline="") as rows:
                files = [Path(row[0]) for row in csv.reader(rows) if row]
            libraries += [
                Path(folder, file)
                for file in files
                if ".so." in file.name and not file.name.startswith(_DROP_IN_LIBRARIES)
            ]
    return libraries


def preload(libraries: Iterable[Path]) -> dict[Path, str]:
    """Load shared libraries, in the order in which they need each other, for all libraries loaded later.

    Returns:
        dict from each path that could not be loaded to the loader's error.
    """
    errors = {}
    waiting = list(libraries)
    while waiting:
        failed = []
        for library in waiting:
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                errors[library] = str(error)
                failed.append(library)
        if len(failed) == len(waiting):
            break
        waiting = failed  # those loaded in this round may be what the others need
    return {library: errors[library] for library in waiting}


def open_amx(
    cpu_info: str | Path = "/proc/cpuinfo",
    syscall: Callable[..., int] | None = None,
    environment: MutableMapping[str, str] = os.environ,
) -> str:
    """Ask Linux for the AMX tile registers and let oneDNN use them.

    Returns:
        "open", "absent" (the processor has no AMX), "refused" (by Linux), or "off" (DNNL_MAX_CPU_ISA was set to a
        value without AMX, and is not changed).
    """
    if "amx_tile" not in cpu_flags(cpu_info):
        return "absent"
    if environment.get("DNNL_MAX_CPU_ISA", _AMX) not in (_AMX, "ALL"):
        return "off"
    syscall = syscall or ctypes.CDLL(None).syscall
    if syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) != 0:
        return "refused"
    environment.setdefault("DNNL_MAX_CPU_ISA", _AMX)
    return "open"


def import_mxnet() -> types.ModuleType:
    """Import MXNet and return the module.

    Raises:
        ImportError: it is not installed or cannot be loaded; one line gives the reason and what to do.
    """
    if "mxnet" not in sys.modules and importlib.util.find_spec("mxnet") is None:
        raise ImportError(f"MXNet is not installed: {INSTALL_HINT}")
    try:
        return importlib.import_module("mxnet")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ImportError(
            f"MXNet is installed but cannot be loaded ({reason}): run `d2lcls doctor`, which shows what to do"
        ) from error


def import_mxboard() -> types.ModuleType:
    """Import mxboard, with any version of protobuf, and return the module.

    mxboard 0.1.0's generated modules create every descriptor by hand, which protobuf 4 and later refuse. Each also
    contains its serialized .proto file, and the messages are made from that, in a separate pool, because TensorBoard
    has other messages with the same names.
    """
    if "mxboard" not in sys.modules and (spec := importlib.util.find_spec("mxboard")) and spec.origin:
        # protobuf comes without types
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

        folder = Path(spec.origin).parent / "proto"
        modules = {f"mxboard/proto/{path.stem.removesuffix('_pb2')}.proto": path for path in folder.glob("*_pb2.py")}
        pool = descriptor_pool.DescriptorPool()

        def add(name: str) -> None:
            serialized = _serialized_proto(modules[name])
            for dependency in descriptor_pb2.FileDescriptorProto.FromString(serialized).dependency:
                add(dependency)
            pool.AddSerializedFile(serialized)

        for name, path in modules.items():
            add(name)
            module = types.ModuleType(f"mxboard.proto.{path.stem}")
            for message in pool.FindFileByName(name).message_types_by_name.values():
                setattr(module, message.name, message_factory.GetMessageClass(message))
            sys.modules[module.__name__] = module
    return importlib.import_module("mxboard")


def _serialized_proto(path: Path) -> bytes:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:  # serialized_pb=_b("...")
            case ast.keyword(arg="serialized_pb", value=ast.Call(args=[ast.Constant(value=str(text))])):
                return text.encode("latin1")
    raise ImportError(f"{path}: no serialized .proto file")
