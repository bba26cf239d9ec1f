import struct

from d2lcls.weights.tensors import WeightsError, read_metadata, read_tensors, write_safetensors

import numpy as np
import pytest

VALUES = np.float32([1.5, -2, 0, 7])


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert type(found[name]) is np.ndarray and found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


def test_safetensors_come_back(tmp_path):
    arrays = {
        "empty": np.zeros((0,), np.float32),
        "float32": VALUES,
        "scalar": np.array(2.5, np.float64),
        "float16": VALUES.astype(np.float16),
        "int64": np.arange(6).reshape(2, 3),
        "bool": VALUES > 0,
    }
    path = tmp_path / "new/net.safetensors"
    write_safetensors(path, arrays, {"model": "cnn", "classes": "ä, b"})
    assert_same(read_tensors(path), arrays)
    assert read_metadata(path) == {"model": "cnn", "classes": "ä, b"}
    read_tensors(path)["float32"][:] = 0  # a copy, and writable
    write_safetensors(path, {"a": VALUES[::2]})
    assert_same(read_tensors(path), {"a": VALUES[::2]})
    assert read_metadata(path) == {}
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


def test_bfloat16_of_safetensors(tmp_path):
    header = (
        b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[],"data_offsets":[4,6]}}'
    )
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<3H", 0x3F80, 0xC040, 0x7F80))
    assert_same(read_tensors(path), {"a": np.float32([1, -3]), "b": np.array(np.inf, np.float32)})


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,999]}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
    ],
)
def test_damaged_safetensors(tmp_path, header):
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(WeightsError, match="net.safetensors: cannot be read as safetensors .*Get the file anew"):
        read_tensors(path)
    path.write_bytes(struct.pack("<Q", 2**60) + header)
    for read in (read_tensors, read_metadata):
        with pytest.raises(WeightsError, match="cannot be read as safetensors"):
            read(path)
