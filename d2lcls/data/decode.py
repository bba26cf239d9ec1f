"""Reading one picture, whatever it is, as the array a network expects."""

import io
import warnings
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MAX_PIXELS = 100_000_000  # a 100-megapixel photograph; a larger header is taken for a decompression bomb


class BrokenImage(ValueError):
    """A file that is no readable image; the message names the file and what is wrong with it."""


def open_image(source, draft=None):
    """Open a picture upright and in RGB.

    Photographs taken with a turned camera (EXIF orientation) are turned upright, transparent
    pixels are laid on white, and greyscale, palette, 16-bit and CMYK pictures become RGB.

    Args:
        source: a path, the encoded bytes of an image file, or a uint8 array (H, W, 3), RGB.
        draft: None, or a side in pixels: a JPEG is then shrunk by 2, 4 or 8 while it is decoded, as long as neither
            of its sides falls below that.

    Returns:
        `PIL.Image.Image` in mode "RGB".

    Raises:
        FileNotFoundError: there is no such file.
        BrokenImage: the file is no image, is cut short, or claims more than `MAX_PIXELS` pixels.
        ValueError: an array of another kind.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise ValueError(
                f"A picture as an array must be uint8 of shape (H, W, 3), not {source.dtype} of {source.shape}."
            )
        return Image.fromarray(source)
    name = "<bytes>" if isinstance(source, (bytes, bytearray)) else str(source)
    stream = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, where MAX_PIXELS is our limit, and of damaged metadata
            with Image.open(stream) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise BrokenImage(
                        f"{name}: {picture.width} x {picture.height} pixels, "
                        f"more than the {MAX_PIXELS:,} that are read."
                    )
                if draft is not None:
                    picture.draft(None, (draft, draft))  # changes nothing but JPEG, whose blocks it decodes smaller
                picture.load()
                return _as_rgb(ImageOps.exif_transpose(picture))
    except (FileNotFoundError, PermissionError, BrokenImage):
        raise
    except Exception as error:  # damaged input makes Pillow raise a dozen kinds, struct.error among them
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise BrokenImage(f"{name}: cannot be read as an image ({reason}). Repair, replace or remove it.") from error


def _as_rgb(picture):
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):  # 16 bits: convert("RGB") would clip, not scale
        values = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((values / max(values.max(), 65535) * 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        page = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(page, picture).convert("RGB")
    return picture.convert("RGB")


def read_image(source, size=None, interpolation="bilinear", draft=False):
    """Read one picture as an array, upright and in RGB.

    Args:
        source: a path, or the encoded bytes of an image file.
        size: None for the picture as it is; an int `s` or `(height, width)` to scale the picture until it
            covers that size and crop the centre.
        interpolation: "nearest", "bilinear" or "bicubic".
        draft: let a JPEG much larger than `size` be shrunk by 2, 4 or 8 while it is decoded, to twice `size` or more,
            and scale only what is left. A photograph of a camera is read several times as quickly; a pixel
            changes by a fraction of a grey level on average (see results/photographs.json). Good for training; to
            score a network as it was published, leave it off.

    Returns:
        uint8 array of shape (H, W, 3), 0 to 255.

    Raises:
        BrokenImage, FileNotFoundError: as `open_image`.
        ValueError: `size` or `interpolation` is none of these.
    """
    check_interpolation(interpolation)
    if size is not None:
        height, width = height_and_width(size)
    picture = open_image(source, 2 * max(height, width) if draft and size is not None else None)
    if size is not None:
        picture = ImageOps.fit(picture, (width, height), Image.Resampling[interpolation.upper()])
    return np.array(picture, dtype=np.uint8)  # a copy: Pillow's own memory cannot be written to


def check_interpolation(name):
    """Raise ValueError unless `read_image` knows this interpolation."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {name!r}.")


def height_and_width(size):
    """Return (height, width) for a size given as one int or as a pair of them.

    Raises:
        ValueError: it is neither, or not above 0.
    """
    pair = (size, size) if isinstance(size, Integral) else tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(side, Integral) and side > 0 for side in pair):
        raise ValueError(f"size must be a number of pixels or (height, width), above 0, not {size!r}.")
    return int(pair[0]), int(pair[1])


def is_image_name(path):
    """Whether a file's ending is one of an image format that Pillow reads."""
    return Path(path).suffix.lower() in Image.registered_extensions()
