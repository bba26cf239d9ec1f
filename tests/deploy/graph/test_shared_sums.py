"""Networks in which a sum and something else read a convolution: MXNet's own fusion is wrong there, ours is not."""

from d2lcls.cli import main
from d2lcls.data import Preprocess
from d2lcls.deploy import load_model
from d2lcls.deploy.exporting import export, read_graph, save_graph
from d2lcls.deploy.manifest import Manifest, write_manifest
from d2lcls.deploy.onnx.checked import write_onnx
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.quantization import quantize_model
from d2lcls.deploy.rescue.load import load_old_model
from d2lcls.models import fuse, get_model, quantize
from d2lcls.models.fusion.folding import fold_batch_norm
from d2lcls.models.fusion.fused import assemble, fuse_graph, quantize_graph
from d2lcls.models.fusion.fusible import mend_int8
from d2lcls.models.fusion.unfused import run

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd, sym


def convolution(package, x, name, **parameters):
    return package.Convolution(x, **parameters, kernel=(3, 3), pad=(1, 1), num_filter=8, name=name)


def residual(package, x, units, parameters):
    """Compute a residual network without normalisation whose sums read what a ReLU reads, too (LFFD has this form)."""

    def layer(x, name):
        return convolution(package, x, name, **parameters(name))

    def relu(x):
        return package.Activation(x, act_type="relu")

    x = layer(x, "conv0")
    for unit in range(units):
        x = x + layer(relu(layer(relu(x), f"first{unit}")), f"second{unit}")
    x = package.Pooling(relu(x), global_pool=True, pool_type="avg", kernel=(1, 1))
    return package.softmax(package.FullyConnected(x, **parameters("fc"), num_hidden=5, name="fc"), name="prob")


def preactivation(package, x, parameters):
    """Compute a pre-activation unit whose sum has the convolution that both branches read on its left."""

    def block(x, name):
        return package.Activation(
            package.BatchNorm(x, **parameters(f"bn{name}"), fix_gamma=False, name=f"bn{name}"), act_type="relu"
        )

    x = convolution(package, x, "conv0", **parameters("conv0"))
    branch = convolution(package, block(x, "1"), "conv1", **parameters("conv1"))
    x = x + convolution(package, block(branch, "2"), "conv2", **parameters("conv2"))
    x = package.Pooling(block(x, "3"), global_pool=True, pool_type="avg", kernel=(1, 1))
    return package.softmax(package.FullyConnected(x, **parameters("fc"), num_hidden=5, name="fc"), name="softmax")


def checkpoint(folder, network):
    """Write a checkpoint, and return (symbol, arguments, statistics, x, what its operators make of it one by one)."""
    rng = np.random.default_rng(0)
    symbol = network(sym, sym.var("data"), lambda name: {})
    sizes, _, states = symbol.infer_shape(data=(1, 3, 16, 16))
    arguments = {
        name: nd.array(rng.normal(0, 0.3, size) if not name.endswith("gamma") else rng.uniform(0.5, 1.5, size))
        for name, size in zip(symbol.list_arguments(), sizes)
        if name != "data"
    }
    statistics = {
        name: nd.array(rng.uniform(0.5, 1.5, size)) for name, size in zip(symbol.list_auxiliary_states(), states)
    }
    mx.model.save_checkpoint(str(folder / "m"), 0, symbol, arguments, statistics)
    x = nd.array(rng.normal(size=(4, 3, 16, 16)))
    values = {**arguments, **statistics}
    expected = network(
        nd, x, lambda name: {key[len(name) + 1 :]: value for key, value in values.items() if key.startswith(f"{name}_")}
    )
    return symbol, arguments, statistics, x.asnumpy(), expected.asnumpy()


NETWORKS = {
    **{
        f"{units} units": lambda package, x, parameters, units=units: residual(package, x, units, parameters)
        for units in (1, 2, 3)
    },
    "preactivation": preactivation,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_rescued_checkpoint(name, tmp_path, capsys):
    *_, x, expected = checkpoint(tmp_path, NETWORKS[name])
    files = str(tmp_path / "m-symbol.json"), str(tmp_path / "m-0000.params")
    model = load_old_model(*files, (3, 16, 16))
    np.testing.assert_allclose(list(model.run(x).values())[0], expected, atol=1e-5)
    assert write_onnx(model, tmp_path / "m.onnx", {"data": x}).largest < 1e-5
    more = ["--onnx", str(tmp_path / "m2.onnx"), "--torch", str(tmp_path / "t")]
    assert main(["rescue", *files, "--shape", "3,16,16", *more]) == 0
    assert (tmp_path / "m2.onnx").is_file() and (tmp_path / "t/check.py").is_file() and not capsys.readouterr().err


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_folder(name, tmp_path):
    symbol, arguments, statistics, x, expected = checkpoint(tmp_path, NETWORKS[name])
    save_graph(
        tmp_path,
        symbol,
        {f"arg:{key}": value for key, value in arguments.items()},
        {f"aux:{key}": value for key, value in statistics.items()},
    )
    manifest = Manifest(name, "mxnet", tuple("abcde"), Preprocess(16, 16, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    manifest = write_manifest(tmp_path, manifest, ["mxnet"])
    np.testing.assert_allclose(read_graph(tmp_path, manifest)(x), expected, atol=1e-5)
    assert export_onnx(tmp_path, tmp_path / "onnx")[1] < 1e-5
    np.testing.assert_allclose(load_model(tmp_path / "onnx").compute(x), expected, atol=1e-5)
    quantize_model(tmp_path, tmp_path / "int8", x)
    np.testing.assert_allclose(load_model(tmp_path / "int8").compute(x), expected, atol=0.1)


def test_the_network_of_the_zoo(tmp_path):
    mx.random.seed(0)
    net = get_model("cifar_resnet20_v2", classes=10)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    x = nd.random.normal(shape=(4, 3, 32, 32))
    expected = net(x).asnumpy()  # not hybridized: one operator at a time
    near = {"rtol": 0, "atol": 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(fuse(net)(x).asnumpy(), expected, **near)
    export(net, tmp_path / "m", "v2", tuple("abcdefghij"), Preprocess(32, 32, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    np.testing.assert_allclose(load_model(tmp_path / "m").compute(x.asnumpy()), expected, **near)
    assert export_onnx(tmp_path / "m", tmp_path / "onnx")[1] < 1e-5
    found = quantize(net, x.asnumpy())(x).asnumpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * np.abs(expected).max())
    # Training and evaluation run hybridized networks, which MXNet does not fuse.
    net.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(net(x).asnumpy(), expected, **near)
    net.export(str(tmp_path / "old"))
    model = load_old_model(tmp_path / "old-symbol.json", tmp_path / "old-0000.params", (3, 32, 32))
    np.testing.assert_allclose(list(model.run(x.asnumpy()).values())[0], expected, **near)
    assert write_onnx(model, tmp_path / "old.onnx", {"data": x.asnumpy()}).largest < 1e-5


def test_what_mxnet_fuses_by_itself_is_wrong(tmp_path):
    """The day it is not, `d2lcls.models.fusion.fusible` can go."""
    symbol, arguments, _, x, expected = checkpoint(tmp_path, NETWORKS["1 units"])
    executor = symbol.bind(mx.cpu(), {**arguments, "data": nd.array(x)}, grad_req="null")
    assert np.abs(executor.forward(is_train=False)[0].asnumpy() - expected).max() > 0.1


@pytest.fixture
def careless(monkeypatch):
    """Nothing is kept apart, as if a fault of MXNet's fusion were not known."""
    monkeypatch.setattr("d2lcls.models.fusion.fusible._is_wrong", lambda op, readers: False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of scipy names in MXNet, which `pytest.warns` lets through
def test_a_network_that_is_fused_wrongly_is_computed_without_fusion(careless, tmp_path):
    symbol, arguments, statistics, x, expected = checkpoint(tmp_path, NETWORKS["2 units"])
    assert np.abs(assemble(fuse_graph(symbol), arguments, statistics)(nd.array(x)).asnumpy() - expected).max() > 1e-3
    changes = "MXNet's fusion changes the outputs of this network by up to .* of the largest value; .* without fusion"
    net = assemble(symbol, arguments, statistics)
    quick = fuse(net)
    with pytest.warns(UserWarning, match=changes):
        np.testing.assert_allclose(quick(nd.array(x)).asnumpy(), expected, atol=1e-5)
    np.testing.assert_allclose(quick(nd.array(x)).asnumpy(), expected, atol=1e-5)  # and says it once
    save_graph(tmp_path, symbol, {f"arg:{key}": value for key, value in arguments.items()}, {})
    manifest = Manifest("m", "mxnet", tuple("abcde"), Preprocess(16, 16, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    write_manifest(tmp_path, manifest, ["mxnet"])
    with pytest.warns(UserWarning, match=changes):
        np.testing.assert_allclose(load_model(tmp_path).compute(x), expected, atol=1e-5)
    with pytest.warns(UserWarning, match=changes):
        quantised, *values = quantize_graph(symbol, arguments, statistics, x)
    np.testing.assert_allclose(run(quantised, {**values[0], "data": x})[0], expected, atol=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_whose_fusion_fails_is_computed_without_fusion(careless, tmp_path):
    symbol, arguments, statistics, x, expected = checkpoint(tmp_path, preactivation)
    quick = fuse(assemble(symbol, arguments, statistics))
    with pytest.warns(UserWarning, match="MXNet's fusion (of this network fails|changes the outputs).*without fusion"):
        np.testing.assert_allclose(quick(nd.array(x)).asnumpy(), expected, atol=1e-5)


@pytest.mark.parametrize("signed, after", [(True, True), (False, True), (False, False), (True, False)])
def test_sums_in_int8_use_the_whole_range(signed, after):
    """A convolution and a sum: the other summand below zero or not, a ReLU after the sum or not."""

    def relu(x):
        return sym.Activation(x, act_type="relu")

    x = relu(convolution(sym, sym.var("data"), "conv0"))
    other = convolution(sym, x, "other") if signed else x
    x = convolution(sym, relu(convolution(sym, x, "conv1")), "conv2") + other
    symbol = convolution(sym, relu(x) if after else x, "last")
    rng = np.random.default_rng(0)
    arguments = {
        name: nd.array(rng.normal(0, 0.25, size))
        for name, size in zip(symbol.list_arguments(), symbol.infer_shape(data=(1, 4, 8, 8))[0])
        if name != "data"
    }
    x = rng.normal(size=(32, 4, 8, 8)).astype(np.float32)
    expected = run(symbol, {**arguments, "data": x})[0]
    quantised, arguments, _ = quantize_graph(symbol, arguments, {}, x)
    found = run(quantised, {**arguments, "data": x})[0]
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.04 * expected.std()
    assert not mend_int8(quantised)[2]


def conv(x, name):
    return convolution(sym, x, name)


def relu(x):
    return sym.Activation(x, act_type="relu")


def dense(x, name):
    return sym.FullyConnected(x, num_hidden=5, name=name)


def small_graphs():
    """Return a dict from names to small graphs that MXNet 1.9.1 fuses or quantises wrongly, each in its own way."""
    x = conv(sym.var("data"), "first")
    row, other, clipped = dense(x, "row"), conv(x, "other"), sym.clip(x, 0, 1)
    positive = relu(row)
    return {
        "a sum reads a copy": conv(sym.identity(other) + x, "last") + other,
        "a sum reads it twice": other + other,
        "an output": sym.Group([relu(other), other]),
        "an output that is normalised": sym.Group([sym.BatchNorm(other, name="norm"), other]),
        "two activations of a dense layer": relu(row) + sym.Activation(row, act_type="tanh"),
        "normalisation over rows": conv(sym.BatchNorm(other, axis=2, name="norm"), "last"),
        "the mean of a batch": sym.Group(list(sym.BatchNorm(other, output_mean_var=True, name="norm"))[:2]),
        "product of unsigned numbers": conv(clipped * clipped, "last"),
        "dense layer with two readers": dense(positive, "last") + sym.sin(positive),
        "dense layer as output": sym.Group([dense(positive, "last"), positive]),
        "output with two readers": sym.Group([other, conv(other, "a") + sym.sin(other)]),
        "gelu": conv(sym.LeakyReLU(other, act_type="gelu"), "last"),
        "gelu after a sum": conv(sym.LeakyReLU(conv(other, "a") + x, act_type="gelu"), "last"),
        "leaky ReLU after a dense layer": dense(sym.LeakyReLU(row, act_type="leaky", slope=0.9), "last"),
        "two ReLUs": conv(conv(x, "a") + relu(relu(other)), "last"),
        "gamma that is fixed": conv(sym.BatchNorm(sym.Concat(x, other), fix_gamma=True, name="norm"), "last"),
    }


@pytest.mark.parametrize("name", small_graphs())
def test_small_graphs(name):
    symbol = small_graphs()[name]
    rng = np.random.default_rng(0)
    sizes, _, states = symbol.infer_shape(data=(1, 3, 8, 8))
    arguments = {
        key: nd.array(
            rng.normal(0, 1.5 / np.sqrt(np.prod(size[1:])), size) if len(size) > 1 else rng.uniform(0.1, 0.3, size)
        )
        for key, size in zip(symbol.list_arguments(), sizes)
        if key != "data"
    }
    statistics = {key: nd.array(rng.uniform(0.5, 1, size)) for key, size in zip(symbol.list_auxiliary_states(), states)}
    x = rng.normal(size=(32, 3, 8, 8)).astype(np.float32)
    expected = run(symbol, {**arguments, **statistics, "data": x})
    fused = run(fuse_graph(symbol), {**arguments, **statistics, "data": x})
    quantised, *values = quantize_graph(symbol, arguments, statistics, x)
    int8 = run(quantised, {**values[0], **values[1], "data": x})
    for right, a, b in zip(expected, fused, int8):
        np.testing.assert_allclose(a, right, rtol=0, atol=1e-5 * np.abs(right).max())
        assert np.sqrt(((b - right) ** 2).mean()) < 0.05 * np.sqrt((right**2).mean())


def test_normalisation_with_parameters_of_others_is_not_folded():
    x = sym.var("data")
    weight, beta = sym.var("weight"), sym.var("beta")
    first = sym.Convolution(x, weight=weight, kernel=(1, 1), num_filter=3, no_bias=True, name="a")
    second = sym.Convolution(first, weight=weight, kernel=(1, 1), num_filter=3, no_bias=True, name="b")
    for symbol in (
        sym.BatchNorm(second, name="n"),
        sym.BatchNorm(
            sym.Convolution(
                sym.BatchNorm(first, beta=beta, name="n"), kernel=(1, 1), num_filter=3, no_bias=True, name="c"
            ),
            beta=beta,
            name="m",
        ),
    ):
        rng = np.random.default_rng(0)
        sizes, _, states = symbol.infer_shape(data=(2, 3, 4, 4))
        arguments = {
            name: nd.array(rng.uniform(0.5, 1.5, size))
            for name, size in zip(symbol.list_arguments(), sizes)
            if name != "data"
        }
        statistics = {
            name: nd.array(rng.uniform(0.5, 1.5, size)) for name, size in zip(symbol.list_auxiliary_states(), states)
        }
        x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
        expected = run(symbol, {**arguments, **statistics, "data": x})[0]
        symbol, arguments, statistics = fold_batch_norm(symbol, arguments, statistics)
        found = run(symbol, {**arguments, **statistics, "data": x})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
