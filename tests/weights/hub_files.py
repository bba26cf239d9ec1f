"""Networks with drawn parameters, and their files as the hub has them."""

from d2lcls.models import get_model
from d2lcls.weights import to_torch
from d2lcls.weights.tensors import write_safetensors

import mxnet as mx
import numpy as np


def made(name):
    """A network of 1000 classes with known shapes, whose norms and biases are not the trivial ones."""
    mx.random.seed(1)
    net = get_model(name, classes=1000)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 64, 64)))
    rng = np.random.default_rng(2)
    for path, parameter in net._collect_params_with_prefix().items():
        kind = path.rpartition(".")[2]
        low, high = {"running_var": (0.5, 1.5), "gamma": (0.5, 1.5)}.get(kind, (-0.2, 0.2))
        if kind != "weight" and not (kind in ("gamma", "beta") and parameter.grad_req == "null"):
            parameter.set_data(mx.nd.array(rng.uniform(low, high, parameter.shape)))
    return net


def content_of(state, folder):
    write_safetensors(folder / "state.safetensors", state)
    return (folder / "state.safetensors").read_bytes()


def images(side=64, count=2):
    return mx.nd.array(np.random.default_rng(0).uniform(-2, 2, (count, 3, side, side)))


def made_like_timms(name, folder):
    """(a function that computes timm's resnetv2 of a state with Gluon's layers, the state's file as bytes)."""
    net = made(name)
    state = {key: value for key, value in to_torch(net).items() if not key.startswith(("stem.input_norm", "stem.norm"))}

    def logits(x):
        x = net.features[4](net.features[1](x))  # convolution and pool, without BatchNorm and ReLU
        for layer in net.features[5:]:
            x = layer(x)
        return net.output(x).asnumpy()

    return logits, content_of(state, folder)
