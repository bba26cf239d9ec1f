"""Sphinx extension: the bibliography's style, which begins each entry with the last name, as the citations do."""

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from sphinx.application import Sphinx


class LastFirst(Style):
    """Pybtex's plain style with last names first."""

    default_name_style = "lastfirst"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the style under the name `last_first`."""
    register_plugin("pybtex.style.formatting", "last_first", LastFirst)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
