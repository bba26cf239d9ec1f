"""Curves for TensorBoard, made with mxboard."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.machine import compat
from d2lcls.machine.files import check_writable
from d2lcls.machine.full_disk import naming_full_disk

if TYPE_CHECKING:
    from d2lcls.training.loop import Epoch


class Curves:
    """Writes one point per curve and epoch into a folder that `tensorboard --logdir` shows.

    Args:
        folder: where the event file goes; created if needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._file = Path(folder, f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}")
        check_writable(self._file)
        compat.import_mxboard()  # a missing package is reported before training

    def write(self, record: Epoch) -> None:
        """Add the points of one `Epoch`.

        Not through mxboard's SummaryWriter: its thread ends when the disk is full, and flushing waits for it for ever.

        Raises:
            DiskFull, OSError: the file cannot be written.
        """
        compat.import_mxboard()
        from mxboard.proto.event_pb2 import Event
        from mxboard.summary import scalar_summary

        points = {
            "loss/train": record.train_loss,
            "loss/valid": record.valid_loss,
            "accuracy/train": record.train_accuracy,
            "accuracy/valid": record.valid_accuracy,
            "lr": record.lr,
            "images_per_second": record.images_per_second,
        }
        content = b"".join(
            _framed(
                Event(wall_time=time.time(), step=record.epoch, summary=scalar_summary(tag, value)).SerializeToString()
            )
            for tag, value in points.items()
            if value is not None
        )
        with naming_full_disk(self._file):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "ab") as file:
                file.write(content)


def _framed(event: bytes) -> bytes:
    """Return an event as a record of TensorFlow's: length, event, and the checksum of each."""
    from mxboard.record_writer import masked_crc32c

    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked_crc32c(length)) + event + struct.pack("<I", masked_crc32c(event))
