"""Load files of weights in Gluon's or PyTorch's format into a network, and convert them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from d2lcls.data.download.transfer import file_checksum
from d2lcls.machine.files import write_atomically
from d2lcls.machine.gluon import clear_cache, parameters_by_path
from d2lcls.weights.convert import from_torch, get_values, set_values, to_torch
from d2lcls.weights.names import FAMILIES, dialects_of, torch_layers
from d2lcls.weights.params_file import ParamsError, params_bytes, read_params
from d2lcls.weights.tensors import WeightsError, read_tensors, write_safetensors

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

LAST_BIASES = ("classifier.bias", "classifier.1.bias", "output.0.bias")  # timm's, torchvision's and Gluon's name


def load_weights(net: mx.gluon.Block, path: str | Path) -> None:
    """Load a file of parameters, of Gluon or PyTorch, into a network.

    Args:
        net: initialised network.
        path: `.params` of Gluon, `.safetensors` with Gluon's or PyTorch's names, or `.pth` of PyTorch. If it has a
            bias for the last layer of a MobileNetV2, as PyTorch's files do, that layer gets one.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged or belongs to another network; the message names the first difference.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights.")
    if path.suffix == ".params":
        try:
            names = list(read_params(path))  # MXNet's reader, below, allocates as much as a damaged file asks for
        except ParamsError as error:
            raise WeightsError(str(error)) from error
        if names == [str(number) for number in range(len(names))]:
            raise WeightsError(f"{path}: contains no named parameters. Expected what net.save_parameters(path) writes.")
        if "output.0.bias" in names:
            _add_missing_bias(net)
        try:
            net.load_parameters(str(path), ctx=next(iter(net.collect_params().values())).list_ctx(), cast_dtype=True)
        except (AssertionError, ValueError, mx.MXNetError) as error:
            # MXNet's message continues with a list of all names.
            reason = re.split(" in file| from file|, which contains", str(error).strip().splitlines()[0])[0]
            raise WeightsError(f"{path}: does not fit {type(net).__name__} ({reason}).") from error
        return
    state = read_tensors(path)
    if any(name in LAST_BIASES and state[name].any() for name in state):
        _add_missing_bias(net)
    try:
        if state.keys() == parameters_by_path(net).keys():
            _check_shapes(net, state)
            set_values(net, state)
        else:
            from_torch(net, state)
    except ValueError as error:
        raise WeightsError(f"{path}: does not fit. {error}") from error


def rows_in_file(net: mx.gluon.Block, path: str | Path, layers: Sequence[str]) -> int | None:
    """Return the number of outputs that a layer has in a file of weights; None if the file has no such layer.

    Args:
        net: the network that the file belongs to, whatever its number of classes.
        path: as for `load_weights`.
        layers: paths that the layer may have in the network, such as "output"; the first in the file is taken.

    Raises:
        FileNotFoundError, WeightsError: as for `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights.")
    try:
        arrays = read_params(path) if path.suffix == ".params" else read_tensors(path)
    except ParamsError as error:
        raise WeightsError(str(error)) from error
    names = [layer for layer in layers if f"{layer}.weight" in arrays]
    if not names and type(net).__name__ in FAMILIES:
        translations = [torch_layers(net, dialect) for dialect in dialects_of(net)]
        names = [translated[layer] for translated in translations for layer in layers if layer in translated]
    shapes = [arrays[f"{name}.weight"].shape for name in names if f"{name}.weight" in arrays]
    return shapes[0][0] if shapes and shapes[0] else None


def _add_missing_bias(net: mx.gluon.Block) -> None:
    """Give the last layer of GluonCV's MobileNetV2, a convolution without one, a bias of zeros, as PyTorch's has."""
    if type(net).__name__ != "MobileNetV2":
        return
    layer = net.output[0]
    if not isinstance(layer, nn.Conv2D) or layer.bias is not None:
        return
    new = nn.Conv2D(layer.weight.shape[0], 1, in_channels=layer.weight.shape[1])
    new.initialize(ctx=layer.weight.list_ctx())
    net.output = nn.HybridSequential()
    net.output.add(new, nn.Flatten())
    clear_cache(net)


def _check_shapes(net: mx.gluon.Block, values: Mapping[str, np.ndarray]) -> None:
    for name, parameter in parameters_by_path(net).items():
        shape = values[name].shape
        known = parameter.shape or shape  # 0 is an unknown length
        if len(known) != len(shape) or any(n not in (0, m) for n, m in zip(known, shape)):
            raise ValueError(f"{name!r} has the shape {shape} in the file and {parameter.shape} in the network.")


def convert_weights(
    source: str | Path,
    net: mx.gluon.Block,
    target: str | Path,
    to: str = "gluon",
    metadata: dict[str, str] | None = None,
) -> None:
    """Convert a file of weights to another format.

    Args:
        source: as for `load_weights`.
        net: initialised network of the right family and number of classes; the weights are loaded into it.
        target: file to write: `.safetensors`, or `.params` of Gluon.
        to: "gluon", or the PyTorch names "timm", "torchvision" or "lukemelas".
        metadata: texts to store in a `.safetensors` file; the source's name and sha256 are added.

    Raises:
        ValueError: the target has another ending, or `to` has no meaning for this network.
        FileNotFoundError, WeightsError: as for `load_weights`.
        OSError: the target cannot be written.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".params") or (target.suffix == ".params" and to != "gluon"):
        raise ValueError(f"{target}: expected a name ending in .safetensors, or in .params for Gluon's own format.")
    load_weights(net, source)
    if target.suffix == ".params":
        write_atomically(target, params_bytes(get_values(net)))
        return
    write_safetensors(
        target,
        get_values(net) if to == "gluon" else to_torch(net, to),
        {"source": Path(source).name, "source_sha256": file_checksum(source, "sha256"), **(metadata or {})},
    )
