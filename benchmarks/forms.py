"""How fast and how accurate is each form of a model: MXNet, bfloat16, fused, int8, ONNX Runtime, TVM, PyTorch?

The networks are the book's CNN and a ResNet-20, trained on CIFAR-10 as in the chapter on the training loop for 12 and 4
epochs (ten minutes, the first time), and a MobileNet at 224 pixels with random weights, on which its time does not
depend. Each form takes turns with the others, with one image and with 64. The outputs of all forms for 1,000 test
images are compared with MXNet's in float32; accuracy is that on the whole test set. MXNet computes in the calling
thread, as it does for `d2lcls serve`. Writes results/forms.json. About fifteen minutes on two cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.book.notebook import example_model
from d2lcls.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from d2lcls.deploy import load_model, read_manifest, timing
from d2lcls.deploy.comparison import agreement, measure_accuracy, megabytes
from d2lcls.deploy.edge.host import compile_host
from d2lcls.deploy.edge.tuning import tune
from d2lcls.deploy.exporting import export, load_graph
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.quantization import quantize_model
from d2lcls.deploy.timing import command_of, in_turn
from d2lcls.deploy.torch.export import export_torch
from d2lcls.machine.cores import has_bfloat16, usable_cores
from d2lcls.models import get_model
from d2lcls.models.fusion.fused import assemble
from d2lcls.training.precision import lower

import mxnet as mx
import numpy as np

PLAIN = """
import sys, numpy
from d2lcls.deploy.exporting import load_graph
from d2lcls.deploy.timing import answer
from d2lcls.models.fusion.fused import assemble
from d2lcls.training.precision import lower
from mxnet import nd
net = assemble(*load_graph(sys.argv[1]))
net.hybridize(static_alloc=True, static_shape=True)
net = lower(net, sys.argv[3])
answer(lambda x: net(nd.array(x)).asnumpy(), numpy.load(sys.argv[2]))
"""
THEIRS = """
import importlib.util, sys, numpy, torch
sys.path.insert(0, sys.argv[1])
from model import load
spec = importlib.util.spec_from_file_location("timing", sys.argv[3])
timing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(timing)
torch.set_num_threads(int(sys.argv[4]))
net = load().eval()
if sys.argv[5] == "frozen":
    net = torch.jit.freeze(torch.jit.trace(net, torch.tensor(numpy.load(sys.argv[2])[:2])))
with torch.inference_mode():
    timing.answer(lambda x: net(torch.tensor(x)), numpy.load(sys.argv[2]))
"""
NETWORKS = ("cnn", "cifar_resnet20_v1", "mobilenet1.0")
FOLDERS = {
    "fused": "mxnet",
    "int8": "int8",
    "onnx": "onnx",
    "onnx_int8": "onnx-int8",
    "tvm": "tvm",
    "tvm_tuned": "tuned",
}


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tune", type=float, default=45, help="seconds of tuning a network, for one picture")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("D2LCLS_TORCH_PYTHON"),
        help="a Python with torch and safetensors; the default is the value of D2LCLS_TORCH_PYTHON",
    )
    options = parser.parse_args()
    found = {}
    for name in options.networks:
        with tempfile.TemporaryDirectory() as work:
            found[name] = measure(Path(work), name, options)
    print(
        results.write(
            "forms",
            "python benchmarks/forms.py --torch-python PYTHON",
            {
                "networks": found,
                "units": {
                    "ms": "a batch, median over rounds",
                    "over_mxnet": "time of MXNet hybridized over the time of this form, by round",
                    "int8_over": "time of the named form over that of MXNet's int8, by round",
                    "mb": "all files of the model",
                    "top1": "% of the 10,000 test images",
                    "same_top1": "% of 1,000 test images, ties aside",
                    "difference": "largest difference of a logit from MXNet's, as a share of the largest",
                },
            },
            data=["cifar10"],
        )
    )


def measure(work, name, options):
    """Return the costs and predictions of one network in each form."""
    first, test, examples = source(work, name)
    (work / "mxnet").symlink_to(first)
    quantize_model(first, work / "int8", examples)
    export_onnx(first, work / "onnx")
    export_torch(first, work / "torch")
    quantize_onnx(work / "onnx", work / "onnx-int8", examples)
    compile_host(work / "onnx", work / "tvm")
    compile_host(work / "onnx", work / "tuned", records=tune(work / "onnx", options.tune))
    forms = {form: load_model(work / folder, trust=True).compute for form, folder in FOLDERS.items()}
    plain = assemble(*load_graph(first))
    plain.hybridize(static_alloc=True, static_shape=True)
    blocks = {"mxnet": plain, **({"bfloat16": lower(plain, "bfloat16")} if has_bfloat16() else {})}
    forms = {
        **{form: lambda x, block=block: block(mx.nd.array(x)).asnumpy() for form, block in blocks.items()},
        **forms,
    }
    manifest = read_manifest(first)
    x = examples if test is None else manifest.preprocess.batch(test.images[:1000])
    answer = {"mb": {form: megabytes(work / folder) for form, folder in FOLDERS.items()}, **answers(forms, x)}
    if test is not None:
        answer["top1"] = {
            form: 100 * measure_accuracy(work / folder, test, trust=True).top1
            for form, folder in FOLDERS.items()
            if "tvm" not in form
        }
    np.save(work / "x.npy", x[:64])
    for count, rounds in in_turn(commands_of(work, options.torch_python), (1, 64), options.rounds, starts=3).items():
        answer[f"batch_{count}"] = {
            "ms": {form: float(np.median(ms)) for form, ms in rounds.items()},
            "over_mxnet": {form: ratio(rounds["mxnet"], ms) for form, ms in rounds.items() if form != "mxnet"},
            "int8_over": {form: ratio(ms, rounds["int8"]) for form, ms in rounds.items() if form != "int8"},
        }
    print(name, answer, flush=True)
    return answer


def source(work, name):
    """Return (model folder, test images or None, inputs to calibrate with) of one network."""
    if name != "mobilenet1.0":
        os.environ["D2LCLS_SCALE"] = "full" if name == "cnn" else "lesson"
        folder = example_model(name)
        train = data.take_per_class(data.load("cifar10", fallback=False), 26)
        return folder, data.load("cifar10", "test"), read_manifest(folder).preprocess.batch(train.images)
    mx.random.seed(0)
    net = get_model(name, classes=1000)
    net.initialize(mx.init.MSRAPrelu("in", 0))
    x = np.random.default_rng(0).normal(size=(64, 3, 224, 224)).astype(np.float32)
    net(mx.nd.array(x[:1]))
    export(
        net,
        work / "drawn",
        name,
        [str(number) for number in range(1000)],
        data.Preprocess(256, 224, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
    )
    return work / "drawn", None, x


def answers(forms, x):
    """Return how often each form predicts the same class as MXNet, and how much its logits differ."""
    logits = {
        form: np.concatenate([compute(x[begin : begin + 50]) for begin in range(0, len(x), 50)])
        for form, compute in forms.items()
    }
    own = logits["mxnet"]
    return {
        "same_top1": {form: 100 * agreement(own, found) for form, found in logits.items()},
        "difference": {form: float(np.abs(found - own).max() / np.abs(own).max()) for form, found in logits.items()},
    }


def commands_of(work, torch_python):
    """Return what starts the processes that are timed."""
    inputs = work / "x.npy"
    found = {
        **{
            name: [sys.executable, "-c", PLAIN, work / "mxnet", inputs, precision]
            for name, precision in (("mxnet", "float32"), ("bfloat16", "bfloat16"))[: 1 + has_bfloat16()]
        },
        **{form: command_of(work / folder, inputs, trust=True) for form, folder in FOLDERS.items()},
    }
    for kind in ("eager", "frozen") if torch_python else ():
        found[f"torch_{kind}"] = [
            torch_python,
            "-c",
            THEIRS,
            work / "torch",
            inputs,
            timing.__file__,
            usable_cores(),
            kind,
        ]
    return found


def ratio(one, other):
    """Return the spread of the ratios of two sides, by round."""
    found = results.spread([a / b for a, b in zip(one, other)])
    return {key: found[key] for key in ("median", "min", "max")}


if __name__ == "__main__":
    main()
