"""The process that computes: it loads one model, says what it is, and answers batches until its socket is closed.

MXNet lives here and not in the service, so that neither has to wait for the other's Python, a crash of the one does
not take the other along, and a reload is a new process beside the old one, whose memory goes back whole.
Run as: python -m d2lcls.deploy.serve.worker FOLDER SOCKET BATCH_SIZE
"""

import json
import signal
import socket
import sys
from dataclasses import asdict

from d2lcls.deploy.serve import frames
from d2lcls.explain.scores import softmax

import numpy as np


def batch_sizes(largest):
    """Return the sizes of batches: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... `largest`."""
    powers = [2**power for power in range(largest.bit_length() + 1)]
    return sorted({min(size, largest) for power in powers for size in (power, power + power // 2)})


def rank(logits):
    """Sort each picture's classes, the likeliest first.

    Args:
        logits: float32 (N, K).

    Returns:
        (order, probabilities): int32 and float32 (N, K); equal classes keep their order.

    Raises:
        ArithmeticError: a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ArithmeticError("the model's logits are not finite")
    order = np.argsort(-logits, axis=1, kind="stable")
    probabilities = softmax(logits.astype(np.float64))
    return order.astype(np.int32), np.take_along_axis(probabilities, order, axis=1).astype(np.float32)


def compute(predictor, images, sizes):
    """Return `rank` of uint8 images (N, H, W, 3), computed in batches of one of the sizes."""
    if predictor.manifest.batch:  # the graph takes one size only
        sizes = [predictor.manifest.batch]
    logits, largest = [], max(sizes)
    for first in range(0, len(images), largest):
        part = images[first : first + largest]
        size = next(size for size in sizes if size >= len(part))
        if len(part) < size:
            part = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), dtype=np.uint8)])
        logits.append(predictor.compute(predictor.manifest.preprocess.normalise(part))[: len(images) - first])
    return rank(np.concatenate(logits))


def main(folder, descriptor, batch_size):
    """Load, tell, and answer."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the service, which closes the socket
        signal.signal(stop, signal.SIG_IGN)
    connection = socket.socket(fileno=int(descriptor))
    connection.setblocking(True)
    stream, sizes = connection.makefile("rb", buffering=1 << 20), batch_sizes(int(batch_size))

    def tell(*frame):
        try:
            connection.sendall(frames.pack(*frame))
        except OSError:  # the service is gone; the next read says so
            pass

    try:
        from d2lcls.deploy.predictor import load_model

        predictor = load_model(folder)
        side = predictor.manifest.preprocess.crop
        for size in sizes:
            compute(predictor, np.zeros((size, side, side, 3), dtype=np.uint8), sizes)
    except Exception as error:  # whatever it is, the service has to hear of it
        tell(frames.ERROR, f"{error}".encode() or repr(error).encode())
        return 1
    tell(frames.READY, json.dumps(asdict(predictor.manifest)).encode())
    while True:
        frame = frames.read(stream)
        if frame is None:
            return 0
        try:
            images = np.frombuffer(frame[1], dtype=np.uint8).reshape(-1, side, side, 3)
            order, probabilities = compute(predictor, images, sizes)
        except Exception as error:  # of this batch; the next one may be computed
            tell(frames.FAILED, repr(error).encode())
        else:
            tell(frames.ANSWERS, order, probabilities)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
