"""Does a search find a better network than fast94's shape, with as many multiply-adds?

Two searches with the same number of short trainings, one that learns from its trials (TPE) and one at random, draw
widths, depths and filter sizes of fast94's family; both begin with the same random draws. Every candidate has as many
multiply-adds as fast94's shape, within 5 %. The best few of each search are trained again for as long as the networks
that are compared in the end, and the best of these on validation images is the search's answer. Then fast94's shape and
both answers are trained on all training images, with several seeds in turn, and scored on the test images: paired
differences with 95 % intervals.

The third question is whether shared weights can replace the short trainings: a supernet is trained on the same images,
and ranks the candidates of the random search. Kendall's rank correlation compares its order with that of the short
trainings, which have noise of their own.

Finished trainings are kept in runs/architecture_search and not repeated. Writes results/architecture_search.json,
except with --images. By default the widths are half of fast94's, which takes an hour or two on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.book.statistics import Interval, compare, paired_difference, rank_correlation
from d2lcls.machine.files import write_atomically
from d2lcls.models.fast94 import Architecture
from d2lcls.training import RECIPES, Recipe, evaluate, fit, pipeline
from d2lcls.training.recipe import PRECISIONS
from d2lcls.training.search import Supernet, shared_accuracy, train_supernet, trials_table, tune_architecture
from d2lcls.training.search.architecture import candidate, draw

import mxnet as mx

RUNS = results.FOLDER.parent / "runs" / "architecture_search"
WAYS = {"learned": False, "at_random": True}
VALIDATION = 0.1  # share of the training images
SHORT = {"batch_size": 500, "lr": 0.75}  # of the short trainings, which have few steps; 1000 and 1.5 in the recipe
FINALIST_SEED = 100  # no seed of the final comparison
STATISTICS = 10  # batches by which BatchNorm's statistics are computed for a candidate with shared weights


def main() -> None:
    """Search, train what is not trained yet, and write the result."""
    options = parse()
    train, test = (data.load("cifar10", split, fallback=False) for split in ("train", "test"))
    if options.images:
        test = data.take_per_class(test, options.images // 10)
    widths = tuple(width // options.divide for width in Architecture().widths)
    reference = Architecture(widths)  # type: ignore[arg-type]
    recipe = replace(
        RECIPES["fast94"], dataset="cifar10", model=reference.name, precision=options.precision, validation=VALIDATION
    )
    runs = (
        options.runs / f"{reference.name}-share{options.share:g}-{options.precision}-{options.images or 'all'}-images"
    )
    runs.mkdir(parents=True, exist_ok=True)
    short = replace(recipe.scaled(1), **SHORT)
    searches = {way: search(short, way, options, runs) for way in WAYS}
    rest, validation = data.split_validation(train, VALIDATION, recipe.seed)
    if options.images:
        rest, train = (data.take_per_class(images, options.images // 10) for images in (rest, train))
    long = recipe.scaled(options.epochs)
    finalists = {way: retrained(long, found, options.top, rest, validation, runs) for way, found in searches.items()}
    models = {"fast94": reference.name, **{way: max(found, key=found.__getitem__) for way, found in finalists.items()}}
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in models}
    for seed in options.seeds:
        for way, model in models.items():  # in turn, so that a slow hour is everyone's
            folder = runs / f"{model}-{options.epochs}-epochs-seed-{seed}"
            measured[way].append(trained(replace(long, model=model, seed=seed), train, test, folder))
    sharing = shared(short, searches["at_random"], options, rest, validation, runs)
    content = summary(options, models, searches, finalists, measured, sharing)
    print(json.dumps(content, indent=1))
    if not options.images:
        print(results.write("architecture_search", command(options), content, data=["cifar10"]))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--divide", type=int, default=2, help="fast94's widths are divided by this: 1, 2 or 4")
    parser.add_argument("--share", type=float, default=0.5, help="share of the training images of the short trainings")
    parser.add_argument("--trials", type=int, default=24, help="short trainings of each search")
    parser.add_argument("--top", type=int, default=3, help="candidates of each search that are trained again")
    parser.add_argument("--epochs", type=int, default=3, help="of the networks that are compared")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shared-epochs", type=int, default=8, help="of the supernet, on the same share of the images")
    parser.add_argument("--precision", default="float32", choices=(*PRECISIONS, "auto"))
    parser.add_argument("--images", type=int, help="so many images, to try the script; writes no result")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs")
    return parser.parse_args()


def command(options: argparse.Namespace) -> str:
    """Return the command line that writes the result again."""
    return (
        f"python benchmarks/architecture_search.py --divide {options.divide} --share {options.share:g} "
        f"--trials {options.trials} --top {options.top} --epochs {options.epochs} "
        f"--seeds {' '.join(map(str, options.seeds))} --shared-epochs {options.shared_epochs} "
        f"--precision {options.precision}"
    )


def search(short: Recipe, way: str, options: argparse.Namespace, runs: Path) -> dict[str, Any]:
    """Search, or go on with it; return the accuracy of each candidate by its name, and the seconds it took."""
    study = tune_architecture(
        short,
        share=options.share,
        trials=options.trials,
        storage=f"sqlite:///{runs}/search.db",
        study=way,
        at_random=WAYS[way],
        pruner=_never(),
    )
    complete = [record for record in trials_table(study) if record.state == "complete"][: options.trials]
    seconds = sum(trial.duration.total_seconds() for trial in study.trials if trial.duration)
    accuracies = {str(candidate(short, record.parameters).model): record.value for record in complete}
    return {"accuracies": accuracies, "seconds": seconds, "rejected": len(study.trials) - len(trials_table(study))}


def _never() -> Any:
    """Return a pruner that stops no trial."""
    import optuna

    return optuna.pruners.NopPruner()


def retrained(
    long: Recipe, found: dict[str, Any], top: int, rest: data.Images, validation: data.Images, runs: Path
) -> dict[str, float]:
    """Train the best candidates of a search again; return their accuracies on the validation images by their names."""
    ranking = sorted(found["accuracies"], key=found["accuracies"].__getitem__, reverse=True)[:top]
    accuracies = {}
    for model in ranking:
        recipe = replace(long, model=model, seed=FINALIST_SEED)
        measured = trained(recipe, rest, validation, runs / f"{model}-{long.num_epochs}-epochs-finalist")
        accuracies[model] = measured["accuracy"]
        found["finalist_seconds"] = found.get("finalist_seconds", 0) + measured["seconds"]
    return accuracies


def trained(recipe: Recipe, images: data.Images, scored: data.Images, folder: Path) -> dict[str, float]:
    """Return accuracy in % and seconds of one training, from its folder if it was finished before."""
    kept = folder / "measured.json"
    if not kept.exists():
        recipe = replace(pipeline.resolve(recipe), batch_size=min(recipe.batch_size, max(1, len(images) // 4)))
        batches, _ = pipeline.cut_batches(recipe, images, None)
        mx.random.seed(recipe.seed)
        net = pipeline.make_network(recipe, batches)
        records = fit(net, batches, recipe=recipe, checkpoint_dir=folder, resume=True, on_epoch=None)
        accuracy = evaluate(net, data.Batches(scored, 500, batches.mean, batches.std)).accuracy
        content = {"accuracy": 100 * accuracy, "seconds": sum(record.seconds for record in records)}
        write_atomically(kept, json.dumps(content).encode())
    found: dict[str, float] = json.loads(kept.read_text())
    print(f"{folder.name}: {found['accuracy']:.2f} %, {found['seconds']:.0f} s", flush=True)
    return found


def shared(
    short: Recipe,
    found: dict[str, Any],
    options: argparse.Namespace,
    rest: data.Images,
    validation: data.Images,
    runs: Path,
) -> dict[str, Any]:
    """Train a supernet; return its accuracy for each candidate of the random search, in %, and the seconds it took."""
    kept = runs / f"supernet-{options.shared_epochs}-epochs-{options.trials}-candidates.json"
    if not kept.exists():
        images = data.split_validation(rest, options.share, short.seed)[1]
        recipe = replace(
            pipeline.resolve(short.scaled(options.shared_epochs)),
            small_first=None,
            batch_size=min(short.batch_size, max(1, len(images) // 4)),
        )
        batches, _ = pipeline.cut_batches(recipe, images, None)
        valid = data.Batches(validation, 500, batches.mean, batches.std)
        reference = Architecture.named(str(short.model))
        mx.random.seed(recipe.seed)
        supernet = Supernet(reference)
        supernet.initialize()
        begun = time.perf_counter()
        train_supernet(supernet, batches, recipe, lambda rng: draw(rng, reference))
        training = time.perf_counter() - begun
        accuracies = {
            name: 100 * shared_accuracy(supernet, Architecture.named(name), batches, valid, STATISTICS)
            for name in found["accuracies"]
        }
        scoring = time.perf_counter() - begun - training
        content = {"accuracies": accuracies, "training_seconds": training, "scoring_seconds": scoring}
        write_atomically(kept, json.dumps(content).encode())
    return json.loads(kept.read_text())


def summary(
    options: argparse.Namespace,
    models: dict[str, str],
    searches: dict[str, dict[str, Any]],
    finalists: dict[str, dict[str, float]],
    measured: dict[str, list[dict[str, Any]]],
    sharing: dict[str, Any],
) -> dict[str, Any]:
    """Return what the result's file holds."""
    accuracies = {way: [run["accuracy"] for run in runs] for way, runs in measured.items()}
    found: dict[str, Any] = {
        "settings": {name: value for name, value in vars(options).items() if name not in ("runs", "images")},
        "networks": {
            way: {"model": model, "multiply_adds": Architecture.named(model).multiply_adds()}
            for way, model in models.items()
        },
        "accuracy": {way: results.spread(values) for way, values in accuracies.items()},
        "seconds": {way: results.spread(run["seconds"] for run in runs) for way, runs in measured.items()},
        "searches": {way: {**searches[way], "finalists": finalists[way]} for way in WAYS},
        "weight_sharing": {
            **sharing,
            "rank_correlation": _correlation(
                [sharing["accuracies"][name] for name in searches["at_random"]["accuracies"]],
                list(searches["at_random"]["accuracies"].values()),
            ),
        },
        "units": {
            "accuracy": "% of the test images; of finalists and shared weights, % of the validation images; "
            "of the short trainings, a share of 1 of a share of these",
            "rank_correlation": "Kendall's tau of shared weights and short trainings, over the random candidates",
        },
    }
    if len(options.seeds) > 1:
        others = compare(accuracies["fast94"], {way: accuracies[way] for way in WAYS})
        found["differences"] = {
            **{f"{way} - fast94": {**_plain(each), "shown_corrected": shown} for way, (each, shown) in others.items()},
            "learned - at_random": _plain(paired_difference(accuracies["learned"], accuracies["at_random"])),
        }
    return found


def _correlation(a: Sequence[float], b: Sequence[float]) -> dict[str, Any] | None:
    return _plain(rank_correlation(a, b)) if len(a) >= 5 else None


def _plain(interval: Interval) -> dict[str, Any]:
    return {**interval._asdict(), "shown": interval.shown}


if __name__ == "__main__":
    main()
