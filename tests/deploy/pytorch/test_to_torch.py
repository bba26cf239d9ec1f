"""PyTorch code written from models; what needs PyTorch runs in the Python that D2LCLS_TORCH_PYTHON names.

The folder is not called torch: pytest puts its parent on sys.path, where GluonCV would take it for PyTorch.
"""

import ast
import json
import os
import shutil
import subprocess

from d2lcls.cli import main
from d2lcls.deploy import ModelError, load_model, read_manifest
from d2lcls.deploy.exporting import export
from d2lcls.deploy.onnx.convert import to_onnx
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.torch.code import to_code
from d2lcls.deploy.torch.export import export_torch, write_torch
from d2lcls.deploy.torch.operators import EXPRESSIONS, written_as

import numpy as np
import pytest
from old_networks import NETWORKS, images, make
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

TORCH = os.environ.get("D2LCLS_TORCH_PYTHON")
needs_torch = pytest.mark.skipif(not TORCH, reason="D2LCLS_TORCH_PYTHON names no Python with torch")
NAMES = (
    "cnn",
    "cifar_resnet20_v1",
    "cifar_resnet20_v2",
    "resnet18_v1",
    pytest.param("resnet50_v1", marks=pytest.mark.slow),
    "mobilenet0.25",
    "mobilenetv2_0.25",
    "efficientnet_lite0",
)


def run(*arguments, **options):
    return subprocess.run([TORCH, *map(str, arguments)], capture_output=True, text=True, **options)


@pytest.fixture(scope="module", params=NAMES)
def written(request, network, preprocess, examples, tmp_path_factory):
    """Folders of form mxnet and torch."""
    folder = tmp_path_factory.mktemp(request.param)
    export(network(request.param), folder / "m", request.param, ("a", "b", "c"), preprocess)
    export_torch(folder / "m", folder / "t", examples[:8])
    return folder


def layers_of(source):
    """Return (dict from layer to the call that makes it, names that `forward` uses)."""
    network = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    made, forward = network.body
    layers = {line.targets[0].attr: line.value for line in made.body if isinstance(line, ast.Assign)}
    return layers, {
        node.attr
        for node in ast.walk(forward)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }


def test_every_layer_has_its_weights(written):
    source, weights = (written / "t/model.py").read_text(), load_file(written / "t/weights.safetensors")
    layers, used = layers_of(source)
    assert set(layers) == used and {name.split(".")[0] for name in weights} <= used
    assert not [
        line
        for line in source.splitlines()
        if "import" in line and line.split()[1] not in ("json", "pathlib", "torch", "torch.nn")
    ]
    for name, call in layers.items():
        numbers = [ast.literal_eval(argument) for argument in call.args]
        named = {argument.arg: ast.literal_eval(argument.value) for argument in call.keywords}
        if call.func.attr == "Conv2d":
            assert weights[f"{name}.weight"].shape[:2] == (numbers[1], numbers[0] // named.get("groups", 1))
        elif call.func.attr == "Linear":
            assert weights[f"{name}.weight"].shape == (numbers[1], numbers[0])
        elif call.func.attr == "BatchNorm2d":
            keys = ("weight", "bias", "running_mean", "running_var")
            assert {weights[f"{name}.{key}"].shape for key in keys} == {(numbers[0],)}
            assert named["momentum"] == 0.1  # 0.9 in MXNet, of the old
        if call.func.attr in ("Conv2d", "Linear"):
            assert (f"{name}.bias" in weights) == named.get("bias", True)
    assert "BatchNorm2d" in source  # not folded: it can be trained on
    assert 3 in {array.shape[0] for array in weights.values() if array.ndim > 1}


def test_the_folder_says_what_it_is(written, examples):
    manifest, stored = read_manifest(written / "t"), load_file(written / "t/examples.safetensors")
    assert manifest.form == "torch" and manifest.made_from["form"] == "mxnet" and manifest.classes == ("a", "b", "c")
    assert set(manifest.files) == {"model.py", "weights.safetensors", "examples.safetensors", "check.py"}
    np.testing.assert_array_equal(stored["input00"], examples[:8])
    np.testing.assert_array_equal(stored["output00"], load_model(written / "m").compute(examples[:8]))
    with pytest.raises(ModelError, match="is run by PyTorch.*python .*check.py"):
        load_model(written / "t")


@needs_torch
def test_pytorch_says_what_mxnet_says(written):
    done = run(written / "t/check.py")
    assert done.returncode == 0 and "8 examples" in done.stdout and "right" in done.stdout, done.stdout + done.stderr


TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from model import load, read_tensors
network, x = load().train(), read_tensors(sys.argv[1] + "/examples.safetensors")["input00"]
labels, means = torch.arange(len(x)) % 3, {n: b.clone() for n, b in network.named_buffers() if n.endswith("mean")}
step, losses = torch.optim.SGD(network.parameters(), 0.001), []
for _ in range(15):
    loss = torch.nn.functional.cross_entropy(network(x), labels)
    step.zero_grad(); loss.backward(); step.step(); losses.append(float(loss))
assert losses[-1] < losses[0], losses
assert all(parameter.grad is not None for parameter in network.parameters())
assert means and all(not torch.equal(means[n], b) for n, b in network.named_buffers() if n in means)
print("trained")
"""


@needs_torch
def test_it_can_be_trained_on(written):
    if written.name.rstrip("0") not in ("cnn", "cifar_resnet20_v2", "efficientnet_lite"):
        pytest.skip("three networks will do")
    done = run("-c", TRAIN, written / "t")
    assert done.stdout.strip().endswith("trained"), done.stderr


@needs_torch
def test_a_wrong_network_is_found_out(model, tmp_path):
    export_torch(model, tmp_path / "t")
    weights = load_file(tmp_path / "t/weights.safetensors")
    weights[next(name for name in weights if name.endswith("weight"))] *= 1.01
    save_file(weights, tmp_path / "t/weights.safetensors")
    done = run("check.py", cwd=tmp_path / "t")
    assert done.returncode == 1 and "WRONG" in done.stdout


def test_a_model_that_is_onnx_already(model, tmp_path):
    export_onnx(model, tmp_path / "o")
    assert export_torch(tmp_path / "o", tmp_path / "t").made_from["form"] == "onnx"
    assert "Conv2d" in (tmp_path / "t/model.py").read_text()
    if TORCH:
        assert run(tmp_path / "t/check.py").returncode == 0


COMPARE = """
import importlib.util, sys
from pathlib import Path
import torch
for folder in sorted(Path(sys.argv[1]).iterdir()):
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    stored = model.read_tensors(folder / "examples.safetensors")
    with torch.inference_mode():
        found = model.load()(*[stored[name] for name in sorted(stored) if name.startswith("input")])
    expected = [stored[name] for name in sorted(stored) if name.startswith("output")]
    for ours, theirs in zip([found] if torch.is_tensor(found) else found, expected):
        assert ours.shape == theirs.shape, (folder.name, ours.shape, theirs.shape)
        difference = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
        assert difference < 1e-5, (folder.name, difference)
    print(folder.name)
"""


def test_operators_of_old_networks(tmp_path):
    """Each network of the converters' tests: its code compiles, and computes the same where PyTorch is."""
    for place, (name, symbol) in enumerate(NETWORKS.items()):
        model = make(symbol)
        x = images(model)
        write_torch(to_onnx(model), tmp_path / f"{place:03}", name, x, list(model.run(x).values()))
        compile((tmp_path / f"{place:03}/model.py").read_text(), name, "exec")
    if TORCH:
        done = run("-c", COMPARE, tmp_path)
        assert done.returncode == 0 and len(done.stdout.split()) == len(NETWORKS), done.stderr


def graph_of(*nodes, weights=(), shape=("N", 3, 4, 4), checked=True):
    """Return an ONNX model from "data" to what its last node gives."""
    stored = [numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in weights]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("data", 1, shape)],
        [helper.make_empty_tensor_value_info(nodes[-1].output[0])],
        stored,
    )
    graph.output[0].type.tensor_type.elem_type = 1
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def test_operators_without_a_form_are_named():
    with pytest.raises(
        ModelError, match=r"The operator Hardmax of the layer odd cannot be written .*there is no code for it"
    ):
        to_code(graph_of(helper.make_node("Hardmax", ["data"], ["y"], name="odd")), "t")
    with pytest.raises(ModelError, match=r"The operator Conv of the layer c .*its input 1 is computed"):
        to_code(
            graph_of(
                helper.make_node("Relu", ["data"], ["w"]), helper.make_node("Conv", ["data", "w"], ["y"], name="c")
            ),
            "t",
        )
    with pytest.raises(ModelError, match=r"DepthToSpace .*mode=DCR"):
        to_code(graph_of(helper.make_node("DepthToSpace", ["data"], ["y"], name="d", blocksize=2)), "t")


def test_an_operator_can_be_added_once(monkeypatch):
    monkeypatch.setitem(EXPRESSIONS, "Acos", None)  # removed again at the end of the test
    del EXPRESSIONS["Acos"]
    model = graph_of(helper.make_node("Acos", ["data"], ["y"]))
    with pytest.raises(ModelError, match="there is no code for it"):
        to_code(model, "t")
    written_as("Acos")(lambda step: f"torch.acos({step.operand(0)})")
    assert "x = torch.acos(x)" in to_code(model, "t")[0]
    with pytest.raises(ValueError, match="Conv is registered already: convolution"):
        written_as("Hardmax", "Conv")(lambda step: "")
    assert "Hardmax" not in EXPRESSIONS


def test_names_in_a_file_do_not_become_code():
    hostile = 'w"""\nimport os; os.system("x")\n'
    source, weights, _ = to_code(
        graph_of(helper.make_node("Conv", ["data", hostile], ["y"], name=hostile), weights=[(hostile, (2, 3, 1, 1))]),
        f'"""\n{hostile}\\',
    )
    layers, _ = layers_of(source)
    assert len(layers) == 1 and next(iter(layers)).isidentifier() and list(weights) == [f"{next(iter(layers))}.weight"]
    assert not [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import) and node.names[0].name not in ("json", "torch")
    ]


@pytest.mark.parametrize("text", ["__import__('os').system('x')", ["0", "1); print("], "1)\nprint("])
def test_attributes_in_a_file_do_not_become_code(text):
    with pytest.raises(ModelError, match="The operator Softmax of the layer s cannot be written .*axis"):
        to_code(graph_of(helper.make_node("Softmax", ["data"], ["y"], name="s", axis=text)), "t")


def test_layers_get_names_that_pytorch_allows():
    names = ["train_weight", "class_weight", "0_weight", "a.b_weight", "a_b_weight", "ümlaut_weight"]
    nodes, last = [], "data"
    for place, name in enumerate(names):
        nodes.append(helper.make_node("Conv", [last, name], [f"y{place}"], name=f"c{place}"))
        last = f"y{place}"
    source, weights, _ = to_code(graph_of(*nodes, weights=[(name, (3, 3, 1, 1)) for name in names]), "t")
    assert list(layers_of(source)[0]) == ["train_", "class_", "layer_0", "a_b", "a_b_2", "mlaut"]


def test_one_layer_used_twice_is_made_once():
    source, weights, _ = to_code(
        graph_of(
            helper.make_node("Conv", ["data", "w"], ["a"], name="a"),
            helper.make_node("Conv", ["a", "w"], ["y"], name="b"),
            weights=[("w", (3, 3, 1, 1))],
        ),
        "t",
    )
    assert list(weights) == ["w.weight"] and source.count("nn.Conv2d") == 1 and source.count("self.w(x)") == 2


def test_what_depends_on_shapes_alone_is_not_computed_again():
    nodes = [
        helper.make_node("Shape", ["data"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["data", "sizes"], ["y"]),
    ]
    model = graph_of(*nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name) for name, value in (("zero", [0]), ("one", [1]), ("rest", [-1]))
    )
    source, _, _ = to_code(model, "t")
    assert "n = len(x)\n        x = x.reshape(n, -1)" in source


def test_the_command(model, tmp_path, capsys):
    copy = shutil.copytree(model, tmp_path / "m")
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**content, "dataset": None}))
    assert main(["torch", str(copy), "--out", str(tmp_path / "t")]) == 0
    said = capsys.readouterr()
    assert f"cnn as PyTorch. Check it in an environment that has it: python {tmp_path}/t/check.py" in said.out
    assert not said.err
    assert main(["torch", str(copy), "--out", str(tmp_path / "t")]) == 1
    assert "already exists and is not an empty folder" in capsys.readouterr().err


def test_forms_that_it_is_not_made_of(model, tmp_path):
    export_onnx(model, tmp_path / "o")
    content = json.loads((tmp_path / "o/manifest.json").read_text())
    (tmp_path / "o/manifest.json").write_text(json.dumps({**content, "form": "onnx-int8"}))
    with pytest.raises(ModelError, match="a model of form onnx-int8; this step takes one of form mxnet or onnx"):
        export_torch(tmp_path / "o", tmp_path / "t")
    assert not (tmp_path / "t").exists()
