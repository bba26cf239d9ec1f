"""For benchmarks/loading.py: the same batches in PyTorch, which has an environment of its own.

python torch_loading.py SIDE IMAGES.npz prints PyTorch's version, then answers each line with its images/s.
"""

import random
import sys

import numpy as np
import torch
import torch.nn.functional as F
from side import answer_passes
from torch.utils.data import DataLoader, Dataset

BATCH, PADDING = 128, 4


class Pictures(Dataset):
    """Picture by picture, as torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and Normalize do it."""

    def __init__(self, images, labels, mean, std):
        self.images, self.labels, self.mean, self.std = images, labels, mean[:, None, None], std[:, None, None]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = F.pad(torch.from_numpy(self.images[index]).permute(2, 0, 1), [PADDING] * 4)  # (3, 40, 40)
        top, left = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
        image = image[:, top : top + 32, left : left + 32]
        if random.random() < 0.5:
            image = image.flip(2)
        return image.float().div_(255).sub_(self.mean).div_(self.std), self.labels[index]


class WholeBatches:
    """Whole batches, as a reader who knows PyTorch well would write it: uint8 in its own layout until the end."""

    def __init__(self, images, labels, mean, std):
        self.images, self.labels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
        self.scale, self.shift = (1 / (255 * std))[:, None, None], (-mean / std)[:, None, None]

    def __iter__(self):
        for indices in torch.randperm(len(self.images)).split(BATCH):
            padded, each = F.pad(self.images[indices], [PADDING] * 4), torch.arange(len(indices))
            top, left = torch.randint(0, 2 * PADDING + 1, (2, len(indices)))
            x = padded.unfold(2, 32, 1).unfold(3, 32, 1)[each, :, top, left]  # (N, 3, 32, 32)
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            yield x.float().mul_(self.scale).add_(self.shift), self.labels[indices]


def main():
    """Answer until standard input ends."""
    side, path = sys.argv[1:]
    with np.load(path) as file:
        images, labels = file["images"], file["labels"]
        mean, std = (torch.tensor(file[name], dtype=torch.float32) for name in ("mean", "std"))
    if side == "torch_batches":
        loader = WholeBatches(images, labels, mean, std)
    else:
        workers = 2 if side == "torch_workers" else 0
        loader = DataLoader(
            Pictures(images, labels, mean, std),
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
    answer_passes(lambda: (x for x, _ in loader), torch.__version__)


if __name__ == "__main__":
    main()
