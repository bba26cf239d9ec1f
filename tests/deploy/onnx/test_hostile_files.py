"""ONNX files of strangers: each is computed, or refused in one line, within limits, and this process goes on."""

import os
import signal
import struct

from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy import Manifest, ModelError, load_model, read_manifest
from d2lcls.deploy.edge.graph import read_relax
from d2lcls.deploy.manifest import write_manifest
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.onnx_file import call_apart, read_onnx
from d2lcls.deploy.onnx_runtime import open_session, try_onnx
from d2lcls.deploy.torch.export import export_torch

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FLOAT, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info


def array(name, numbers, dtype=np.float32):
    return onnx.numpy_helper.from_array(np.asarray(numbers, dtype), name)


def model_of(*nodes, arrays=(), opset=13, shape=("N", 4)):
    """A model from x to y."""
    graph = onnx.helper.make_graph(nodes, "g", [value("x", FLOAT, shape)], [value("y", FLOAT, None)], arrays)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def write(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def refusal(function, *arguments, **named):
    with pytest.raises(ModelError) as caught:
        function(*arguments, **named)
    text = str(caught.value)
    assert "model.onnx: " in text and len(text.splitlines()) == 1 and text.isprintable() and len(text) < 700
    return text


def with_array(**changes):
    """A model that adds four ones, with changes of the fields of their array."""
    tensor = array("w", np.ones(4))
    for key, content in changes.items():
        tensor.ClearField(key)
        if key == "external_data":
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for name, text in content.items():
                tensor.external_data.add(key=name, value=str(text))
        elif isinstance(content, list):
            getattr(tensor, key).extend(content)
        else:
            setattr(tensor, key, content)
    return model_of(node("Add", ["x", "w"], ["y"]), arrays=[tensor])


def loop():
    """A model that would count to the largest number."""
    body = onnx.helper.make_graph(
        [node("Identity", ["c"], ["more"]), node("Add", ["a", "a"], ["b"])],
        "body",
        [value("i", INT, []), value("c", onnx.TensorProto.BOOL, []), value("a", FLOAT, ["N", 4])],
        [value("more", onnx.TensorProto.BOOL, []), value("b", FLOAT, ["N", 4])],
    )
    numbers = [array("most", 2**62, np.int64), array("true", True, bool)]
    return model_of(node("Loop", ["most", "true", "x"], ["y"], name="count", body=body), arrays=numbers)


def function():
    """A model with an operator that the file defines."""
    model = model_of(node("Mine", ["x"], ["y"], domain="mine"))
    opsets = [onnx.helper.make_opsetid("", 13)]
    model.functions.append(
        onnx.helper.make_function("mine", "Mine", ["a"], ["b"], [node("Relu", ["a"], ["b"])], opsets)
    )
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    return model


def constant(**content):
    return model_of(node("Constant", [], ["w"], **content), node("Add", ["x", "w"], ["y"]))


def with_sparse_weights():
    model = with_array()
    model.graph.sparse_initializer.add().dims.extend([10**6, 10**6])
    return model


REFUSED = {
    "a loop": (loop, r"the node 'count' \('Loop'\) holds a graph of its own"),
    "an operator of the file's own": (function, "defines its own operator 'Mine'"),
    "another domain": (
        lambda: model_of(node("FusedGemm", ["x", "x"], ["y"], domain="com.microsoft")),
        "is of the domain 'com.microsoft'",
    ),
    "an old opset": (lambda: model_of(node("Relu", ["x"], ["y"]), opset=6), "its opset is 6; expected one from 11"),
    "a new opset": (lambda: model_of(node("Relu", ["x"], ["y"]), opset=19), "its opset is 19; expected one from 11"),
    "no opset": (onnx.ModelProto, "its opset is none"),
    "a name of several lines": (
        lambda: model_of(node("Relu", ["x"], ["y"], name="a\nb\x1b[2J", domain="\u202eevil\n")),
        r"'a\\nb\\x1b\[2J'",
    ),
    "too many nodes": (lambda: model_of(*[node("Relu", ["x"], ["y"])] * 20_001), "has 20001 nodes; expected 20000"),
    "sparse weights": (with_sparse_weights, "sparse weights"),
    "a sparse constant": (
        lambda: constant(
            sparse_value=onnx.helper.make_sparse_tensor(array("v", [1.0]), array("i", [0], np.int64), [10**12])
        ),
        "sparse numbers",
    ),
    "text": (
        lambda: constant(value=onnx.helper.make_tensor("s", onnx.TensorProto.STRING, [1], ["a"])),
        "type number 8",
    ),
    "a negative size": (lambda: with_array(dims=[-1, -4]), "no negative sizes"),
    "a huge size": (lambda: with_array(dims=[2**62, 2**62, 3]), "but 4 numbers"),
    "numbers twice": (lambda: with_array(float_data=[1.0]), "but 5 numbers"),
    "a part of a number": (lambda: with_array(raw_data=bytes(15)), "but 3.75 numbers"),
    "too few numbers": (lambda: with_array(raw_data=bytes(12)), "but 3 numbers"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_classifier_needs_is_refused_before_it_is_computed(tmp_path, what):
    make, expected = REFUSED[what]
    with pytest.raises(ModelError, match=expected):
        read_onnx(write(tmp_path, make()))
    refusal(read_onnx, tmp_path / "model.onnx")


@pytest.mark.parametrize("entries", [{"location": "../secret"}, {"location": "w"}, {"location": "w", "offset": -1}, {}])
def test_numbers_in_another_file_are_refused(tmp_path, entries):
    (tmp_path / "w").write_bytes(bytes(16))
    assert "is kept in another file" in refusal(read_onnx, write(tmp_path, with_array(external_data=entries)))


def test_an_address_in_memory_is_not_read(tmp_path):
    entries = {"location": "*/_ORT_MEM_ADDR_/*", "offset": 4096, "length": 16}
    assert "is kept in another file" in refusal(open_session, write(tmp_path, with_array(external_data=entries)))


def test_a_valid_file_is_computed(tmp_path):
    compute = open_session(write(tmp_path, with_array()))
    np.testing.assert_array_equal(compute(np.zeros((2, 4))), np.ones((2, 4)))


def bomb(size):
    """A few hundred bytes of which ONNX Runtime makes a constant of so many numbers."""
    shape = array("shape", [size], np.int64)
    return model_of(
        node("ConstantOfShape", ["shape"], ["c"]),
        node("ReduceSum", ["c"], ["s"]),
        node("Add", ["x", "s"], ["y"]),
        arrays=[shape],
    )


def tiles():
    return model_of(
        node("Tile", ["x", "n"], ["t"]),
        node("Add", ["t", "t"], ["u"]),
        node("ReduceSum", ["u"], ["y"]),
        arrays=[array("n", [10**5, 10**5], np.int64)],
    )


def outer():
    """Two vectors whose sum is a matrix of 40 GB."""
    vectors = [array("a", np.zeros((10**5, 1))), array("b", np.zeros((1, 10**5)))]
    return model_of(
        node("Add", ["a", "b"], ["c"]), node("ReduceSum", ["c"], ["s"]), node("Add", ["x", "s"], ["y"]), arrays=vectors
    )


def second():
    """A model that needs 40 GB for each picture but the first."""
    numbers = (("zero", 0), ("one", 1), ("many", 10**10))
    return model_of(
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Sub", ["n", "one"], ["m"]),
        node("Mul", ["m", "many"], ["size"]),
        node("ConstantOfShape", ["size"], ["c"]),
        node("ReduceSum", ["c"], ["r"]),
        node("Add", ["x", "r"], ["y"]),
        arrays=[array(name, [size], np.int64) for name, size in numbers],
    )


@pytest.mark.parametrize("make", [lambda: bomb(10**10), tiles, outer, second], ids=lambda make: make.__name__)
def test_memory_has_a_limit(tmp_path, make):
    assert "opening it with ONNX Runtime failed" in refusal(open_session, write(tmp_path, make()))


def test_time_has_a_limit(tmp_path):
    size = array("shape", [5000, 5000], np.int64)
    chain = [node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(1000)]
    model = model_of(
        node("ConstantOfShape", ["shape"], ["c0"]),
        *chain,
        node("ReduceSum", ["c1000"], ["s"]),
        node("Add", ["x", "s"], ["y"]),
        arrays=[size],
    )
    assert "no answer in 2 seconds" in refusal(try_onnx, write(tmp_path, model), seconds=2)


@pytest.mark.parametrize("shape", [("N", "M"), ("N", 0), ("N", -1), None])
def test_only_the_number_of_pictures_is_free(tmp_path, shape):
    refusal(open_session, write(tmp_path, model_of(node("Relu", ["x"], ["y"]), shape=shape)))


def test_an_output_of_another_type_is_refused(tmp_path):
    for operator in ("SequenceConstruct", "Shape"):
        model = model_of(node(operator, ["x"], ["y"]))
        model.graph.output[0].ClearField("type")
        assert "expected logits" in refusal(open_session, write(tmp_path, model))


def test_a_batch_that_cannot_be_computed_is_one_line(tmp_path):
    compute = open_session(write(tmp_path, with_array()))
    assert "cannot compute an array of shape (2, 5)" in refusal(compute, np.zeros((2, 5), np.float32))


def test_a_file_is_not_read_in_the_other_format_of_onnx_runtime(tmp_path):
    # The first field is the text "ab" + "ORTM" + ..., so that bytes 4 to 8 are the mark of that format.
    content = with_array().SerializeToString()
    mark = struct.pack("<BB", 0x32, 20) + b"ab" + b"ORTM" + b"c" * 14  # doc_string
    path = write(tmp_path, mark + content)
    assert path.read_bytes()[4:8] == b"ORTM"
    np.testing.assert_array_equal(open_session(path)(np.zeros((1, 4))), np.ones((1, 4)))


def _crash(path):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_crash_is_one_line(tmp_path):
    path = write(tmp_path, b"")
    assert "model.onnx: converting it failed: killed by SIGKILL" in refusal(
        call_apart, _crash, path, what="converting it"
    )


def gemm():
    """A model at which the version converter of onnx 1.18 reads outside its memory (CVE-2026-63632)."""
    arrays = [array("w", 1.0), array("b", 1.0)]
    return model_of(node("Gemm", ["x", "w", "b"], ["y"]), arrays=arrays, opset=6, shape=(1, 4))


CONVERSIONS = {
    "quantize": lambda folder, out: quantize_onnx(folder, out, np.zeros((2, 3, 8, 8), np.float32)),
    "torch": lambda folder, out: export_torch(folder, out),
    "compile": lambda folder, out: read_relax(folder, read_manifest(folder)),
    "predict": lambda folder, out: load_model(folder),
}


@pytest.fixture
def folder(tmp_path):
    """Return a function that puts a model into a model folder of a stranger."""

    def put(model):
        folder = tmp_path / "stranger"
        folder.mkdir()
        write(folder, model)
        preprocess = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3, "bilinear")
        write_manifest(folder, Manifest("m", "onnx", ("a", "b", "c"), preprocess, input_name="x"))
        return folder

    return put


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize(
    "make",
    [pytest.param(gemm, id="a crash of onnx"), pytest.param(lambda: bomb(10**10), id="memory", marks=pytest.mark.slow)],
)
def test_conversions_refuse_what_would_end_them(folder, tmp_path, conversion, make):
    if conversion == "compile":
        pytest.importorskip("tvm")
    refusal(CONVERSIONS[conversion], folder(make()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
