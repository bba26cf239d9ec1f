"""For benchmarks/photographs.py: the same folder of photographs read by PyTorch's DataLoader and Pillow.

python torch_photographs.py SIDE ROOT prints PyTorch's version, then answers each line with its images/s.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side import answer_passes
from torch.utils.data import DataLoader, Dataset

BATCH, SIDE = 32, 224


class Photographs(Dataset):
    """As torchvision's ImageFolder with Resize, CenterCrop, RandomHorizontalFlip, ToTensor and Normalize does it."""

    def __init__(self, root):
        self.paths = sorted(Path(root).glob("*/*.jpg"))
        self.classes = sorted({path.parent.name for path in self.paths})
        self.mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        self.std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as file:
            picture = file.convert("RGB")
        scale = SIDE / min(picture.size)
        width, height = (max(SIDE, int(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        picture = picture.crop((left, top, left + SIDE, top + SIDE))
        if torch.rand(1).item() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return x.float().div_(255).sub_(self.mean).div_(self.std), self.classes.index(self.paths[index].parent.name)


def main():
    """Answer until standard input ends."""
    workers = 2 if sys.argv[1] == "torch_workers" else 0
    loader = DataLoader(
        Photographs(sys.argv[2]), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    answer_passes(lambda: (x for x, _ in loader), torch.__version__)


if __name__ == "__main__":
    main()
