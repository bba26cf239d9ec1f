"""`d2lcls archive`: a model for the MXNet Model Server."""

import argparse
from pathlib import Path

from d2lcls.commands.parsers import Command


def add(command: Command) -> None:
    """Add the command to the parser."""
    archive = command(
        "archive",
        _archive,
        "Write a model as an archive for the MXNet Model Server.",
        "d2lcls archive models/cnn-int8 --out store/cnn.mar",
    )
    archive.add_argument("model", metavar="MODEL", help="a model folder, as `d2lcls export` writes it")
    archive.add_argument("--out", required=True, metavar="FILE", type=Path, help="the archive to write, NAME.mar")


def _archive(options: argparse.Namespace) -> None:
    from d2lcls.deploy.archive import write_archive

    if options.out.suffix != ".mar":
        options.wrong(f"--out must be a file whose name ends in .mar, not {options.out}")
    path = write_archive(options.model, options.out)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"Start it with: multi-model-server --start --model-store {path.parent} --models {path.stem}={path.name}")
    print(
        "That server checks no token, and anyone who can reach its management port can make it run code: do not let "
        "clients reach it directly."
    )
