import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/masked_cpu.py"
tool = runpy.run_path(str(TOOL))

pytestmark = [
    pytest.mark.skipif(not tool["possible"](), reason="this processor's CPUID cannot be made to fault"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler"),
]


def run(level, code):
    return subprocess.run(
        [sys.executable, TOOL, level, sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )


ABILITIES = """
import numpy.core as core
from d2lcls.machine.cores import cpu_flags
found = core._multiarray_umath.__cpu_features__
print(sorted(name for name in ("AVX2", "AVX512F") if found[name]), "avx2" in cpu_flags(),
      any(flag.startswith("avx512") for flag in cpu_flags()), "avx512_vnni" in cpu_flags())
"""


def test_numpy_and_the_package_see_a_processor_without_avx512():
    answer = run("avx2", ABILITIES)
    assert answer.stdout.split("\n")[0] == "['AVX2'] True False False", answer


def test_vnni_alone_can_be_hidden():
    answer = run("avx512", ABILITIES)
    assert answer.stdout.split("\n")[0].endswith("False"), answer


def test_onednn_sees_it_in_a_thread_of_a_child():
    code = """
import subprocess, sys, os
child = '''
import d2lcls, threading
import mxnet as mx
work = threading.Thread(target=lambda: mx.nd.Convolution(
    mx.nd.ones((1, 8, 8, 8)), mx.nd.ones((8, 8, 3, 3)), kernel=(3, 3), num_filter=8, no_bias=True).wait_to_read())
work.start()
work.join()
'''
print(subprocess.run([sys.executable, "-c", child], env={**os.environ, "DNNL_VERBOSE": "1"}, capture_output=True,
                     text=True).stdout)
"""
    assert "isa:Intel AVX2\n" in run("avx2", code).stdout


def test_a_program_still_has_its_own_handler_of_faults():
    answer = run("avx2", "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)")
    assert answer.returncode == 128 + 11 and "Fatal Python error: Segmentation fault" in answer.stderr


def test_an_unknown_level_is_refused():
    answer = run("sse", "")
    assert answer.returncode == 1 and "usage" in answer.stderr
