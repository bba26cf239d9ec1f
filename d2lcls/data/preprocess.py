"""How a picture becomes the input of an ImageNet network: the protocol behind every published accuracy.

Scale the shorter side to `resize` pixels, cut out the centre of `crop` x `crop`, subtract the mean, divide by
the standard deviation. A pixel's shift or another filter costs tenths of a per cent, so a network carries its own.
"""

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from d2lcls.data.decode import MAX_PIXELS, BrokenImage, open_image

import numpy as np
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on the 0..1 scale


@dataclass(frozen=True)
class Preprocess:
    """The steps from a picture to a network's input; `dataclasses.asdict` of it is JSON, and back.

    Sizes are rounded as torchvision's ``Resize`` and ``CenterCrop`` do it: the longer side is cut off to whole
    pixels, the corner of the crop goes to the nearest one, halves to the even one. Two things differ, for
    the better: photographs are turned upright, and transparent pixels are laid on white.

    Args:
        resize: what the shorter side is scaled to, pixels.
        crop: side of the square cut from the middle, pixels, at most `resize`.
        mean, std: three numbers each (R, G, B) on the 0..1 scale.
        interpolation: "bilinear" or "bicubic", both averaging over what a pixel of the result covers.

    Raises:
        ValueError: an argument is out of range; says which.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str

    def __post_init__(self):
        for name in ("resize", "crop"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of pixels, 1 or more, not {value!r}.")
            object.__setattr__(self, name, int(value))  # numpy's integers are not JSON
        if self.crop > self.resize:
            raise ValueError(
                f"crop={self.crop} does not fit into pictures whose shorter side is "
                f"resize={self.resize}. Make crop {self.resize} or less."
            )
        for name in ("mean", "std"):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != (3,) or not np.isfinite(value).all():
                raise ValueError(f"{name} must be three numbers, one a colour, not {getattr(self, name)!r}.")
            object.__setattr__(self, name, tuple(value.tolist()))
        if min(self.mean) < 0 or max(self.mean) > 1 or min(self.std) <= 0 or max(self.std) > 1:
            raise ValueError(
                f"mean and std must be on the 0..1 scale, std above 0, not mean={self.mean}, "
                f"std={self.std}. Divide values on the 0..255 scale by 255."
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', not {self.interpolation!r}.")

    def image(self, source):
        """Read, scale and crop one picture.

        Args:
            source: a path, the encoded bytes of an image file, or a uint8 array (H, W, 3), RGB.

        Returns:
            uint8 array of shape (crop, crop, 3), RGB.

        Raises:
            BrokenImage, FileNotFoundError: as `open_image`; also for a picture so narrow that it would grow beyond
                `MAX_PIXELS`.
        """
        picture = open_image(source)
        size = self._scaled(*picture.size)
        if size[0] * size[1] > MAX_PIXELS:
            name = source if isinstance(source, (str, Path)) else "the picture"
            raise BrokenImage(
                f"{name}: {picture.width} x {picture.height} pixels is too narrow a picture: with the "
                f"shorter side at {self.resize} it would be {size[0]} x {size[1]}."
            )
        # Not ImageOps.fit or `box=`: cropping before scaling gives other pixels than the published protocol.
        picture = picture.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.crop) / 2) for side in size)
        return np.array(picture.crop((left, top, left + self.crop, top + self.crop)), dtype=np.uint8)

    def _scaled(self, width, height):
        """Size (width, height) of a picture once its shorter side is `resize`."""
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def normalise(self, images):
        """Turn uint8 images (N, H, W, 3) into the network's float32 (N, 3, H, W), as `Batches` does.

        Raises:
            ValueError: the array has another dtype or shape.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images must be uint8 of shape (N, H, W, 3), not {images.dtype} of {images.shape}.")
        mean, std = np.array(self.mean), np.array(self.std)
        scale = (1 / (255 * std)).astype(np.float32)[:, None, None]  # (3, 1, 1)
        shift = (-mean / std).astype(np.float32)[:, None, None]
        x = np.empty((len(images), 3, *images.shape[1:3]), dtype=np.float32)
        np.multiply(images.transpose(0, 3, 1, 2), scale, out=x)
        return np.add(x, shift, out=x)

    def batch(self, sources):
        """Turn pictures into a network's input.

        Args:
            sources: list of paths, encoded bytes or uint8 arrays (H, W, 3), one or more.

        Returns:
            float32 array of shape (N, 3, crop, crop).

        Raises:
            TypeError: `sources` is a single path or picture.
            ValueError: it is empty.
            BrokenImage, FileNotFoundError: as `image`.
        """
        if isinstance(sources, (str, bytes, bytearray)) or not hasattr(sources, "__iter__"):
            raise TypeError(f"sources must be a list of pictures, not a {type(sources).__name__}. Put it in a list.")
        images = [self.image(source) for source in sources]
        if not images:
            raise ValueError("sources holds no picture; one or more are needed.")
        return self.normalise(np.stack(images))

    __call__ = batch
