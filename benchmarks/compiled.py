"""How much faster is a network compiled with TVM for one image at a time, and how much does tuning add?

Converts networks with random weights (the time does not depend on them) through ONNX to TVM, compiled with TVM's
defaults, by the book's rule and tuned, and runs them in turn with MXNet and ONNX Runtime on one image. Each form has a
process of its own, as in `d2lcls.deploy.timing`, which is restarted a few times. Also measures sizes and load times,
and the size of the static program for 64-bit Arm where its compiler is installed. Writes results/compiled.json. About
eight minutes on two cores, which must be otherwise idle.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls.book import results
from d2lcls.deploy import load_model
from d2lcls.deploy.edge import arm
from d2lcls.deploy.edge.tuning import gain
from d2lcls.deploy.timing import Sleeper, answer

import numpy as np

NETWORKS = {"cnn": (10, 32), "cifar_resnet20_v1": (10, 32), "efficientnet_lite0": (1000, 224)}  # classes, pixels
FORMS = {
    "mxnet": "mxnet",
    "mxnet_fused": "mxnet",
    "onnx": "onnx",
    "tvm_default": "default",
    "tvm_rule": "rule",
    "tvm_tuned": "tuned",
}  # and the folders they are in
PROCESSES = 4  # of each form, one after the other


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="turns of each process")
    parser.add_argument("--tune", type=float, default=45, help="seconds a network")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    found = {}
    for name in options.networks:
        with tempfile.TemporaryDirectory() as work:
            found[name] = measure(Path(work), name, options)
    print(
        results.write(
            "compiled",
            "python benchmarks/compiled.py",
            {
                "processes": PROCESSES,
                "rounds": PROCESSES * options.rounds,
                "networks": found,
                "units": {
                    "ms": "one picture, median of a turn; its spread over rounds in turn, a process for each form",
                    "over_mxnet": "time of MXNet hybridized over the time of this form, by round",
                    "tuned_over_rule": "time by rule over the time tuned, in turn in one process",
                    "rule_over_default": "time as TVM compiles by default over the time by rule, by round",
                    "load_ms": "from the folder to the first answer in a new process, libraries imported",
                    "bytes": "the model's file or files",
                    "tuning": "seconds, and schedules timed in them",
                    "differs": "largest difference of a logit from MXNet's, as a share of the largest logit",
                },
            },
        )
    )


def measure(work, name, options):
    """Return what one network needs in each form."""
    records = make(work, name, options.tune)
    gained = gain(work / "onnx", records, rounds=200)
    loads, rounds = ({form: [] for form in FORMS} for _ in range(2))
    for _ in range(PROCESSES):
        sleepers = {form: Sleeper([sys.executable, __file__, "--serve", form, work]) for form in FORMS}
        for turn in range(options.rounds):
            first = turn % len(FORMS)
            for form in [*FORMS][first:] + [*FORMS][:first]:  # nobody always follows the same
                rounds[form].append(sleepers[form].milliseconds(1))
        for form, sleeper in sleepers.items():
            loads[form].append(float(sleeper.ready))
            sleeper.close()
    logits = {form: np.load(work / f"{form}.npy") for form in FORMS}
    largest = np.abs(logits["mxnet"]).max()
    measured = {
        "ms": {form: spread(ms) for form, ms in rounds.items()},
        "over_mxnet": {form: ratio(rounds["mxnet"], ms) for form, ms in rounds.items() if form != "mxnet"},
        "tuned_over_rule": spread(gained),
        "rule_over_default": ratio(rounds["tvm_default"], rounds["tvm_rule"]),
        "tuning": {"seconds": options.tune, "trials": records.trials},
        "differs": {form: float(np.abs(found - logits["mxnet"]).max() / largest) for form, found in logits.items()},
        "load_ms": {form: spread(ms) for form, ms in loads.items()},
        "bytes": {
            form: sum(path.stat().st_size for path in (work / folder).iterdir() if path.name != "manifest.json")
            for form, folder in FORMS.items()
        },
    }
    if shutil.which(arm.COMPILER):
        arm.compile_arm(work / "onnx", work / "arm")
        measured["bytes"]["arm64"] = (work / "arm" / arm.FILE).stat().st_size
    print(name, measured, flush=True)
    return measured


def make(work, name, seconds):
    """Write one network in every form, and its input; return the results of tuning."""
    from d2lcls.data import Preprocess
    from d2lcls.deploy.edge.host import compile_host
    from d2lcls.deploy.edge.tuning import tune
    from d2lcls.deploy.exporting import export
    from d2lcls.deploy.onnx.export import export_onnx
    from d2lcls.models import get_model, set_image_size

    import mxnet as mx

    classes, crop = NETWORKS[name]
    mx.random.seed(0)
    net = get_model(name, classes=classes)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    set_image_size(net, crop, crop)
    x = np.random.default_rng(0).normal(size=(1, 3, crop, crop)).astype(np.float32)
    net(mx.nd.array(x))
    look = Preprocess(crop, crop, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    export(net, work / "mxnet", name, [str(number) for number in range(classes)], look)
    export_onnx(work / "mxnet", work / "onnx")
    records = tune(work / "onnx", seconds)
    compile_host(work / "onnx", work / "rule")
    compile_host(work / "onnx", work / "tuned", records=records)
    compile_default(work / "onnx", work / "default")
    np.save(work / "x.npy", x)
    return records


def compile_default(folder, target):
    """Compile an ONNX model with the processor as the only option."""
    from d2lcls.deploy import read_manifest
    from d2lcls.deploy.edge.graph import import_tvm, simplify
    from d2lcls.deploy.edge.host import FILE
    from d2lcls.deploy.edge.target import host_target

    tvm = import_tvm()
    from tvm.relax.frontend.onnx import from_onnx

    model = simplify(folder / "model.onnx", read_manifest(folder).input_shape())
    target.mkdir()
    tvm.compile(from_onnx(model), target=host_target()).export_library(str(target / FILE))


def serve(form, work):
    """Load one form and say how long it took; then, whenever it is asked to, run it and say how long that took."""
    x = np.load(work / "x.npy")
    load = loader(form, work / FORMS[form])
    begun = time.perf_counter()
    run = load()
    np.save(work / f"{form}.npy", run(x))
    answer(run, x, 1000 * (time.perf_counter() - begun))


def loader(form, folder):
    """Return a function without arguments that loads one form; what it needs is imported already."""
    if form == "tvm_default":
        from d2lcls.deploy.edge.graph import import_tvm
        from d2lcls.deploy.edge.host import FILE

        tvm = import_tvm()

        def load():
            main_of = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(folder / FILE)), tvm.cpu())["main"]
            return lambda x: main_of(tvm.runtime.tensor(x)).numpy()

        return load
    if form == "mxnet":
        from d2lcls.deploy.exporting import load_graph
        from d2lcls.models.fusion.fused import assemble

        import mxnet as mx

        def load():
            net = assemble(*load_graph(folder))
            net.hybridize(static_alloc=True, static_shape=True)
            return lambda x: net(mx.nd.array(x)).asnumpy()

        return load
    if form == "mxnet_fused":
        import d2lcls.deploy.exporting  # noqa: F401
    elif form == "onnx":
        import onnxruntime  # noqa: F401
    else:
        from d2lcls.deploy.edge.graph import import_tvm

        import_tvm()
    return lambda: load_model(folder, trust=True).compute


def ratio(one, other):
    """Return the spread of the ratios of two forms, by round."""
    return spread([a / b for a, b in zip(one, other)])


def spread(values):
    """Sum up measurements without keeping them."""
    return {key: value for key, value in results.spread(values).items() if key in ("median", "min", "max", "std")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
