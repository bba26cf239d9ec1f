"""Makes ``import mxnet`` work on a machine of today; runs when d2lcls is imported.

MXNet 1.9.1 was released in 2022 and retired in 2023. `prepare` mends what has changed since:
names that numpy removed, CUDA libraries that the loader does not look for, the BLAS that the wheel
for 64-bit Arm lacks, matrix units (Intel AMX) that Linux keeps locked, and the number of threads,
which MXNet takes to be half of the processors it sees. It imports numpy, and nothing else that is large.

What was run, on Linux x86-64 with MXNet 1.9.1: the tests on Python 3.11 with numpy 1.26.4 and on Python 3.13, for
which there is no numpy 1, with 2.2.6; half of them on Python 3.12 with 1.26.4. On Python 3.11 alone, also with numpy
1.23.5, 1.24.4, 1.25.2, 2.0.2 and 2.2.6: training and exporting a network, saving and loading every dtype, random numbers, ``mx.np``, the data pipeline,
RecordIO, int8, GluonCV and mxboard. All of it works; only numpy's own ``linalg.svd``, from 1.25 on, takes no ``mx.np``
array (MXNet's does). With numpy 2.3.5, which lost ``ndarray.tostring``, ``mx.recordio.pack`` fails for more than one
label. With numpy 2.4.0 mxboard and int8 calibration fail too ("only 0-dimensional arrays can be converted to Python
scalars"). On Python 3.14, which has no older numpy than 2.3.2, MXNet, GluonCV and mxboard can be imported; what fails
is ``mx.recordio.pack`` and, for want of an onnx below 1.19, the export to ONNX.
The GPU half has only been run with stand-ins, without a GPU.
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
from pathlib import Path

from d2lcls.machine import armpl
from d2lcls.machine.cores import cpu_flags, usable_cores

import numpy

INSTALL_HINT = 'pip install "d2lcls[cpu]" (or "d2lcls[cu118]" for an NVIDIA GPU)'

# What `prepare` found, for `d2lcls.machine.doctor`.
mxnet_came_first = False  # mxnet was imported before d2lcls: too late to mend anything for it
unloadable = {}  # CUDA library -> the loader's error
amx = "absent"  # "absent", "open", "refused" by Linux, or "off" by DNNL_MAX_CPU_ISA

_prepared = False

# Removed in numpy 1.24. numpy 2 has a `bool` of its own, which MXNet gets on with.
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
    "compat": types.SimpleNamespace(basestring=str),  # all that mx.np.pad wants of it
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
# Left numpy in 1.20; MXNet only passes the names on.
_FINANCIAL = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")

# They take over the BLAS and FFT functions of everything loaded after them.
_DROP_IN_LIBRARIES = ("libnvblas", "libcufftw")

_AMX = "AVX512_CORE_AMX"  # oneDNN's name for "up to and with AMX"
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # x86-64 Linux


def prepare():
    """Mend this process so that ``import mxnet`` works; a second call does nothing.

    OMP_NUM_THREADS is set to the number of usable cores and GOMP_SPINCOUNT to 10,000, unless you have
    set them; where the processor has AMX, DNNL_MAX_CPU_ISA is set too. Children inherit all of these,
    but not the permission to use AMX: a child that imports mxnet has to import d2lcls first.
    """
    global _prepared, mxnet_came_first, unloadable, amx
    if _prepared:
        return
    _prepared = True
    mxnet_came_first = "mxnet" in sys.modules
    if not mxnet_came_first:
        forget_failed_import()
        sys.meta_path.insert(0, QuickImport())
    restore_numpy_names()
    if numpy.lib.NumpyVersion(numpy.__version__) >= "2.0.0":
        write_plain_numbers()
    # Else MXNet halves the number of processors, as if each core showed itself twice.
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    # Threads that wait for each other keep their core busy, and two programs on the same cores then wait for the
    # scheduler at every operation; after so many turns a thread goes to sleep.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # or every fused network writes a line to stderr
    if sys.platform == "linux":
        preload(sorted(Path(sys.prefix, "lib", "system").glob("*.so.?")))  # what tools/venv.sh found missing
        if any(wheel.startswith("mxnet-cu11") for wheel in mxnet_wheels()):
            unloadable = preload(cuda_libraries())
        if platform.machine() == "x86_64":
            amx = open_amx()
        elif platform.machine() == "aarch64":
            with tempfile.TemporaryDirectory() as folder:
                preload(armpl.substitutes(folder))


def forget_failed_import():
    """Drop what an ``import mxnet`` that failed left behind, and return the dropped modules' names.

    Python drops only the package itself. A new import would find the submodules loaded and not
    attach them: ``mxnet.autograd`` and a dozen others would be missing from an mxnet that imports.
    """
    left = [name for name in sys.modules if name.startswith("mxnet.")]
    for name in left:
        del sys.modules[name]
    return left


class QuickImport(importlib.abc.MetaPathFinder):
    """Leaves out a third of ``import mxnet``: two packages that MXNet imports and hardly any program needs.

    scikit-learn gives `mxnet.model.FeedForward` a base class; MXNet deprecated that class long ago, and works without
    scikit-learn. scipy.stats serves `mxnet.test_utils`, and is imported when it is first used.
    """

    def find_spec(self, fullname, path, target=None):
        """Find the modules of MXNet that import one of them."""
        name = {
            "mxnet.model": "sklearn",
            "mxnet.test_utils": "scipy.stats",
            "mxnet.contrib.quantization": "scipy.stats",
        }.get(fullname)
        if not name or name in sys.modules:
            return None
        stand_in = _Later(name) if name == "scipy.stats" else None  # None: an import raises ImportError
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec:
            execute = spec.loader.exec_module

            def execute_without(module):
                sys.modules[name] = stand_in
                try:
                    execute(module)
                finally:
                    del sys.modules[name]

            spec.loader.exec_module = execute_without
        return spec


class _Later(types.ModuleType):
    """A module that is imported when something in it is used."""

    def __getattr__(self, name):
        return getattr(importlib.import_module(self.__name__), name)


def restore_numpy_names(module=numpy):
    """Give numpy back the names that MXNet 1.9.1 and GluonCV use, where it no longer has them."""
    # vars(), because hasattr() would make numpy warn about the names it removed.
    present = vars(module)
    names = {name: getattr(builtins, name) for name in _BUILTINS}
    names.update(_CONSTANTS)
    names.update((old, present[new]) for old, new in _RENAMED.items() if new in present)
    names.update((name, _financial(name)) for name in _FINANCIAL)
    for name, value in names.items():
        if name not in present:
            setattr(module, name, value)


def write_plain_numbers():
    """Let numpy 2 write a number in a tuple or list as 0.5 again, not as np.float64(0.5).

    MXNet hands its operators their parameters as text: learning rates, shapes, axes.
    """
    numpy.set_printoptions(legacy="1.25")
    options = sys.modules.get("numpy._core.printoptions")
    if options:  # from numpy 2.1 on, other threads begin with the defaults
        contextvars.Context().run(options.format_options.get)["legacy"] = 125


def _financial(name):
    def removed(*args, **kwargs):
        raise RuntimeError(f"numpy.{name} left numpy in version 1.20: use the numpy-financial package")

    return removed


def mxnet_wheels():
    """Return the names of the installed MXNet distributions, such as ``["mxnet", "mxnet-cu117"]``."""
    # The folders' names tell, and importlib.metadata would be slow to import here.
    return sorted(
        {
            info.name.split("-")[0].replace("_", "-")
            for pattern in ("mxnet-*.dist-info", "mxnet_cu*-*.dist-info")
            for folder in sys.path
            for info in Path(folder).glob(pattern)
        }
    )


def cuda_libraries():
    """Return the paths of the shared libraries in the installed ``nvidia-*-cu11`` wheels."""
    # Asked of the wheels' own lists, because wheels for CUDA 12 put theirs in the same folders.
    libraries = []
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


def preload(libraries):
    """Load shared libraries for everything that comes after, whatever order they need.

    Returns a dict from each path that could not be loaded to the loader's error.
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
        waiting = failed  # some were loaded in this round: they may be what the others lacked
    return {library: errors[library] for library in waiting}


def open_amx(cpu_info="/proc/cpuinfo", syscall=None, environment=os.environ):
    """Ask Linux for the AMX tile registers, tell oneDNN to use them, and return the outcome.

    The outcome is "absent" (the processor has no AMX), "refused" (Linux said no), "off" (the
    reader's DNNL_MAX_CPU_ISA asks for something else, and is left alone) or "open".
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


def import_mxnet():
    """Import MXNet and return the module.

    Raises ImportError with one line that says what to install, or why it cannot be loaded.
    """
    if "mxnet" not in sys.modules and importlib.util.find_spec("mxnet") is None:
        raise ImportError(f"MXNet is not installed: {INSTALL_HINT}")
    try:
        return importlib.import_module("mxnet")
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ImportError(
            f"MXNet is installed and cannot be loaded ({reason}): run `d2lcls doctor`, which says what to do"
        ) from error


def import_mxboard():
    """Import mxboard, with any version of protobuf, and return the module.

    mxboard 0.1.0's generated modules create every descriptor by hand, which protobuf 4 and later refuse. Each holds
    its serialized .proto file as well, and the messages are made from that, in a pool of their own: TensorBoard has
    other messages of the same names.
    """
    if "mxboard" not in sys.modules:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

        folder = Path(importlib.util.find_spec("mxboard").submodule_search_locations[0], "proto")
        modules = {f"mxboard/proto/{path.stem.removesuffix('_pb2')}.proto": path for path in folder.glob("*_pb2.py")}
        pool = descriptor_pool.DescriptorPool()

        def add(name):
            serialized = _serialized_proto(modules[name])
            for needed in descriptor_pb2.FileDescriptorProto.FromString(serialized).dependency:
                add(needed)
            pool.AddSerializedFile(serialized)

        for name, path in modules.items():
            add(name)
            module = types.ModuleType(f"mxboard.proto.{path.stem}")
            for message in pool.FindFileByName(name).message_types_by_name.values():
                setattr(module, message.name, message_factory.GetMessageClass(message))
            sys.modules[module.__name__] = module
    return importlib.import_module("mxboard")


def _serialized_proto(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            return node.value.args[0].value.encode("latin1")  # serialized_pb=_b("...")
