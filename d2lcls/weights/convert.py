"""Convert parameters between PyTorch's networks and Gluon's.

A state dict contains the parameters, not the computation. Each network in this list computes the same as the PyTorch
networks named with it; weights of another one may fit by name and shape and still give wrong results.

- resnet18_v1, resnet34_v1 and all of resnet*_v1b: torchvision's and timm's resnet18 ... resnet152. resnet*_v1c, _v1d,
  _v1s: timm's resnet50c, resnet50d, resnet50s and so on.
- resnet50_v1, resnet101_v1, resnet152_v1: the same names with two changes in every bottleneck: the stride is that of
  conv1 instead of conv2, and conv1 and conv3 have a bias. No published PyTorch network is built so.
- resnet*_v2: timm's resnetv2_18 ... resnetv2_152 with another stem: before its convolution the images are normalised
  (`stem.input_norm`, a BatchNorm2d without weight and bias), after it come `stem.norm` and a ReLU. No published
  PyTorch network has that stem, but timm's own is a special case of it (`d2lcls.weights.stems`): its states are taken
  too, and give the same logits.
- mobilenet1.0 ...: timm's mobilenetv1_100 with ReLU. timm's own has ReLU6: its weights fit and are wrong here.
- mobilenetv2_1.0: timm's mobilenetv2_100 and torchvision's mobilenet_v2, but without the bias of the last layer.
  With an `nn.HybridSequential` of `nn.Conv2D(classes, 1)` and `nn.Flatten()` as `output`, everything fits.
  The narrower ones have other numbers of channels than PyTorch's, which are multiples of 8.
  (This is GluonCV's network; the one of MXNet's own zoo expands in the first block too, unlike any in PyTorch.)
- efficientnet_b0 ... b3: timm's efficientnet_b0 and torchvision's (padding k // 2 on all sides, epsilon 1e-5).
  tf_efficientnet_b0 ... b3: timm's of that name and lukemelas' efficientnet-b0 (TensorFlow's padding, epsilon 1e-3).
- efficientnet_lite0 ... lite2: timm's tf_efficientnet_lite0 and lukemelas' (TensorFlow's padding, epsilon 1e-3,
  ReLU6). timm's efficientnet_lite0 without the prefix has PyTorch's padding: its weights fit and are wrong here.

All normalisation is BatchNorm2d, with epsilon 1e-5 unless stated otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2lcls.machine.gluon import finish_initialization, has_data, is_deferred, parameters_by_path
from d2lcls.weights.names import dialects_of, family_of, torch_layers
from d2lcls.weights.stems import FIRST_NORM, with_gluons_stem

import mxnet as mx
import numpy as np
from mxnet import nd

KINDS = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
}
COUNTER = "num_batches_tracked"  # PyTorch counts the batches of each BatchNorm; MXNet does not


def from_torch(net: mx.gluon.Block, state: Mapping[str, Any]) -> None:
    """Load the parameters of a PyTorch network into a Gluon network.

    The names show whether they are timm's, torchvision's or lukemelas'.

    Args:
        net: initialised network of a family that the description of this module lists. Shapes that are unknown before
            its first batch are inferred, and checked against the state.
        state: arrays of floats by PyTorch's names; "num_batches_tracked" is ignored.

    Raises:
        ValueError: the network is of no known family or not initialised, or the names or shapes of the state and the
            network differ; the message names the first difference. The network is then unchanged.
    """
    parameters = parameters_by_path(net)
    family = family_of(net)
    for name, parameter in parameters.items():
        if not has_data(parameter) and not is_deferred(parameter):
            raise ValueError(f"The network's {name!r} is not initialised: call net.initialize() first.")
    state = _arrays(state)
    if family == "ResNetV2" and {"stem.conv.weight", f"{FIRST_NORM}.running_var"} <= state.keys():
        state = state if any(name.startswith("stem.norm.") for name in state) else with_gluons_stem(state)
    dialect = max(dialects_of(net), key=lambda dialect: len(state.keys() & _names(net, dialect).values()))
    names = _names(net, dialect)
    if not state.keys() & names.values():
        raise ValueError(
            f"The state has none of the names of a {family}, such as {next(iter(names.values()))!r}; "
            + (f"its first is {next(iter(state))!r}." if state else "it is empty.")
        )
    _check_names(net, family, names, state)
    shapes = _shapes(net, parameters, names, state)
    values = {}
    for name, torch_name in names.items():
        expected = _torch_shape(net, name, shapes[name])
        if state[torch_name].shape != expected:
            raise ValueError(
                f"{torch_name!r} in the state has shape {state[torch_name].shape}; the network's "
                f"{name!r} needs {expected}. Make the network with the state's width and classes."
            )
        values[name] = state[torch_name].reshape(shapes[name])
    for name in _constants(net):
        values[name] = np.full(shapes[name], name.endswith("gamma"))
    set_values(net, values)


def set_values(net: mx.gluon.Block, values: Mapping[str, np.ndarray]) -> None:
    """Set the parameters of an initialised network, whose shapes may still be unknown, by their path in it."""
    for name, parameter in parameters_by_path(net).items():
        parameter.set_data(nd.array(values[name], dtype=parameter.dtype))
        finish_initialization(parameter)


def get_values(net: mx.gluon.Block) -> dict[str, np.ndarray]:
    """Copy the parameters of a network, by their path in it.

    Raises:
        ValueError: a parameter is not initialised or has no known shape.
    """
    nd.waitall()  # reading BatchNorm's running statistics does not wait for the step that updates them
    values = {}
    for name, parameter in parameters_by_path(net).items():
        if not has_data(parameter):
            raise ValueError(f"The network's {name!r} has no values yet: initialise it and pass it one batch first.")
        values[name] = parameter.list_data()[0].asnumpy()
    return values


def to_torch(net: mx.gluon.Block, dialect: str = "timm") -> dict[str, np.ndarray]:
    """Copy the parameters of a Gluon network, by PyTorch's names.

    `torch.from_numpy` turns the values into tensors; `load_state_dict` of the network that the description of this
    module names accepts them with `strict=True`.

    Args:
        net: network of a family that the description of this module lists, with known shapes.
        dialect: "timm", "torchvision" or "lukemelas".

    Returns:
        new arrays by name, with a `num_batches_tracked` of 0 for every BatchNorm and, where only PyTorch's last layer
        has a bias, one of zeros.

    Raises:
        ValueError: the network is of no known family, has no names in this dialect, or unknown shapes.
    """
    names, values = _names(net, dialect), get_values(net)
    state = {}
    for name, torch_name in names.items():
        state[torch_name] = values[name].reshape(_torch_shape(net, name, values[name].shape))
        if name.endswith("running_var"):
            state[f"{torch_name.rpartition('.')[0]}.{COUNTER}"] = np.zeros((), np.int64)
    missing = _bias_of_zeros(net, names)
    if missing:
        weight = state[missing.replace("bias", "weight")]
        state[missing] = np.zeros(len(weight), weight.dtype)
    return state


def _names(net: mx.gluon.Block, dialect: str) -> dict[str, str]:
    """Return the PyTorch names of the parameters by their path."""
    layers, constants = torch_layers(net, dialect), _constants(net)
    return {
        name: f"{layers[name.rpartition('.')[0]]}.{KINDS[name.rpartition('.')[2]]}"
        for name in parameters_by_path(net)
        if name not in constants
    }


def _constants(net: mx.gluon.Block) -> tuple[str, ...]:
    # The BatchNorm of the images has neither scale nor shift: gamma stays 1 and beta 0.
    return ("features.0.gamma", "features.0.beta") if family_of(net) == "ResNetV2" else ()


def _bias_of_zeros(net: mx.gluon.Block, names: Mapping[str, str]) -> str | None:
    """Return PyTorch's name of the bias that the last layer of Gluon's MobileNetV2 lacks, or None."""
    if family_of(net) != "MobileNetV2" or "output.0.bias" in names or "output.0.weight" not in names:
        return None
    return names["output.0.weight"].replace("weight", "bias")


def _torch_shape(net: mx.gluon.Block, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    # Only the last layer differs: a 1x1 convolution in timm's ResNetV2, a dense layer in all others.
    if not name.startswith("output") or not name.endswith("weight"):
        return tuple(shape)
    return (*shape[:2], 1, 1) if family_of(net) == "ResNetV2" else tuple(shape[:2])


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not hasattr(state, "items"):
        raise ValueError(f"The state must be a dict of arrays, as in a file of weights, not {type(state)}.")
    arrays = {}
    for name, value in state.items():
        if isinstance(value, dict):
            raise ValueError(
                f"The state's {name!r} is a dict, not an array. If that is the state dict itself, pass it alone."
            )
        array = np.asarray(value)
        if str(name).endswith("." + COUNTER):
            continue
        if array.dtype.kind != "f":
            raise ValueError(f"The state's {name!r} must be an array of floats, not of {array.dtype}.")
        arrays[str(name)] = array
    return arrays


def _check_names(net: mx.gluon.Block, family: str, names: Mapping[str, str], state: Mapping[str, np.ndarray]) -> None:
    zeros = _bias_of_zeros(net, names)
    missing = [name for name, torch_name in names.items() if torch_name not in state]
    known = set(names.values())
    extra = [name for name in state if name not in known and (name != zeros or state[name].any())]
    if not missing and not extra:
        return
    message = ""
    if missing:
        message += f"The state lacks {names[missing[0]]!r}, the network's {missing[0]!r}{_more(missing)}. "
    if extra:
        message += f"The state has {extra[0]!r}{_more(extra)}, for which the {family} has no parameter. "
    if family == "ResNetV1" and missing and all(name.endswith(".bias") for name in missing):
        message += (
            "timm's and torchvision's bottlenecks have no such bias and another stride: use GluonCV's resnet*_v1b."
        )
    elif extra == [zeros]:
        message += (
            "Gluon's MobileNetV2 has no bias in its last layer: first set `net.output` to an initialised "
            "nn.HybridSequential of nn.Conv2D(classes, 1) and nn.Flatten()."
        )
    else:
        message += "Make the network from which the state was saved."
    raise ValueError(message)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _shapes(
    net: mx.gluon.Block,
    parameters: Mapping[str, mx.gluon.Parameter],
    names: Mapping[str, str],
    state: Mapping[str, np.ndarray],
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters; those unknown before the first batch are inferred with a symbol."""
    if not any(0 in (parameter.shape or (0,)) for parameter in parameters.values()):
        return {name: parameter.shape for name, parameter in parameters.items()}
    stem, first = next((name, p) for name, p in parameters.items() if len(p.shape) == 4)
    channels = first.shape[1] or (state[names[stem]].shape + (0, 0))[1] or 3
    symbol = net(mx.sym.var("data"))
    arguments, _, statistics = symbol.infer_shape(data=(1, channels, 224, 224))
    inferred = dict(zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arguments + statistics))
    return {name: inferred[parameter.name] for name, parameter in parameters.items()}
