"""A page of tables as HTML: a fragment for other pages, or a page of its own that needs no network."""

from importlib.resources import files
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qtuning.tables.page import Column, Page, Table

ENVIRONMENT = Environment(
    loader=PackageLoader("qtuning", "assets/tables"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def css() -> str:
    """The style sheet that `fragment` expects; its rules apply inside elements of class `qt`."""
    return (files("qtuning") / "assets/tables/tables.css").read_text(encoding="utf-8")


def fragment(page: Page) -> str:
    """A `<section>` to be put into an element of class `qt` of a page that has the rules of `css()`."""
    return ENVIRONMENT.get_template("fragment.html").render(page=page)


def render_html(page: Page) -> str:
    """A complete page: no network, no script, light or dark as the reader's system is."""
    # the fragment is escaped already, and the style sheet is ours
    template = ENVIRONMENT.get_template("page.html")
    return template.render(page=page, css=Markup(css()), fragment=Markup(fragment(page)))


def _groups(table: Table) -> list[tuple[str, list[Column]]]:
    return [(title, list(columns)) for title, columns in groupby(table.columns, lambda column: column.group)]


ENVIRONMENT.filters["groups"] = _groups
