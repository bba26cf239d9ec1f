"""A run's network is made again as layers, with the outputs of the graph in its folder."""

import json

from d2lcls.data import Batches
from d2lcls.explain import grad_cam
from d2lcls.models import SmallCNN, get_model, replace_head
from d2lcls.training import Recipe, fit, load_run, rebuild_network

import mxnet as mx
import numpy as np
import pytest

X = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def trained(shapes, folder, net, name, size=None):
    batches = Batches(shapes, 50, size=size)
    net(mx.nd.array(batches.example()))
    fit(net, batches, recipe=Recipe(num_epochs=1, model=name, lr=0.01), checkpoint_dir=folder, on_epoch=None)
    return folder


@pytest.mark.parametrize("name", ["cnn", "cifar_resnet20_v1", "mobilenetv2_0.25", "resnet18_v1b"])
def test_the_outputs_are_the_same_and_can_be_explained(shapes, tmp_path, name):
    net = get_model(name, classes=3)
    net.initialize(mx.init.Xavier())
    folder = trained(shapes, tmp_path / "run", net, name, size=32)
    again = rebuild_network(folder)
    expected = load_run(folder)[1](mx.nd.array(X)).asnumpy()
    np.testing.assert_allclose(again(mx.nd.array(X)).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    assert type(again) is type(net) and again.collect_params()


def test_a_new_head_on_pretrained_layers_is_found_again(shapes, tmp_path):
    net = get_model("mobilenet0.25", classes=1000)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 32, 32)))
    replace_head(net, 3)
    again = rebuild_network(trained(shapes, tmp_path / "run", net, "mobilenet0.25", size=32))
    np.testing.assert_allclose(again(mx.nd.array(X)).asnumpy(), net(mx.nd.array(X)).asnumpy(), rtol=1e-3, atol=1e-4)
    assert grad_cam(again, X).shape == (2, 32, 32)


def test_a_network_of_ones_own_cannot_be_made_again_by_name(shapes, tmp_path):
    net = SmallCNN(classes=3, widths=(4, 5))
    net.initialize()
    with pytest.raises(ValueError, match="No image classifier is called 'smallcnn'"):
        rebuild_network(trained(shapes, tmp_path / "named", net, None))
    net = SmallCNN(classes=3, widths=(4, 5))
    net.initialize()
    with pytest.raises(ValueError, match=r"built differently from get_model\('cnn'\)"):
        rebuild_network(trained(shapes, tmp_path / "wrong", net, "cnn"))


def test_a_graph_with_other_operators_is_noticed(shapes, tmp_path):
    net = get_model("cnn", classes=3)
    net.initialize()
    folder = trained(shapes, tmp_path / "run", net, "cnn")
    content = json.loads((folder / "network.json").read_text())
    for node in content["graph"]["nodes"]:
        if node.get("attrs", {}).get("act_type") == "relu":
            node["attrs"]["act_type"] = "softrelu"
    (folder / "network.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="built differently"):
        rebuild_network(folder)


def test_code_that_a_folder_names_is_not_run(shapes, tmp_path, monkeypatch):
    net = get_model("cnn", classes=3)
    net.initialize()
    folder = trained(shapes, tmp_path / "run", net, "cnn")
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    monkeypatch.syspath_prepend(tmp_path)
    described = json.loads((folder / "run.json").read_text())
    described["recipe"]["model"] = "evil:Net"
    (folder / "run.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="its network is evil:Net, whose code is not run"):
        rebuild_network(folder)
