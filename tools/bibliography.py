"""Sphinx extension for the bibliography: last names first, as in the citations, and a list that is read out as one."""

from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from sphinx.application import Sphinx


class LastFirst(Style):
    """Pybtex's plain style with last names first."""

    default_name_style = "lastfirst"


def items_of_a_list(app: Sphinx, page: str, template: str, context: dict[str, Any], document: object) -> None:
    """Give the entries the role that the children of a list need; docutils gives them one that ARIA 1.2 took back."""
    if "citation-list" in context.get("body", ""):
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the style under the name `last_first`, and the roles of the entries."""
    register_plugin("pybtex.style.formatting", "last_first", LastFirst)
    app.connect("html-page-context", items_of_a_list)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
