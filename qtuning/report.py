"""One self-contained page of experiments and, beside it, each of its tables, figures and comparisons as files.

Everything is drawn from the score store and from nothing else, so the same store gives the same bytes.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import polars as pl

from qtuning.data.contamination import notes_from_store
from qtuning.errors import UserError
from qtuning.experiment.yaml_files import nearest
from qtuning.figures.write import Written, write_figures
from qtuning.files import atomic_path, write_text
from qtuning.paper.beside import compare_with_paper, paper_page
from qtuning.paper.claims import check_claims, claims_page
from qtuning.paper.published import read_published, table_number
from qtuning.paper.recompute import read_ours
from qtuning.paper.signs import compare_signs
from qtuning.statistics.compare import compare
from qtuning.store.store import Store
from qtuning.tables import html, markdown
from qtuning.tables.bycost import cost_page
from qtuning.tables.page import Page
from qtuning.tables.planted_errors import localisation_page, write_localisation
from qtuning.tables.summary import summarise
from qtuning.tables.write import score_page, write_tables

ASSETS = files("qtuning") / "assets" / "report"
MEDIA = {".svg": "image/svg+xml", ".csv": "text/csv", ".png": "image/png"}


@dataclass(frozen=True)
class Figure:
    """A figure on the page. image, data: as data URIs, so that the page needs no other file."""

    name: str
    caption: str
    image: str
    data: str


@dataclass(frozen=True)
class Section:
    """An experiment on the page.

    tables: (what it is folded under, HTML fragment). comparisons: CSV as a data URI, or None.
    """

    name: str
    title: str
    tables: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]
    comparisons: str | None


def write_report(experiments: Sequence[str], store: Path, out: Path) -> Path:
    """Write `out`/report.html and, below `out`, tables/, figures/, statistics/ and audit.md; returns the page's path.

    store: folder of the score store, with contamination/ where overlaps were counted. Raises UserError for an
    experiment that the store does not have.
    """
    known = Store(store).cells["experiment"].unique(maintain_order=True).to_list()
    for name in experiments:
        if name not in known:
            raise UserError(f"{store}: experiment = {name!r}: not collected{nearest(name, known)}")
    sections = [_section(name, store, out) for name in experiments]
    published = read_published()
    claims = claims_page(check_claims(published, read_ours(Store(store), published)), published)
    write_text(out / "audit.md", markdown.render(claims))
    page = out / "report.html"
    write_text(page, _render(sections, claims))
    return page


def _section(name: str, store: Path, out: Path) -> Section:
    read = Store(store)
    cells = read.cells_of(name)
    scores = read.scores.filter(pl.col("experiment") == name)
    pages: list[Page] = []
    compared = None
    if len(scores):
        frame = compare(read, name)
        notes = notes_from_store(store, scores)
        write_tables(name, store, out / "tables", frame, notes)
        compared = out / "statistics" / f"{name}.csv"
        with atomic_path(compared) as temporary:
            frame.with_columns(pl.selectors.float().round(6)).write_csv(temporary)
        pages = [*_pages(name, scores, frame, notes)]
    if write_localisation(name, read, out / "tables") and (found := localisation_page(read.localisation, cells)):
        pages.append(found)
    figures = write_figures(name, store, out / "figures")
    return Section(
        name,
        cells["title"][0],
        tuple((_summary(page, name), html.fragment(page)) for page in pages),
        tuple(map(_figure, figures)),
        None if compared is None else _uri(compared),
    )


def _pages(name: str, scores: pl.DataFrame, comparisons: pl.DataFrame, notes: Sequence[str]) -> Iterator[Page]:
    yield score_page(scores, comparisons, notes)
    yield cost_page(scores)
    number = table_number(name)
    if number is not None:
        published, summary = read_published(), summarise(scores)
        numbers = compare_with_paper(scores, summary, published, number)
        yield paper_page(scores, summary, numbers, compare_signs(summary, published, number))


def _summary(page: Page, name: str) -> str:
    """What a page but the first is folded under."""
    known = {"-cost": "By cost", "-paper": "Beside the paper", "-localisation": "Planted errors"}
    return known.get(page.name.removeprefix(name), page.title)


def _figure(written: Written) -> Figure:
    by_kind = {path.suffix: path for path in written.paths}
    return Figure(written.name, written.caption, _uri(by_kind[".svg"]), _uri(by_kind[".csv"]))


def _uri(path: Path) -> str:
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _render(sections: Sequence[Section], claims: Page) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((ASSETS / "report.html").read_text(encoding="utf-8"))
    styles = html.css() + (ASSETS / "report.css").read_text(encoding="utf-8")
    # fragments are escaped already, and the style sheets are ours
    parts = [(section, [(summary, Markup(fragment)) for summary, fragment in section.tables]) for section in sections]
    return template.render(parts=parts, css=Markup(styles), claims=Markup(html.fragment(claims))) + "\n"
