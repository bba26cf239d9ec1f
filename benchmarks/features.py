"""How long does it take to compute the features of 50,000 images, and what does int8 cost in accuracy?

Runs EfficientNet-Lite0's front at 160 pixels over CIFAR-10: in int8 over all 50,000 training images, timed including
calibration and writing the cache; compared with float32 in interleaved rounds on the same 2,000 images; and trains the
same dense layer on either kind of features, scored on the 10,000 test images. Writes results/features.json. About five
minutes on two cores.
"""

import os
import tempfile
import time

from d2lcls.book import results
from d2lcls.data import Batches, load, take_per_class
from d2lcls.models import FeatureBatches, extract_features, fuse, get_model, preprocessing, quantize, split
from d2lcls.training import evaluate, fit
from d2lcls.training.recipe import Recipe

NAME, SIZE, ROUNDS, SEEDS, LABELS = "efficientnet_lite0", 160, 5, (0, 1, 2), 250


def main():
    """Measure time, ratio and accuracy."""
    train, test = load("cifar10", fallback=False), load("cifar10", "test", fallback=False)
    look = preprocessing(NAME)

    def batches(data, batch_size=64):
        return Batches(data, batch_size, look.mean, look.std, size=SIZE)

    net = get_model(NAME, classes=10, pretrained=True)
    front, tail = split(net, 1, SIZE)
    cache = os.environ.get("D2LCLS_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["D2LCLS_HOME"] = folder
        begun = time.perf_counter()
        int8 = quantize(front, next(iter(batches(take_per_class(train, 26), batch_size=256)))[0])
        every = extract_features(int8, batches(train), cache="cifar10-train")
        seconds = time.perf_counter() - begun
    if cache:
        os.environ["D2LCLS_HOME"] = cache
    print(f"50,000 images in {seconds:.0f} s", flush=True)
    float32, some, speeds = fuse(front), test.subset(slice(2000)), []
    for front_of in (float32, int8) * (ROUNDS + 1):
        begun = time.perf_counter()
        extract_features(front_of, batches(some))
        speeds.append(len(some) / (time.perf_counter() - begun))
    ratios = [b / a for a, b in zip(speeds[2::2], speeds[3::2])]  # the first round warms up
    accuracy = {}
    for kind, front_of in (("int8", int8), ("float32", float32)):
        seen = extract_features(front_of, batches(test))
        for seed in SEEDS:
            few = take_per_class(train, LABELS, seed)
            tail.output.initialize(force_reinit=True)
            fit(
                tail,
                FeatureBatches(extract_features(front_of, batches(few)), 50, shuffle=True, seed=seed),
                recipe=Recipe(num_epochs=30, lr=0.1, wd=0.01, seed=seed),
                on_epoch=None,
            )
            accuracy.setdefault(kind, []).append(100 * evaluate(tail, FeatureBatches(seen, 256)).accuracy)
            print(kind, seed, accuracy[kind][-1], flush=True)
    print(
        results.write(
            "features",
            "python benchmarks/features.py",
            {
                "seconds": seconds,
                "images_per_second_of_all": len(train) / seconds,
                "shape": list(every.values.shape),
                "images_per_second": {"float32": results.spread(speeds[2::2]), "int8": results.spread(speeds[3::2])},
                "ratio": results.spread(ratios),
                "accuracy": {kind: results.spread(v) for kind, v in accuracy.items()},
                "lost_points": results.spread([a - b for a, b in zip(accuracy["float32"], accuracy["int8"])]),
                "units": {
                    "seconds": "calibration, features of 50,000 images, cache written",
                    "images_per_second_of_all": "images/s",
                    "ratio": "int8 over float32",
                    "accuracy": f"% of 10,000 test images, {LABELS} labels a class",
                },
            },
            data=["cifar10"],
        )
    )


if __name__ == "__main__":
    main()
