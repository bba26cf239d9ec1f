import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

from d2lcls.weights.tensors import WeightsError, read_tensors, write_safetensors
from d2lcls.weights.torch_files import MAGIC

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "reference"
FILES = [f"torch_{name}.{form}.pth" for name in ("tensors", "module", "shared") for form in ("zip", "legacy")]


def expected(name):
    with np.load(FOLDER / "torch_expected.npz") as file:
        return {key.split("/", 1)[1]: file[key] for key in file.files if key.startswith(f"{name}/")}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert type(found[name]) is np.ndarray and found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


# Pickles by hand, opcode by opcode.


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key="0", kind="FloatStorage", length=4):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(length) + b"tQ"


def tensor(offset=0, size=(4,), stride=(1,), of=None):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (of or storage())
        + number(offset)
        + numbers(*size)
        + numbers(*stride)
        + b"\x89}tR"
    )


def state(value, name="weight"):
    return b"\x80\x02}" + text(name) + value + b"s."


VALUES = np.arange(4, dtype=np.float32)


def write(path, pickled, content=VALUES.tobytes(), keys=("0",), form="zip", compression=zipfile.ZIP_STORED):
    """Write a pickle and the bytes of its storages in one of PyTorch's formats."""
    if form == "zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", pickled)
            for key in keys:
                archive.writestr(f"archive/data/{key}", content)
    else:
        head = [pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": True})]
        body = [struct.pack("<q", len(content) // 4) + content for _ in keys]
        path.write_bytes(b"".join([*head, pickled, pickle.dumps(list(keys), 2), *body]))
    return path


@pytest.fixture(params=["zip", "legacy"])
def make(request, tmp_path):
    return lambda pickled, *args, **kwargs: write(tmp_path / "net.pth", pickled, *args, form=request.param, **kwargs)


@pytest.mark.parametrize("file", FILES)
def test_files_of_pytorch_are_read(file):
    assert_same(read_tensors(FOLDER / file), expected(file.split(".")[0][len("torch_") :]))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_any_binary_protocol_is_read(make, protocol):
    class Reference:
        def __reduce__(self):
            return (), ()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", "FloatStorage", "0", "cpu", 4) if isinstance(value, Reference) else None

    import io

    stream = io.BytesIO()
    Pickler(stream, protocol).dump([Reference(), {"shape": (1, 2), "long name" * 40: 3.5}])
    assert b"storage" in stream.getvalue()
    with pytest.raises(WeightsError, match="it contains no state dict"):  # so it came as far as that
        read_tensors(make(stream.getvalue()))


def test_a_dict_as_python_2_wrote_it(make):
    pairs = b"ccollections\nOrderedDict\n(](](U\x06weight" + tensor() + b"eetR."
    assert_same(read_tensors(make(b"\x80\x02" + pairs)), {"weight": VALUES})


def test_the_pieces_by_hand_are_right(make):
    assert_same(read_tensors(make(state(tensor()))), {"weight": VALUES})
    assert_same(read_tensors(make(state(tensor(1, (2, 2), (1, 1))))), {"weight": np.float32([[1, 2], [2, 3]])})


def test_arrays_are_the_callers_own(make):
    path = make(state(tensor()))
    read_tensors(path)["weight"][:] = 7
    assert_same(read_tensors(path), {"weight": VALUES})


@pytest.mark.parametrize(
    "call", ["os.system", "builtins.eval", "posix INST", "posix OBJ", "STACK_GLOBAL", "NEWOBJ", "EXT1"]
)
def test_nothing_is_run(make, tmp_path, call):
    marker = tmp_path / "marker"

    class Harmful:
        def __reduce__(self):
            if call == "os.system":
                return os.system, (f"touch {marker}",)
            return eval, (f"open({str(marker)!r}, 'w')",)

    command = text(f"touch {marker}")
    pickled = {
        "posix INST": b"(" + command + b"iposix\nsystem\n.",
        "posix OBJ": b"(cposix\nsystem\n" + command + b"o.",
        "STACK_GLOBAL": b"\x80\x04" + text("posix") + text("system") + b"\x93" + command + b"\x85R.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(" + text("touch") + command + b"l\x85\x81.",
        "EXT1": b"\x80\x02\x82\x01.",
    }.get(call) or pickle.dumps({"weight": Harmful()}, 2)
    with pytest.raises(WeightsError, match="net.pth: cannot be read as PyTorch weights"):
        read_tensors(make(pickled))
    with pytest.raises(WeightsError):  # as the very first thing in the file, too
        (tmp_path / "net.pth").write_bytes(pickled)
        read_tensors(tmp_path / "net.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "numpy.core.multiarray._reconstruct",
        "numpy.load",
        "mxnet.nd.load",
        "torch._utils._rebuild_parameter.__globals__",
        "torch.load",
        "torch.nn.Linear",
        "collections.Counter",
        "d2lcls.weights.tensors.read_tensors",
        "pickle.loads",
    ],
)
def test_globals_are_refused_by_name(make, name):
    module, _, attribute = name.rpartition(".")
    for opcodes in (f"c{module}\n{attribute}\n".encode(), text(module) + text(attribute) + b"\x93"):
        with pytest.raises(WeightsError, match=f"it calls {name}, which no file of weights needs"):
            read_tensors(make(b"\x80\x04" + opcodes + b")R."))


@pytest.mark.parametrize(
    "attributes",
    [
        b"}" + text("offset") + number(10**9) + b"s",
        b"N}" + text("size") + numbers(10**6) + b"s\x86",
        b"}" + text("storage") + storage("1", length=10**6) + b"s",
        b"N}" + text("array") + b"ccollections\nOrderedDict\ns\x86",
    ],
)
def test_a_tensor_cannot_be_changed_after_its_check(make, attributes):
    with pytest.raises(WeightsError):
        read_tensors(make(state(tensor() + attributes + b"b")))


def test_a_storage_cannot_be_changed_after_its_check(make):
    longer = storage() + b"}" + text("length") + number(10**6) + b"sb"
    with pytest.raises(WeightsError):
        read_tensors(make(state(tensor(0, (10**6,), (1,), longer))))


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "collections.OrderedDict",
        "torch.FloatStorage",
    ],
)
def test_no_file_reaches_the_next_one(make, name):
    """BUILD sets attributes of what find_class returned: of an object made for this file alone."""
    for key, value in (
        ("__defaults__", numbers(1, 2)),
        ("get", number(1)),
        ("__module__", text("os")),
        ("kind", text("x")),
        ("__kwdefaults__", b"}"),
    ):
        target = "c{}\n{}\n".format(*name.rsplit(".", 1)).encode()
        try:
            read_tensors(make(b"\x80\x02}" + text("a") + target + b"N}" + text(key) + value + b"s\x86bs."))
        except WeightsError:
            pass
        assert_same(read_tensors(make(state(tensor()))), {"weight": VALUES})


@pytest.mark.parametrize(
    "reference",
    [
        numbers(1, 2, 3, 4, 5),
        number(7),
        text("storage"),
        b"N",
        b"]",
        b"}",
        b")",
        b"(" + text("module") + b"NNNNt",
        storage(kind="Linear")[:-1],
        storage(length=-1)[:-1],
        storage(length=2.0)[:-1],
        b"(" + text("storage") + b"]" + text("0") + text("cpu") + number(4) + b"t",
        b"(" + text("storage") + text("FloatStorage") + b"]N" + number(4) + b"t",
    ],
)
def test_references_that_are_no_storage(make, reference):
    with pytest.raises(WeightsError):
        read_tensors(make(state(tensor(of=reference + b"Q"))))


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2,), (4,)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2**40,), (0,)),
        (2**62, (1,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2,) * 40, (0,) * 40),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, (2**70,), (2**70,)),
        (0, (0, 2**70), (1, 1)),
        (0, (1,), (2**70,)),
        (2**70, (0,), (1,)),
        (0.0, (1,), (1,)),
        (0, (1, 2**62), (2**62, 0)),
    ],
)
def test_tensors_that_do_not_fit_their_data(make, offset, size, stride):
    try:
        found = read_tensors(make(state(tensor(offset, size, stride))))
    except WeightsError:
        return
    assert 0 in size or size == (1,) and offset == 0  # no number is read, or only the first
    assert found["weight"].shape == size


@pytest.mark.parametrize("broken", [b"N", numbers(4), text("FloatStorage"), tensor()])
def test_tensors_of_something_else(make, broken):
    with pytest.raises(WeightsError):
        read_tensors(make(state(tensor(of=broken))))


@pytest.mark.parametrize("content", [b"", VALUES.tobytes()[:-1], VALUES.tobytes()[:-4], VALUES.tobytes() * 2])
def test_storages_of_another_length(make, content):
    with pytest.raises(WeightsError, match="truncated, or a storage does not have its declared length"):
        read_tensors(make(state(tensor()), content))


def test_one_storage_described_in_two_ways(make):
    both = b"\x80\x02}(" + text("a") + tensor() + text("b") + tensor(of=storage(kind="IntStorage")) + b"u."
    with pytest.raises(WeightsError, match="describes one storage in two ways"):
        read_tensors(make(both))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"N.", "no state dict"),
        (number(3) + b".", "no state dict"),
        (b"}.", "no state dict"),
        (b"].", "no state dict"),
        (b"}" + number(1) + tensor() + b"s.", "no state dict"),
        (state(b"]")[2:], "its entry 'weight' is not a tensor"),
        (b"}" + text("state_dict") + b"}s.", "no state dict"),
        (b"}" + text("model") + state(b"N")[2:-1] + b"s.", "'weight'"),
        (b"})" + tensor() + b"s.", "a key is not a text"),
    ],
)
def test_files_without_tensors(make, content, message):
    with pytest.raises(WeightsError, match=message):
        read_tensors(make(b"\x80\x02" + content, keys=("0",) if b"storage" in content else ()))


@pytest.mark.parametrize("key", ["../../../marker", "/marker"])
def test_paths_in_a_zip_file_lead_nowhere(tmp_path, key):
    folder = tmp_path / "a/b/c"
    folder.mkdir(parents=True)
    found = read_tensors(write(folder / "net.pth", state(tensor(of=storage(key))), keys=(key,)))
    assert_same(found, {"weight": VALUES})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["net.pth"]


def test_zip_files_of_another_kind(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(WeightsError, match="it is compressed"):
        read_tensors(write(path, state(tensor()), compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b/data.pkl", state(tensor()))
    with pytest.raises(WeightsError, match="it contains no data.pkl"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", state(tensor()))
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(WeightsError, match="big-endian"):
        read_tensors(path)
    content = bytearray(write(path, state(tensor())).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="encrypted"):
        read_tensors(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "net.pth")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "net.safetensors")
    for name in ("folder.pth", "folder.safetensors"):
        (tmp_path / name).mkdir()
        with pytest.raises(IsADirectoryError):
            read_tensors(tmp_path / name)
    for content in (b"", b"\0" * 100, b"not a file of weights\n", b"<html></html>", b"\x80", b"PK\x03\x04", b"."):
        for name in ("net.pth", "net.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(WeightsError, match=rf"{name}: cannot be read as .+\(.+\)\. "):
                read_tensors(tmp_path / name)


@pytest.mark.parametrize("file", FILES)
def test_files_cut_short(tmp_path, file):
    content = (FOLDER / file).read_bytes()
    for length in np.linspace(0, len(content) - 1, 60).astype(int):
        (tmp_path / "net.pth").write_bytes(content[:length])
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / "net.pth")


@pytest.mark.parametrize("file", [*FILES, "safetensors"])
def test_any_flipped_bit_is_found_or_harmless(tmp_path, file):
    path = tmp_path / ("net.safetensors" if file == "safetensors" else "net.pth")
    if file == "safetensors":
        write_safetensors(path, expected("tensors"), {"a": "b"})
    else:
        path.write_bytes((FOLDER / file).read_bytes())
    content, rng, read = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(400):
        damaged = bytearray(content)
        for index in rng.integers(len(content), size=rng.integers(1, 4)):
            damaged[index] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            found = read_tensors(path)
        except WeightsError:
            continue
        read += 1
        assert all(type(value) is np.ndarray for value in found.values())
        assert sum(value.nbytes for value in found.values()) <= 20 * len(content)
    assert read < 400


def long_memo(index):
    return state(tensor() + b"r" + struct.pack("<I", index))


def views(count):
    parts = [text(str(index)) + tensor(index % 7, (99_990,), (1,), storage(length=100_000)) for index in range(count)]
    return b"\x80\x02}(" + b"".join(parts) + b"u."


def nested(step, depth):
    return b"\x80\x02})" + step * depth + tensor() + b"s."


def put(index):
    return b"r" + struct.pack("<I", index)


def long(value):
    content = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(content)]) + content


# Two equal texts, objects 1 and 2: each comparison reads them to the end.
TWINS = b"](" + text("a" * 500_000) + b"q\x01" + text("a" * 500_000) + b"q\x02e"
ORDERED = b"ccollections\nOrderedDict\n"


def reference(key):
    return b"(" + text("storage") + text("FloatStorage") + key + text("cpu") + number(1) + b"tQ"


LONG_PICKLES = {
    "attributes of a long dict": ORDERED + b")R(" + b"K\x01N" * 100_000 + b"u" + b"}b" * 100_000 + b".",
    "long attributes": b"}q\x01("
    + b"".join(text(str(n)) + b"N" for n in range(30_000))
    + (b"u" + ORDERED + b")R" + b"h\x01b" * 100_000 + b"."),
    "one dict many times": b"}q\x01(" + b"K\x01N" * 100_000 + b"u" + (ORDERED + b"h\x01\x85R") * 3_000 + b".",
    "one list many times": b"]q\x01(" + b"K\x01N\x86" * 100_000 + b"e" + (ORDERED + b"h\x01\x85R") * 3_000 + b".",
    "a list emptied from its front": ORDERED + b"](" + b"K\x01K\x02\x86" * 150_000 + b"e\x85R.",
    "colliding keys": b"}(" + b"".join(long(n * (2**61 - 1) + 7) + b"N" for n in range(40_000)) + b"u.",
    "colliding numbers of objects": b"N" + b"".join(b"r" + struct.pack("<I", n << 16) for n in range(2**16)) + b".",
    "equal keys": TWINS + b"}(" + b"h\x01Nh\x02N" * 100_000 + b"u.",
    "equal names of tensors": TWINS + tensor() + b"q\x03}(" + b"h\x01h\x03h\x02h\x03" * 60_000 + b"u.",
    "equal keys of storages": TWINS + (reference(b"h\x01") + reference(b"h\x02")) * 8_000 + b".",
    "empty dicts": b"}" * 1_000_001 + b".",
    "dicts in dicts": b"}N" * 150_000 + b"}" + b"s" * 150_000 + b".",
    "lists in lists": b"]" * 200_000 + b"a" * 199_999 + b".",
    "a list in itself": b"]q\x01" + b"h\x01a" * 150_000 + b".",
    "one tensor under many names": tensor(0, (0,) * 32, (1,) * 32)
    + (b"q\x01}(" + b"".join(text(str(n)) + b"h\x01" for n in range(200_000)) + b"u."),
    "a long name of a function": b"c" + b"a" * 1_000_001 + b"\n" + b"b" * 1_000_001 + b"\n.",
    "digits": b"L" + b"9" * 1_000_001 + b"L\n.",
}
BOMBS = {
    "memo": long_memo(2**26),
    "memo 2": long_memo(2**32 - 1),
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "bytes 2": b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b".",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**30) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40),
    "unicode": b"\x80\x04\x8d" + struct.pack("<Q", 2**40),
    "long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "stride 0": state(tensor(0, (2**33,), (0,))),
    "length": state(tensor(0, (1,), (1,), storage(length=2**34))),
    "product": state(
        tensor().replace(numbers(4), b"(" + b"\x8a\xff" + b"\x7f" * 255 + b"q\x07" + b"h\x07" * 300_000 + b"t")
    ),
    "tuples in tuples": nested(b"q\x01h\x01\x86", 64),
    "deep tuples": nested(b"\x85", 500_000),
    "dicts of a list": b"\x80\x02(]("
    + b"(K\x01K\x02t" * 20_000
    + b"eq\x01"
    + b"ccollections\nOrderedDict\nh\x01\x85R" * 3_000
    + b"t.",
}
CHILD = """
import resource, sys
from pathlib import Path
from d2lcls.weights.tensors import WeightsError, read_tensors
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))  # should it fail, not the machine with it
def peak():  # in kB; ru_maxrss would begin with the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        result = read_tensors(path).keys()
    except WeightsError as error:
        result = str(error)[-200:]  # without its traceback, which holds what was read
    grown = (peak() - before) // 1024
    print(path.name, grown, result, sep="\\t", flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads its size from Linux's /proc")
def test_small_files_fill_neither_memory_nor_time(tmp_path):
    for name, pickled in BOMBS.items():
        for form in ("zip", "legacy"):
            write(tmp_path / f"{name} {form}.pth", pickled, form=form)
    for name, pickled in LONG_PICKLES.items():
        write(tmp_path / f"{name}.pth", pickled)
    write(tmp_path / "views zip.pth", views(5000), bytes(400_000))
    write(tmp_path / "views legacy.pth", views(5000), bytes(400_000), form="legacy")
    write(tmp_path / "zeros.pth", state(tensor()), bytes(2**27), compression=zipfile.ZIP_DEFLATED)
    content = bytearray(write(tmp_path / "size.pth", state(tensor(of=storage(length=2**29 - 1)))).read_bytes())
    index = content.rindex(b"PK\x01\x02")
    content[index + 20 : index + 28] = struct.pack("<II", 2**31 - 4, 2**31 - 4)  # its sizes in the table of contents
    (tmp_path / "size.pth").write_bytes(content)
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=60)
    grown = {line.split("\t")[0]: int(line.split("\t")[1]) for line in done.stdout.splitlines()}
    assert sorted(grown) == sorted(path.name for path in tmp_path.iterdir()), done.stdout + done.stderr
    assert max(grown.values()) < 150, done.stdout  # MB
