"""Inputs to run an old model on: pictures of the user, or the sample of the package."""

from collections.abc import Sequence
from pathlib import Path

from d2lcls.deploy.rescue.load import OldModel, RescueError

import numpy as np
from PIL import Image


def example_inputs(
    model: OldModel,
    pictures: Sequence[str | Path] | None = None,
    mean: Sequence[float] = (127.5,),
    std: Sequence[float] = (128.0,),
    count: int = 8,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Make an array for each input of a model.

    Args:
        model: whose inputs are made.
        pictures: paths; None takes `count` images of the package's own sample. They are resized to the input's size
            without keeping their proportions.
        mean, std: one number or three (R, G, B): subtracted from pixels of 0..255, and what the result is divided by.
        count: number of images, if there are no pictures.
        seed: of the standard normal numbers for inputs that are not images.

    Returns:
        float32 arrays (N, ...) by input.

    Raises:
        RescueError: a shape is not known, or pictures are given to a network that takes none.
        BrokenImage, FileNotFoundError: as `open_image`.
    """
    shapes = {name: shape[1:] for name, shape in model.input_shapes().items() if name in model.shapes}
    if any(value == 0 for value in std):
        raise RescueError("--std must not be 0: pixels are divided by it.")
    rng, arrays = np.random.default_rng(seed), {}
    image_inputs = [name for name, shape in shapes.items() if len(shape) == 3 and shape[0] in (1, 3)]
    if pictures and not image_inputs:
        raise RescueError(f"The network does not take pictures, but {shapes}. Leave --image out.")
    for name, shape in shapes.items():
        if name in image_inputs:
            arrays[name] = _images(pictures, shape, mean, std, count)
        else:
            arrays[name] = rng.normal(size=(len(pictures or range(count)), *shape)).astype(np.float32)
    return arrays


def _images(
    pictures: Sequence[str | Path] | None,
    shape: tuple[int, ...],
    mean: Sequence[float],
    std: Sequence[float],
    count: int,
) -> np.ndarray:
    from d2lcls.data.decode import open_image
    from d2lcls.data.download.sample import read_sample

    mode = "L" if shape[0] == 1 else "RGB"
    if pictures:
        images = [open_image(path) for path in pictures]
    else:
        images = [Image.fromarray(image) for image in read_sample("test", (28, 28, 3))[0][:count]]
    channels, height, width = shape
    resized = [image.convert(mode).resize((width, height), Image.Resampling.BILINEAR) for image in images]
    pixels = np.stack([np.asarray(image).reshape(height, width, channels) for image in resized]).astype(np.float32)
    shift, scale = (np.asarray(n if channels == 3 else [np.mean(n)], np.float32) for n in (mean, std))
    return np.ascontiguousarray(((pixels - shift) / scale).transpose(0, 3, 1, 2))
