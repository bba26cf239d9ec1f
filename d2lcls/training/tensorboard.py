"""Curves for TensorBoard, written with mxboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.machine import compat
from d2lcls.machine.files import check_writable

if TYPE_CHECKING:
    from d2lcls.training.loop import Epoch


class Curves:
    """Writes one point per curve and epoch into a folder that `tensorboard --logdir` shows.

    Args:
        folder: where the event files go; created if needed.
    """

    def __init__(self, folder: str | Path) -> None:
        check_writable(Path(folder, "events"))
        self._writer = compat.import_mxboard().SummaryWriter(logdir=str(folder), verbose=False)

    def write(self, record: Epoch) -> None:
        """Add the points of one `Epoch`."""
        for tag, value in (
            ("loss/train", record.train_loss),
            ("loss/valid", record.valid_loss),
            ("accuracy/train", record.train_accuracy),
            ("accuracy/valid", record.valid_accuracy),
            ("lr", record.lr),
            ("images_per_second", record.images_per_second),
        ):
            if value is not None:
                self._writer.add_scalar(tag=tag, value=value, global_step=record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self._writer.close()
