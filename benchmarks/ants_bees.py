"""Can a folder of 244 photographs train a classifier of 95 % accuracy in two minutes?

Fine-tunes EfficientNet-Lite2 on a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, such as the ants and bees of many
transfer-learning tutorials: a new dense layer on features at 260 pixels, which are computed once. The time is measured
from the start of the process to the score on val. Writes results/ants_bees.json. One minute per seed on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from d2lcls.book import results
from d2lcls.training.recipe import Recipe


def main():
    """Run every seed in a process of its own, or one seed here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="with train/CLASS/*.jpg and val/CLASS/*.jpg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is None:
        print("ants_bees: skipped, as it needs a folder of photographs.")
        return
    if options.one is not None:
        print(json.dumps(run(options.folder, options.one)))
        return
    runs = []
    for seed in options.seeds:
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, str(options.folder), "--one", str(seed)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        runs.append({**json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - begun})
        print(f"seed {seed}: {runs[-1]}", flush=True)
    print(
        results.write(
            "ants_bees",
            "python benchmarks/ants_bees.py FOLDER",
            {
                "accuracy": results.spread([100 * r["accuracy"] for r in runs]),
                "seconds": results.spread([r["seconds"] for r in runs]),
                "images": runs[0]["images"],
                "skipped": runs[0]["skipped"],
                "units": {"accuracy": "% of the images in val", "seconds": "whole process"},
            },
        )
    )


def run(folder, seed):
    """Train on train, score on val."""
    from d2lcls.data import Batches, flip, load_folder, pad_crop
    from d2lcls.models import FeatureBatches, extract_features, fuse, get_model, preprocessing, split
    from d2lcls.training import evaluate, fit

    name = "efficientnet_lite2"
    look = preprocessing(name)
    train, val = (
        load_folder(folder / split_name, look.crop, on_broken="skip", interpolation=look.interpolation)
        for split_name in ("train", "val")
    )
    net = get_model(name, classes=len(train.classes), pretrained=True)
    front, tail = split(net, 1, look.crop)
    front = fuse(front)
    seen = extract_features(
        front, Batches(train, 64, look.mean, look.std, augment=(flip(), pad_crop(24)), seed=seed), 2
    )
    fit(
        tail,
        FeatureBatches(seen, 32, shuffle=True, seed=seed),
        recipe=Recipe(num_epochs=40, lr=0.05, wd=0.01, seed=seed),
        on_epoch=None,
    )
    score = evaluate(tail, FeatureBatches(extract_features(front, Batches(val, 64, look.mean, look.std)), 64))
    files = sum(1 for split_name in ("train", "val") for path in (folder / split_name).rglob("*") if path.is_file())
    return {"accuracy": score.accuracy, "images": [len(train), len(val)], "skipped": files - len(train) - len(val)}


if __name__ == "__main__":
    main()
