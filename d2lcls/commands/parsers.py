"""What the parsers of all commands share: their layout, the kinds of numbers they take, and the options of a recipe."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from d2lcls.training.recipe import Recipe

Command = Callable[..., argparse.ArgumentParser]


class Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest command or name for one that is unknown."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            nearest = difflib.get_close_matches(str(value), map(str, action.choices or ()), n=1)
            raise argparse.ArgumentError(
                action, error.message + (f"; did you mean {nearest[0]!r}?" if nearest else "")
            ) from None

    def option_strings(self) -> list[str]:
        """Return the names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}\nTry: {self.prog} --help\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def commands_of(parser: argparse.ArgumentParser, required: bool = True) -> Command:
    """Give a parser subcommands.

    Returns:
        function of (name, run, summary, example) that adds one and returns its parser. `run` takes the options and
        returns the exit code, None for 0; it is None for a command that only has subcommands.
    """
    commands = parser.add_subparsers(
        title="commands", required=required, metavar="COMMAND", dest="command", parser_class=Parser
    )

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None] | None, summary: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=summary, description=summary, epilog=f"Example: {example}", formatter_class=_HelpFormatter
        )
        # `wrong` prints the message and exits with 2, for what argparse cannot tell: options that exclude each other.
        added.set_defaults(run=run, wrong=added.error, parser=added)
        return added

    return command


def add_recipe_options(
    parser: argparse.ArgumentParser, base: Recipe | None = None, without: Iterable[str] = ()
) -> None:
    """Add an option for each field of `Recipe`; options that are not given leave no trace.

    Args:
        parser: the command's parser.
        base: the recipe whose values are shown as defaults; None is the default recipe.
        without: fields that get no option.
    """
    from d2lcls.training.fields import option_name
    from d2lcls.training.recipe import Recipe, options

    groups: dict[str, Any] = {"most used": parser}
    for field in options():
        if field.name not in without:
            group = field.metadata["group"]
            if group not in groups:
                groups[group] = parser.add_argument_group(group)
            default = getattr(base or Recipe(), field.name)
            _add_field(groups[group], field, option_name(field), default)


def _add_field(parser: Any, field: dataclasses.Field[Any], option: str, default: Any) -> None:
    text = field.metadata["text"]
    arguments: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
    if default is False:
        parser.add_argument(option, action="store_true", help=text, **arguments)
        return
    if default is not None:
        shown = " ".join(default) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    if field.name == "augment":
        arguments["nargs"] = "+"
    if field.metadata["choices"]:
        arguments["choices"] = field.metadata["choices"]
    elif field.metadata["metavar"]:
        arguments["metavar"] = field.metadata["metavar"]
    parser.add_argument(option, type=_reader(field), help=text, **arguments)


def _reader(field: dataclasses.Field[Any]) -> Callable[[str], Any]:
    """Return the function that reads and checks the text of an option."""
    from d2lcls.training.fields import read_value

    def read(text: str) -> Any:
        try:
            return read_value(field, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{field.name} ").rstrip(".")) from None

    # Names from a list are checked by argparse, and those of transforms come one by one.
    return str if field.metadata["choices"] or field.name == "augment" else read


def _recipe_class() -> type[Recipe]:
    from d2lcls.training.recipe import Recipe

    return Recipe


def recipe_of(options: argparse.Namespace, base: Recipe, scale: bool = False) -> Recipe:
    """Return a recipe with the fields that were given as options.

    Args:
        options: of a parser with `add_recipe_options`.
        base: the recipe to start from.
        scale: whether its warm-up and small windows keep their shares of another number of epochs.
    """
    from d2lcls.training.losses import takes

    given = {name: value for name, value in vars(options).items() if name in _recipe_class().__dataclass_fields__}
    if "validation_folder" in given:
        given.setdefault("validation", None)  # which a named recipe may set
    if "augment" in given:
        given["augment"] = tuple(name for name in given["augment"] if name != "none")
    # What belongs to the base's optimizer or loss does not belong to another one.
    if given.get("optimizer", "sgd") not in ("sgd", "nag"):
        given.setdefault("momentum", None)
    if "loss" in given and not takes(given["loss"], "label_smoothing"):
        given.setdefault("label_smoothing", 0.0)
    if scale and "num_epochs" in given:
        base = base.scaled(given["num_epochs"])
    try:
        return dataclasses.replace(base, **given)
    except ValueError as error:
        options.wrong(_with_dashes(str(error)))
        raise AssertionError from error


def _with_dashes(message: str) -> str:
    """Write the names of fields at the beginning of a message as options."""
    from d2lcls.training.fields import option_name
    from d2lcls.training.recipe import options

    name, _, rest = message.partition(" ")
    names = {field.name: option_name(field) for field in options()}
    return f"{names.get(name, name)} {rest}".rstrip(".")


def whole(text: str) -> int:
    """Read a whole number of 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, not {text}")
    return int(text)


def positive(kind: type[int] | type[float]) -> Callable[[str], Any]:
    """Make a reader of numbers above 0, whole (int) or not (float)."""

    def convert(text: str) -> int | float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def share(text: str) -> float:
    """Read a share: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, not {text}")
    return value
