"""Inputs to run an old model on: pictures if there are any, else ones that the package brings."""

from d2lcls.deploy.rescue.load import RescueError

import numpy as np
from PIL import Image


def example_inputs(model, pictures=None, mean=(127.5,), std=(128.0,), count=8, seed=0):
    """Make an array for each input of a model.

    Args:
        model: `OldModel`.
        pictures: paths; None takes `count` of the package's own sample. They are scaled to the input's size, whatever
            their proportions.
        mean, std: one number or three (R, G, B), on pixels of 0..255: what is subtracted, what it is divided by.
        count: images, if there are no pictures.
        seed: of the random numbers that inputs get that are no images, float32 from the normal distribution.

    Returns:
        dict from the inputs' names to float32 arrays (N, ...).

    Raises:
        RescueError: a shape is not known, or pictures are given to a network that takes none.
        BrokenImage, FileNotFoundError: as `open_image`.
    """
    model.input_shapes()  # raises if one is not known
    if any(value == 0 for value in std):
        raise RescueError("--std must not be 0: pixels are divided by it.")
    rng, made = np.random.default_rng(seed), {}
    of_images = [name for name, shape in model.shapes.items() if len(shape) == 3 and shape[0] in (1, 3)]
    if pictures and not of_images:
        raise RescueError(f"The network takes no pictures, but {dict(model.shapes)}. Leave --image out.")
    for name, shape in model.shapes.items():
        if name in of_images:
            made[name] = _images(pictures, shape, mean, std, count)
        else:
            made[name] = rng.normal(size=(len(pictures or range(count)), *shape)).astype(np.float32)
    return made


def _images(pictures, shape, mean, std, count):
    from d2lcls.data.decode import open_image
    from d2lcls.data.download.sample import read_sample

    mode = "L" if shape[0] == 1 else "RGB"
    if pictures:
        found = [open_image(path) for path in pictures]
    else:
        found = [Image.fromarray(image) for image in read_sample("test", (28, 28, 3))[0][:count]]
    pixels = np.stack(
        [
            np.asarray(image.convert(mode).resize(shape[:0:-1], Image.Resampling.BILINEAR)).reshape(
                shape[1], shape[2], shape[0]
            )
            for image in found
        ]
    ).astype(np.float32)
    values = [
        np.float32(numbers if shape[0] == 3 or len(numbers) == 1 else np.mean(numbers)) for numbers in (mean, std)
    ]
    return np.ascontiguousarray(((pixels - values[0]) / values[1]).transpose(0, 3, 1, 2))
