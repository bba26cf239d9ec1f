"""The processes that decode clients' pictures, apart from the service.

A picture of 158 bytes can keep a decoder busy for seconds, one of 200 kB can demand gigabytes, and decoders have had
bugs that run code. So each decoder is a process that has memory and one socket, and nothing else (see `confinement`),
with a limit of memory and, for each picture, of processor time, and is killed by the kernel when it exceeds the latter.
A new one is forked within milliseconds by a parent that has imported Pillow.

The parent receives sockets over its own socket, and forks a decoder for each. A decoder receives `frames.PICTURE`:
the length of a JSON object with the fields of `Preprocess` and the largest number of pixels, that object, and the
encoded picture. It answers each with one frame, `DECODED`, `TOO_LARGE` or `BROKEN`: the microseconds that it took, and
then the pixels, or what there is too much of, or nothing.
Run as: python -m d2lcls.deploy.serve.decoders.decoder SOCKET
"""

from __future__ import annotations

import functools
import io
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from typing import Any

from d2lcls.data.decode import COMMON_FORMATS, BrokenImage
from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.serve import frames
from d2lcls.deploy.serve.decoders import confinement

from PIL import Image, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401  what Image.open and Image.load would import later, from files they could not open

LENGTH = struct.Struct("<H")
TIME = struct.Struct("<Q")
START = struct.Struct("<Q?")  # of a new decoder: the largest number of pixels, and whether others come first
# Processor seconds for one picture. Pillow needs 0.1 ms for a thumbnail, and 10 to 40 ns for a pixel of a photograph.
SECONDS, SECONDS_PER_BYTE, SECONDS_PER_PIXEL = 0.05, 20e-9, 100e-9
# Bytes beyond those of the parent. Turning a transparent picture upright and making it RGB takes five copies.
MEMORY, MEMORY_PER_PIXEL = 128 << 20, 24


def decode(content: bytes) -> tuple[bytes, bytes]:
    """Decode a picture.

    Args:
        content: of a frame `PICTURE`.

    Returns:
        (kind, content) of the frame that answers it, without the time.
    """
    (length,) = LENGTH.unpack_from(content)
    picture = content[LENGTH.size + length :]
    preprocess, most = _order(content[LENGTH.size : LENGTH.size + length])
    seconds = SECONDS + SECONDS_PER_BYTE * len(picture)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, also inside a decoder written in C
    try:
        with Image.open(io.BytesIO(picture), formats=COMMON_FORMATS) as opened:
            width, height = opened.size
            if width * height > most:
                return frames.TOO_LARGE, b"pixels"
            signal.setitimer(signal.ITIMER_PROF, seconds + SECONDS_PER_PIXEL * width * height)
            return frames.DECODED, preprocess.image(opened).tobytes()
    except Image.DecompressionBombError:
        return frames.TOO_LARGE, b"pixels"
    except Exception as error:  # for damaged input Pillow raises a dozen kinds
        cause = error.__cause__ if isinstance(error, BrokenImage) else error
        memory = isinstance(cause, MemoryError) or "could not create decoder object" in str(
            cause
        )  # the latter for WebP
        return (frames.TOO_LARGE, b"memory") if memory else (frames.BROKEN, b"")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@functools.lru_cache(maxsize=8)
def _order(text: bytes) -> tuple[Preprocess, int]:
    fields: dict[str, Any] = json.loads(text)
    most = fields.pop("pixels")
    return Preprocess(**fields), most


def _limit(pixels: int) -> None:
    """Limit the memory, and, for systems without filters of system calls, forbid to open or extend files."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    memory = size + MEMORY + MEMORY_PER_PIXEL * pixels
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _work(connection: socket.socket, confined: bool, pixels: int, others_first: bool) -> None:
    if others_first:
        os.nice(10)
    stream = io.BufferedReader(socket.SocketIO(connection, "r"), 1 << 16)
    ready = frames.pack(frames.READY, str(os.getpid()).encode())
    _limit(pixels)
    if confined:
        os.closerange(0, connection.fileno())  # the log too, which may be a socket
        confinement.confine()
    connection.sendall(ready)
    while frame := frames.read(stream):
        # One at a time: when this process is killed, the first picture without an answer is the one to blame.
        begun = time.perf_counter()
        kind, content = decode(frame[1])
        taken = TIME.pack(int(1e6 * (time.perf_counter() - begun)))
        connection.sendall(frames.pack(kind, taken, content))


def main(descriptor: str) -> int:
    """Fork a decoder for each socket that arrives; returns the exit code."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the service, which closes the socket
        signal.signal(stop, signal.SIG_IGN)
    confined = confinement.possible()
    if not confined:
        print("No seccomp filters here: code in a decoder could delete files and end processes.", file=sys.stderr)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes decoders that have ended
    _warm_up()
    control = socket.socket(fileno=int(descriptor))
    control.setblocking(True)
    while True:
        content, descriptors, _, _ = socket.recv_fds(control, START.size, 1)
        if not descriptors:
            return 0
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                control.close()
                try:
                    _work(connection, confined, *START.unpack(content))
                except OSError:  # the service is gone
                    pass
                finally:
                    os._exit(0)


def _warm_up() -> None:
    """Decode one picture of each format, so that decoders have nothing left to import."""
    preprocess = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    for kind in COMMON_FORMATS:
        stream = io.BytesIO()
        Image.new("RGB", (16, 16)).save(stream, kind)
        preprocess.image(stream.getvalue())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
