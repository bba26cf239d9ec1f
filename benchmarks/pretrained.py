"""How accurate are the pretrained EfficientNet-Lites here, and do they give the same predictions as in PyTorch?

Scores each on a folder of ImageNet photographs with a labels.csv (file, class_index) and compares every prediction with
that of the PyTorch implementation, which a second Python with torch and efficientnet-lite-pytorch computes from the
same arrays. Writes results/pretrained.json. About two minutes on two cores.
"""

import argparse
import csv
import os
import subprocess
import tempfile
from pathlib import Path

from d2lcls.book import results
from d2lcls.models import get_model, preprocessing
from d2lcls.weights.store import PORTS, get_weights

import numpy as np
from mxnet import nd

THEIRS = """
import sys, numpy, torch
from efficientnet_lite_pytorch import EfficientNet
net = EfficientNet.from_name(sys.argv[1].replace("_", "-"))
net.load_state_dict(torch.load(sys.argv[2], weights_only=True))
with torch.inference_mode():
    x = torch.tensor(numpy.load(sys.argv[3]))
    numpy.save(sys.argv[4], torch.cat([net.eval()(part) for part in x.split(20)]).numpy())
"""


def main():
    """Score and compare the three networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="?", help="folder of photographs with a labels.csv")
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("D2LCLS_TORCH_PYTHON"),
        help="a Python with torch and efficientnet-lite-pytorch; the default is the value of D2LCLS_TORCH_PYTHON",
    )
    options = parser.parse_args()
    if not (options.photographs and options.torch_python):
        print("pretrained: skipped, as it needs a folder of ImageNet photographs and a Python with torch.")
        return
    with open(options.photographs / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([int(row["class_index"]) for row in rows])
    found = {}
    for name in PORTS:
        preprocess = preprocessing(name)
        x = preprocess([options.photographs / row["file"] for row in rows])
        net = get_model(name, pretrained=True)
        net.hybridize()
        ours = np.concatenate([net(nd.array(x[i : i + 20])).asnumpy() for i in range(0, len(x), 20)])
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder, "x.npy"), x)
            subprocess.run(
                [
                    options.torch_python,
                    "-c",
                    THEIRS,
                    name,
                    get_weights(name),
                    Path(folder, "x.npy"),
                    Path(folder, "logits.npy"),
                ],
                check=True,
                stderr=subprocess.DEVNULL,
                env=os.environ,
            )
            theirs = np.load(Path(folder, "logits.npy"))
        mine, yours = (np.argsort(-logits, axis=1)[:, :5] for logits in (ours, theirs))
        found[name] = {
            "photographs": len(x),
            "top1": 100 * float((mine[:, 0] == labels).mean()),
            "top5": 100 * float((mine == labels[:, None]).any(axis=1).mean()),
            "torch_top1": 100 * float((yours[:, 0] == labels).mean()),
            "torch_top5": 100 * float((yours == labels[:, None]).any(axis=1).mean()),
            "same_top1": int((mine[:, 0] == yours[:, 0]).sum()),
            "same_top5": int((mine == yours).all(axis=1).sum()),
            "largest_difference": float(np.abs(ours - theirs).max()),
            "largest_logit": float(np.abs(theirs).max()),
            "published_top1": 100 * PORTS[name].published,
        }
        print(name, found[name], flush=True)
    print(
        results.write(
            "pretrained",
            "python benchmarks/pretrained.py PHOTOGRAPHS --torch-python PYTHON",
            {
                **found,
                "units": dict.fromkeys(
                    found,
                    "accuracies in %; same_top1 and same_top5 (in order) in photographs; "
                    "largest_difference and largest_logit in logits",
                ),
            },
        )
    )


if __name__ == "__main__":
    main()
