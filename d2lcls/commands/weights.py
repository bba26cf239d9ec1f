"""`d2lcls weights`: list, get, convert and verify pretrained weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command, commands_of, positive, share

if TYPE_CHECKING:
    from d2lcls.weights.hub import HubWeights
    from d2lcls.weights.store import Port

FORMS = ("gluon", "timm", "torchvision", "lukemelas")


def add(command: Command) -> None:
    """Add the command and those below it to the parser."""
    subcommand = commands_of(
        command("weights", None, "List, get, convert and verify pretrained weights.", "d2lcls weights list")
    )
    subcommand(
        "list",
        _list,
        "List the pretrained weights that are here or come without a file of yours.",
        "d2lcls weights list",
    )
    get = subcommand(
        "get",
        _get,
        "Get a network's ImageNet weights into the cache and print their file.",
        "d2lcls weights get efficientnet_lite0",
    )
    get.add_argument("name", metavar="NAME", help="a network, such as efficientnet_lite0 or resnet18_v1b")

    convert = subcommand(
        "convert",
        _convert,
        "Bring weights from Gluon or PyTorch into another form.",
        "d2lcls weights convert resnet18.pth --model resnet18_v1b",
    )
    add = convert.add_argument
    add(
        "file",
        metavar="FILE",
        help=".pth or .safetensors with PyTorch's names, or .params or .safetensors with Gluon's",
    )
    add("--model", required=True, metavar="NAME", help="the network whose weights these are")
    add("--classes", type=positive(int), default=1000, metavar="K", help="number of its logits")
    add("--to", choices=FORMS, default="gluon", help="whose names the parameters get")
    add(
        "--out",
        metavar="FILE",
        help="a .safetensors file, or .params for Gluon's own form (default: in the cache, "
        "where --pretrained finds it)",
    )
    add("--source", metavar="TEXT", help="where the weights come from; kept in the file")
    add("--licence", metavar="TEXT", help="of the weights; kept in the file")
    add("--published", type=share, metavar="SHARE", help="published top-1 accuracy, such as 0.751; kept in the file")

    verify = subcommand(
        "verify",
        _verify,
        "Check weights: checksum, fit with their network, finite numbers; exit code 1 on a problem.",
        "d2lcls weights verify efficientnet_lite0",
    )
    add = verify.add_argument
    add("name", metavar="NAME|FILE", nargs="?", help="a network, or with --model a file; all that is here if not given")
    add("--model", metavar="NAME", help="the network whose weights the file holds")
    add("--classes", type=positive(int), default=1000, metavar="K", help="number of its logits")


def _list(options: argparse.Namespace) -> None:
    from d2lcls.weights.hub import HUB
    from d2lcls.weights.store import PORTS, weights_folder

    here = _files_here()
    for name, path in here:
        print(f"{name:<20} {path}; {_describe(name, path)}")
    for name, port in PORTS.items():
        if name not in dict(here):
            print(f"{name:<20} not here: d2lcls weights get {name}; {_describe_port(port)}; sha256 {port.sha256[:8]}")
    for name, weights in HUB.items():
        if name not in dict(here) and name not in PORTS:
            print(f"{name:<20} not here: d2lcls weights get {name}; {_describe_hub(weights)}")
    print("Others: d2lcls weights get NAME asks GluonCV's store, or the mirror of it that MXNET_GLUON_REPO names.")
    print(f"cache: {weights_folder()}")


def _files_here(names: list[str] | None = None) -> list[tuple[str, Path]]:
    """List (name, path) of all weights on this machine, or of those of some networks."""
    from d2lcls.models import list_models
    from d2lcls.weights.store import places_of

    return [(name, path) for name in names or list_models() for path in places_of(name) if path.is_file()]


def _describe(name: str, path: Path) -> str:
    from d2lcls.data.download.transfer import file_checksum
    from d2lcls.weights.hub import HUB
    from d2lcls.weights.store import PORTS
    from d2lcls.weights.tensors import WeightsError

    port, hub = PORTS.get(name), HUB.get(name)
    checksum = f"sha256 {file_checksum(path, 'sha256')[:8]}"
    if port and path.name == port.file:
        return f"{_describe_port(port)}; {checksum}"
    if hub and path.name == hub.file:
        return f"{_describe_hub(hub)}; {checksum}"
    if path.suffix == ".params":
        return f"GluonCV's store; {checksum}"
    try:
        return f"{_describe_metadata(path)}; {checksum}"
    except WeightsError as error:
        return f"damaged ({error}); {checksum}"


def _describe_port(port: Port) -> str:
    measured = f"{port.measured:.1%}" if port.measured else "not measured"
    return f"{port.source}; {port.licence}; published {port.published:.1%}, measured {measured}"


def _describe_hub(weights: HubWeights) -> str:
    return f"{weights.repository} on the Hugging Face hub; {weights.licence}; published {weights.published:.1%}"


def _describe_metadata(path: Path) -> str:
    from d2lcls.weights.tensors import read_metadata

    metadata = read_metadata(path)
    source, licence = metadata.get("source", "an unknown source"), metadata.get("licence", "unknown licence")
    published = f"published {float(metadata['published']):.1%}" if "published" in metadata else "no published accuracy"
    return f"from {source}; {licence}; {published}"


def _get(options: argparse.Namespace) -> None:
    from d2lcls.models import get_model
    from d2lcls.weights.store import get_weights

    get_model(options.name)  # suggests the nearest for an unknown name
    print(get_weights(options.name.lower()))


def _convert(options: argparse.Namespace) -> None:
    from d2lcls.models import get_model
    from d2lcls.weights.files import convert_weights
    from d2lcls.weights.store import weights_folder

    name = options.model.lower()
    metadata = {
        key: str(getattr(options, key))
        for key in ("source", "licence", "published")
        if getattr(options, key) is not None
    }
    if not options.out and (options.to != "gluon" or options.classes != 1000):
        options.wrong("the cache holds Gluon's form with ImageNet's 1000 classes: name another file with --out")
    if metadata and options.out and Path(options.out).suffix == ".params":
        options.wrong("a .params file has no room for --source, --licence and --published: write a .safetensors file")
    net = get_model(name, classes=options.classes)
    net.initialize()
    target = Path(options.out) if options.out else weights_folder() / f"{name}.safetensors"
    convert_weights(
        options.file, net, target, options.to, {"network": name, "classes": str(options.classes), **metadata}
    )
    print(target)


def _verify(options: argparse.Namespace) -> int:
    from d2lcls.models import get_model

    if options.model:
        if not options.name:
            options.wrong("--model names the network of a FILE: give that too")
        files = [(options.model.lower(), Path(options.name))]
    elif options.name:
        if Path(options.name).is_file():
            options.wrong(f"name the network whose weights {options.name} holds with --model")
        get_model(options.name)  # suggests the nearest for an unknown name
        files = _files_here([options.name.lower()])
        if not files:
            raise FileNotFoundError(
                f"The weights of {options.name} are not here. Get them with: d2lcls weights get {options.name}"
            )
    else:
        files = _files_here()
        if not files:
            print("No weights are here. Get some with: d2lcls weights get efficientnet_lite0")
    problems = [problem for name, path in files if (problem := _problem(name, path, options))]
    return 1 if problems else 0


def _problem(name: str, path: Path, options: argparse.Namespace) -> Exception | None:
    """Check a file of weights, print the result, and return the error if there is one."""
    from d2lcls.models import get_model
    from d2lcls.weights import WeightsError
    from d2lcls.weights.convert import get_values
    from d2lcls.weights.files import load_weights
    from d2lcls.weights.store import check_weights

    import numpy as np

    net = get_model(name, classes=options.classes)
    net.initialize()
    try:
        if not options.model:
            check_weights(name, path)
        load_weights(net, path)
        for parameter, values in get_values(net).items():
            if not np.isfinite(values).all():
                raise WeightsError(f"{path}: {parameter!r} contains a number that is not finite. Get the file again.")
    except WeightsError as error:
        print(f"{name}: {error}")
        return error
    print(f"{name}: {path}: OK")
    return None
