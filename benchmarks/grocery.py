"""How accurate does a fine-tuned EfficientNet-Lite get on a product catalogue, in half an hour on two cores?

Trains on the Grocery Store data set's training photographs, with the epoch chosen on its validation photographs, and
scores the test photographs once: all 81 products (fine), and the 43 groups that they belong to (coarse). Each seed is
a process of its own, timed from its start to the last epoch. Needs the data set: d2lcls data get grocery. Writes
results/grocery.json. Up to half an hour per seed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

from d2lcls.book import results
from d2lcls.training.recipe import Recipe

RECIPE = Recipe(
    dataset="grocery",
    model="efficientnet_lite0",
    pretrained=True,
    train_last=7,
    num_epochs=16,
    batch_size=32,
    label_smoothing=0.1,
    ema=0.99,
    cache=True,
)


def main():
    """Run every seed in a process of its own, or one seed here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(run(options.one)))
        return
    runs = []
    for seed in options.seeds:
        command = [sys.executable, __file__, "--one", str(seed)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"seed {seed}: {runs[-1]}", flush=True)
    print(
        results.write(
            "grocery",
            "python benchmarks/grocery.py",
            {
                **{name: results.spread([each[name] for each in runs]) for name in runs[0]},
                "recipe": RECIPE.to_json(),
                "seeds": options.seeds,
                "units": {
                    "fine": "% of the test photographs whose product is right, of 81",
                    "coarse": "% of the test photographs whose group is right, of 43",
                    "balanced": "%, the mean over the 81 products of the accuracy on each",
                    "six_views": "%, as fine, with the mean of six views of each photograph",
                    "minutes": "from the start of the process to the last epoch",
                    "waiting": "% of the training time in which no batch was ready",
                },
            },
            data=["grocery"],
        )
    )


def run(seed):
    """Train and score one network."""
    from dataclasses import replace

    from d2lcls import data
    from d2lcls.training import evaluate, predict, six_views, train
    from d2lcls.training.run_images import open_run_split

    begun = time.perf_counter()
    data.open_split("grocery", "train", fallback=False)  # a sample does not count
    with tempfile.TemporaryDirectory() as folder:
        trained = train(replace(RECIPE, seed=seed), f"{folder}/run", on_epoch=lambda epoch: print(epoch, flush=True))
        minutes = (time.perf_counter() - begun) / 60
        images = open_run_split(trained.run, "test")
        batches = trained.run.batches(images)
        found = predict(trained.net, batches).argmax(axis=1)
        six_views_score = evaluate(trained.net, batches, views=six_views)
    _, group_of = data.class_groups(images)
    hits = found == images.labels
    accuracies = [hits[images.labels == label].mean() for label in set(images.labels.tolist())]
    seconds = sum(epoch.seconds for epoch in trained.epochs)
    return {
        "fine": 100 * hits.mean(),
        "coarse": 100 * (group_of[found] == group_of[images.labels]).mean(),
        "balanced": 100 * sum(accuracies) / len(accuracies),
        "six_views": 100 * six_views_score.accuracy,
        "minutes": minutes,
        "waiting": 100 * sum(epoch.waiting * epoch.seconds for epoch in trained.epochs) / seconds,
    }


if __name__ == "__main__":
    main()
