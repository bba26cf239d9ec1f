"""Reading one picture in any format as the array that a network expects."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

# A path, encoded bytes, uint8 (H, W, 3) in RGB, or a picture that Pillow has opened.
PictureSource = str | Path | bytes | bytearray | np.ndarray | Image.Image
Size = int | tuple[int, int]  # side, or (height, width), pixels
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
COMMON_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")  # what strangers may send: each decoder can have faults
FORMATS = (*COMMON_FORMATS, "TIFF", "PPM")  # in files; never EPS, for which Pillow starts Ghostscript
MAX_PIXELS = 100_000_000  # a 100-megapixel photograph; a larger header is considered a decompression bomb

# How a whole JPEG and a whole PNG begin and end.
_WHOLE = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"))

# Pillow warns of damaged metadata and, below MAX_PIXELS, of the size. Once for the process: `catch_warnings` changes
# the state of all threads, and pictures are read in several.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BrokenImage(ValueError):
    """A file that is no readable image; the message names the file and the problem."""


def open_image(source: PictureSource, draft: int | None = None) -> Image.Image:
    """Open a picture upright and in RGB.

    Photographs taken with a turned camera (EXIF orientation) are turned upright, transparent
    pixels become white, and greyscale, palette, 16-bit and CMYK pictures are converted to RGB.

    Args:
        source: a path, the encoded bytes of an image file, a uint8 array (H, W, 3), RGB, or a `PIL.Image.Image`.
        draft: None, or a side in pixels: a JPEG is then shrunk by 2, 4 or 8 during decoding, as long as neither
            of its sides becomes shorter than that.

    Returns:
        `PIL.Image.Image` in mode "RGB".

    Raises:
        FileNotFoundError: the file does not exist.
        BrokenImage: the file is no image, of a format that is not in `FORMATS`, is incomplete, or declares more than
            `MAX_PIXELS` pixels.
        ValueError: an array has another dtype or shape.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise ValueError(
                f"A picture as an array must be uint8 of shape (H, W, 3), not {source.dtype} of {source.shape}."
            )
        return Image.fromarray(source)
    name = str(source) if isinstance(source, (str, Path)) else "<bytes>"
    try:
        if isinstance(source, Image.Image):
            return _decode(source, name, draft)
        file = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else source
        with Image.open(file, formats=FORMATS) as picture:
            return _decode(picture, name, draft)
    except (FileNotFoundError, PermissionError, BrokenImage):
        raise
    except Exception as error:  # for damaged input Pillow raises a dozen kinds, struct.error among them
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"not an image in one of the formats {', '.join(FORMATS)}" if unknown else str(error)
        raise BrokenImage(f"{name}: cannot be read as an image ({reason}). Repair, replace or remove it.") from error


def _decode(picture: Image.Image, name: str, draft: int | None) -> Image.Image:
    if picture.width * picture.height > MAX_PIXELS:
        raise BrokenImage(f"{name}: {picture.width} x {picture.height} pixels, more than the limit of {MAX_PIXELS:,}.")
    if draft is not None and isinstance(picture, ImageFile.ImageFile):
        picture.draft(None, (draft, draft))  # affects only JPEG, whose blocks are decoded to fewer pixels
    area = picture.width * picture.height
    picture.load()
    if picture.width * picture.height != area:  # a second header, behind the first
        raise BrokenImage(f"{name}: declares two sizes. Repair, replace or remove it.")
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return _as_rgb(ImageOps.exif_transpose(picture) if turned else picture)


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "I;16", "I;16B", "I;16L"):  # 16 bits: convert("RGB") would clip, not scale
        values = np.asarray(picture, dtype=np.float64)
        picture = Image.fromarray((values / max(values.max(), 65535) * 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        page = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(page, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # convert copies even where nothing changes


def read_image(
    source: PictureSource, size: Size | None = None, interpolation: str = "bilinear", draft: bool = False
) -> np.ndarray:
    """Read one picture as an array, upright and in RGB.

    Args:
        source: as for `open_image`.
        size: None for the original size; a side or `(height, width)` to scale the picture until it
            covers that size and crop the centre.
        interpolation: "nearest", "bilinear" or "bicubic".
        draft: shrink a JPEG much larger than `size` by 2, 4 or 8 during decoding, to twice `size` or more, before it
            is scaled. This reads a camera's photograph several times as fast and changes a pixel
            by a fraction of a grey level on average (see results/photographs.json). Good for training; turn it off
            to reproduce a published accuracy.

    Returns:
        uint8 array of shape (H, W, 3), 0 to 255.

    Raises:
        BrokenImage, FileNotFoundError: as `open_image`.
        ValueError: `size` or `interpolation` is invalid.
    """
    check_interpolation(interpolation)
    if size is None:
        picture = open_image(source)
    else:
        height, width = height_and_width(size)
        picture = open_image(source, 2 * max(height, width) if draft else None)
        picture = ImageOps.fit(picture, (width, height), Image.Resampling[interpolation.upper()])
    return np.array(picture, dtype=np.uint8)  # a copy, as Pillow's memory is read-only


def check_complete(source: str | Path) -> None:
    """Look at the beginning and the end of a JPEG or PNG file, which shows whether it was cut short.

    Files of other formats, and those that end differently (cameras append data of their own), are decoded.

    Args:
        source: its path.

    Raises:
        BrokenImage, FileNotFoundError: as `open_image`.
    """
    with open(source, "rb") as file:
        begin = file.read(8)
        file.seek(max(0, file.seek(0, io.SEEK_END) - 12))
        end = file.read()
    if not looks_complete(begin, end):
        open_image(source)


def looks_complete(begin: bytes, end: bytes) -> bool:
    """Return whether a file of which these are the first 8 and the last 12 bytes is a whole JPEG or PNG."""
    return any(begin.startswith(first) and end.endswith(last) for first, last in _WHOLE)


def check_interpolation(name: str) -> None:
    """Raise ValueError unless this is an interpolation of `read_image`."""
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {name!r}.")


def height_and_width(size: Size) -> tuple[int, int]:
    """Return (height, width) for a size given as one int or as a pair.

    Raises:
        ValueError: it is neither, or not above 0.
    """
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in pair):
        raise ValueError(f"size must be a number of pixels or (height, width), above 0, not {size!r}.")
    return int(pair[0]), int(pair[1])


def is_image_name(path: str | Path) -> bool:
    """Return whether a file name has the suffix of a format that `open_image` reads."""
    return Image.registered_extensions().get(Path(path).suffix.lower()) in FORMATS
