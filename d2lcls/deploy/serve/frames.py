"""What the service and the process that computes say to each other over a socket: a kind, a length, a content."""

import struct

HEAD = struct.Struct("<cQ")
READY, ERROR, PICTURES, ANSWERS, FAILED = b"R", b"E", b"P", b"A", b"F"


def pack(kind, *contents):
    """Return a frame of one content after the other, bytes or contiguous arrays."""
    return b"".join((HEAD.pack(kind, sum(memoryview(content).nbytes for content in contents)), *contents))


def unpack(buffer):
    """Take the first whole frame out of a bytearray.

    Returns:
        (kind, content), or None while it is not all there.
    """
    if len(buffer) < HEAD.size:
        return None
    kind, length = HEAD.unpack_from(buffer)
    if len(buffer) < HEAD.size + length:
        return None
    content = bytes(memoryview(buffer)[HEAD.size : HEAD.size + length])
    del buffer[: HEAD.size + length]
    return kind, content


def read(stream):
    """Read a frame from a blocking file; None where the other side has closed it."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    kind, length = HEAD.unpack(head)
    content = stream.read(length)
    return (kind, content) if len(content) == length else None
