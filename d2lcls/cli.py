"""The command `d2lcls`. Exit codes: 0 done, 1 it failed, 2 wrong arguments, 130 stopped with Ctrl-C."""

import argparse
import json
import os
import sys
from pathlib import Path

# Only what is quick to import stands here: `d2lcls --help` must not wait for MXNet.
SCHEDULES = ("constant", "cosine", "exponential", "step")
TRANSFORMS = ("pad_crop", "flip", "cutout", "colour_jitter")


def main(arguments=None):
    """Run one command line and return its exit code.

    Args:
        arguments: list of texts; None takes them from the command line.
    """
    options = _parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()  # here, where a closed pipe can be caught
        return code
    except KeyboardInterrupt as stop:
        print(f"\nd2lcls: {_one_line(stop) if stop.args else 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `d2lcls ... | head` closed its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at exit
        return 1
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError) as error:
        print(f"d2lcls: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error):
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {text}"
    text = text.replace("resume=True", "--resume")  # what a caller of `fit` passes is an option here
    return " ".join(text.split()) or type(error).__name__


def _doctor(options):
    from d2lcls import doctor

    findings = doctor.examine()
    print(doctor.as_json(findings) if options.json else doctor.report(findings))
    return 1 if any(finding.status == "problem" for finding in findings) else 0


def _data_list(options):
    from d2lcls.data import DATASETS, home, verify

    for dataset in DATASETS.values():
        counts = ", ".join(f"{number:,} {split}" for split, number in dataset.splits.items())
        state = "in the cache" if not verify(dataset.name) else "not in the cache"
        print(f"{dataset.name:<15} {dataset.title}: {counts}; {len(dataset.classes)} classes; "
              f"{' x '.join(map(str, dataset.image_shape))}; {dataset.licence}; {state}")
    print(f"cache: {home()}")


def _data_get(options):
    from d2lcls.data import fetch

    print(fetch(options.name, force=options.force))


def _data_check(options):
    from d2lcls.data import DATASETS, verify

    damaged = False
    for name in [options.name] if options.name else DATASETS:
        problems = verify(name)
        print("\n".join(f"{name}: {problem}" for problem in problems) or f"{name}: whole")
        damaged |= bool(problems)
    return 1 if damaged else 0


def _train(options):
    import mxnet as mx

    from d2lcls import data, devices, training
    from d2lcls.models import get_model
    from d2lcls.training.runs import Run, read_run

    images = data.load(options.dataset, "train", size=options.size)
    validation = None
    if options.validation:
        images, validation = data.split_validation(images, options.validation, options.seed)
    mean, std = data.channel_statistics(images.images)
    transforms = [getattr(data, name)() for name in options.augment if name != "none"]
    train = data.Batches(images, options.batch_size, mean, std, shuffle=True, augment=transforms,
                         mixup=options.mixup, seed=options.seed)
    valid = data.Batches(validation, 256, mean, std) if validation else None
    mx.random.seed(options.seed)
    net = get_model(options.model, classes=len(images.classes))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    out = Path(options.out or f"runs/{Path(options.dataset).stem}-{options.model}")
    source = Path(options.dataset)
    named = options.dataset in data.DATASETS
    run = Run(options.model, options.dataset if named else str(source.resolve()), images.classes,
              images.images.shape[1:], tuple(mean), tuple(std), options.validation, options.seed)
    print(f"{len(images):,} training images, {len(validation) if validation else 0:,} for validation, "
          f"{len(images.classes)} classes; writing to {out}")
    if not (out / "last.npz").exists():
        if options.resume:
            print(f"{out} holds no checkpoint: starting anew")
        run.save(out)
    elif options.resume and (begun := read_run(out)) != run:
        raise ValueError(f"{out} was begun with {_difference(begun, run)}; it goes on with that only.")
    training.fit(net, train, valid, num_epochs=options.epochs, lr=options.lr, schedule=options.schedule,
                 warmup_epochs=min(options.warmup_epochs, options.epochs), optimizer=options.optimizer,
                 wd=options.wd, clip_norm=options.clip_norm, ctx=devices.parse(options.ctx), seed=options.seed,
                 patience=options.patience, checkpoint_dir=out, checkpoint_steps=options.checkpoint_steps,
                 resume=options.resume, tensorboard=options.tensorboard)
    tested = named or (source / "test").is_dir()
    print(f"Done. Score it {'once on the test set' if tested else 'on its validation set'} with: "
          f"d2lcls evaluate {out}{'' if tested else ' --split validation'}")


def _difference(begun, run):
    """Name the first field in which two runs differ, and its value in the first of them."""
    name = next(name for name in vars(begun) if getattr(begun, name) != getattr(run, name))
    return f"{name}={getattr(begun, name)!r}, not {getattr(run, name)!r}"


def _evaluate(options):
    from dataclasses import asdict

    from d2lcls import data, devices, training
    from d2lcls.training.runs import load_run

    ctx = devices.parse(options.ctx)
    run, net = load_run(options.run_folder, ctx)
    if options.split == "validation" and not run.validation_size:
        raise ValueError(f"{options.run_folder} was trained without a validation set (--validation 0).")
    if options.split == "test" and not options.dataset and Path(run.dataset).suffix == ".rec":
        raise ValueError(f"{run.dataset} holds the training images. Name the test images with --dataset TEST.rec.")
    split = "train" if options.split == "validation" else options.split
    images = data.load(options.dataset or run.dataset, split, size=run.image_shape[:2])
    if options.split != "test" and run.validation_size:
        parts = data.split_validation(images, run.validation_size, run.seed)
        images = parts[options.split == "validation"]
    score = training.evaluate(net, run.batches(images), ctx)
    print(json.dumps({"split": options.split, **asdict(score)}) if options.json else f"{options.split}: {score}")


def _predict(options):
    from d2lcls.training.runs import classify, load_run

    folder = options.run_folder or _newest_run()
    run, net = load_run(folder)
    for path, probabilities in zip(options.images, classify(run, net, options.images)):
        print(path)
        for place in probabilities.argsort()[::-1][:options.top]:
            print(f"  {probabilities[place]:7.2%}  {run.classes[place]}")


def _newest_run():
    runs = sorted(Path("runs").glob("*/last.npz"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise FileNotFoundError("There is no trained run in ./runs. Train one with: d2lcls train --dataset cifar10, "
                                "or name its folder with --run.")
    return runs[-1].parent


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show a default only where there is one to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _parser():
    parser = argparse.ArgumentParser(
        prog="d2lcls", description="Train and use image classifiers in Apache MXNet/Gluon.",
        epilog="Begin with: d2lcls doctor")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(parent, name, run, summary, example):
        made = parent.add_parser(name, help=summary, description=summary, epilog=f"Example: {example}",
                                 formatter_class=_HelpFormatter)
        made.set_defaults(run=run)
        return made

    doctor = command(commands, "doctor", _doctor, "Check what commonly goes wrong; exit code 1 on a problem.",
                     "d2lcls doctor --json")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")

    data = commands.add_parser("data", help="Get, check and list data sets.", epilog="Example: d2lcls data list")
    data_commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")
    command(data_commands, "list", _data_list, "List the known data sets and whether they are here.",
            "d2lcls data list")
    get = command(data_commands, "get", _data_get, "Get a data set into the cache and print its folder.",
                  "d2lcls data get cifar10")
    get.add_argument("name", metavar="NAME", help="a name that `d2lcls data list` shows")
    get.add_argument("--force", action="store_true", help="get it again even if it is here")
    check = command(data_commands, "check", _data_check, "Compare cached files with their checksums.",
                    "d2lcls data check cifar10")
    check.add_argument("name", metavar="NAME", nargs="?", help="one data set; all if not given")

    train = command(commands, "train", _train, "Train a network.",
                    "d2lcls train --dataset cifar10 --model cnn")
    add = train.add_argument
    add("--dataset", default="cifar10", help="cifar10, fashion_mnist, a folder with train/CLASS/*.jpg, or a .rec file")
    add("--model", default="cnn", help="cnn, or a name of GluonCV's zoo such as cifar_resnet20_v1")
    add("--size", type=_positive(int), default=None, metavar="PIXELS", help="side that folder and .rec images are cropped to (default: 32)")
    add("--epochs", type=_positive(int), default=12, metavar="N", help="passes over the training set")
    add("--batch-size", type=_positive(int), default=128, metavar="N", help="images a step")
    add("--lr", type=_positive(float), default=0.1, help="highest learning rate")
    add("--schedule", choices=SCHEDULES, default="cosine", help="how the learning rate falls")
    add("--warmup-epochs", type=float, default=1.0, metavar="N", help="epochs over which the rate climbs")
    add("--optimizer", default="sgd", help="MXNet's name of the optimizer")
    add("--wd", type=float, default=5e-4, help="weight decay, of weights only")
    add("--clip-norm", type=_positive(float), metavar="NORM", help="largest norm of the gradient")
    add("--augment", nargs="+", choices=(*TRANSFORMS, "none"), default=["pad_crop", "flip"], help="transforms")
    add("--mixup", type=float, default=0.0, metavar="ALPHA", help="mixup's alpha; 0 is off")
    add("--validation", type=float, default=0.1, metavar="SHARE", help="share of train kept for validation")
    add("--patience", type=_positive(int), metavar="N", help="stop after N epochs without a better validation")
    add("--seed", type=_whole, default=0, help="of everything random")
    add("--ctx", default="auto", help="auto, cpu, cpu*2, gpu or gpu:0,1")
    add("--out", metavar="FOLDER", help="the run's folder (default: runs/DATASET-MODEL)")
    add("--resume", action="store_true", help="go on with the run in that folder")
    add("--checkpoint-steps", type=_positive(int), metavar="N", help="save every N steps, besides every epoch")
    add("--tensorboard", metavar="FOLDER", help="write curves for TensorBoard there")

    evaluate = command(commands, "evaluate", _evaluate, "Score a trained run.",
                       "d2lcls evaluate runs/cifar10-cnn --split test")
    evaluate.add_argument("run_folder", metavar="RUN", help="the folder that train wrote")
    evaluate.add_argument("--split", choices=("test", "validation", "train"), default="test", help="what to score")
    evaluate.add_argument("--dataset", help="another data set or folder with the same classes")
    evaluate.add_argument("--ctx", default="auto", help="as for train")
    evaluate.add_argument("--json", action="store_true", help="print the score as JSON")

    predict = command(commands, "predict", _predict, "Name what pictures show, the most likely classes first.",
                      "d2lcls predict --run runs/cifar10-cnn cat.jpg dog.jpg")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    predict.add_argument("--run", dest="run_folder", metavar="RUN", help="a run's folder (default: the newest in runs/)")
    predict.add_argument("--top", type=_positive(int), default=5, metavar="N", help="how many classes")
    return parser


def _whole(text):
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, not {text}")
    return int(text)


def _positive(kind):
    def convert(text):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert
