"""The worker process: it loads one model, sends its manifest, and computes batches until its socket is closed.

MXNet is loaded here and not in the service, so that neither waits for the other's interpreter, a crash of one does
not end the other, and a reload is a new process beside the old one, whose memory is freed completely.
Run as: python -m d2lcls.deploy.serve.worker FOLDER SOCKET BATCH_SIZE
"""

from __future__ import annotations

import io
import json
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from d2lcls.deploy.serve import frames
from d2lcls.explain.scores import softmax

import numpy as np

if TYPE_CHECKING:
    from d2lcls.deploy.predictor import Predictor


def batch_sizes(largest: int) -> list[int]:
    """Return the sizes of batches: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... `largest`."""
    powers = [2**power for power in range(largest.bit_length() + 1)]
    return sorted({min(size, largest) for power in powers for size in (power, power + power // 2)})


def rank(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the classes of each picture, the most probable first.

    Args:
        logits: float32 (N, K).

    Returns:
        (order, probabilities): int32 and float32 (N, K); classes of equal probability keep their order.

    Raises:
        ArithmeticError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ArithmeticError("the model's logits are not finite")
    order = np.argsort(-logits, axis=1, kind="stable")
    probabilities = softmax(logits.astype(np.float64))
    return order.astype(np.int32), np.take_along_axis(probabilities, order, axis=1).astype(np.float32)


def compute(predictor: Predictor, images: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return `rank` of uint8 images (N, H, W, 3), computed in batches of these sizes."""
    if predictor.manifest.batch:  # the graph accepts one size only
        sizes = [predictor.manifest.batch]
    logits, largest = [], max(sizes)
    for first in range(0, len(images), largest):
        part = images[first : first + largest]
        size = next(size for size in sizes if size >= len(part))
        if len(part) < size:
            part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), dtype=np.uint8)])
        logits.append(predictor.compute(predictor.manifest.preprocess.normalise(part))[: len(images) - first])
    return rank(np.concatenate(logits))


def main(folder: str, descriptor: str, batch_size: str, trust: str = "") -> int:
    """Load the model, send its manifest and compute batches; returns the exit code."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the service, which closes the socket
        signal.signal(stop, signal.SIG_IGN)
    connection = socket.socket(fileno=int(descriptor))
    connection.setblocking(True)
    stream = io.BufferedReader(socket.SocketIO(connection, "r"), 1 << 20)
    sizes = batch_sizes(int(batch_size))

    def send(kind: bytes, *contents: bytes | memoryview) -> None:
        try:
            connection.sendall(frames.pack(kind, *contents))
        except OSError:  # the service is gone, which the next read notices
            pass

    try:
        from d2lcls.deploy.predictor import open_model

        predictor = open_model(folder, trust == "--trust")
        side = predictor.manifest.preprocess.crop
        for size in sizes:
            compute(predictor, np.zeros((size, side, side, 3), dtype=np.uint8), sizes)
    except Exception as error:  # of any kind: the service reports it
        send(frames.ERROR, f"{error}".encode() or repr(error).encode())
        return 1
    send(frames.READY, json.dumps(asdict(predictor.manifest)).encode())
    while frame := frames.read(stream):
        try:
            images = np.frombuffer(frame[1], dtype=np.uint8).reshape(-1, side, side, 3)
            order, probabilities = compute(predictor, images, sizes)
        except Exception as error:  # of this batch; the next one may be computed
            send(frames.FAILED, repr(error).encode())
        else:
            send(frames.RESULTS, order.data, probabilities.data)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
