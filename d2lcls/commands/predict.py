"""`d2lcls predict`: name what pictures show."""

from pathlib import Path

from d2lcls.commands.parsers import positive


def add(command):
    """Add the command to the parser."""
    predict = command(
        "predict",
        _predict,
        "Name what pictures show, the most likely classes first.",
        "d2lcls predict --run runs/cifar10-cnn cat.jpg dog.jpg",
    )
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    source = predict.add_mutually_exclusive_group()
    source.add_argument("--run", dest="run_folder", metavar="RUN", help="a run's folder (default: the newest in runs/)")
    source.add_argument(
        "--model", metavar="MODEL", help="a model folder of any form, as export and its later steps write it"
    )
    predict.add_argument("--top", type=positive(int), default=5, metavar="N", help="how many classes")


def _predict(options):
    for path, answers in zip(options.images, _of_model(options) if options.model else _of_run(options)):
        print(path)
        for name, probability in answers:
            print(f"  {probability:7.2%}  {name}")


def _of_run(options):
    from d2lcls.training.runs import classify, load_run

    run, net = load_run(options.run_folder or _newest_run())
    return [
        [(run.classes[place], row[place]) for place in row.argsort()[::-1][: options.top]]
        for row in classify(run, net, options.images)
    ]


def _of_model(options):
    from d2lcls.deploy import load_model

    return load_model(options.model).predict_many(options.images, options.top)


def _newest_run():
    runs = sorted(Path("runs").glob("*/last.npz"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(
            "There is no trained run in ./runs. Train one with: d2lcls train --dataset cifar10, "
            "or name its folder with --run."
        )
    return runs[-1].parent
