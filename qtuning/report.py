"""One self-contained page of experiments and, beside it, each of its tables, figures and comparisons as files.

Everything is drawn from the score store and from nothing else, so the same store gives the same bytes.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from qtuning.data.contamination import notes_from_store
from qtuning.experiment.metrics import EDITIONS, METRICS
from qtuning.figures.write import write_figures
from qtuning.files import atomic_path, write_text
from qtuning.hub.notes import notes_of_revisions
from qtuning.paper.audit import audit_page
from qtuning.paper.beside import paper_files
from qtuning.paper.claims import check_claims
from qtuning.paper.efficiency import efficiency_files
from qtuning.paper.published import read_published
from qtuning.paper.recompute import read_ours
from qtuning.paper.token_kinds import token_kind_files
from qtuning.statistics.compare import compare
from qtuning.statistics.summary import summarise
from qtuning.store.store import Store
from qtuning.tables import html
from qtuning.tables.by_cost import cost_files
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Page
from qtuning.tables.planted_errors import planted_errors_files
from qtuning.tables.planted_kinds import planted_kinds_files
from qtuning.tables.scores import score_files
from qtuning.tables.write import PageFiles, write_page, write_tables

ASSETS = files("qtuning") / "assets" / "report"
MEDIA = {".svg": "image/svg+xml", ".csv": "text/csv"}


@dataclass(frozen=True)
class Section:
    """An experiment on the page.

    tables: (what it is folded under, HTML fragment). figures: name, caption, image and data of each. Images, data and
    comparisons (or None) are data URIs, so that the page needs no other file.
    """

    name: str
    title: str
    tables: tuple[tuple[str, Markup], ...]
    figures: tuple[dict[str, str], ...]
    comparisons: str | None


def write_report(experiments: Sequence[str], store: Path, out: Path) -> Path:
    """Write `out`/report.html and, below `out`, tables/, figures/, statistics/ and audit.md; returns the page's path.

    store: folder of the score store, with contamination/ where overlaps were counted. Raises UserError for an
    experiment that the store does not have.
    """
    read = Store(store)
    read.require(experiments)
    sections = [_section(name, read, out) for name in experiments]
    published = read_published()
    claims = audit_page(check_claims(published, read_ours(read, published)), published)
    write_text(out / "audit.md", render_markdown(claims))
    page = out / "report.html"
    write_text(page, _render(sections, claims))
    return page


def _section(name: str, store: Store, out: Path) -> Section:
    cells = store.cells_of(name)
    scores = store.scores.filter(pl.col("experiment") == name)
    summary = summarise(scores) if len(scores) else None  # an experiment without benchmarks has no scores
    editions: list[PageFiles] = []
    compared = None
    if summary is not None:
        frame = compare(summary, store.items)
        notes = [*notes_from_store(store.folder, scores), *notes_of_revisions(store.folder / "hub")]
        editions = [score_files(summary, frame, notes), cost_files(summary), *paper_files(summary)]
        for metric in (name for name in EDITIONS if (scores["metric"] == name).any()):
            other = summarise(scores, metric)
            editions.append(score_files(other, compare(other, store.items), notes, whole=False))
        write_tables(summary, editions, out / "tables")
        compared = out / "statistics" / f"{name}.csv"
        with atomic_path(compared) as temporary:
            frame.with_columns(pl.selectors.float().round(6)).write_csv(temporary)
    observed = (
        planted_errors_files(store.localisation, cells),
        planted_kinds_files(store.quadrant_kinds, store.found_kinds, cells),
        token_kind_files(store.token_kinds, cells),
        efficiency_files(store.measured, cells),
    )
    for edition in filter(None, observed):
        write_page(edition, out / "tables", name)
        editions.append(edition)
    figures = []
    for figure in write_figures(name, store, out / "figures", summary):
        uris = {path.suffix: _uri(path) for path in figure.paths if path.suffix != ".png"}
        figures.append({"name": figure.name, "caption": figure.caption, "image": uris[".svg"], "data": uris[".csv"]})
    return Section(
        name,
        cells["title"][0],
        # fragments are escaped already
        tuple((_fold(edition.page, name), Markup(html.fragment(edition.page))) for edition in editions),
        tuple(figures),
        None if compared is None else _uri(compared),
    )


def _fold(page: Page, name: str) -> str:
    """What a page but the first is folded under."""
    known = {"-cost": "By cost", "-paper": "Beside the paper", "-localisation": "Planted errors"}
    known |= {"-kinds": "Planted kinds of samples"}
    known |= {f"-{metric}": f"By {METRICS[metric].label}" for metric in EDITIONS}
    known |= {"-tokens": "Kinds of tokens", "-efficiency": "Time and memory"}
    return known.get(page.name.removeprefix(name), page.title)


def _uri(path: Path) -> str:
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _render(sections: Sequence[Section], claims: Page) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((ASSETS / "report.html").read_text(encoding="utf-8"))
    styles = html.css() + (ASSETS / "report.css").read_text(encoding="utf-8")
    return template.render(sections=sections, css=Markup(styles), claims=Markup(html.fragment(claims))) + "\n"
