"""Write book/_static/live/model/: the book's CNN, trained by the full recipe, as ONNX in int8.

    D2LCLS_SCALE=full python tools/browser/make_model.py

It takes a few minutes if the trained network is not in the cache.
"""

import shutil
import tempfile
from pathlib import Path

from d2lcls import data
from d2lcls.book.notebook import example_model, scale
from d2lcls.deploy.comparison import measure_accuracy
from d2lcls.deploy.manifest import read_manifest
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx

FOLDER = Path(__file__).resolve().parents[2] / "book/_static/live/model"


def main() -> None:
    if scale() != "full":
        raise SystemExit("The page needs the network of the full recipe. Put D2LCLS_SCALE=full before the command.")
    images = data.load("cifar10", fallback=False)
    trained = example_model()
    preprocess = read_manifest(trained).preprocess
    examples = data.take_per_class(data.split_validation(images, 0.1)[0], 100, seed=0)
    with tempfile.TemporaryDirectory() as work:
        floats, made = Path(work, "onnx"), Path(work, "onnx-int8")
        export_onnx(trained, floats)
        measure_accuracy(floats, data.load("cifar10", "test", fallback=False))
        quantize_onnx(floats, made, preprocess.batch(examples.images))
        print(measure_accuracy(made, data.load("cifar10", "test", fallback=False)))
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(made, FOLDER)
    for path in sorted(FOLDER.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
