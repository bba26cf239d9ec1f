"""How fast are photographs read from disk, decoded, scaled to 224 pixels, mirrored and normalised?

Two folders of JPEGs are made from the photographs in scikit-image: 500 x 375 pixels, like most of ImageNet, and 2000 x
1500, as from a camera (enlarged, since few of them are that large). The readers process them in turn, each in its own
process, which sleeps in between: `open_folder` and `open_records` with `Batches`, exact and with draft=True; Gluon's
ImageFolderDataset and DataLoader without and with two workers; MXNet's ImageIter and ImageRecordIter; and, with
--torch-python, PyTorch's DataLoader with Pillow. Then a MobileNet is trained on the folder, to measure how long it
waits for images. Writes results/photographs.json. About three minutes on two cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from d2lcls.deploy.timing import Sleeper
from d2lcls.models import get_model
from d2lcls.training import fit
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from mxnet.gluon.data.vision import ImageFolderDataset, transforms
from PIL import Image, ImageOps
from rivals.side import answer_passes
from rivals.turns import passes
from skimage import data as pictures

BATCH, SIDE = 32, 224
NAMES = ("astronaut", "cat", "coffee", "rocket", "retina", "immunohistochemistry")
FOLDERS = {"small": ((500, 375), 256), "large": ((2000, 1500), 64)}  # pixels and number of the photographs
READERS = (
    "folder",
    "folder_draft",
    "records",
    "records_draft",
    "gluon",
    "gluon_workers",
    "image_iter",
    "record_iter",
    "torch",
    "torch_workers",
)
TORCH = Path(__file__).parent / "rivals" / "torch_photographs.py"


def main():
    """Measure both folders and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("D2LCLS_TORCH_PYTHON"),
        help="a Python with torch and Pillow; the default is the value of D2LCLS_TORCH_PYTHON",
    )
    parser.add_argument("--side", nargs=2, metavar=("NAME", "ROOT"), help=argparse.SUPPRESS)  # a process that is timed
    options = parser.parse_args()
    if options.side:
        return answer(*options.side)
    found = {}
    with tempfile.TemporaryDirectory() as work:
        for name, (size, number) in FOLDERS.items():
            root = Path(work, name)
            write_photographs(root, size, number)
            data.write_records(root, f"{root}-packed")
            found[name] = {
                "pixels": size,
                "photographs": number,
                **measure(root, options.torch_python, options.rounds),
                "draft_difference": difference(root),
            }
            speeds = found[name]["images_per_second"]
            print(name, {reader: round(speed["median"]) for reader, speed in speeds.items()}, flush=True)
        found["waiting"] = {
            name: {kind: waiting(Path(work, name), kind == "draft") for kind in ("exact", "draft")} for name in FOLDERS
        }
    print(
        results.write(
            "photographs",
            "python benchmarks/photographs.py --torch-python PYTHON",
            {
                **found,
                "rounds": options.rounds,
                "units": {
                    "images_per_second": "photographs/s",
                    "workers": "2 processes",
                    "ratio": "images/s of the folder, exact (draft_ratio: with draft=True), over theirs, same round",
                    "draft_difference": "grey levels of 255, between pixels read with draft=True and exactly",
                    "waiting": "share of the second epoch of a MobileNet 0.25 in which it waited for data",
                },
            },
        )
    )


def write_photographs(root, size, number):
    """Write JPEGs of this size: crops of a few photographs, drawn at random, so that no two are alike."""
    rng = np.random.default_rng(0)
    for index in range(number):
        name = NAMES[index % len(NAMES)]
        picture = Image.fromarray(getattr(pictures, name)())
        share = rng.uniform(0.6, 1, size=2)
        width, height = (int(side * part) for side, part in zip(picture.size, share))
        left, top = (int(rng.integers(0, side - part + 1)) for side, part in zip(picture.size, (width, height)))
        picture = ImageOps.fit(picture.crop((left, top, left + width, top + height)), size, Image.Resampling.BICUBIC)
        (root / name).mkdir(parents=True, exist_ok=True)
        picture.save(root / name / f"{index:04d}.jpg", quality=92)


def measure(root, torch_python, rounds):
    """Run every reader through the folder once per round."""
    sleepers = {
        name: Sleeper(
            [torch_python, TORCH, name, root]
            if name.startswith("torch")
            else [sys.executable, __file__, "--side", name, root],
            engine=None,
        )
        for name in READERS
        if torch_python or not name.startswith("torch")
    }
    speeds = passes(sleepers, rounds)
    others = {"torch_version": sleepers["torch"].ready.strip()} if "torch" in sleepers else {}
    return {
        "images_per_second": {name: results.spread(values) for name, values in speeds.items()},
        "ratio": ratios(speeds, "folder"),
        "draft_ratio": ratios(speeds, "folder_draft"),
        **others,
    }


def ratios(speeds, own):
    """Return how many times as quick one reader is as each other one, by round."""
    return {
        name: results.spread([a / b for a, b in zip(speeds[own], values)])
        for name, values in speeds.items()
        if name != own
    }


def difference(root):
    """Return by how much the pixels of 32 photographs differ if they are shrunk while they are decoded."""
    exact, draft = (data.open_folder(root, SIDE, draft=draft).images[:32].astype(int) for draft in (False, True))
    return {"mean": float(np.abs(draft - exact).mean()), "max": int(np.abs(draft - exact).max())}


def waiting(root, draft):
    """Return the share of its second epoch, of 256 photographs, in which a small network waited for them."""
    opened = data.open_folder(root, SIDE, draft=draft)
    opened = opened.subset(np.resize(np.arange(len(opened)), 256))
    net = get_model("mobilenet0.25", classes=len(opened.classes))
    net.initialize(mx.init.MSRAPrelu("in", 0))
    train = data.Batches(opened, BATCH, IMAGENET_MEAN, IMAGENET_STD, shuffle=True, augment=(data.flip(),))
    return fit(net, train, recipe=Recipe(num_epochs=2, lr=0.01), on_epoch=None)[-1].waiting


def answer(name, root):
    """Be a process that is timed: answer each line with the images/s of a pass, up to MXNet's arrays."""
    run = make(name, root)

    def arrays():
        for x in run():
            x.wait_to_read()
            yield x

    answer_passes(arrays)


def make(name, root):
    """Return a function that yields one pass of a reader, batches as MXNet arrays."""
    if name.startswith(("folder", "records")):
        draft = name.endswith("_draft")
        opened = (
            data.open_folder(root, SIDE, draft=draft)
            if name.startswith("folder")
            else data.open_records(f"{root}-packed", SIDE, draft=draft)
        )
        batches = data.Batches(opened, BATCH, IMAGENET_MEAN, IMAGENET_STD, shuffle=True, augment=(data.flip(),))
        return lambda: (nd.array(x) for x, _ in batches)
    if name.startswith("gluon"):
        steps = transforms.Compose(
            [
                transforms.Resize(SIDE, keep_ratio=True),
                transforms.CenterCrop(SIDE),
                transforms.RandomFlipLeftRight(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
        loader = gluon.data.DataLoader(
            ImageFolderDataset(root).transform_first(steps),
            BATCH,
            shuffle=True,
            num_workers=2 if name.endswith("_workers") else 0,
        )
        return lambda: (x for x, _ in loader)
    mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    packed, shape = f"{root}-packed", (3, SIDE, SIDE)
    if name == "image_iter":
        iterator = mx.image.ImageIter(
            BATCH,
            shape,
            path_imgrec=f"{packed}.rec",
            path_imgidx=f"{packed}.idx",
            shuffle=True,
            resize=SIDE,
            rand_mirror=True,
            mean=mean,
            std=std,
        )
    else:
        channels = {
            f"{what}_{colour}": value
            for what, values in (("mean", mean), ("std", std))
            for colour, value in zip("rgb", values)
        }
        iterator = mx.io.ImageRecordIter(
            path_imgrec=f"{packed}.rec",
            path_imgidx=f"{packed}.idx",
            data_shape=shape,
            batch_size=BATCH,
            shuffle=True,
            resize=SIDE,
            rand_mirror=True,
            preprocess_threads=2,
            verbose=False,
            **channels,
        )

    def run():
        iterator.reset()
        return (batch.data[0] for batch in iterator)

    return run


if __name__ == "__main__":
    main()
