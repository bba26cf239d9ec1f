"""Loss and accuracy over many batches, every image counted once whatever the size of its batch."""

import math


class Tally:
    """Sums of loss and hits over the batches of an epoch.

    Devices compute while Python goes on, and reading a result waits for it; so results are kept
    as they are and read a few batches later, all at once.

    Args:
        loss, hits, images: sums so far, of a resumed epoch.
    """

    def __init__(self, loss=0.0, hits=0, images=0):
        self.loss, self.hits, self.images = loss, hits, images
        self._waiting = []

    def add(self, step, images, losses, hits):
        """Note a batch: the sum of its losses and its number of hits, an NDArray of shape (1,) a device."""
        self._waiting.append((step, images, losses, hits))
        return len(self._waiting)

    def settle(self):
        """Read all that was noted; return the first step whose loss is NaN or infinite, or None."""
        for step, images, losses, hits in self._waiting:
            loss = sum(float(value.asscalar()) for value in losses)
            if not math.isfinite(loss):
                return step
            self.loss += loss
            self.hits += sum(int(value.asscalar()) for value in hits)
            self.images += images
        self._waiting = []
        return None

    @property
    def mean_loss(self):
        """Loss an image, over the batches read so far."""
        return self.loss / max(1, self.images)

    @property
    def accuracy(self):
        """Share of hits, 0 to 1, over the batches read so far."""
        return self.hits / max(1, self.images)
