"""The wheel for 64-bit Arm is imitated with small libraries for this machine."""

import shutil
import subprocess
import sys

from d2lcls.machine import armpl

import pytest

WANTED = ("libarmpl_lp64_mp.so", "libamath.so", "libastring.so")  # as `readelf -d libmxnet.so` lists them
LOAD = """
import ctypes, pathlib, sys, tempfile
from d2lcls.machine import armpl, compat
sys.path[:] = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    print(compat.preload(armpl.substitutes(folder)))
product = ctypes.CDLL(sys.argv[1] + "/mxnet/libmxnet.so").product
print([product(index, 100, 200) for index in range(len(armpl.FUNCTIONS))])
"""


@pytest.fixture
def site(tmp_path):
    """MXNet's and SciPy's wheels as far as the loader is concerned, and Arm's libraries to link with."""

    def build(path, code, *libraries):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "gcc",
                "-shared",
                "-fPIC",
                "-o",
                path,
                "-xc",
                "-",
                "-xnone",
                f"-Wl,-soname,{path.name}",
                "-Wl,--no-as-needed",
                *(tmp_path / library for library in libraries),
            ],
            input=code,
            text=True,
            check=True,
        )

    for name in WANTED:
        build(f"arm/{name}", "".join(f"int {each}() {{ return 1; }}\n" for each in armpl.FUNCTIONS if "armpl" in name))
    build("scipy.libs/libgfortran-1.so.5", "int _gfortran_add(int a, int b) { return a + b; }")
    functions = "".join(
        f"int scipy_{name}(int a, int b) {{ return _gfortran_add(a, b) + {index}; }}\n"
        for index, name in enumerate(armpl.FUNCTIONS)
    )
    build(
        "scipy.libs/libscipy_openblas-1.so",
        "int _gfortran_add(int, int);\n" + functions,
        "scipy.libs/libgfortran-1.so.5",
    )
    called = "".join(f"int {name}(int, int);\n" for name in armpl.FUNCTIONS)
    build(
        "mxnet/libmxnet.so",
        called
        + f"int (*table[])(int, int) = {{{', '.join(armpl.FUNCTIONS)}}};"
        + "int product(int which, int a, int b) { return table[which](a, b); }",
        *(f"arm/{name}" for name in WANTED),
    )
    return tmp_path


def load(site, **environment):
    return subprocess.run([sys.executable, "-c", LOAD, site], capture_output=True, text=True, env=environment)


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, to make small shared libraries")


@needs_gcc
def test_openblas_answers_in_the_place_of_arms_libraries(site):
    assert load(site).stdout.splitlines() == ["{}", str([300 + index for index in range(len(armpl.FUNCTIONS))])]


@needs_gcc
def test_arms_libraries_are_used_where_they_are_installed(site):
    assert load(site, LD_LIBRARY_PATH=str(site / "arm")).stdout.splitlines() == ["{}", str([1] * len(armpl.FUNCTIONS))]


@needs_gcc
def test_nothing_is_loaded_where_scipy_is_missing(site):
    shutil.rmtree(site / "scipy.libs")
    done = load(site)
    assert done.stdout.splitlines() == ["{}"] and "libarmpl_lp64_mp.so: cannot open" in done.stderr


def test_the_jump_on_arm():
    """As GNU's assembler writes `ldr x16, .+0x10128` and `br x16`, which do not run here."""
    assert armpl._jump("aarch64", 0x10128) == bytes.fromhex("50090858 00021fd6")
