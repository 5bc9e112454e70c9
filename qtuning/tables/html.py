"""A page of tables as HTML: a fragment for other pages, or a page of its own that needs no network."""

from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING

from qtuning.tables.page import Column, Page, Table

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = files("qtuning") / "assets" / "tables"


def css() -> str:
    """The style sheet that `fragment` expects; its rules apply inside elements of class `qt`."""
    return (ASSETS / "tables.css").read_text(encoding="utf-8")


def fragment(page: Page) -> str:
    """A `<section>` to be put into an element of class `qt` of a page that has the rules of `css()`."""
    return _environment().get_template("fragment.html").render(page=page)


def render_html(page: Page) -> str:
    """A complete page: no network, no script, light or dark as the reader's system is."""
    from markupsafe import Markup

    # the fragment is escaped already, and the style sheet is ours
    template = _environment().get_template("page.html")
    return template.render(page=page, css=Markup(css()), fragment=Markup(fragment(page)))


def _groups(table: Table) -> list[tuple[str, list[Column]]]:
    """Neighbouring columns with the same heading."""
    return [(title, list(columns)) for title, columns in groupby(table.columns, lambda column: column.group)]


@cache
def _environment() -> "Environment":
    from jinja2 import DictLoader, Environment, StrictUndefined

    templates = {name: (ASSETS / name).read_text(encoding="utf-8") for name in ("fragment.html", "page.html")}
    environment = Environment(
        loader=DictLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["groups"] = _groups
    return environment
