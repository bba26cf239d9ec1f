"""`d2lcls tune`: search for a learning rate, a weight decay and an augmentation."""

import shlex
from pathlib import Path

from d2lcls.commands.checks import check_training
from d2lcls.commands.parsers import positive, share, whole
from d2lcls.machine.files import check_writable

AUGMENTATIONS = ("none", "flip", "pad_crop flip", "pad_crop flip cutout")  # as `train --augment` takes them


def add(command):
    """Add the command to the parser."""
    tune = command(
        "tune",
        _tune,
        "Search for hyper-parameters; the same line again goes on.",
        "d2lcls tune --dataset cifar10 --share 0.1 --trials 20 --epochs 3",
    )
    add = tune.add_argument
    add("--dataset", default="cifar10", help="as for train")
    add("--model", default="cnn", help="as for train")
    add("--size", type=positive(int), metavar="PIXELS", help="as for train")
    add("--trials", type=positive(int), default=20, metavar="N", help="finished trials, earlier ones included")
    add("--epochs", type=positive(int), default=3, metavar="N", help="passes over the training set a trial")
    add("--batch-size", type=positive(int), default=128, metavar="N", help="images a step")
    add("--share", type=share, default=1.0, help="share of the training images to search with")
    add("--storage", default="sqlite:///tune.db", metavar="URL", help="the database; a server's for many machines")
    add("--study", metavar="NAME", help="its name there (default: made of dataset, model, share and epochs)")
    add("--timeout", type=positive(float), metavar="SECONDS", help="begin no trial after that")
    add("--pictures", metavar="FOLDER", help="write history.png and importance.png there")
    add("--seed", type=whole, default=0, help="of everything random")
    add("--ctx", default="auto", help="as for train")


def _tune(options):
    from d2lcls import data
    from d2lcls.models import get_model
    from d2lcls.training.search import tuning as tune

    import mxnet as mx

    if not options.share:
        options.wrong("argument --share: must be above 0, or nothing is left to search with")
    ctx = check_training(options, options.size)
    if options.pictures:
        check_writable(Path(options.pictures, "history.png"))
    images = data.load(options.dataset, "train", size=options.size)
    if options.share < 1:
        images = data.split_validation(images, options.share, options.seed)[1]  # that share of each class
    train, valid = data.split_validation(images, 0.2, options.seed)
    mean, std = data.channel_statistics(train.images)
    validation = data.Batches(valid, 256, mean, std, size=options.size)

    def objective(trial, lr, wd, augment):
        transforms = [getattr(data, name)() for name in augment.split() if name != "none"]
        batches = data.Batches(
            train, options.batch_size, mean, std, shuffle=True, augment=transforms, seed=options.seed, size=options.size
        )
        mx.random.seed(options.seed)
        net = get_model(options.model, classes=len(images.classes))
        net.initialize(mx.init.MSRAPrelu(slope=0))
        return tune.fit_trial(
            trial,
            net,
            batches,
            validation,
            num_epochs=options.epochs,
            lr=lr,
            wd=wd,
            ctx=ctx,
            seed=options.seed,
            warmup_epochs=min(1, options.epochs / 2),
        )

    space = {
        "lr": tune.log_uniform(0.003, 1),
        "wd": tune.log_uniform(1e-5, 1e-2),
        "augment": tune.choice(AUGMENTATIONS),
    }
    # Accuracies of other shares and epochs do not compare, so that these have studies of their own.
    name = options.study or (
        f"{Path(options.dataset).stem}-{options.model}-share{options.share:g}-epochs{options.epochs}"
    )
    print(f"{len(train):,} training images, {len(valid):,} for validation; study {name}", flush=True)
    study = tune.tune(
        objective,
        space,
        trials=options.trials,
        storage=options.storage,
        study=name,
        seed=options.seed,
        timeout=options.timeout,
    )
    best = tune.best_trial(study)
    print(f"best: {best}\nTrain it in full with: {_train_line(options, best.parameters)}")
    if options.pictures:
        _draw(study, Path(options.pictures))


def _train_line(options, best):
    size = f" --size {options.size}" if options.size else ""
    return (
        f"d2lcls train --dataset {shlex.quote(options.dataset)} --model {options.model}{size} "
        f"--batch-size {options.batch_size} --lr {best['lr']:.4g} --wd {best['wd']:.4g} "
        f"--augment {best['augment']} --seed {options.seed}"
    )


def _draw(study, folder):
    from d2lcls.book import plots
    from d2lcls.training.search import tuning as tune

    folder.mkdir(parents=True, exist_ok=True)
    records = tune.trials_table(study)
    plots.show_search(records).savefig(folder / "history.png", dpi=150)
    try:
        shares = tune.importance(study)
    except ValueError as error:  # too few trials, or all alike: no reason to fail after the search
        print(f"importance.png is not drawn: {error}")
        return
    complete = sum(record.state == "complete" for record in records)
    plots.show_bars(
        list(shares),
        [100 * share for share in shares.values()],
        "share of the variance explained (%)",
        title=f"What made {complete} trials differ",
    ).savefig(folder / "importance.png", dpi=150)
