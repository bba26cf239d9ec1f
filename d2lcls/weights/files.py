"""Files of weights, in Gluon's form or PyTorch's: into a network, and from one form into another."""

import re
import tempfile
from pathlib import Path

from d2lcls.data.download.transfer import file_checksum
from d2lcls.machine.files import write_atomically
from d2lcls.weights.convert import from_torch, to_torch
from d2lcls.weights.tensors import WeightsError, read_tensors, write_safetensors

import mxnet as mx


def load_weights(net, path):
    """Load a file of parameters into a network, whoever wrote it.

    Args:
        net: initialised network.
        path: `.params` of Gluon, `.safetensors` with Gluon's or PyTorch's names, or `.pth` of PyTorch.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged or belongs to another network; the message names the first difference.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights.")
    if path.suffix == ".params":
        try:
            found = mx.nd.load(str(path))
        except mx.MXNetError as error:
            raise WeightsError(f"{path}: cannot be read as Gluon parameters. Get the file anew.") from error
        if not isinstance(found, dict):
            raise WeightsError(f"{path}: holds no named parameters. Expected what net.save_parameters(path) writes.")
        try:
            net.load_parameters(str(path), ctx=next(iter(net.collect_params().values())).list_ctx(), cast_dtype=True)
        except (AssertionError, ValueError, mx.MXNetError) as error:
            # What follows in MXNet's message is a list of all names.
            reason = re.split(" in file| from file|, which contains", str(error).strip().splitlines()[0])[0]
            raise WeightsError(f"{path}: does not fit {type(net).__name__} ({reason}).") from error
        return
    state, parameters = read_tensors(path), net._collect_params_with_prefix()
    try:
        if state.keys() == parameters.keys():
            for name, parameter in parameters.items():
                known = parameter.shape or state[name].shape  # 0 stands for what is not known yet
                if len(known) != state[name].ndim or any(n not in (0, m) for n, m in zip(known, state[name].shape)):
                    raise ValueError(f"{name!r} has the shape {state[name].shape} there and {parameter.shape} here")
            for name, parameter in parameters.items():
                parameter.shape = state[name].shape
                parameter.set_data(mx.nd.array(state[name]))
                parameter._finish_deferred_init()  # or a network that saw no batch would keep waiting for its shapes
        else:
            from_torch(net, state)
    except ValueError as error:
        raise WeightsError(f"{path}: does not fit. {error}") from error


def convert_weights(source, net, target, to="gluon", metadata=None):
    """Write a file of weights in another form.

    Args:
        source: as for `load_weights`.
        net: initialised network of the right family and number of classes; it is given the weights.
        target: file to write: `.safetensors`, or `.params` for Gluon's own form.
        to: "gluon", or the PyTorch names "timm", "torchvision" or "lukemelas".
        metadata: dict of texts to keep in a `.safetensors` file; the source's name and sha256 are added.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".params") or (target.suffix == ".params" and to != "gluon"):
        raise ValueError(f"{target}: expected a file called .safetensors, or .params for Gluon's own form.")
    load_weights(net, source)
    if target.suffix == ".params":
        with tempfile.TemporaryDirectory() as folder:
            net.save_parameters(str(Path(folder, "net.params")))
            content = Path(folder, "net.params").read_bytes()
        write_atomically(target, lambda file: file.write(content))
        return
    mx.nd.waitall()
    arrays = (
        to_torch(net, to)
        if to != "gluon"
        else {name: parameter.list_data()[0].asnumpy() for name, parameter in net._collect_params_with_prefix().items()}
    )
    write_safetensors(
        target,
        arrays,
        {"source": Path(source).name, "source_sha256": file_checksum(source, "sha256"), **(metadata or {})},
    )
