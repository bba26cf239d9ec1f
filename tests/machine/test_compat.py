import ctypes
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

from d2lcls.machine import compat

import mxnet as mx
import numpy as np
import pytest


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder of installed packages, and the only one on the import path."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def run(code):
    """Run code in a fresh Python, warnings being errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:d2lcls", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light():
    heavy = {"mxnet", "gluoncv", "cv2", "requests"}
    assert run(f"import sys, d2lcls; print({heavy} & set(sys.modules))") == "set()"


def test_mxnet_is_imported_without_sklearn_and_scipy_stats():
    assert (
        run("""
import sys, d2lcls, mxnet
print("sklearn" in sys.modules, "pandas" in sys.modules, "scipy.stats._stats_py" in sys.modules)
import scipy.stats, sklearn.base
print(mxnet.test_utils.ss.norm is scipy.stats.norm, scipy.stats.norm.cdf(0), mxnet.model.FeedForward.__mro__[1:])
""")
        == "False False False\nTrue 0.5 (<class 'object'>,)"
    )


def test_scikit_learn_imported_first_is_not_changed():
    assert (
        run("""
import sklearn.base, scipy.stats, d2lcls, mxnet
print(issubclass(mxnet.model.FeedForward, sklearn.base.BaseEstimator), mxnet.test_utils.ss is scipy.stats)
""")
        == "True True"
    )


def test_mxnet_is_whole_after_an_import_that_failed():
    """The first import stops where numpy 1.24 and later stop it."""
    printed = run("""
import sys
sys.modules["mxnet.numpy.utils"] = None
try:
    import mxnet
except (ImportError, OSError):  # OSError where only d2lcls finds libgomp
    print("failed")
import d2lcls
from d2lcls.machine import compat
import mxnet as mx
x = mx.nd.ones((1, 3, 8, 8))
x.attach_grad()
with mx.autograd.record():   # a bare second import has no mx.autograd, mx.context, mx.util
    y = mx.nd.Convolution(x, mx.nd.ones((2, 3, 3, 3)), no_bias=True, kernel=(3, 3), num_filter=2)
y.backward()
print(x.grad.sum().asscalar(), mx.context.cpu(), compat.mxnet_came_first)
""")
    assert printed.splitlines() == ["failed", "1944.0 cpu(0) False"]


def test_operators_take_shapes_and_lists_of_numpy_numbers_in_every_thread():
    """They are handed to MXNet as text, which numpy 2 begins with np.float64."""

    def make():
        weight = mx.nd.ones((np.int64(1), np.int32(2)))
        mx.nd.multi_sgd_update(
            weight, weight.copy(), lrs=[np.float64(0.25)], wds=[np.float32(0)], num_weights=1, out=weight
        )
        return weight.asnumpy().tolist()

    with ThreadPoolExecutor(1) as other_thread:
        assert make() == other_thread.submit(make).result() == [[0.75, 0.75]]


def test_one_thread_per_core_unless_set_otherwise(monkeypatch):
    show = (
        "import os, d2lcls; from d2lcls.machine.cores import usable_cores\n"
        "print(os.environ['OMP_NUM_THREADS'], usable_cores())"
    )
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    chosen, cores = run(show).split()
    assert chosen == cores
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run(show).split() == ["7", cores]


def test_waiting_threads_go_to_sleep_unless_set_otherwise(monkeypatch):
    show = "import os, d2lcls; print(os.environ['GOMP_SPINCOUNT'])"
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert run(show) == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    assert run(show) == "0"


def test_remembers_that_mxnet_came_first():
    assert (
        run("""
import sys, types
sys.modules["mxnet"] = types.ModuleType("mxnet")
import d2lcls
print(d2lcls.machine.compat.mxnet_came_first, "mxnet" in sys.modules)
""")
        == "True True"
    )


def test_prepare_works_once(monkeypatch):
    called = []
    monkeypatch.setattr(compat, "restore_numpy_names", lambda: called.append(1))
    compat.prepare()
    assert not called  # done when d2lcls was imported
    monkeypatch.setattr(compat, "_prepared", False)
    for state in ("mxnet_came_first", "unloadable", "amx"):
        monkeypatch.setattr(compat, state, getattr(compat, state))
    compat.prepare()
    compat.prepare()
    assert called == [1]


def test_restores_only_the_removed_names():
    numpy_2 = types.ModuleType("numpy")
    numpy_2.bool = "numpy's own"
    for name in ("all", "any", "prod", "isin", "sort", "vstack", "round", "trapezoid"):
        setattr(numpy_2, name, f"new {name}")
    compat.restore_numpy_names(numpy_2)
    assert numpy_2.bool == "numpy's own"
    assert (numpy_2.int, numpy_2.PINF, numpy_2.alltrue) == (int, float("inf"), "new all")
    assert numpy_2.trapz == "new trapezoid"
    with pytest.raises(RuntimeError, match="numpy.mirr was removed in numpy 1.20: use the numpy-financial"):
        numpy_2.mirr([1, 2])


def test_mxnet_wheels(site):
    assert compat.mxnet_wheels() == []
    for name in ("mxnet-1.9.1", "mxnet_cu117-1.9.1", "mxnet_tools-1.0"):
        (site / f"{name}.dist-info").mkdir()
    assert compat.mxnet_wheels() == ["mxnet", "mxnet-cu117"]


def test_cuda_libraries_are_those_of_the_cu11_wheels(site):
    for wheel, rows in {
        "nvidia_cublas_cu11-11.11.3.6": [
            "nvidia/cublas/lib/libcublas.so.11,sha256=x,1",
            "nvidia/cublas/lib/libnvblas.so.11,sha256=x,1",
            "nvidia/cublas/include/cublas.h,sha256=x,1",
        ],
        "nvidia_cublas_cu12-12.1": ["nvidia/cublas/lib/libcublas.so.12,sha256=x,1"],
    }.items():
        folder = site / f"{wheel}.dist-info"
        folder.mkdir()
        (folder / "RECORD").write_text("\n".join(rows) + "\n")
    # libnvblas would replace the BLAS of the whole process
    assert compat.cuda_libraries() == [site / "nvidia/cublas/lib/libcublas.so.11"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to make small shared libraries")
def test_preload_finds_the_order(tmp_path):
    """top needs middle needs bottom, in folders that no loader searches, given in the wrong order."""
    made = {}
    for name, needs in (("bottom", None), ("middle", "bottom"), ("top", "middle")):
        made[name] = tmp_path / name / f"libd2lcls_{name}.so.11"
        made[name].parent.mkdir()
        source = tmp_path / f"{name}.c"
        source.write_text(
            f"int {needs}(void); int {name}(void) {{ return {needs}() + 1; }}"
            if needs
            else "int bottom(void) { return 1; }"
        )
        linked = [made[needs]] if needs else []
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", made[name], source, *linked, f"-Wl,-soname,{made[name].name}"], check=True
        )
    broken = tmp_path / "libbroken.so.1"
    broken.write_text("not a library")
    with pytest.raises(OSError, match="libd2lcls_middle"):
        ctypes.CDLL(str(made["top"]))  # fails unprepared

    errors = compat.preload([made["top"], broken, made["middle"], made["bottom"]])

    assert list(errors) == [broken] and "libbroken" in errors[broken]
    assert ctypes.CDLL("libd2lcls_top.so.11").top() == 3  # found by its bare name, as MXNet asks for it
    assert ctypes.CDLL(None).bottom() == 1  # and its symbols are there for all


@pytest.fixture
def amx_processor(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile amx_int8\n")
    return path


def test_amx_is_requested_and_used(amx_processor):
    asked, environment = [], {}
    outcome = compat.open_amx(amx_processor, lambda *call: asked.append(call) or 0, environment)
    assert (outcome, asked) == ("open", [(158, 0x1023, 18)])
    assert environment == {"DNNL_MAX_CPU_ISA": "AVX512_CORE_AMX"}


def test_amx_refused_by_linux_is_not_used(amx_processor):
    environment = {}
    assert compat.open_amx(amx_processor, lambda *call: -1, environment) == "refused"
    assert environment == {}


def test_amx_does_not_change_the_users_setting(amx_processor):
    environment = {"DNNL_MAX_CPU_ISA": "AVX2"}
    assert compat.open_amx(amx_processor, lambda *call: pytest.fail("asked"), environment) == "off"
    assert environment == {"DNNL_MAX_CPU_ISA": "AVX2"}


@pytest.mark.parametrize("flags", ["flags\t: fpu avx512f\n", "Features\t: asimd\n", None])
def test_amx_does_nothing_elsewhere(tmp_path, flags):
    path, environment = tmp_path / "cpuinfo", {}
    if flags:
        path.write_text(flags)
    assert compat.open_amx(path, lambda *call: pytest.fail("asked"), environment) == "absent"
    assert environment == {}


def test_nothing_is_done_on_other_systems(monkeypatch):
    monkeypatch.setattr(compat, "_prepared", False)
    for state in ("mxnet_came_first", "unloadable", "amx"):
        monkeypatch.setattr(compat, state, getattr(compat, state))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(compat, "open_amx", lambda: pytest.fail("asked for AMX"))
    monkeypatch.setattr(compat, "mxnet_wheels", lambda: pytest.fail("looked for CUDA wheels"))
    compat.prepare()


def test_missing_mxnet_names_the_extras():
    """With mxnet out of reach, d2lcls imports and says what to install."""
    assert (
        run("""
import sys
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "mxnet" else real(name, *rest)
from d2lcls.machine import compat
try:
    compat.import_mxnet()
except ImportError as error:
    print(error)
""")
        == 'MXNet is not installed: pip install "d2lcls[cpu]" (or "d2lcls[cu118]" for an NVIDIA GPU)'
    )


def test_mxnet_that_cannot_be_loaded_says_why(site, monkeypatch):
    (site / "mxnet").mkdir()
    (site / "mxnet" / "__init__.py").write_text("raise OSError('libcuda.so.1: cannot open it')")
    for name in [name for name in sys.modules if name.split(".")[0] == "mxnet"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"cannot be loaded \(libcuda.so.1: .*\): run `d2lcls doctor`"):
        compat.import_mxnet()
