"""Messages between the service and its processes over a socket: a kind, a length, a content."""

from __future__ import annotations

import struct
from typing import BinaryIO

HEAD = struct.Struct("<cQ")
READY, ERROR, PICTURES, RESULTS, FAILED = b"R", b"E", b"P", b"A", b"F"  # of a worker
PICTURE, DECODED, TOO_LARGE, BROKEN = b"p", b"d", b"l", b"b"  # of a decoder


def pack(kind: bytes, *contents: bytes | memoryview) -> bytes:
    """Return a frame that holds the contents one after the other."""
    return b"".join((HEAD.pack(kind, sum(memoryview(content).nbytes for content in contents)), *contents))


def unpack(buffer: bytearray) -> tuple[bytes, bytes] | None:
    """Remove the first complete frame from a buffer.

    Returns:
        (kind, content), or None while it is incomplete.
    """
    if len(buffer) < HEAD.size:
        return None
    kind, length = HEAD.unpack_from(buffer)
    if len(buffer) < HEAD.size + length:
        return None
    content = bytes(memoryview(buffer)[HEAD.size : HEAD.size + length])
    del buffer[: HEAD.size + length]
    return kind, content


def read(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """Read a frame from a blocking file; None where the other side has closed it."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    kind, length = HEAD.unpack(head)
    content = stream.read(length)
    return (kind, content) if len(content) == length else None
