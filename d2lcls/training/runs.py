"""A training run's folder: the parameters, and all that is needed to use them later.

`run.json` names the network, the classes and how images are brought into its form; `best.npz` holds the
parameters. Nothing about a picture has to be guessed when the run is loaded again.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from d2lcls.data import Batches, Images, read_image
from d2lcls.data.preprocess import Preprocess
from d2lcls.explain.scores import softmax
from d2lcls.machine.files import write_atomically
from d2lcls.models import get_model, replace_head
from d2lcls.training.checkpoints import load_checkpoint
from d2lcls.training.evaluation import as_contexts, predict

import mxnet as mx
import numpy as np


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself; sizes in pixels, mean and std on the 0..1 scale."""

    model: str
    dataset: str
    classes: tuple
    image_shape: tuple  # (H, W, C)
    mean: tuple
    std: tuple
    validation_size: float
    seed: int
    size: tuple | None = None  # (H, W) that images are scaled to for the network; None leaves them as they are
    pretrained: bool = False  # whether it began with ImageNet weights and a new head
    loss: str = "cross_entropy"

    def save(self, folder):
        """Write `run.json` into a folder."""
        text = json.dumps(asdict(self), indent=1)
        write_atomically(Path(folder, "run.json"), lambda file: file.write(text.encode()))

    def batches(self, data, batch_size=256, **kwargs):
        """Cut `Images` into batches scaled and normalised as in training.

        Raises:
            ValueError: the images or classes are not those the run was trained on.
        """
        if tuple(data.images.shape[1:]) != tuple(self.image_shape):
            raise ValueError(
                f"The run was trained on images of shape {tuple(self.image_shape)}, these are {data.images.shape[1:]}."
            )
        if tuple(data.classes) != tuple(self.classes):
            raise ValueError(
                f"The run was trained on the classes {', '.join(self.classes)}; this set has {', '.join(data.classes)}."
            )
        return Batches(data, batch_size, self.mean, self.std, size=self.size, **kwargs)


def read_run(folder):
    """Return the `Run` that a run folder describes.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: its `run.json` is damaged.
    """
    file = Path(folder, "run.json")
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: holds no run.json, so it is no training run. Train one with: d2lcls train --out " + str(folder)
        )
    try:
        return Run(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in json.loads(file.read_text()).items()
            }
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: damaged ({error}). Write it anew by training.") from error


def make_network(run, ctx=None):
    """Make a run's network, initialised and with known shapes, for a checkpoint to fill.

    Args:
        run: `Run`.
        ctx: context or list of contexts; None is the CPU.
    """
    height, width = run.size or run.image_shape[:2]
    net = get_model(run.model, classes=1000 if run.pretrained else len(run.classes))
    net.initialize(ctx=as_contexts(ctx))
    for device in as_contexts(ctx):
        net(mx.nd.zeros((1, run.image_shape[2], height, width), ctx=device))
    if run.pretrained:  # its head may be built otherwise than the one the constructor makes
        replace_head(net, len(run.classes))
    return net


def load_run(folder, ctx=None):
    """Load a run and its best parameters.

    Args:
        folder: as `checkpoint_dir` of `fit`, with `run.json` beside the checkpoints.
        ctx: context or list of contexts for the network; None is the CPU.

    Returns:
        (`Run`, network), the network ready for use.

    Raises:
        FileNotFoundError: the folder holds no run, or no epoch of it was finished.
        CheckpointError: a file is damaged.
    """
    run = read_run(folder)
    best = Path(folder, "best.npz" if run.validation_size else "last.npz")  # without validation none is best
    if not best.is_file():
        raise FileNotFoundError(
            f"{folder}: no epoch of this run was finished yet. "
            "Finish it with: d2lcls train --resume --out " + str(folder)
        )
    net = make_network(run, ctx)
    load_checkpoint(best, net)
    net.hybridize(static_alloc=True, static_shape=True)
    return run, net


def classify(run, net, paths):
    """Return the probabilities (N, K) that a run's network gives to picture files.

    Each picture is scaled to cover the size of the training images and its centre is taken; from there on it is
    treated as they were.

    Raises:
        BrokenImage, FileNotFoundError: as `read_image`.
    """
    height, width, channels = run.image_shape
    images = np.stack([read_image(path, (height, width)) for path in paths])
    if channels == 1:
        images = np.rint(images @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    data = Images(images, np.zeros(len(images), dtype=np.int64), run.classes, "pictures")
    return softmax(predict(net, run.batches(data)))


def preprocess_of(run):
    """Return the `Preprocess` from any picture to the input of a run's network.

    Images larger than the network's input are scaled and cropped as `Preprocess` does it.
    """
    height, width = run.size or run.image_shape[:2]
    if height != width or run.image_shape[2] != 3:
        raise ValueError(
            f"The run's network takes images of shape {(height, width, run.image_shape[2])}; a model folder "
            "needs square ones in colour. Train with --size of one number."
        )
    return Preprocess(height, height, run.mean, run.std, "bicubic" if run.size else "bilinear")
