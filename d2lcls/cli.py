"""The command `d2lcls`. Exit codes: 0 done, 1 it failed, 2 wrong arguments, 130 stopped with Ctrl-C or
SIGTERM."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys

import d2lcls
from d2lcls.commands import (
    archive,
    data,
    doctor,
    evaluate,
    explain,
    export,
    lr_find,
    predict,
    report,
    rescue,
    serve,
    train,
    tune,
    weights,
)
from d2lcls.commands import compile as compile_
from d2lcls.commands.parsers import Parser, commands_of
from d2lcls.machine.full_disk import NUMBERS, DiskFull
from d2lcls.machine.interrupts import termination_as_interrupt


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: list of texts; None takes them from the command line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name can be any bytes, which are printed unchanged
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(unknown, options, parser)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        with termination_as_interrupt():
            code = options.run(options) or 0
        if sys.stdout:  # None if the shell has closed it
            sys.stdout.flush()  # here, where a closed pipe or a full disk can be caught
        return code
    except KeyboardInterrupt as stop:
        print(f"\nd2lcls: {_one_line(stop) if stop.args else 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `d2lcls ... | head` closed its end
        _drop_output()
        return 1
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError, MemoryError) as error:
        print(f"d2lcls: {_one_line(error)}", file=sys.stderr)
        _drop_output()
        return 1


def _drop_output() -> None:
    """Drop what was printed and cannot be written, or Python would complain again at exit, with code 120."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="d2lcls",
        description="Train and use image classifiers in Apache MXNet/Gluon.",
        epilog="Start with: d2lcls doctor",
    )
    parser.add_argument("--version", action="version", version=f"d2lcls {d2lcls.__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print the shell's completion script",
    )
    command = commands_of(parser, required=False)
    for module in (
        doctor,
        data,
        weights,
        train,
        lr_find,
        tune,
        evaluate,
        predict,
        explain,
        report,
        export,
        compile_,
        serve,
        archive,
        rescue,
    ):
        module.add(command)
    return parser


def _refuse(unknown: list[str], options: argparse.Namespace, parser: Parser) -> None:
    """Exit with 2, naming the arguments that are not known and the option that the first of them resembles."""
    command: Parser = getattr(options, "parser", parser)
    nearest = difflib.get_close_matches(unknown[0].partition("=")[0], command.option_strings(), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    command.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


class _PrintCompletion(argparse.Action):
    """Print a completion script, which shtab derives from the parser, and exit."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, shell: object, option: object = None
    ) -> None:
        import shtab

        print(shtab.complete(parser, str(shell)))
        parser.exit()


def _one_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {text}"
    elif isinstance(error, OSError) and error.errno in NUMBERS and not isinstance(error, DiskFull):
        text = f"the output or a file of a library cannot be written ({text}). Free some space"
    text = text.replace("resume=True", "--resume")  # the argument of `fit` is an option here
    return " ".join(text.split()) or type(error).__name__
