"""Readers of files: what is written is read again, and any bytes are opened or refused in one line."""

import dataclasses
import json
import pickle
import string
import struct
import zipfile
from pathlib import Path

from d2lcls.data.formats.records import record_reader, scan_records, write_records
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.models.symbols.allowed import ALLOWED
from d2lcls.models.symbols.attributes import NotAllowed, check_attributes
from d2lcls.training.recipe import Recipe
from d2lcls.training.runs import RUN, Run, read_run
from d2lcls.weights.npz import read_npz
from d2lcls.weights.params_file import read_params
from d2lcls.weights.tensors import read_tensors, write_safetensors

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mxnet import recordio
from PIL import Image
from readers import READERS, outcome
from valid import write_valid

TYPES = st.sampled_from(["f4", "f8", "f2", "u1", "i4", "i1", "i8"])
ARRAYS = hnp.arrays(TYPES, hnp.array_shapes(min_side=1, max_side=5))
WORDS = st.text(string.ascii_letters + "._:/é🎈 ", min_size=1, max_size=12)
STATES = st.dictionaries(WORDS, ARRAYS, min_size=1, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].dtype == value.dtype


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A file for each reader, which a test overwrites."""
    return write_valid(tmp_path_factory.mktemp("valid"))


@given(STATES)
def test_params_come_back(folder, state):
    mx.nd.save(str(folder / "a.params"), {name: mx.nd.array(value, dtype=value.dtype) for name, value in state.items()})
    assert_same(read_params(folder / "a.params"), state)


@given(STATES)
def test_npz_comes_back(folder, state):
    names = {name.replace("/", "-"): value for name, value in state.items()}
    np.savez(folder / "a.npz", **{"text": np.array("é"), **names})
    assert_same(read_npz(folder / "a.npz"), {"text": np.array("é"), **names})


@given(STATES)
def test_safetensors_come_back(folder, state):
    write_safetensors(folder / "a.safetensors", state)
    found = read_tensors(folder / "a.safetensors")
    assert_same(dict(sorted(found.items())), dict(sorted(state.items())))


# Parts of pickles in any order.
def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


PARTS = [b"(", b"t", b"\x85", b"\x86", b"\x87", b"R", b"Q", b"}", b"]", b")", b"N", b"s", b"u", b"a", b"e", b"b", b"."]
PARTS += [
    b"q\0",
    b"h\0",
    b"q\1",
    b"h\1",
    b"K\1",
    b"K\4",
    b"J\xff\xff\xff\xff",
    b"\x8a\x09" + b"\xff" * 8 + b"\0",
    b"\x93",
]
PARTS += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"]
PARTS += [text(word) for word in ("storage", "0", "cpu", "name", "state_dict", "torch", "FloatStorage")]
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\4tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0K\4\x85K\1\x85\x89}tR"
PARTS += [STORAGE, TENSOR, b"}(" + text("weight") + TENSOR + b"u"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PARTS), max_size=25).map(b"".join), st.integers(0, 20))
def test_any_pickle_is_read_or_refused(folder, content, length):
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("a/data/0", bytes(length))
    assert outcome("pth", folder / "a.pth") in ("opened", "refused")
    legacy = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts = [*legacy, b"\x80\x02" + content + b".", pickle.dumps(["0"], 2), struct.pack("<q", 4), bytes(length)]
    (folder / "b.pth").write_bytes(b"".join(parts))
    assert outcome("legacy pth", folder / "b.pth") in ("opened", "refused")


def test_a_pickle_of_these_parts_is_read(folder):
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + PARTS[-1] + b".")
        archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
    assert_same(read_tensors(folder / "a.pth"), {"weight": np.arange(4, dtype=np.float32)})


@pytest.mark.parametrize("size", [2, 0xFFFFFFF0])
def test_a_part_of_two_sizes_is_refused(folder, size):
    """Python would allocate memory for the size that the file declares for the compressed part."""
    np.savez(folder / "a.npz", a=np.ones(3))
    with zipfile.ZipFile(folder / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + PARTS[-1] + b".")
    for file, read in (("a.npz", read_npz), ("a.pth", read_tensors)):
        content = bytearray((folder / file).read_bytes())
        struct.pack_into("<I", content, content.index(b"PK\1\2") + 20, size)
        (folder / file).write_bytes(content)
        with pytest.raises(ValueError, match="the sizes of its parts are wrong"):
            read(folder / file)


MAGIC = struct.pack("<I", 0xCED7230A)  # which RecordIO must take apart
RECORDS = st.lists(st.lists(st.sampled_from([MAGIC, b"\n#", b"x"]) | st.binary(max_size=9)).map(b"".join), min_size=1)


@given(RECORDS)
def test_records_come_back(folder, contents):
    writer = recordio.MXRecordIO(str(folder / "a.rec"), "w")
    for number, content in enumerate(contents):
        writer.write(recordio.pack(recordio.IRHeader(0, float(number), number, 0), content))
    writer.close()
    offsets, labels, _ = scan_records(folder / "a.rec")
    assert labels.tolist() == list(range(len(contents)))
    content = record_reader(folder / "a.rec", offsets)
    assert [content(number) for number in range(len(contents))] == contents


@settings(max_examples=50)
@given(st.sets(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=3), min_size=1, max_size=3))
def test_class_names_come_back_or_are_refused(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("pictures")
    for name in names:
        path = root / f"c{name}" / "a.png"
        path.parent.mkdir()
        Image.new("RGB", (1, 1)).save(path)
    try:
        write_records(root, root.parent / root.name / "records")
    except ValueError as error:
        assert "in its name" in str(error) and "\n" not in str(error)
    else:
        assert scan_records(root / "records.rec")[2] == tuple(sorted(f"c{name}" for name in names))


@given(
    st.builds(
        Recipe,
        num_epochs=st.integers(1, 10**6),
        lr=st.none() | st.floats(1e-9, 1e9),
        augment=st.lists(st.sampled_from(["none", "alternating_flip"]), max_size=2).map(tuple),
        unfreeze=st.none() | st.just("gradual") | st.dictionaries(st.integers(0, 9), st.integers(1, 9)),
        small_first=st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    ),
    st.lists(st.text(max_size=5), min_size=1, max_size=3),
    st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)),
)
def test_run_json_comes_back(folder, recipe, classes, size):
    run = Run(recipe, tuple(classes), (8, 8, 3), (0.5, 0.25, 0.1), (1.0, 0.5, 0.2), size, 10)
    content = {**dataclasses.asdict(run), "recipe": recipe.to_json()}
    (folder / RUN).write_text(json.dumps(content))
    assert read_run(folder) == run


NODES = st.builds(
    lambda op, name, attrs, inputs: {"op": op, "name": name, "attrs": attrs, "inputs": inputs},
    st.sampled_from([*sorted(ALLOWED), "_Native", "null"]),
    WORDS,
    st.dictionaries(
        st.sampled_from(["kernel", "axis", "shape", "num_filter", "__dtype__", "ctx", "k"]) | WORDS,
        st.sampled_from(["(1, 1)", "None", "2", "-9", "1e9", "True", "()", "(" * 30, "9" * 5000, "relu"]) | WORDS,
        max_size=2,
    ),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.just(0)).map(list), max_size=2),
)


@settings(max_examples=150)
@given(st.lists(NODES, min_size=1, max_size=4), st.integers(0, 3))
def test_a_graph_is_refused_or_comes_back(nodes, head):
    try:
        graph = parse_symbol(json.dumps({"nodes": nodes, "heads": [[head, 0, 0]]}))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        again = parse_symbol(graph.json())
        assert again.heads == graph.heads
        assert [node[:4] for node in again.nodes] == [node[:4] for node in graph.nodes]


@given(st.sampled_from(sorted(ALLOWED)), st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_attributes_are_allowed_or_refused(op, attributes):
    try:
        check_attributes(op, attributes)
    except NotAllowed as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["symbol", "network", "manifest", "run"])
@given(content=JSON)
def test_any_json_is_refused(valid, kind, content):
    valid[kind].write_text(json.dumps(content))
    assert outcome(kind, valid[kind]) == "refused"


BEGINNINGS = [
    b"",
    b"PK\3\4",
    b"\x80\x02",
    b"{",
    b"\x93NUMPY",
    struct.pack("<Q", 0x112),
    MAGIC,
    b"\x1f\x8b\x08\0",
    b"BM",
]


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=30)
@given(begin=st.sampled_from(BEGINNINGS), content=st.binary(max_size=200))
def test_any_bytes_are_opened_or_refused(valid, kind, begin, content):
    valid[kind].write_bytes(begin + content)
    assert outcome(kind, valid[kind]) in ("opened", "refused")


@pytest.mark.parametrize("seed", sorted(Path(__file__).with_name("seeds").glob("*/*")), ids=lambda seed: seed.name)
def test_the_seeds_are_opened_or_refused(valid, seed):
    """Inputs on which a reader once failed, as fuzz.py found them."""
    path = valid[seed.parent.name]
    path.write_bytes(seed.read_bytes())
    assert outcome(seed.parent.name, path) in ("opened", "refused")
