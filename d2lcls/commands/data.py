"""`d2lcls data`: get, check and list data sets."""

from __future__ import annotations

import argparse

from d2lcls.commands.parsers import Command, commands_of

SHOWN = 10  # problems of a data set, which can have thousands of files


def add(command: Command) -> None:
    """Add the command and those below it to the parser."""
    subcommand = commands_of(command("data", None, "Get, check and list data sets.", "d2lcls data list"))
    subcommand("list", _list, "List the known data sets and whether they are here.", "d2lcls data list")
    get = subcommand("get", _get, "Get a data set into the cache and print its folder.", "d2lcls data get cifar10")
    get.add_argument("name", metavar="NAME", help="a name that `d2lcls data list` shows")
    get.add_argument("--from", dest="origin", metavar="FOLDER", help="copy the files from a folder that holds them")
    get.add_argument("--force", action="store_true", help="get it again even if it is here")
    check = subcommand("check", _check, "Compare cached files with their checksums.", "d2lcls data check cifar10")
    check.add_argument("name", metavar="NAME", nargs="?", help="one data set; all if not given")


def _list(options: argparse.Namespace) -> None:
    from d2lcls.data import DATASETS, verify
    from d2lcls.machine.files import cache_folder

    for dataset in DATASETS.values():
        counts = ", ".join(f"{number:,} {split}" for split, number in dataset.splits.items())
        state = "in the cache" if not verify(dataset.name) else "not in the cache"
        print(
            f"{dataset.name:<15} {dataset.title}: {counts}; {len(dataset.classes)} classes; "
            f"{' x '.join(map(str, dataset.image_shape))}; {dataset.licence}; {state}"
        )
    print(f"cache: {cache_folder()}")


def _get(options: argparse.Namespace) -> None:
    from d2lcls.data import fetch

    print(fetch(options.name, force=options.force, origin=options.origin))


def _check(options: argparse.Namespace) -> int:
    from d2lcls.data import DATASETS, verify

    damaged = False
    for name in [options.name] if options.name else DATASETS:
        problems = verify(name)
        print("\n".join(f"{name}: {problem}" for problem in problems[:SHOWN]) or f"{name}: whole")
        if len(problems) > SHOWN:
            print(f"{name}: {len(problems) - SHOWN:,} more files are missing or wrong")
        damaged |= bool(problems)
    return 1 if damaged else 0
