"""Attributes of operators: those that MXNet writes are accepted, those that it would compute nonsense with are not."""

import re

from d2lcls.models.symbols.allowed import ALLOWED
from d2lcls.models.symbols.attributes import NotAllowed, check_attributes

import mxnet as mx
import pytest


def test_every_documented_default_is_accepted():
    checked = 0
    for op in sorted(ALLOWED - {"null"}):
        documented = mx.operator.get_operator_arguments(op)
        for name, kind in zip(documented.names, documented.types):
            default = re.search(r"default='?(.*?)'?$", kind)
            if default:
                check_attributes(op, {name: default[1]})
                checked += 1
    assert checked > 300


@pytest.mark.parametrize(
    "op, key, value",
    [
        ("Convolution", "kernel", "(3L, 3L)"),
        ("Convolution", "kernel", "[3, 3]"),
        ("Convolution", "no_bias", "1"),
        ("Convolution", "layout", "None"),
        ("slice", "begin", "(None, 0)"),
        ("slice", "end", "(None, 9223372036854775807)"),
        ("slice_axis", "end", "None"),
        ("_plus_scalar", "scalar", "-1e-05"),
        ("BatchNorm", "eps", "0.001"),
        ("null", "kernel", "anything"),
        ("relu", "__lr_mult__", "anything"),
        ("null", "__shape__", "(0, 3, 224, 224)"),
    ],
)
def test_values_that_mxnet_writes(op, key, value):
    check_attributes(op, {key: value})


@pytest.mark.parametrize(
    "op, key, value",
    [
        *(("_plus_scalar", "scalar", value) for value in ("inf", "-inf", "nan", "1e308", "0x1p9", "1_0", "\u0663", "")),
        *(("Convolution", "num_group", value) for value in ("0", "1.0", "1e9", "-1", "9" * 400, "\u0663", "True", "")),
        *(("Convolution", "kernel", value) for value in ("(0, 0)", "(1.5, 1)", "(1,,1)", "((1, 1))", "1" * 400, "(1")),
        ("Convolution", "kernel", str((1,) * 17)),
        *(("Convolution", "no_bias", value) for value in ("2", "None", "yes", "")),
        *(("Pooling", "pool_type", value) for value in ("median", "None", "MAX", "")),
        ("Cast", "dtype", "complex64"),
        ("Dropout", "p", "1.5"),
        ("_contrib_BilinearResize2D", "scale_height", "1e9"),
        ("UpSampling", "scale", "0"),
        ("_zeros", "shape", "(100000, 100000)"),
        ("_zeros", "ctx", "gpu(0)"),
        ("null", "__dtype__", "99"),
        ("null", "__shape__", "(1e9,)"),
        ("_split_v2", "indices", "()"),
        ("tile", "reps", "(2, 3, 2, 3, 1)"),
        ("Reshape", "target_shape", "(1, 4)"),
        ("relu", "unknown", "1"),
        ("_sg_mkldnn_conv", "with_act", "(1, 1)"),
    ],
)  # fmt: skip
def test_values_that_are_refused(op, key, value):
    with pytest.raises(NotAllowed, match=key):
        check_attributes(op, {key: value})


def test_bilinear_scaling_has_filters():
    check_attributes("UpSampling", {"sample_type": "nearest", "num_filter": "0"})
    check_attributes("UpSampling", {"sample_type": "bilinear", "num_filter": "4"})
    with pytest.raises(NotAllowed, match="num_filter should be 1 or more"):
        check_attributes("UpSampling", {"sample_type": "bilinear"})


def test_split_has_indices_or_sections():
    check_attributes("_split_v2", {"indices": "[]", "sections": "2"})
    check_attributes("_split_v2", {"indices": "(0, 2)", "sections": "0"})
