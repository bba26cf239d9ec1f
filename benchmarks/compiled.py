"""What does compiling with TVM buy for one picture at a time, and what does tuning add?

Takes networks with drawn weights (the time does not depend on them) through ONNX to TVM, scheduled by TVM's own
default, by rule and tuned, and runs them in turn with MXNet and ONNX Runtime on one picture. Each form has a process of
its own and the order rotates: in one process the threads of three libraries wait for each other, and what comes after
ONNX Runtime was seen to take a hundred times as long. Sizes and load times are reported, and the size of the static
program for 64-bit Arm where its compiler is installed. Writes results/compiled.json. About five minutes on two cores.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
import mxnet as mx
import numpy as np

from d2lcls import results
from d2lcls.data import Preprocess
from d2lcls.deploy import arm, load_model, tvm
from d2lcls.deploy.export import export, load_graph
from d2lcls.deploy.to_onnx import export_onnx
from d2lcls.deploy.tvm_graph import import_tvm, read_onnx_model, read_relax
from d2lcls.deploy.tvm_tune import tune
from d2lcls.models import get_model
from d2lcls.models.fusion import assemble

NETWORKS = {"cnn": (10, 32), "cifar_resnet20_v1": (10, 32), "efficientnet_lite0": (1000, 224)}  # classes, pixels
FOLDERS = (("mxnet_fused", "mxnet"), ("onnx", "onnx"), ("tvm", "rule"))
LOADS = 5
FORMS = ("mxnet", "mxnet_fused", "onnx", "unscheduled", "rule", "tuned")
REPEATS = 5  # runs a turn, of which the median counts


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
            "ms": "one picture, over rounds in turn, a process for each form",
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
    tvm.build(read_relax(work / "onnx", read_onnx_model(work / "onnx")), work / "unscheduled.so")
    np.save(work / "x.npy", x)
    rounds, differs = in_turn(work, options.rounds)
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


def in_turn(work, count):
    """Return the milliseconds of each form by round, and how far its logits are from MXNet's."""
    children = {form: subprocess.Popen([sys.executable, __file__, "--serve", form, str(work)], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE) for form in FORMS}
    try:
        rounds = {form: [] for form in FORMS}
        for turn in range(count + 1):
            for form in FORMS[turn % len(FORMS):] + FORMS[:turn % len(FORMS)]:
                children[form].stdin.write("\n")
                children[form].stdin.flush()
                ms = float(children[form].stdout.readline())
                time.sleep(0.02)  # until its threads have stopped waiting for more
                if turn:  # the first warms up
                    rounds[form].append(ms)
    finally:
        for child in children.values():
            child.communicate()  # closes its input, at which it ends
    logits = {form: np.load(work / f"{form}.npy") for form in FORMS}
    largest = np.abs(logits["mxnet"]).max()
    return rounds, {form: float(np.abs(found - logits["mxnet"]).max() / largest) for form, found in logits.items()}


def serve(form, work):
    """Run one form whenever a line comes in, and answer with its milliseconds."""
    run, x = _open(form, work), np.load(work / "x.npy")
    np.save(work / f"{form}.npy", run(x))
    for _ in sys.stdin:
        run(x)  # wakes the threads
        times = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            run(x)
            times.append(1000 * (time.perf_counter() - begun))
        print(np.median(times), flush=True)


def _open(form, work):
    if form == "unscheduled":
        library = import_tvm()
        module = library.runtime.load_module(str(work / "unscheduled.so"))
        main_of = library.relax.VirtualMachine(module, library.cpu())["main"]
        return lambda x: main_of(library.runtime.tensor(x)).numpy()
    if form == "mxnet":
        net = assemble(*load_graph(work / "mxnet"))
        net.hybridize(static_alloc=True, static_shape=True)
        return lambda x: net(mx.nd.array(x)).asnumpy()
    return load_model(work / ("mxnet" if form == "mxnet_fused" else form)).compute


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
