"""What the parsers of all commands share: their look, and the kinds of numbers they take."""

import argparse


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show a default only where there is one to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def commands_of(parser):
    """Give a parser commands of its own.

    Returns:
        function of (name, run, summary, example) that adds one and returns its parser. `run` takes the options and
        returns the exit code, None for 0; it is None for a command that only holds others.
    """
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, run, summary, example):
        made = commands.add_parser(
            name, help=summary, description=summary, epilog=f"Example: {example}", formatter_class=_HelpFormatter
        )
        # `wrong` prints the usage and exits with 2, for what argparse cannot tell: options that exclude each other.
        made.set_defaults(run=run, wrong=made.error)
        return made

    return command


def whole(text):
    """Read a whole number of 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, not {text}")
    return int(text)


def positive(kind):
    """Make a reader of numbers above 0, whole (int) or not (float)."""

    def convert(text):
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def share(text):
    """Read a share: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, not {text}")
    return value
