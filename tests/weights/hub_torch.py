"""Write one of timm's networks as a `.safetensors` file, with its logits; runs in a Python with torch and timm.

    python hub_torch.py NAME SIDE FOLDER

FOLDER gets `model.safetensors` with drawn weights and `batch.npz` with images and logits.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file


def main(name, side, folder):
    torch.manual_seed(0)
    net = timm.create_model(name).eval()
    norms = [layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:  # other scales in every channel, and the statistics of a batch, so that the images matter
        last = not norm.weight.any()  # of a residual branch; larger ones would amplify float32's rounding at each block
        torch.nn.init.uniform_(norm.weight, *((0.1, 0.4) if last else (0.5, 1.5)))
        torch.nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = None
    for key, weight in net.named_parameters():
        if name.startswith("resnetv2") and key.endswith("conv3.weight"):  # likewise
            weight.data *= 0.3
    images = torch.rand((8, 3, int(side), int(side))) * 4 - 2
    with torch.no_grad():
        net.train()(images)
        for value in net.get_classifier().parameters():
            value.normal_(std=0.1)
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, Path(folder, "model.safetensors"))
    with torch.no_grad():
        logits = net.eval().double()(images[:2].double()).numpy()
    np.savez(Path(folder, "batch.npz"), images=images[:2].numpy(), logits=logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
