"""The command `d2lcls`. Exit codes: 0 done, 1 it failed, 2 wrong arguments, 130 stopped with Ctrl-C."""

import argparse
import os
import sys

from d2lcls.commands import archive, data, doctor, evaluate, export, predict, rescue, serve, train, tune, weights
from d2lcls.commands import compile as compile_
from d2lcls.commands.parsers import commands_of


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
    except (ValueError, OSError, RuntimeError, ArithmeticError, ImportError, MemoryError) as error:
        print(f"d2lcls: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(
        prog="d2lcls",
        description="Train and use image classifiers in Apache MXNet/Gluon.",
        epilog="Begin with: d2lcls doctor",
    )
    command = commands_of(parser)
    for module in (doctor, data, weights, train, tune, evaluate, predict, export, compile_, serve, archive, rescue):
        module.add(command)
    return parser


def _one_line(error):
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {text}"
    text = text.replace("resume=True", "--resume")  # what a caller of `fit` passes is an option here
    return " ".join(text.split()) or type(error).__name__
