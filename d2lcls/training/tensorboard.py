"""Curves for TensorBoard, written with mxboard."""

from d2lcls.machine import compat


class Curves:
    """Writes one point a curve and epoch into a folder that `tensorboard --logdir` shows.

    Args:
        folder: where the event files go; made if need be.
    """

    def __init__(self, folder):
        self._writer = compat.import_mxboard().SummaryWriter(logdir=str(folder), verbose=False)

    def write(self, record):
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

    def close(self):
        """Finish the event file."""
        self._writer.close()
