"""`d2lcls explain`: where a trained run is wrong, why, and whether its confidence can be trusted."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command
from d2lcls.machine.files import check_writable

if TYPE_CHECKING:
    from d2lcls.report.findings import Findings

NONE = "none"  # as a split
MOST_IMAGES = 100  # on a sheet of Grad-CAM maps


def add(command: Command) -> None:
    """Add the command to the parser."""
    explain = command(
        "explain",
        _explain,
        "Write Grad-CAM maps, the confusion matrix, the worst mistakes and the calibration of a trained run.",
        "d2lcls explain runs/cifar10-cnn --split validation",
    )
    add = explain.add_argument
    add("run_folder", metavar="RUN", help="the folder that train wrote")
    add(
        "--images",
        metavar="PATH",
        nargs="+",
        help="pictures to draw Grad-CAM maps for: files, folders or patterns (default: the worst mistakes)",
    )
    add("--out", metavar="DIR", type=Path, help="the folder to write (default: RUN/explain)")
    add(
        "--split",
        choices=("test", "validation", "train", NONE),
        default="test",
        help="what to score; none draws only the maps for --images",
    )
    add("--dataset", help="another data set or folder with the same classes")
    add("--ctx", default="auto", help="as for train")


def _explain(options: argparse.Namespace) -> None:
    if options.split == NONE and not options.images:
        options.wrong("--split none needs --images")
    if options.split == NONE and options.dataset:
        options.wrong("--dataset names images to score, which --split none does not")
    out = options.out or Path(options.run_folder, "explain")
    check_writable(Path(out, "gradcam.png"))
    from d2lcls.machine import devices
    from d2lcls.report import examine_run, write_explanation
    from d2lcls.report.examples import Explainer
    from d2lcls.training.runs import load_run

    ctx = devices.parse(options.ctx)
    findings, pictures, reason = None, None, ""
    if options.images:
        run, net = load_run(options.run_folder, ctx)
        explainer = Explainer(options.run_folder, run)
        pictures, reason = explainer.pictures(net, _paths(options.images)), explainer.reason
    if reason and options.split == NONE:
        raise ValueError(f"There are no Grad-CAM maps of this run. {reason}")
    if options.split != NONE:
        findings = examine_run(options.run_folder, options.split, options.dataset, ctx, verbose=True)
        reason = findings.no_maps
    written = write_explanation(out, findings, pictures)
    for picture in pictures or []:
        print(f"{picture.name}: {picture.predicted} {picture.probability:.1%}")
    if findings:
        _print_table(findings)
    if reason:
        print(f"no Grad-CAM maps: {reason}")
    print("\n".join(map(str, written)))


def _paths(names: list[str]) -> list[str]:
    """Return the paths of the pictures that names lead to."""
    from d2lcls.data.pictures import STANDARD_INPUT, find_pictures

    def refuse(problem: str) -> None:
        raise FileNotFoundError(problem)

    if STANDARD_INPUT in names:
        raise ValueError("--images takes files, folders and patterns, not standard input.")
    paths = [picture.name for picture in islice(find_pictures(names, refuse), MOST_IMAGES + 1)]
    if len(paths) > MOST_IMAGES:
        raise ValueError(f"--images: more than {MOST_IMAGES} pictures were found, the most that fit on one sheet.")
    return paths


def _print_table(findings: Findings) -> None:
    from d2lcls.explain.confusion import most_mistaken

    analysis, calibration = findings.analysis, findings.calibration
    low, high = analysis.interval
    classes, accuracies = analysis.classes, analysis.class_accuracies
    pairs = most_mistaken(analysis.matrix, classes, 3)
    rows = {
        findings.split: f"top-1 {analysis.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}) on "
        f"{len(analysis):,} images",
        "balanced": f"{analysis.balanced:.2%}, the mean of the classes' accuracies",
        "weakest": ", ".join(f"{classes[k]} {accuracies[k]:.1%}" for k in analysis.weakest()[:3]),
        "mistaken": ", ".join(f"{true} for {predicted} ({count})" for true, predicted, count in pairs) or "none",
        "calibration": f"expected error {calibration.before.error:.2%} as trained",
    }
    if calibration.after:
        rows["calibration"] += (
            f", {calibration.after.error:.2%} with temperature {calibration.temperature:.3f}, fitted on "
            f"{calibration.fitted_on}"
        )
    else:
        rows["calibration"] += f"; no temperature: {calibration.reason}"
    for name, text in rows.items():
        print(f"{name:<12} {text}")
