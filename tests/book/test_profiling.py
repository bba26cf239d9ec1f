from d2lcls.book.profiling import kernel_times, operator_times, parse_verbose
from d2lcls.models import get_model

import numpy as np
import pytest

VERBOSE = """dnnl_verbose,info,oneDNN v2.0.0
dnnl_verbose,exec,cpu,convolution,jit:avx512_common,forward_training,src_f32::blocked:aBcd16b:f0,,alg:x,mb1,0.5
something else
dnnl_verbose,exec,cpu,batch_normalization,bnorm_ref:any,backward,data_f32::blocked:abcd:f0,,flags:S,mb1,2.25
"""


def test_verbose_lines_are_read():
    fast, slow = parse_verbose(VERBOSE)
    assert fast == ("convolution", "forward_training", "jit:avx512_common", 0.5) and not fast.is_reference
    assert slow.kind == "batch_normalization" and slow.ms == 2.25 and slow.is_reference


def test_operators_of_a_step_are_timed():
    net = get_model("cnn")
    net.initialize()
    times = operator_times(net, np.zeros((2, 3, 32, 32), np.float32), np.array([0, 1]))
    assert times["Convolution"] > 0 and times["_backward_Convolution"] > 0
    assert list(times.values()) == sorted(times.values(), reverse=True)


def test_kernels_of_a_step_are_timed():
    kinds = {time.kind for time in kernel_times("cifar_resnet20_v1", 2)}
    assert {"convolution", "batch_normalization"} <= kinds or not kinds  # none: this MXNet has no oneDNN


def test_a_process_that_fails_is_reported():
    with pytest.raises(RuntimeError, match="no_such_network failed"):
        kernel_times("no_such_network", 2)
