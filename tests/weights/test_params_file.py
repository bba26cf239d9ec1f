"""Files of parameters of every age, written here byte by byte, and what becomes of them when they are damaged."""

import struct

from d2lcls.weights.params_file import MAX_DENSE, TYPES, V1, V2, V3, ParamsError, params_bytes, read_params

import mxnet as mx
import numpy as np
import pytest

CODES = {np.dtype(name): code for code, name in TYPES.items() if name != "bfloat16"}


def content_of(arrays, form, device=1):
    """Write a dict as `nd.save` of MXNet did: form 0 is that of before 0.11, 1 to 3 are those with a number."""
    made = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        sizes = struct.pack(f"<{array.ndim}{'q' if form else 'I'}", *array.shape)
        made += {0: b"", 1: struct.pack("<I", V1), 2: struct.pack("<Ii", V2, 0), 3: struct.pack("<Ii", V3, 0)}[form]
        made += struct.pack("<I", array.ndim) + sizes + struct.pack("<iii", device, 0, CODES[array.dtype])
        made += array.tobytes()
    made += struct.pack("<Q", len(arrays))
    return made + b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in arrays)


ARRAYS = {
    "arg:conv_weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "aux:mean": np.ones(3, np.float16),
    "ümlaut": np.arange(4, dtype=np.int32),
    "wide": np.full((2, 1), 0.1),
    "arg:bytes": np.arange(5, dtype=np.uint8),
}


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("form", range(4))
def test_every_form(tmp_path, form):
    path = tmp_path / "net.params"
    path.write_bytes(content_of(ARRAYS, form, device=2))  # 2: saved on a GPU
    same(read_params(path), ARRAYS)
    if form < 3:  # MXNet reads the last one only in a mode of its own
        path.write_bytes(content_of(ARRAYS, form))
        same(read_params(path), {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()})


def test_what_mxnet_writes_today(tmp_path):
    arrays = {
        "a": mx.nd.array([[1, 2], [3, 4]]),
        "truth": mx.nd.array([1, 0], dtype="bool"),
        "rows": mx.nd.array([[0, 1], [0, 0], [2, 3]]).tostype("row_sparse"),
        "csr": mx.nd.array([[0, 1], [0, 0], [2, 3]]).tostype("csr"),
        "no rows": mx.nd.zeros((3, 2)).tostype("row_sparse"),
    }
    expected = {
        name: array.asnumpy() for name, array in arrays.items()
    }  # before: nd.save does not wait for sparse ones
    mx.nd.save(str(tmp_path / "net.params"), arrays)
    same(read_params(tmp_path / "net.params"), expected)
    mx.nd.save(str(tmp_path / "list.params"), [mx.nd.ones(2), mx.nd.zeros((1, 1))])
    same(read_params(tmp_path / "list.params"), {"0": np.ones(2, np.float32), "1": np.zeros((1, 1), np.float32)})
    with mx.util.np_shape(True):
        mx.nd.save(
            str(tmp_path / "numpy.params"),
            {"scalar": mx.np.array(3.0).as_nd_ndarray(), "none": mx.np.zeros((0, 3)).as_nd_ndarray()},
        )
    same(
        read_params(tmp_path / "numpy.params"),
        {"scalar": np.float32(3).reshape(()) + np.zeros((), np.float32), "none": np.zeros((0, 3), np.float32)},
    )


def test_the_writer_writes_what_mxnet_does(tmp_path):
    arrays = {**ARRAYS, "arg:größe": np.ones((2, 1, 3), np.float32), "columns first": np.ones((2, 3), order="F")}
    path = tmp_path / "net.params"
    mx.nd.save(str(path), {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()})
    assert params_bytes(arrays) == path.read_bytes()


def test_bfloat16_becomes_float32(tmp_path):
    content = bytearray(content_of({"a": np.array([0x3FC0, 0xC000], np.uint16)}, 2))
    place = content.index(struct.pack("<iii", 1, 0, CODES[np.dtype("u2")])) + 8
    content[place : place + 4] = struct.pack("<i", 12)
    (tmp_path / "net.params").write_bytes(content)
    same(read_params(tmp_path / "net.params"), {"a": np.array([1.5, -2], np.float32)})


@pytest.mark.parametrize("form", range(4))
def test_a_file_cut_short_anywhere_is_refused(tmp_path, form):
    content, path = content_of(ARRAYS, form), tmp_path / "net.params"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ParamsError, match="net.params: cannot be read .*(cut short|too short|counts).*again"):
            read_params(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ParamsError, match="1 bytes follow after its end"):
        read_params(path)


def test_flipped_bits_give_an_error_or_other_numbers(tmp_path):
    rng, path, refused = np.random.default_rng(0), tmp_path / "net.params", 0
    contents = [content_of(ARRAYS, form) for form in range(4)]
    sparse = {kind: mx.nd.array([[0, 1], [2, 3]]).tostype(kind) for kind in ("csr", "row_sparse")}
    mx.nd.waitall()
    mx.nd.save(str(path), sparse)
    contents.append(path.read_bytes())
    for _ in range(400):
        content = bytearray(contents[rng.integers(len(contents))])
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            found = read_params(path)
        except ParamsError:
            refused += 1
        else:  # a number, a name or what is not looked at
            assert sum(array.nbytes for array in found.values()) <= (MAX_DENSE if "csr" in found else len(content))
    assert 100 < refused < 350


def header(*numbers):
    return struct.pack(f"<{len(numbers)}Q", *numbers)


HUGE = struct.pack("<IiI2q", V2, 0, 2, 2**40, 2**40) + struct.pack("<iii", 1, 0, 0)
EMPTY = struct.pack("<IiI3q", V2, 0, 3, 0, 2**62, 2**62) + struct.pack("<iii", 1, 0, 0) + header(0)
SPARSE = struct.pack("<IiI2qI2q", V2, 1, 2, 0, 1, 2, 2**40, 1) + struct.pack("<iiiiIq", 1, 0, 0, 6, 1, 0) + header(0)


@pytest.mark.parametrize(
    "content, reason",
    [
        (header(0x112, 0, 2**63) + b"\0" * 99, "counts 9223372036854775808 arrays, and 99 bytes follow"),
        (header(0x112, 0, 1) + HUGE + header(0), "cut short: array 0 of shape .1099511627776, 1099511627776."),
        (header(0x112, 0, 1) + EMPTY, "the shape .0, 4611686018427387904"),
        (header(0x112, 0, 1) + SPARSE, "too large to be made dense"),
        (header(0x112, 0, 1) + struct.pack("<I", 2**31) + b"\0" * 99, "has 2147483648 dimensions"),
        (header(0x112, 0, 1) + struct.pack("<Iii", V2, 7, 0) + b"\0" * 99, "unknown kind of storage 7"),
        (header(0x112, 0, 1) + struct.pack("<IIiii", 1, 0, 1, 0, 99) + header(0), "unknown type 99"),
        (header(0x112, 0, 1) + struct.pack("<Iiiq", V2, 0, 1, -4) + b"\0" * 99, "has the shape .-4"),
        (header(0x112, 0, 0, 1, 1) + b"a", "0 arrays and 1 names"),
        (content_of({"a": np.ones(1, np.float32)}, 2)[:-1] + b"\xff", "a name at byte .* is not UTF-8 text"),
        (b"PK\x03\x04" + b"\0" * 99, "begins like a zip file"),
        (b"{" + b" " * 99, "is this the symbol"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"", "too short, 0 bytes"),
        (b"x" * 99, "does not begin like a .params file"),
    ],
)
def test_hostile_files(tmp_path, content, reason):
    path = tmp_path / "net.params"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=reason):
        read_params(path)


def test_names_that_stand_twice(tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(content_of({"a": np.ones(1), "b": np.ones(1)}, 2)[:-1] + b"a")
    with pytest.raises(ParamsError, match="the name 'a' appears in it twice"):
        read_params(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such parameter file"):
        read_params(tmp_path / "net.params")
