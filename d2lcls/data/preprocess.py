"""How a picture becomes the input of an ImageNet network: the protocol behind every published accuracy.

Scale the shorter side to `resize` pixels, crop the centre of `crop` x `crop`, subtract the mean, divide by the
standard deviation. A shift by one pixel or another filter costs tenths of a per cent, so each network has its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from d2lcls.data.decode import MAX_PIXELS, BrokenImage, PictureSource, open_image

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # R, G, B on the 0..1 scale


def scale_and_shift(mean: npt.ArrayLike, std: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 (scale, shift), (C, 1, 1) each, with x * scale + shift = (x / 255 - mean) / std.

    Args:
        mean, std: (C,), on the 0..1 scale.
    """
    mean, std = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    return scale[:, None, None], shift[:, None, None]


@dataclass(frozen=True)
class Preprocess:
    """The steps from a picture to a network's input; `dataclasses.asdict` converts it to JSON types.

    Sizes are rounded as in torchvision's ``Resize`` and ``CenterCrop``: the longer side is rounded down to whole
    pixels, the corner of the crop to the nearest pixel, halves to the even one. Two things differ on purpose:
    photographs are turned upright, and transparent pixels become white.

    Args:
        resize: length of the shorter side after scaling, pixels.
        crop: side of the square cropped from the centre, pixels, at most `resize`.
        mean, std: of red, green and blue, on the 0..1 scale.
        interpolation: "bilinear" or "bicubic", both with antialiasing.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str

    def __post_init__(self) -> None:
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
                raise ValueError(f"{name} must be three numbers, one for each colour, not {getattr(self, name)!r}.")
            object.__setattr__(self, name, tuple(value.tolist()))
        if min(self.mean) < 0 or max(self.mean) > 1 or min(self.std) <= 0 or max(self.std) > 1:
            raise ValueError(
                f"mean and std must be on the 0..1 scale, std above 0, not mean={self.mean}, "
                f"std={self.std}. Divide values on the 0..255 scale by 255."
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', not {self.interpolation!r}.")

    def image(self, source: PictureSource) -> np.ndarray:
        """Read, scale and crop one picture.

        Args:
            source: a path, the encoded bytes of an image file, or a uint8 array (H, W, 3), RGB.

        Returns:
            uint8 array of shape (crop, crop, 3), RGB.

        Raises:
            BrokenImage, FileNotFoundError: as `open_image`; BrokenImage also for a picture so narrow that scaling
                would make it larger than `MAX_PIXELS`.
        """
        picture = open_image(source)
        size = self._scaled(*picture.size)
        if size[0] * size[1] > MAX_PIXELS:
            name = source if isinstance(source, (str, Path)) else "the picture"
            raise BrokenImage(
                f"{name}: {picture.width} x {picture.height} pixels is too narrow: scaled to a shorter side of "
                f"{self.resize} pixels, it would have {size[0]} x {size[1]}. Crop it first."
            )
        # Not ImageOps.fit or `box=`: cropping before scaling gives other pixels than the published protocol.
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.crop) / 2) for side in size)
        return np.array(picture, dtype=np.uint8)[top : top + self.crop, left : left + self.crop]

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) of a picture after its shorter side is scaled to `resize`."""
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Convert uint8 images (N, H, W, 3) to the network's input, float32 (N, 3, H, W), as `Batches` does.

        Raises:
            ValueError: the array has another dtype or shape.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images must be uint8 of shape (N, H, W, 3), not {images.dtype} of {images.shape}.")
        scale, shift = scale_and_shift(self.mean, self.std)
        x = np.empty((len(images), 3, *images.shape[1:3]), dtype=np.float32)
        np.multiply(images.transpose(0, 3, 1, 2), scale, out=x)
        return np.add(x, shift, out=x)

    def batch(self, sources: Iterable[PictureSource]) -> np.ndarray:
        """Convert pictures to a network's input.

        Args:
            sources: paths, encoded bytes or uint8 arrays (H, W, 3), at least one.

        Returns:
            float32 array of shape (N, 3, crop, crop).

        Raises:
            TypeError: `sources` is a single path or encoded picture.
            ValueError: `sources` is empty.
            BrokenImage, FileNotFoundError: as `image`.
        """
        if isinstance(sources, (str, bytes, bytearray)) or not hasattr(sources, "__iter__"):
            raise TypeError(f"sources must be a list of pictures, not a {type(sources).__name__}. Put it in a list.")
        images = [self.image(source) for source in sources]
        if not images:
            raise ValueError("sources is empty; at least one picture is needed.")
        return self.normalise(np.stack(images))

    __call__ = batch
