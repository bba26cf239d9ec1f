"""What does compiling with TVM buy for one picture at a time, and what does tuning add?

Takes networks with drawn weights (the time does not depend on them) through ONNX to TVM, scheduled by TVM's own
default, by rule and tuned, and runs them in turn with MXNet and ONNX Runtime on one picture. Sizes and load times are
reported, and the size of the static program for 64-bit Arm where its compiler is installed. Writes
results/compiled.json. About twice the tuning time for each network, on two cores.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
import mxnet as mx
import numpy as np

from d2lcls import results
from d2lcls.data import Preprocess
from d2lcls.deploy import arm, load_model, tvm
from d2lcls.deploy.export import export
from d2lcls.deploy.to_onnx import export_onnx
from d2lcls.deploy.tvm_graph import import_tvm, read_onnx_model, read_relax
from d2lcls.deploy.tvm_tune import tune
from d2lcls.models import get_model

NETWORKS = {"cnn": (10, 32), "cifar_resnet20_v1": (10, 32), "efficientnet_lite0": (1000, 224)}  # classes, pixels
FOLDERS = (("mxnet_fused", "mxnet"), ("onnx", "onnx"), ("tvm", "rule"))
LOADS = 5


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tune", type=float, default=30, help="seconds a network")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    found = {}
    for name in options.networks:
        with tempfile.TemporaryDirectory() as work:
            found[name] = measure(Path(work), name, options)
    print(results.write("compiled", "python benchmarks/compiled.py", {
        "networks": found, "units": {
            "ms": "one picture, median and spread over rounds in turn, all forms in one process",
            "over_mxnet": "time in MXNet, hybridized, over the time of this form, by round",
            "tuned_over_rule": "time scheduled by rule over the time tuned, by round",
            "load_ms": "from the file to the first answer", "bytes": "the model's file or files",
            "differs": "largest difference of a logit from MXNet's, as a share of the largest logit"}}))


def measure(work, name, options):
    """Return what one network needs in each form."""
    classes, crop = NETWORKS[name]
    mx.random.seed(0)
    net = get_model(name, classes=classes)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    if hasattr(net, "see"):
        net.see(crop, crop)
    x = np.random.default_rng(0).normal(size=(1, 3, crop, crop)).astype(np.float32)
    net(mx.nd.array(x))
    look = Preprocess(crop, crop, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    export(net, work / "mxnet", name, [str(number) for number in range(classes)], look)
    export_onnx(work / "mxnet", work / "onnx")
    records = tune(work / "onnx", options.tune)
    tvm.compile_host(work / "onnx", work / "rule")
    tvm.compile_host(work / "onnx", work / "tuned", records=records)
    forms = {form: load_model(work / form).compute for form in ("mxnet", "onnx", "rule", "tuned")}
    net.hybridize(static_alloc=True, static_shape=True)
    forms["mxnet_fused"] = forms.pop("mxnet")
    forms["mxnet"] = lambda x: net(mx.nd.array(x)).asnumpy()
    forms["unscheduled"] = _unscheduled(work)
    rounds = {form: [] for form in forms}
    expected = forms["mxnet"](x)
    differs = {form: float(np.abs(run(x) - expected).max() / np.abs(expected).max()) for form, run in forms.items()}
    for _ in range(options.rounds):
        for form, run in forms.items():
            run(x)  # wakes this form's threads, while those of the form before fall asleep
            begun = time.perf_counter()
            run(x)
            rounds[form].append(1000 * (time.perf_counter() - begun))
    ratio = {form: results.spread([a / b for a, b in zip(rounds["mxnet"], ms)]) for form, ms in rounds.items()}
    gain = results.spread([a / b for a, b in zip(rounds["rule"], rounds["tuned"])])
    print(name, {form: f"{np.median(ms):.2f} ms" for form, ms in rounds.items()}, f"tuned/rule {gain['median']:.2f}",
          flush=True)
    answer = {"ms": {form: results.spread(ms) for form, ms in rounds.items()}, "over_mxnet": ratio,
              "tuned_over_rule": gain, "tuning": {"seconds": options.tune, "trials": records.trials},
              "differs": differs,
              "load_ms": {form: results.spread([_load(work / folder, x) for _ in range(LOADS)])
                          for form, folder in FOLDERS},
              "bytes": {form: _bytes(work / folder) for form, folder in FOLDERS}}
    if shutil.which(arm.COMPILER):
        arm.compile_arm(work / "onnx", work / "arm")
        answer["bytes"]["arm64"] = (work / "arm" / arm.FILE).stat().st_size
    return answer


def _bytes(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")


def _load(folder, x):
    begun = time.perf_counter()
    load_model(folder).compute(x)
    return 1000 * (time.perf_counter() - begun)


def _unscheduled(work):
    """Compile what TVM makes of the model without any schedule."""
    library = import_tvm()
    path = work / "unscheduled.so"
    module = read_relax(work / "onnx", read_onnx_model(work / "onnx"))
    tvm.build(module, path)
    run = library.relax.VirtualMachine(library.runtime.load_module(str(path)), library.cpu())["main"]
    return lambda x: run(library.runtime.tensor(x)).numpy()


if __name__ == "__main__":
    main()
