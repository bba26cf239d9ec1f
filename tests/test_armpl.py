"""The wheel for 64-bit Arm is imitated with small libraries for this machine."""

import shutil
import subprocess
import sys

import pytest

WANTED = ("libarmpl_lp64_mp.so", "libamath.so", "libastring.so")  # as `readelf -d libmxnet.so` lists them
LOAD = """
import ctypes, pathlib, sys, tempfile
sys.path.insert(0, sys.argv[1])
from d2lcls import armpl, compat
with tempfile.TemporaryDirectory() as folder:
    print(compat.preload(armpl.substitutes(folder)))
print(ctypes.CDLL(sys.argv[1] + "/mxnet/libmxnet.so").product())
"""


@pytest.fixture
def site(tmp_path):
    """MXNet's and OpenBLAS's wheels as far as the loader is concerned, and Arm's libraries to link with."""
    def build(path, code, *libraries):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, "-xc", "-", "-xnone", f"-Wl,-soname,{path.name}",
                        "-Wl,--no-as-needed", *(tmp_path / library for library in libraries)],
                       input=code, text=True, check=True)
    for name in WANTED:
        build(f"arm/{name}", "int cblas_sdot() { return 1; }" if "armpl" in name else "")
    build("mxnet/libgfortran.so.5", "int _gfortran_add() { return 40; }")
    build("cmeel.prefix/lib/libopenblas.so.0", "int _gfortran_add(); int cblas_sdot() { return _gfortran_add() + 2; }",
          "mxnet/libgfortran.so.5")
    build("mxnet/libmxnet.so", "int cblas_sdot(); int product() { return cblas_sdot(); }",
          *(f"arm/{name}" for name in WANTED))
    return tmp_path


def load(site, **environment):
    return subprocess.run([sys.executable, "-c", LOAD, site], capture_output=True, text=True, env=environment)


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to make small shared libraries")


@needs_gcc
def test_openblas_answers_in_the_place_of_arms_libraries(site):
    assert load(site).stdout.splitlines() == ["{}", "42"]


@needs_gcc
def test_arms_libraries_are_used_where_they_are_installed(site):
    assert load(site, LD_LIBRARY_PATH=str(site / "arm")).stdout.splitlines() == ["{}", "1"]


@needs_gcc
@pytest.mark.parametrize("missing", ["cmeel.prefix", "mxnet/libgfortran.so.5"])
def test_nothing_is_loaded_where_a_wheel_is_missing(site, missing):
    path = site / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = load(site)
    assert done.stdout.splitlines() == ["{}"] and "libarmpl_lp64_mp.so: cannot open" in done.stderr
