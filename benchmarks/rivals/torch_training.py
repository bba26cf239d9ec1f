"""For training_step.py, fine_tuning_step.py and end_to_end.py: PyTorch's side, run by a Python that has torch.

    python torch_training.py step|tune NETWORK BATCH PIXELS CLASSES MODE
    python torch_training.py loader|vectorised NETWORK FOLDER MODE

`tune` holds the statistics of BatchNorms, as fine-tuning does. The second command trains on FOLDER/images.npy and
labels.npy: with images from torch's DataLoader, or with whole batches of tensors. MODE is eager or channels_last for
float32, autocast_channels_last or bf16_channels_last for bfloat16, or compile_channels_last.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from side import LR, MEAN, STD, answer, fixed_batch, stretch
from torch.nn import functional
from torch.utils.data import DataLoader
from torch_loading import BATCH, Pictures, WholeBatches
from torch_networks import hold_statistics, make_network

WORKERS = 2


class Training:
    """A network, its way to compute, and its training steps."""

    def __init__(self, name, classes, how):
        self.how = how
        self.format = torch.channels_last if how.endswith("channels_last") else torch.contiguous_format
        self.dtype = torch.bfloat16 if how.startswith("bf16") else torch.float32
        self.net = make_network(name, classes).to(dtype=self.dtype, memory_format=self.format)
        self.call = torch.compile(self.net) if how.startswith("compile") else self.net
        self.start()

    def start(self):
        """Begin anew with an optimizer."""
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, LR, momentum=0.9, weight_decay=1e-4, nesterov=True)

    def step(self, x, y):
        """Make one training step on a batch of any format; return (loss, logits)."""
        x = x.to(dtype=self.dtype, memory_format=self.format)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how.startswith("autocast")):
            logits = self.call(x)
            loss = functional.cross_entropy(logits, y)
        loss.backward()
        self.optimizer.step()
        return loss, logits

    def parameters(self):
        """Return the number of trained parameters."""
        return sum(parameter.numel() for parameter in self.net.parameters() if parameter.requires_grad)


def read(folder, images):
    """Return the first images of a folder's arrays, uint8 (N, H, W, C), and their labels, int64 (N,)."""
    pixels, labels = (np.load(Path(folder, f"{name}.npy"), mmap_mode="r")[:images] for name in ("images", "labels"))
    return np.array(pixels), np.array(labels, dtype=np.int64)


def feed(kind, folder, images):
    """Return batches of the first images: as most programs make them, or whole ones; see torch_loading.py."""
    arrays = *read(folder, images), torch.tensor(MEAN), torch.tensor(STD)
    if kind == "vectorised":
        return WholeBatches(*arrays)
    return DataLoader(Pictures(*arrays), BATCH, shuffle=True, num_workers=WORKERS)


def main(kind, name, *words):
    """Return what `answer` needs of the side that the command line asks for."""
    torch.manual_seed(0)
    if kind in ("step", "tune"):
        batch, pixels, classes = map(int, words[:3])
        training = Training(name, classes, words[3])
        if kind == "tune":
            hold_statistics(training.net)
        x = torch.randn(batch, 3, pixels, pixels).to(dtype=training.dtype, memory_format=training.format)
        y = torch.arange(batch) % classes
        turn, first = fixed_batch(lambda: training.step(x, y), batch), 0
    else:
        folder, how = words
        training = Training(name, 10, how)

        def train(images):
            training.start()
            loss, hits = 0.0, 0
            for x, y in feed(kind, folder, images):
                one, logits = training.step(x, y)
                loss += one.item()
                hits += (logits.argmax(1) == y).sum().item()

        turn, first = stretch(train), 256
    return turn, first, training.parameters


if __name__ == "__main__":
    answer(lambda: main(*sys.argv[1:]))
