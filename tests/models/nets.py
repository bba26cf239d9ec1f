"""Networks to operate on, and what can be seen of them."""

from d2lcls.models import SmallCNN, get_model
from d2lcls.models.efficientnet_lite import make_efficientnet
from d2lcls.models.surgery import head_name

import mxnet as mx
import numpy as np
from mxnet import nd

NETWORKS = {
    "cnn": 12,
    "cifar_resnet20_v1": 32,
    "resnet18_v1": 64,
    "resnet18_v1b": 64,
    "mobilenetv2_1.0": 64,
    "efficientnet_lite0": 64,
}
TWO = [mx.cpu(0), mx.cpu(1)]


def make(name, classes=10):
    mx.random.seed(1)
    net = make_efficientnet(name, classes) if "efficientnet" in name else get_model(name, classes=classes)
    # Scaled by the inputs of each layer, so that the logits do not vanish and can be compared.
    net.initialize(mx.init.MSRAPrelu("in", 0))
    net(images(NETWORKS[name])).wait_to_read()
    return net


def images(size, n=2):
    return nd.array(np.random.default_rng(0).standard_normal((n, 3, size, size), dtype=np.float32))


def small(ctx=None, widths=(4, 6, 8)):
    mx.random.seed(1)
    net = SmallCNN(3, widths)
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    for context in ctx or [mx.cpu()]:
        net(nd.zeros((1, 3, 12, 12), ctx=context)).wait_to_read()
    return net


def values(net):
    nd.waitall()
    return {name: [copy.asnumpy() for copy in p.list_data()] for name, p in net._collect_params_with_prefix().items()}


def moved(before, after):
    """Return the names of the parameters that are another on any device."""
    return {name for name, copies in before.items() if any((a != b).any() for a, b in zip(copies, after[name]))}


def names_of(net, groups):
    """Return the names of the parameters in these groups."""
    wanted = {id(p) for group in groups for block in group for p in block.collect_params().values()}
    return {name for name, p in net._collect_params_with_prefix().items() if id(p) in wanted}


def learned(net, names):
    parameters = net._collect_params_with_prefix()
    return {name for name in names if parameters[name]._differentiable}


def is_head(name):
    return name.startswith(("output.", "fc."))


def layer_inputs(net, x):
    """Return what comes into a network's head."""
    seen = []
    head = getattr(net, head_name(net))
    handle = head.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].asnumpy()))
    active, net._active = net._active, False  # hooks run only where no compiled network skips them
    net(x)
    net._active = active
    handle.detach()
    return seen[0]
