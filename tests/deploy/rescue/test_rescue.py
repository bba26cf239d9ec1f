"""Old models as they are found: in three layouts, incomplete, damaged; in the package and as a command."""

import json
import os
import subprocess
import sys

from d2lcls.cli import main
from d2lcls.deploy.graph.symbol_json import parse_symbol, read_symbol
from d2lcls.deploy.onnx.checked import write_onnx
from d2lcls.deploy.rescue.gluon import load_gluon_parameters
from d2lcls.deploy.rescue.inputs import example_inputs
from d2lcls.deploy.rescue.load import RescueError, build_old_model, load_old_model
from d2lcls.deploy.rescue.report import describe

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from PIL import Image

TORCH = os.environ.get("D2LCLS_TORCH_PYTHON")
LEGACY = os.environ.get("D2LCLS_LEGACY_MODELS")
sym = mx.sym


def face_network():
    """A network as people wrote them in 2016: PReLU, pooling that rounds up, two losses."""
    x = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=4, name="conv1")
    x = sym.LeakyReLU(x, act_type="prelu", name="prelu1")
    x = sym.Pooling(x, pool_type="max", kernel=(2, 2), stride=(2, 2), pooling_convention="full", name="pool1")
    x = sym.LRN(x, nsize=3, name="lrn")
    x = sym.L2Normalization(sym.BatchNorm(x, name="bn"), mode="channel", name="l2")
    larger = sym.Pad(x, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1))
    larger = sym.UpSampling(larger, scale=2, sample_type="nearest")
    x = sym.Crop(larger, x, num_args=2, center_crop=True, name="crop")
    x = sym.FullyConnected(sym.BlockGrad(x), num_hidden=16, name="fc1")
    best = sym.topk(sym.SVMOutput(sym.FullyConnected(x, num_hidden=5, name="svm_fc"), name="svm"), k=2, name="best")
    return sym.Group(
        [
            sym.SoftmaxOutput(sym.FullyConnected(x, num_hidden=3, name="fc2"), name="cls_prob"),
            sym.MakeLoss(sym.FullyConnected(x, num_hidden=4, name="fc3"), name="box"),
            best,
        ]
    )


def drawn(symbol, seed=0, **shapes):
    """Return (arguments, statistics) with drawn values; labels and inputs left out."""
    rng = np.random.default_rng(seed)
    sizes, _, states = symbol.infer_shape(**shapes)
    return (
        {
            name: nd.array(rng.normal(size=size) * 0.3)
            for name, size in zip(symbol.list_arguments(), sizes)
            if name not in shapes and not name.endswith("label")
        },
        {name: nd.array(rng.uniform(0.5, 1.5, size)) for name, size in zip(symbol.list_auxiliary_states(), states)},
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A Module checkpoint: its prefix, and what the module says of eight images."""
    prefix = str(tmp_path_factory.mktemp("module") / "face")
    symbol = face_network()
    arguments, statistics = drawn(symbol, data=(1, 3, 12, 12))
    module = mx.mod.Module(symbol, label_names=None, context=mx.cpu())
    module.bind([("data", (8, 3, 12, 12))], for_training=False)
    labels = {name: nd.zeros((8,)) for name in symbol.list_arguments() if name.endswith("label")}
    module.set_params({**arguments, **labels}, statistics, allow_missing=True, allow_extra=True)
    mx.model.save_checkpoint(prefix, 7, symbol, arguments, statistics)
    x = np.random.default_rng(1).normal(size=(8, 3, 12, 12)).astype(np.float32)
    module.forward(mx.io.DataBatch([nd.array(x)]), is_train=False)
    return prefix, x, [output.asnumpy() for output in module.get_outputs()]


@pytest.fixture(scope="module")
def gluon_network():
    mx.random.seed(3)
    net = gluon.nn.HybridSequential(prefix="old_")
    with net.name_scope():
        net.add(
            gluon.nn.Conv2D(4, 3, in_channels=3),
            gluon.nn.BatchNorm(in_channels=4),
            gluon.nn.PReLU(),
            gluon.nn.GlobalAvgPool2D(),
            gluon.nn.Dense(5, in_units=4),
        )
    net.initialize(mx.init.Normal(0.5))
    x = np.random.default_rng(1).normal(size=(8, 3, 12, 12)).astype(np.float32)
    return net, x, net(nd.array(x)).asnumpy()


def files_of(prefix, epoch=7):
    return f"{prefix}-symbol.json", f"{prefix}-{epoch:04}.params"


def test_a_module_checkpoint(checkpoint, tmp_path):
    prefix, x, expected = checkpoint
    model = load_old_model(*files_of(prefix))
    assert model.shapes == {"data": (3, 12, 12)} and model.labels == ("cls_prob_label", "svm_label")
    for array, known in zip(model.run(x).values(), expected):
        np.testing.assert_array_equal(array, known)
    parity = write_onnx(model, tmp_path / "m.onnx", {"data": x})
    assert parity.largest < 1e-5 and parity.free_batch and parity.same_top1["cls_prob"] == 1
    again = load_old_model(*model.save(tmp_path / "new"))
    np.testing.assert_array_equal(again.run(x)["cls_prob_output"], expected[0])


def test_a_gluon_export(gluon_network, tmp_path):
    net, x, expected = gluon_network
    net.hybridize()
    net(nd.array(x))
    net.export(str(tmp_path / "net"), epoch=7)
    model = load_old_model(*files_of(tmp_path / "net"), shapes=(3, 12, 12))
    np.testing.assert_allclose(next(iter(model.run(x).values())), expected, rtol=1e-5, atol=1e-6)
    assert write_onnx(model, tmp_path / "m.onnx", {"data": x}).largest < 1e-5


MODULE = """
from mxnet import gluon
def network():
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Conv2D(4, 3, in_channels=3), gluon.nn.BatchNorm(in_channels=4), gluon.nn.PReLU(),
            gluon.nn.GlobalAvgPool2D(), gluon.nn.Dense(5, in_units=4))
    return net
"""


@pytest.mark.parametrize("names", ["save_parameters", "save_params", "bare", "module.", "exported", "other prefix"])
def test_gluon_parameters_and_a_class(gluon_network, tmp_path, monkeypatch, names):
    net, x, expected = gluon_network
    structural = net._collect_params_with_prefix()
    full = {name: one.data() for name, one in net.collect_params().items()}
    nd.save(
        str(tmp_path / "net.params"),
        {
            "save_parameters": {name: one.data() for name, one in structural.items()},
            "save_params": full,  # until MXNet 1.3, with the prefix of the network
            "bare": {name[len(net.prefix) :]: array for name, array in full.items()},
            "module.": {f"module.{name}": one.data() for name, one in structural.items()},
            "exported": {f"{'aux' if 'running' in name else 'arg'}:{name}": array for name, array in full.items()},
            "other prefix": {"hybridsequential7_" + name[len(net.prefix) :]: array for name, array in full.items()},
        }[names],
    )
    (tmp_path / f"old_{len(names)}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    model = load_gluon_parameters(tmp_path / "net.params", f"old_{len(names)}:network", (3, 12, 12))
    np.testing.assert_allclose(next(iter(model.run(x).values())), expected, rtol=1e-5, atol=1e-6)
    assert bool([note for note in model.notes if "names" in note]) == (names != "save_parameters")
    assert write_onnx(model, tmp_path / "m.onnx", {"data": x}).largest < 1e-5


@pytest.mark.parametrize("name, size", [("cifar_resnet20_v1", 32), ("mobilenet0.25", 64), ("resnet18_v2", 64)])
def test_networks_of_the_zoos(network, tmp_path, name, size):
    net = network(name, 7)
    x = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    net.save_parameters(str(tmp_path / "zoo.params"))
    model = load_gluon_parameters(tmp_path / "zoo.params", name, (3, size, size))  # 7 classes: from the file
    expected = net(nd.array(x)).asnumpy()
    found = next(iter(model.run(x).values()))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "network, reason",
    [
        ("cnn", "The parameters do not fit the network: .* are missing.*not in it.*another network"),
        ("no_such_net", "no_such_net"),
        ("nowhere:Net", "nowhere:Net: cannot be imported .*Expected module:Class"),
        ("json:dumps", "cannot be called without arguments"),
        ("json:JSONDecoder", "returns a JSONDecoder, not a gluon.HybridBlock"),
    ],
)
def test_classes_that_do_not_fit(gluon_network, tmp_path, network, reason):
    gluon_network[0].save_parameters(str(tmp_path / "net.params"))
    with pytest.raises(ValueError, match=reason):
        load_gluon_parameters(tmp_path / "net.params", network)


def test_what_is_missing_or_of_another_shape_is_listed(checkpoint, tmp_path):
    symbol = read_symbol(files_of(checkpoint[0])[0])
    arrays = {name: array.asnumpy() for name, array in nd.load(files_of(checkpoint[0])[1]).items()}
    fewer = {name: array for name, array in arrays.items() if name not in ("arg:conv1_weight", "aux:bn_moving_mean")}
    with pytest.raises(RescueError, match=r"2 parameters are missing: bn_moving_mean \(4\), conv1_weight \(4, 3, 3, 3"):
        build_old_model(symbol, fewer, (3, 12, 12))
    with pytest.raises(RescueError, match=r"1 parameters are missing.*not in the graph: conv_1_weight"):
        build_old_model(
            symbol,
            {
                **{n: a for n, a in arrays.items() if n != "arg:conv1_weight"},
                "arg:conv_1_weight": arrays["arg:conv1_weight"],
            },
            (3, 12, 12),
        )
    with pytest.raises(RescueError, match=r"1 have another shape: fc2_weight \(16, 3\) instead of \(3, 16\).*together"):
        build_old_model(symbol, {**arrays, "arg:fc2_weight": arrays["arg:fc2_weight"].T}, (3, 12, 12))
    with pytest.raises(RescueError, match="in the parameters twice"):
        build_old_model(symbol, {**arrays, "aux:fc2_weight": arrays["arg:fc2_weight"]})
    model = build_old_model(symbol, {**arrays, "arg:left_over": np.ones(1, np.float32)}, (3, 12, 12))
    assert any("1 parameters are not used by the graph: left_over" in note for note in model.notes)


@pytest.mark.parametrize(
    "shapes, reason",
    [
        ((1, 12, 12), "another shape.*is it the input's shape that differs"),
        ((3, 13), "cannot take inputs of|another shape|do not fit"),
        ((3, 0, 12), "whole numbers above 0"),
        ({"image": (3, 12, 12)}, "'image' is not an input of the network, whose inputs are data"),
    ],
)
def test_shapes_that_do_not_fit(checkpoint, shapes, reason):
    with pytest.raises(RescueError, match=reason):
        load_old_model(*files_of(checkpoint[0]), shapes)


def test_a_network_that_takes_many_sizes_asks_for_one(tmp_path):
    symbol = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=4, no_bias=True, name="c")
    symbol = sym.Pooling(symbol, global_pool=True, kernel=(1, 1))
    model = build_old_model(parse_symbol(symbol.tojson()), {"c_weight": np.ones((4, 3, 3, 3), np.float32)})
    assert model.shapes == {"data": None} and "of many sizes: give --shape" in str(describe(model))
    with pytest.raises(RescueError, match="takes 'data' in many sizes: give one, as in --shape 3,224,224"):
        example_inputs(model)
    assert model.run(np.ones((1, 3, 5, 5), np.float32))  # any size runs


def test_half_precision(tmp_path):
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Conv2D(4, 3, in_channels=3), gluon.nn.Dense(5, in_units=4 * 36))
    net.initialize()
    net.cast("float16")
    symbol = net(sym.var("data"))
    arrays = {name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()}
    assert {array.dtype for array in arrays.values()} == {np.dtype("float16")}
    model = build_old_model(parse_symbol(symbol.tojson()), arrays, (3, 8, 8))
    net.cast("float32")
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(next(iter(model.run(x).values())), net(nd.array(x)).asnumpy(), rtol=1e-5, atol=1e-6)
    assert any("float16 were converted to float32" in note for note in model.notes)
    assert write_onnx(model, tmp_path / "m.onnx", {"data": x}).largest < 1e-5


def test_the_report(checkpoint):
    report = describe(load_old_model(*files_of(checkpoint[0])))
    layers = {layer.name: layer for layer in report.layers.layers}
    assert layers["conv1"].multiply_adds == 4 * 3 * 9 * 100 and layers["fc1"].multiply_adds == 16 * 4 * 25
    stored = nd.load(files_of(checkpoint[0])[1])
    assert report.parameters == sum(array.size for name, array in stored.items() if name.startswith("arg:"))
    assert report.statistics == 8 and report.version == "1.9.1"
    text = str(report)
    for words in (
        "inputs: data (N, 3, 12, 12)",
        "cls_prob_output (N, 3)",
        "deprecated: SoftmaxOutput (1); today: ",
        "deprecated: Crop (1)",
        "deprecated: SVMOutput (1)",
        "deprecated: BlockGrad (1)",
        "multiply-adds: ",
    ):
        assert words in text
    assert "Stack" not in text


def test_a_graph_deeper_than_python_recurses():
    x = {
        "nodes": [
            {"op": "null", "name": "data", "inputs": []},
            *({"op": "relu", "name": f"r{n}", "inputs": [[n, 0]]} for n in range(3000)),
        ],
        "arg_nodes": [0],
        "heads": [[3000, 0]],
    }
    assert build_old_model(parse_symbol(json.dumps(x)), {}).shapes == {"data": None}


def test_memory_that_is_not_there():
    x = sym.Convolution(sym.var("data"), kernel=(1, 1), num_filter=1, no_bias=True, name="c")
    for _ in range(200):
        x = sym.relu(x)
    symbol = sym.Pooling(x, global_pool=True, kernel=(1, 1))
    model = build_old_model(
        parse_symbol(symbol.tojson()), {"c_weight": np.ones((1, 1, 1, 1), np.float32)}, (1, 40000, 40000)
    )
    with pytest.raises(RescueError, match="layers need up to .* GB for this input.*Give a smaller --shape"):
        model.run({"data": np.broadcast_to(np.float32(0), (1, 1, 40000, 40000))})
    with pytest.raises(
        RescueError, match="would have .* numbers; MXNet's arrays hold less than 2 .. 31. Give another --shape"
    ):
        model.run({"data": np.broadcast_to(np.float32(0), (1, 1, 50000, 50000))})


# The command


def rescue(capsys, *arguments):
    """Run `d2lcls rescue` and return (exit code, what it said, what went wrong)."""
    try:
        code = main(["rescue", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command(checkpoint, tmp_path, capsys):
    prefix, x, expected = checkpoint
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    code, out, err = rescue(
        capsys,
        *files_of(prefix),
        "--image",
        tmp_path / "a.png",
        "--onnx",
        tmp_path / "m.onnx",
        "--save",
        tmp_path / "new",
        "--torch",
        tmp_path / "t",
    )
    assert code == 0 and not err
    for words in (
        "written by MXNet 1.9.1",
        "cls_prob_output: (1, 3), from 0",
        "any number of images at a time",
        "parity of cls_prob: the largest difference is",
        "the same top-1 for 100%",
        "new-symbol.json",
        f"python {tmp_path}/t/check.py",
    ):
        assert words in out
    code, out, _ = rescue(capsys, *files_of(tmp_path / "new", 0), "--no-run")
    assert code == 0 and "from" not in out.splitlines()[-1]
    if TORCH:
        assert subprocess.run([TORCH, tmp_path / "t/check.py"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "arguments, code, reason",
    [
        (["SYMBOL"], 2, "name a -symbol.json and a .params file, or a .params file and --model"),
        (["SYMBOL", "PARAMS", "--model", "cnn"], 2, "name a -symbol.json and a .params file"),
        (["SYMBOL", "PARAMS", "--shape", "a,b"], 2, "must be like 3,224,224"),
        (["SYMBOL", "PARAMS", "--shape", "3,12,12", "--shape", "3,13,13"], 2, "name each input once"),
        (["SYMBOL", "PARAMS", "--mean", "1,2"], 2, "one number or three"),
        (["SYMBOL", "PARAMS", "--shape", "1,12,12"], 1, "do not fit the graph"),
        (["SYMBOL", "nowhere.params"], 1, "nowhere.params: there is no such parameter file"),
        (["nowhere-symbol.json", "PARAMS"], 1, "nowhere-symbol.json: there is no such graph file"),
        (["SYMBOL", "STATES"], 1, "begins like a pickle: .*the .states of an optimizer"),
        (["PARAMS", "--model", "cnm"], 1, "cnn"),
        (["SYMBOL", "PARAMS", "--std", "0"], 1, "--std must not be 0"),
        (["SYMBOL", "PARAMS", "--image", "nowhere.png"], 1, "nowhere.png"),
    ],
)
def test_how_the_command_fails(checkpoint, tmp_path, capsys, arguments, code, reason):
    net = gluon.nn.Dense(1, in_units=1)
    net.initialize()
    trainer = gluon.Trainer(net.collect_params(), "adam")
    trainer._init_kvstore()
    trainer.save_states(str(tmp_path / "net.states"))
    named = dict(zip(("SYMBOL", "PARAMS"), files_of(checkpoint[0])), STATES=tmp_path / "net.states")
    found, out, err = rescue(capsys, *(named.get(word, word) for word in arguments))
    assert found == code and reason.split(".*")[0] in err and "Traceback" not in err
    if code == 1:
        assert len(err.splitlines()) == 1 and err.startswith("d2lcls: ")


DAMAGE = """
import os, sys
sys.stderr = open(os.devnull, "w")
import numpy as np
from d2lcls.cli import main
symbol, params, folder = sys.argv[1:]
contents = [open(path, "rb").read() for path in (symbol, params)]
paths = [os.path.join(folder, "d-symbol.json"), os.path.join(folder, "d-0007.params")]
rng, codes = np.random.default_rng(5), []
for turn in range(120):
    damaged = list(map(bytearray, contents))
    one = damaged[turn % 2]
    if turn % 6 < 2:
        del one[rng.integers(len(one)):]
    for place in rng.integers(len(one) or 1, size=rng.integers(1, 4)) if one else ():
        one[place] ^= 1 << rng.integers(8)
    for path, content in zip(paths, damaged):
        with open(path, "wb") as file:
            file.write(content)
    print("turn", turn, file=sys.stdout, flush=True)
    codes.append(main(["rescue", *paths]))
print("codes", sorted({code: codes.count(code) for code in codes}.items()))
"""


def test_damage_never_ends_the_interpreter(checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DAMAGE, *files_of(checkpoint[0]), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-300:]  # a crash would be a signal's number
    codes = dict(eval(done.stdout.splitlines()[-1][len("codes ") :]))
    assert set(codes) == {0, 1} and codes[1] > 50


@pytest.mark.skipif(not LEGACY, reason="D2LCLS_LEGACY_MODELS names no folder with det1 and det2, models of 2016")
@pytest.mark.parametrize("name, size, outputs", [("det1", 12, 2), ("det2", 24, 2)])
def test_real_models_of_2016(tmp_path, capsys, name, size, outputs):
    files = [os.path.join(LEGACY, f"{name}-{end}") for end in ("symbol.json", "0001.params")]
    code, out, err = rescue(
        capsys, *files, "--onnx", tmp_path / "m.onnx", "--torch", tmp_path / "t", "--shape", f"3,{size},{size}"
    )
    assert code == 0 and not err and "before 0.9 (2015 or 2016)" in out
    assert out.count("parity of ") == outputs and (tmp_path / "m.onnx").is_file()
    if TORCH:
        assert subprocess.run([TORCH, tmp_path / "t/check.py"], capture_output=True).returncode == 0
