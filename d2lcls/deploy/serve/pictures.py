"""The pictures in a request's body: one as it is, several as multipart/form-data, or base64 in JSON."""

from __future__ import annotations

import binascii
import io
import json
import struct
import warnings
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any

from d2lcls.data.decode import BrokenImage
from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.serve.limits import Limits, Refused

import numpy as np
from PIL import Image

# Only the usual formats, recognised by their first bytes: each further decoder is one more to attack.
_STARTS = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/bmp": (b"BM",),
    "image/webp": (b"RIFF",),
}
IMAGE_TYPES = tuple(_STARTS)
MEDIA_TYPES = (*IMAGE_TYPES, "application/octet-stream", "multipart/form-data", "application/json")
_UNNAMED = ("application/octet-stream", "application/x-www-form-urlencoded")  # the latter from curl --data-binary
_ALL_STARTS = tuple(start for starts in _STARTS.values() for start in starts)
_PNG = struct.Struct(">II")
PARTS = 5000  # of one PNG or JPEG: Pillow reads them one by one, in Python, seconds for 10 MB of empty ones
SCANS = 100  # of one JPEG, each of which may redraw all pixels: 300 kB kept a core busy for 40 s
_SIMPLE = 16_384  # bytes; a smaller picture cannot have enough of either to matter


def encoded(content_type: str, body: bytes | bytearray, limits: Limits) -> tuple[list[bytes], Any]:
    """Return the encoded pictures in a body, and the number of classes that it asks for, or None.

    Args:
        content_type: value of the header Content-Type.
        body: of the request.
        limits: `Limits`.

    Raises:
        Refused: 400 for a body that does not match its Content-Type, 413 for too many pictures, 415 for another
            media type.
    """
    name = content_type.partition(";")[0].strip().lower()
    if name in IMAGE_TYPES or name in _UNNAMED:
        pictures, top = [bytes(body)], None
    elif name == "application/json":
        pictures, top = _json(body, limits)
    elif name == "multipart/form-data":
        pictures, top = _multipart(content_type, body, limits)
    else:
        raise Refused(415, f"Content-Type must be one of {', '.join(MEDIA_TYPES)}.")
    if not pictures or not all(pictures):
        raise Refused(400, "A picture is empty. Send the bytes of an image file.")
    return pictures, top


def _json(body: bytes | bytearray, limits: Limits) -> tuple[list[bytes], Any]:
    example = '{"image": "<base64>"} or {"images": ["<base64>", ...]}, optionally with "top"'
    if body.count(b",") > 2 * limits.pictures + 2:  # before millions of numbers are read; base64 has no commas
        raise Refused(413, f"The body holds more than {limits.pictures} pictures, the limit of one request.")
    try:
        content = json.loads(body, parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        raise Refused(400, f"The body is not JSON. Send {example}.") from None
    if (
        not isinstance(content, dict)
        or not content.keys() <= {"image", "images", "top"}
        or ("image" in content) == ("images" in content)
    ):
        raise Refused(400, f"The body must be {example}.")
    texts = [content["image"]] if "image" in content else content["images"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, f"The pictures must be strings. Send {example}.")
    _count(len(texts), limits)
    try:
        return [b64decode(text, validate=True) for text in texts], content.get("top")
    except (binascii.Error, ValueError):
        raise Refused(400, "A picture is not base64 with the standard alphabet and padding.") from None


def _multipart(content_type: str, body: bytes | bytearray, limits: Limits) -> tuple[list[bytes], Any]:
    from multipart import MultipartError, PushMultipartParser, parse_options_header

    options = parse_options_header(content_type)[1]
    pictures: list[bytes] = []
    part: list[bytes] = []
    top, name = None, None
    try:
        with PushMultipartParser(
            options.get("boundary", ""), max_segment_count=limits.pictures + 1, strict=True
        ) as parser:
            for event in (*parser.parse(body), *parser.parse(b"")):
                if isinstance(event, (bytes, bytearray)):
                    part.append(bytes(event))
                elif event is not None:
                    name, part = event.name, []
                elif name == "top":
                    top = _whole(b"".join(part))
                elif name in ("image", "images"):
                    pictures.append(b"".join(part))
                else:
                    raise Refused(400, "A part of the form is named neither image, images nor top.")
    except MultipartError as error:
        raise Refused(
            400,
            f"The body is not multipart/form-data ({error}). "
            f"It must hold parts named image, {limits.pictures} at most.",
        ) from None
    _count(len(pictures), limits)
    return pictures, top


def _whole(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 10 else -1  # -1 is out of range and refused later


def _count(number: int, limits: Limits) -> None:
    if number > limits.pictures:
        raise Refused(413, f"{number} pictures in one request; {limits.pictures} are accepted. Send several requests.")


def count_pixels(picture: bytes) -> int:
    """Return the number of pixels according to an encoded picture's header, without decoding it.

    Raises:
        Refused: 415 if it is not one of `IMAGE_TYPES`, 400 if it is broken.
    """
    if picture.startswith(_STARTS["image/png"]) and picture[12:16] == b"IHDR" and len(picture) > 24:
        width, height = _PNG.unpack_from(picture, 16)
        return width * height
    if not picture.startswith(_ALL_STARTS):
        raise Refused(415, f"A picture is none of {', '.join(IMAGE_TYPES)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(picture)) as header:
                return header.width * header.height
    except Image.DecompressionBombError:
        return 1 << 62
    except Exception:
        raise Refused(400, "A picture is broken: its header cannot be read.") from None


def _in_pieces(picture: bytes) -> bool:
    """Whether a picture has so many parts or scans that even a small one takes seconds to decode."""
    parts = 0
    if picture.startswith(_STARTS["image/png"]):
        position = 8
        while position < len(picture) and parts <= PARTS:
            position += 12 + int.from_bytes(picture[position : position + 4], "big")
            parts += 1
    elif picture.startswith(_STARTS["image/jpeg"]):
        if picture.count(b"\xff\xda") > SCANS:
            return True
        position = 2
        while position < len(picture) - 4 and picture[position : position + 2] != b"\xff\xda" and parts <= PARTS:
            marker = picture[position] == 0xFF and 0 < picture[position + 1] < 0xFF
            position += 2 + int.from_bytes(picture[position + 2 : position + 4], "big") if marker else 1
            parts += 1
    return parts > PARTS


def decode(
    pictures: Sequence[bytes], preprocess: Preprocess, limits: Limits, given_up: Callable[[], bool] = lambda: False
) -> list[np.ndarray]:
    """Decode pictures to the input of the model.

    Args:
        pictures: encoded.
        preprocess: `Preprocess` of the model.
        limits: `Limits`.
        given_up: returns whether nobody waits for the pictures any more.

    Returns:
        uint8 arrays (crop, crop, 3), RGB.

    Raises:
        Refused: 400 for a broken picture, 413 for one with too many pixels, parts or scans, 415 for one of another
            kind, 504 where nobody waits any more.
    """
    images = []
    for index, picture in enumerate(pictures):
        if given_up():
            raise Refused(504, "Not decoded in time.")
        if len(picture) > _SIMPLE and _in_pieces(picture):
            raise Refused(413, f"Picture {index} has more than {PARTS} parts or {SCANS} scans. Save it again.")
        if count_pixels(picture) > limits.pixels:
            raise Refused(413, f"Picture {index} has more than {limits.pixels} pixels, the limit. Make it smaller.")
        try:
            images.append(preprocess.image(picture))
        except BrokenImage:
            raise Refused(400, f"Picture {index} is broken and cannot be read.") from None
    return images
