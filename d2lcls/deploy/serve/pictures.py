"""From a request's body to the pictures in it: one as it is, several as multipart/form-data, or JSON with base64."""

import binascii
import io
import json
import struct
import warnings
from base64 import b64decode

from d2lcls.data.decode import BrokenImage
from d2lcls.deploy.serve.limits import Refused

from PIL import Image

# Only what people send, told by its first bytes: each further decoder is one more that strangers may try to break.
_STARTS = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/bmp": (b"BM",),
    "image/webp": (b"RIFF",),
}
KINDS = tuple(_STARTS)
FORMS = (*KINDS, "application/octet-stream", "multipart/form-data", "application/json")
_UNNAMED = ("application/octet-stream", "application/x-www-form-urlencoded")  # which is what curl --data-binary says
_ALL_STARTS = tuple(start for starts in _STARTS.values() for start in starts)
_PNG = struct.Struct(">II")
PARTS = 5000  # of one PNG or JPEG: Pillow takes them one by one, in Python, seconds for 10 MB of empty ones
SCANS = 100  # of one JPEG, which may draw its pixels over and over: 300 kB were seen to keep a core busy for 40 s
_SIMPLE = 16_384  # bytes in which neither can be many enough to matter


def encoded(kind, body, limits):
    """Take the encoded pictures out of a body.

    Args:
        kind: value of Content-Type.
        body: bytes.
        limits: `Limits`.

    Returns:
        list of bytes, and the number of classes that the body asks for or None.

    Raises:
        Refused: 400 for a body that is not what it says, 413 for more pictures than are taken, 415 for another kind.
    """
    name = kind.partition(";")[0].strip().lower()
    if name in KINDS or name in _UNNAMED:
        found, top = [body], None
    elif name == "application/json":
        found, top = _json(body, limits)
    elif name == "multipart/form-data":
        found, top = _multipart(kind, body, limits)
    else:
        raise Refused(415, f"Content-Type must be one of {', '.join(FORMS)}.")
    if not found or not all(found):
        raise Refused(400, "A picture is empty. Send the bytes of an image file.")
    return found, top


def _json(body, limits):
    example = '{"image": "<base64>"} or {"images": ["<base64>", ...]}, and "top" if you like'
    if body.count(b",") > 2 * limits.pictures + 2:  # before millions of numbers are read; base64 has no commas
        raise Refused(413, f"More is in the body than {limits.pictures} pictures, which are taken.")
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
        raise Refused(400, f"The pictures must be texts. Send {example}.")
    _count(len(texts), limits)
    try:
        return [b64decode(text, validate=True) for text in texts], content.get("top")
    except (binascii.Error, ValueError):
        raise Refused(400, "A picture is not base64, of the usual alphabet and with its padding.") from None


def _multipart(kind, body, limits):
    from multipart import MultipartError, PushMultipartParser, parse_options_header

    options = parse_options_header(kind)[1]
    found, top, name, part = [], None, None, []
    try:
        with PushMultipartParser(
            options.get("boundary", ""), max_segment_count=limits.pictures + 1, strict=True
        ) as parser:
            for event in (*parser.parse(body), *parser.parse(b"")):
                if isinstance(event, (bytes, bytearray)):
                    part.append(event)
                elif event is not None:
                    name, part = event.name, []
                elif name == "top":
                    top = _whole(b"".join(part))
                elif name in ("image", "images"):
                    found.append(b"".join(part))
                else:
                    raise Refused(400, "A part of the form is called neither image, images nor top.")
    except MultipartError as error:
        raise Refused(
            400,
            f"The body is not the multipart/form-data it says ({error}). "
            f"It holds parts called image, {limits.pictures} at most.",
        ) from None
    _count(len(found), limits)
    return found, top


def _whole(text):
    return int(text) if text.isdigit() and len(text) < 10 else -1  # -1 is refused with the others out of range


def _count(number, limits):
    if number > limits.pictures:
        raise Refused(413, f"{number} pictures in one request; {limits.pictures} are taken. Send several requests.")


def pixels(picture):
    """Return the number of pixels that an encoded picture claims to have, without decoding it.

    Raises:
        Refused: 415 if it is of no kind that is read, 400 if it is broken.
    """
    if picture.startswith(_STARTS["image/png"]) and picture[12:16] == b"IHDR" and len(picture) > 24:
        width, height = _PNG.unpack_from(picture, 16)
        return width * height
    if not picture.startswith(_ALL_STARTS):
        raise Refused(415, f"A picture is none of {', '.join(KINDS)}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(picture)) as header:
                return header.width * header.height
    except Image.DecompressionBombError:
        return 1 << 62
    except Exception:
        raise Refused(400, "A picture is broken: its header cannot be read.") from None


def _in_pieces(picture):
    """Whether a picture takes seconds to read, however small it is, because of how it is put together."""
    parts = 0
    if picture.startswith(_STARTS["image/png"]):
        place = 8
        while place < len(picture) and parts <= PARTS:
            place += 12 + int.from_bytes(picture[place : place + 4], "big")
            parts += 1
    elif picture.startswith(_STARTS["image/jpeg"]):
        if picture.count(b"\xff\xda") > SCANS:
            return True
        place = 2
        while place < len(picture) - 4 and picture[place : place + 2] != b"\xff\xda" and parts <= PARTS:
            named = picture[place] == 0xFF and 0 < picture[place + 1] < 0xFF
            place += 2 + int.from_bytes(picture[place + 2 : place + 4], "big") if named else 1
            parts += 1
    return parts > PARTS


def decode(pictures, preprocess, limits, given_up=lambda: False):
    """Turn encoded pictures into what the model sees.

    Args:
        pictures: list of bytes.
        preprocess: `Preprocess` of the model.
        limits: `Limits`.
        given_up: function that says whether nobody waits for the pictures any more.

    Returns:
        list of uint8 arrays (crop, crop, 3), RGB.

    Raises:
        Refused: 400 for a broken picture, 413 for one with too many pixels or scans, 415 for one of another kind, 504
            for one that nobody waits for.
    """
    images = []
    for place, picture in enumerate(pictures):
        if given_up():
            raise Refused(504, "Not decoded in time.")
        if len(picture) > _SIMPLE and _in_pieces(picture):
            raise Refused(
                413,
                f"Picture {place} is made of more than {PARTS} parts, or drawn over more than {SCANS} "
                "times. Save it anew.",
            )
        claimed = pixels(picture)
        if claimed > limits.pixels:
            raise Refused(
                413, f"Picture {place} has more than the {limits.pixels} pixels that are read. Make it smaller."
            )
        try:
            images.append(preprocess.image(picture))
        except BrokenImage:
            raise Refused(400, f"Picture {place} is broken and cannot be read.") from None
    return images
