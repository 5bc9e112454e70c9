"""One self-contained page of experiments and, beside it, each of its tables, figures and comparisons as files.

Everything is drawn from the score store and from nothing else, so the same store gives the same bytes.
"""

import base64
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from qtuning.data.contamination import notes_from_store
from qtuning.experiment.metrics import EDITIONS, METRICS
from qtuning.figures.captions import cells_caption
from qtuning.figures.marks import assign_looks
from qtuning.figures.points import points
from qtuning.figures.write import Written, write_figures
from qtuning.files import atomic_path, write_text
from qtuning.hub.notes import notes_of_revisions
from qtuning.paper.audit import audit_page
from qtuning.paper.beside import paper_files
from qtuning.paper.claims import check_claims
from qtuning.paper.efficiency import efficiency_files
from qtuning.paper.published import read_published, table_number
from qtuning.paper.recompute import read_ours
from qtuning.paper.token_kinds import token_kind_files
from qtuning.report.charts import Looks, chart_of
from qtuning.report.page import Figure, Fold, Section, render_report
from qtuning.report.verdict import verdict_of
from qtuning.report.views import Tips, score_views, views_of
from qtuning.statistics.compare import compare
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.comparable import training_warnings
from qtuning.store.store import Store
from qtuning.tables.by_cost import cost_files
from qtuning.tables.comparisons import comparison_page
from qtuning.tables.labels import subjects
from qtuning.tables.markdown import render_markdown
from qtuning.tables.page import Page
from qtuning.tables.planted_errors import planted_errors_files
from qtuning.tables.planted_kinds import planted_kinds_files
from qtuning.tables.scores import score_files
from qtuning.tables.write import PageFiles, write_page, write_tables

MEDIA = {".svg": "image/svg+xml", ".csv": "text/csv"}
FOLDS = {"-cost": "By cost", "-paper": "Beside the paper", "-localisation": "Planted errors"}
FOLDS |= {"-kinds": "Planted kinds of samples", "-tokens": "Kinds of tokens", "-efficiency": "Time and memory"}
"""What a page is folded under, by what follows the name of the experiment."""


def write_report(experiments: Sequence[str], store: Path, out: Path) -> Path:
    """Write `out`/report.html and, below `out`, tables/, figures/, statistics/ and audit.md; returns the page's path.

    The page has the audit only where one of the experiments is an edition of a table of the paper. store: folder of the
    score store, with contamination/ where overlaps were counted. Raises UserError for an experiment that the store does
    not have.
    """
    read, tips = Store(store), Tips()
    read.require(experiments)
    sections = [_section(name, read, out, tips) for name in experiments]
    published = read_published()
    claims = audit_page(check_claims(published, read_ours(read, published)), published)
    write_text(out / "audit.md", render_markdown(claims))
    page = out / "report.html"
    of_paper = any(table_number(name) is not None for name in experiments)
    write_text(page, render_report(sections, tips, claims if of_paper else None))
    return page


def _section(name: str, store: Store, out: Path, tips: Tips) -> Section:
    cells = store.cells_of(name)
    scores = store.scores.filter(pl.col("experiment") == name)
    summary = summarise(scores) if len(scores) else None  # an experiment without benchmarks has no scores
    section = Section(name, cells["title"][0], f"Experiment {name}. {subjects(cells)}")
    if summary is None:
        section.lead += " No benchmarks: its results are figures."
        section.provenance = (cells_caption("", cells).strip(),)
    else:
        _add_scores(section, summary, store, out, tips)
    observed = (
        planted_errors_files(store.localisation, cells),
        planted_kinds_files(store.quadrant_kinds, store.found_kinds, cells),
        token_kind_files(store.token_kinds, cells),
        efficiency_files(store.measured, cells),
    )
    for edition in filter(None, observed):
        write_page(edition, out / "tables", name)
        section.folds.append(_fold(edition.page, name))
    # looks of all methods, so that a method looks alike in all its charts
    looks = {} if summary is None else assign_looks(points(summary))
    section.figures = [_figure(drawn, looks) for drawn in write_figures(name, store, out / "figures", summary)]
    return section


def _add_scores(section: Section, summary: Summary, store: Store, out: Path, tips: Tips) -> None:
    """Verdict, tables of scores and comparisons, and their files."""
    frame = compare(summary, store.answers)
    notes = [*notes_from_store(store.folder, summary.scores), *notes_of_revisions(store.folder / "hub")]
    whole = score_files(summary, frame, notes)
    editions: list[PageFiles] = [whole, cost_files(summary), *paper_files(summary)]
    section.warnings = tuple(training_warnings(summary.scores))
    section.verdict = verdict_of(summary, frame, store.answers)
    section.scores = score_views(summary, whole.page, frame, store.answers, tips)
    section.folds += [Fold(view.title, (), [view]) for view in views_of(whole.page)[1:]]
    section.provenance = whole.page.tables[0].details
    section.folds += [_fold(edition.page, summary.experiment) for edition in editions[1:]]
    for metric in (name for name in EDITIONS if (summary.scores["metric"] == name).any()):
        other = summarise(summary.scores, metric)
        compared = compare(other, store.answers)
        edition = score_files(other, compared, notes, whole=False)
        views = score_views(other, edition.page, compared, store.answers, tips)
        section.folds.append(Fold(f"By {METRICS[metric].label}", tuple(filter(None, [edition.page.verdict])), views))
        editions.append(edition)
    overall = comparison_page(frame.filter(pl.col("benchmark") == summary.overall), summary)
    path = out / "statistics" / f"{summary.experiment}.csv"
    with atomic_path(path) as temporary:
        frame.with_columns(pl.selectors.float().round(6)).write_csv(temporary)
    download = (path.name, _uri(path))
    section.folds.append(Fold("All comparisons of the average", (), views_of(overall), download))
    write_tables(summary, editions, out / "tables")


def _fold(page: Page, name: str) -> Fold:
    """A page but the first."""
    ending = page.name.removeprefix(name)
    return Fold(FOLDS.get(ending, page.title), () if ending == "-cost" else page.lead, views_of(page))


def _figure(drawn: Written, looks: Looks) -> Figure:
    if (found := chart_of(drawn, looks)) is not None:
        chart, text = found
        return Figure(drawn.name, text, chart)
    uris = {path.suffix: _uri(path) for path in drawn.paths if path.suffix in MEDIA}
    return Figure(drawn.name, drawn.text, None, uris[".svg"], uris[".csv"])


def _uri(path: Path) -> str:
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
