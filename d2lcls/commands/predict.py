"""`d2lcls predict`: name what pictures show."""

from pathlib import Path

from d2lcls.commands.parsers import positive


def add(command):
    """Add the command to the parser."""
    predict = command("predict", _predict, "Name what pictures show, the most likely classes first.",
                      "d2lcls predict --run runs/cifar10-cnn cat.jpg dog.jpg")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    predict.add_argument("--run", dest="run_folder", metavar="RUN",
                         help="a run's folder (default: the newest in runs/)")
    predict.add_argument("--top", type=positive(int), default=5, metavar="N", help="how many classes")


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
