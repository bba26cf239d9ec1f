"""`d2lcls report`: one HTML page about a trained run."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2lcls.commands.parsers import Command
from d2lcls.machine.files import check_writable, write_atomically


def add(command: Command) -> None:
    """Add the command to the parser."""
    report = command(
        "report",
        _report,
        "Write one HTML page about a trained run, which needs no other file and no network.",
        "d2lcls report runs/cifar10-cnn --out cifar10.html",
    )
    add = report.add_argument
    add("run_folder", metavar="RUN", help="the folder that train wrote")
    add("--out", metavar="FILE.html", type=Path, help="the page to write (default: RUN/report.html)")
    add("--split", choices=("test", "validation", "train"), default="test", help="what to score")
    add("--dataset", help="another data set or folder with the same classes")
    add("--ctx", default="auto", help="as for train")


def _report(options: argparse.Namespace) -> None:
    out = options.out or Path(options.run_folder, "report.html")
    if out.suffix.lower() not in (".html", ".htm"):
        options.wrong(f"--out must be a file whose name ends in .html, not {out}")
    check_writable(out)
    from d2lcls.machine import devices
    from d2lcls.report import examine_run, report_page

    findings = examine_run(options.run_folder, options.split, options.dataset, devices.parse(options.ctx), verbose=True)
    write_atomically(out, report_page(findings).encode("utf-8", "replace"))
    low, high = findings.analysis.interval
    print(
        f"{findings.split}: top-1 {findings.analysis.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}) on "
        f"{len(findings.analysis):,} images"
    )
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
