"""Parameters from PyTorch's networks into Gluon's, and back.

A state dict says what the numbers are, not what is computed with them. Each network here computes what the
PyTorch network named beside it computes; weights of another one may fit by name and shape and be wrong all the same.

- resnet18_v1, resnet34_v1 and all of resnet*_v1b: torchvision's and timm's resnet18 ... resnet152. resnet*_v1c, _v1d,
  _v1s: timm's resnet50c, resnet50d, resnet50s and so on.
- resnet50_v1, resnet101_v1, resnet152_v1: the same names with two changes in every bottleneck: the stride is that of
  conv1 instead of conv2, and conv1 and conv3 have a bias. No published PyTorch network is built so.
- resnet*_v2: timm's resnetv2_18 ... resnetv2_152 with another stem: before its convolution the images are normalised
  (`stem.input_norm`, a BatchNorm2d without weight and bias), after it come `stem.norm` and a ReLU. No published
  PyTorch network has that stem.
- mobilenet1.0 ...: timm's mobilenetv1_100 with ReLU. timm's own has ReLU6: its weights fit and are wrong here.
- mobilenetv2_1.0: timm's mobilenetv2_100 and torchvision's mobilenet_v2, but without the bias of the last layer.
  With an `nn.HybridSequential` of `nn.Conv2D(classes, 1)` and `nn.Flatten()` for `output`, all of it fits.
  The narrower ones have other numbers of channels than PyTorch's, which are multiples of 8.
  (MXNet's own zoo widens in the first block too, as no PyTorch network does: it is GluonCV's that is meant.)
- efficientnet_b0 ... b3: timm's efficientnet_b0 and torchvision's (padding k // 2 on all sides, epsilon 1e-5).
  tf_efficientnet_b0 ... b3: timm's of that name and lukemelas' efficientnet-b0 (TensorFlow's padding, epsilon 1e-3).
- efficientnet_lite0 ... lite2: timm's tf_efficientnet_lite0 and lukemelas' (TensorFlow's padding, epsilon 1e-3,
  ReLU6). timm's efficientnet_lite0 without the prefix pads in PyTorch's way: its weights fit and are wrong here.

All normalisation is BatchNorm2d with epsilon 1e-5 where nothing else is said.
"""

from d2lcls.weights.names import dialects_of, family_of, torch_layers

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
COUNTER = "num_batches_tracked"  # PyTorch counts the batches a BatchNorm saw; MXNet has no use for it


def from_torch(net, state):
    """Load the parameters of a PyTorch network into a Gluon network.

    Whether the names are timm's, torchvision's or lukemelas' is seen from the names.

    Args:
        net: initialised network of a family that this module's text lists. It need not have seen a batch: unknown
            shapes are taken from the state and must agree with one another.
        state: dict from PyTorch's names to arrays of floats; "num_batches_tracked" is ignored.

    Raises:
        ValueError: the network is of no known family or not initialised, or a parameter has no tensor in the state, a
            tensor no parameter, or the two another shape; names the first. The network is then unchanged.
    """
    parameters = net._collect_params_with_prefix()
    family = family_of(net)
    for name, parameter in parameters.items():
        if parameter._data is None and not parameter._deferred_init:
            raise ValueError(f"The network's {name!r} is not initialised: call net.initialize() first.")
    state = _arrays(state)
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
        wanted = _torch_shape(net, name, shapes[name])
        if state[torch_name].shape != wanted:
            raise ValueError(
                f"{torch_name!r} in the state has shape {state[torch_name].shape}; the network's "
                f"{name!r} needs {wanted}. Make the network with the state's width and classes."
            )
        values[name] = state[torch_name].reshape(shapes[name])
    for name in _constants(net):
        values[name] = np.full(shapes[name], name.endswith("gamma"))
    for name, parameter in parameters.items():
        parameter.set_data(nd.array(values[name], dtype=parameter.dtype))
        parameter._finish_deferred_init()


def to_torch(net, dialect="timm"):
    """Copy the parameters of a Gluon network out under PyTorch's names.

    `torch.from_numpy` makes tensors of the values; `load_state_dict` of the network that this module's text names
    takes them with `strict=True`.

    Args:
        net: network of a family that this module's text lists, with known shapes.
        dialect: "timm", "torchvision" or "lukemelas".

    Returns:
        dict from names to numpy arrays, new ones; with a `num_batches_tracked` of 0 for every BatchNorm and, where
        Gluon's last layer has no bias and PyTorch's has, one of zeros.

    Raises:
        ValueError: the network is of no known family, has no names in this dialect, or unknown shapes.
    """
    names = _names(net, dialect)
    parameters = net._collect_params_with_prefix()
    nd.waitall()  # reading BatchNorm's running statistics does not wait for the step that updates them
    state = {}
    for name, torch_name in names.items():
        if parameters[name]._data is None:
            raise ValueError(f"The network's {name!r} has no values yet: initialise it and pass it one batch first.")
        value = parameters[name].list_data()[0].asnumpy()
        state[torch_name] = value.reshape(_torch_shape(net, name, value.shape))
        if name.endswith("running_var"):
            state[f"{torch_name.rpartition('.')[0]}.{COUNTER}"] = np.zeros((), np.int64)
    missing = _bias_of_zeros(net, names)
    if missing:
        weight = state[missing.replace("bias", "weight")]
        state[missing] = np.zeros(len(weight), weight.dtype)
    return state


def _names(net, dialect):
    # From the structural name of every parameter to its PyTorch name.
    layers, constants = torch_layers(net, dialect), _constants(net)
    return {
        name: f"{layers[name.rpartition('.')[0]]}.{KINDS[name.rpartition('.')[2]]}"
        for name in net._collect_params_with_prefix()
        if name not in constants
    }


def _constants(net):
    # The BatchNorm over the images has neither scale nor shift: gamma stays 1 and beta 0.
    return ("features.0.gamma", "features.0.beta") if family_of(net) == "ResNetV2" else ()


def _bias_of_zeros(net, names):
    # PyTorch's name of the bias that Gluon's MobileNetV2 does not have in its last layer, or None.
    if family_of(net) != "MobileNetV2" or "output.0.bias" in names or "output.0.weight" not in names:
        return None
    return names["output.0.weight"].replace("weight", "bias")


def _torch_shape(net, name, shape):
    # Only the last layer differs: a 1x1 convolution in timm's ResNetV2, in all others a dense layer.
    if not name.startswith("output") or not name.endswith("weight"):
        return tuple(shape)
    return (*shape[:2], 1, 1) if family_of(net) == "ResNetV2" else tuple(shape[:2])


def _arrays(state):
    if not hasattr(state, "items"):
        raise ValueError(f"The state must be a dict of arrays, as a file of weights holds it, not {type(state)}.")
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


def _check_names(net, family, names, state):
    zeros = _bias_of_zeros(net, names)
    missing = [(name, torch_name) for name, torch_name in names.items() if torch_name not in state]
    known = set(names.values())
    extra = [name for name in state if name not in known and (name != zeros or state[name].any())]
    if not missing and not extra:
        return
    said = []
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        said.append(f"The state lacks {missing[0][1]!r}, the network's {missing[0][0]!r}{more}.")
    if extra:
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        said.append(f"The state has {extra[0]!r}{more}, for which the {family} has no parameter.")
    if family == "ResNetV1" and missing and all(name.endswith(".bias") for name, _ in missing):
        said.append(
            "timm's and torchvision's bottlenecks have no such bias and another stride: they are GluonCV's resnet*_v1b."
        )
    elif extra == [zeros]:
        said.append(
            "Gluon's MobileNetV2 has no bias in its last layer: first give it, as `net.output`, an "
            "nn.HybridSequential of nn.Conv2D(classes, 1) and nn.Flatten(), initialised."
        )
    else:
        said.append("Make the network that the state was saved from.")
    raise ValueError(" ".join(said))


def _shapes(net, parameters, names, state):
    # Shapes of all parameters; a network that never saw a batch infers them from one, as a symbol, untouched.
    if not any(0 in (parameter.shape or (0,)) for parameter in parameters.values()):
        return {name: parameter.shape for name, parameter in parameters.items()}
    stem, first = next((name, p) for name, p in parameters.items() if len(p.shape) == 4)
    channels = first.shape[1] or (state[names[stem]].shape + (0, 0))[1] or 3
    symbol = net(mx.sym.var("data"))
    arguments, _, statistics = symbol.infer_shape(data=(1, channels, 224, 224))
    inferred = dict(zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arguments + statistics))
    return {name: inferred[parameter.name] for name, parameter in parameters.items()}
