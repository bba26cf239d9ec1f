"""The pictures in a request's body: one as it is, several as multipart/form-data, or base64 in JSON."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from typing import Any

from d2lcls.data.decode import COMMON_FORMATS
from d2lcls.deploy.serve.limits import Limits, Refused

# The first bytes of COMMON_FORMATS.
_START = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM|RIFF....WEBP", re.DOTALL)
IMAGE_TYPES = tuple(f"image/{name.lower()}" for name in COMMON_FORMATS)
MEDIA_TYPES = (*IMAGE_TYPES, "application/octet-stream", "multipart/form-data", "application/json")
_UNNAMED = ("application/octet-stream", "application/x-www-form-urlencoded")  # the latter from curl --data-binary


def encoded(content_type: str, body: bytes | bytearray, limits: Limits) -> tuple[list[bytes], Any]:
    """Return the encoded pictures in a body, and the number of classes that it asks for, or None.

    Args:
        content_type: value of the header Content-Type.
        body: of the request.
        limits: `Limits`.

    Raises:
        Refused: 400 for a body that does not match its Content-Type, 413 for too many pictures, 415 for another
            media type or a picture in another format.
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
    if not all(map(_START.match, pictures)):
        raise Refused(415, f"A picture is none of {', '.join(IMAGE_TYPES)}.")
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
