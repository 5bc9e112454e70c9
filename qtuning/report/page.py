"""Sections of experiments -> the HTML of the page, which needs no other file and no network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from qtuning.embed import json_block, render
from qtuning.report.verdict import Verdict
from qtuning.report.views import Tips, View, is_average, views_of
from qtuning.tables.page import Page

LIBRARIES = ("echarts/echarts.common.min.js", "sortable/sortable.min.js")
SCRIPTS = tuple(f"report/{name}.js" for name in ("tables", "charts", "main"))
TITLE = "Data pruning in supervised fine-tuning: report"


@dataclass(frozen=True)
class Fold:
    """Tables that are folded up under a title. download: name and data URI of a file with all of it, or None."""

    title: str
    lead: Sequence[str]
    views: Sequence[View]
    download: tuple[str, str] | None = None


@dataclass(frozen=True)
class Figure:
    """A figure: what its caption says, and its chart, or else its picture and its data (data URIs)."""

    name: str
    text: str
    chart: dict[str, Any] | None
    image: str = ""
    data: str = ""


@dataclass
class Section:
    """An experiment on the page. provenance: how all of it was measured, said once."""

    name: str
    title: str
    lead: str
    warnings: Sequence[str] = ()
    verdict: Verdict | None = None
    scores: Sequence[View] = ()
    folds: list[Fold] = field(default_factory=list)
    figures: Sequence[Figure] = ()
    provenance: Sequence[str] = ()

    @property
    def primary(self) -> list[View]:
        """The table of primary comparisons; none where there are none."""
        if self.verdict is None:
            return []
        views = views_of(Page(self.name, "", (), (self.verdict.table,)))
        return [view for view in views if view.rows]


def render_report(sections: Sequence[Section], tips: Tips, claims: Page | None) -> str:
    """The page. claims: the audit of the paper, where it is the subject."""
    charts = {f"{s.name}-{figure.name}": figure.chart for s in sections for figure in s.figures if figure.chart}
    return render(
        "report/report.html",
        ["tables/tables.css", "report/report.css"],
        LIBRARIES,
        SCRIPTS,
        title=sections[0].title if len(sections) == 1 else TITLE,
        sections=sections,
        claims=[] if claims is None else views_of(claims, details=True),
        audit=claims,
        groups=lambda view: [(title, len(list(c))) for title, c in groupby(view.columns, lambda column: column.group)],
        is_average=is_average,
        data=json_block({"charts": charts, "scores": tips.scores, "lines": tips.lines}),
    )
