"""A workspace and a report on W&B for one experiment: which runs they show, and which panels of them.

Both are built from the grid alone, without network, so that what they ask for can be compared with the runs that are
written (tests/dashboard). wandb-workspaces is the extra `dashboard`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from qtuning.errors import UserError
from qtuning.experiment.benchmarks import label_of
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import evaluation_id
from qtuning.files import read_json, write_json
from qtuning.statistics.summary import AVERAGE
from qtuning.tracking.mirror import project
from qtuning.tracking.wandb_run import logged_in

if TYPE_CHECKING:
    from wandb_workspaces.reports import v2 as wr
    from wandb_workspaces.workspaces import Workspace

BY = ("method", "variant", "budget")
"""Keys that runs are grouped by: a point is a line of the table, its seeds averaged."""
COLOURS = ((0, "#440154"), (50, "#21918c"), (100, "#fde725"))  # viridis


def build_workspace(grid: Grid, entity: str, name: str) -> "Workspace":
    """The workspace of an experiment: all its runs, grouped by line."""
    from wandb_workspaces import workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=name,
        name=grid.experiment.name,
        sections=_sections(grid),
        runset_settings=ws.RunsetSettings(
            filters=ws.And(ws.Tags().isin([grid.experiment.name])),
            groupby=[ws.Config(key) for key in BY],
        ),
    )


def build_report(grid: Grid, entity: str, name: str) -> "wr.Report":
    """The report of an experiment: the same panels, and then a section for each model."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    experiment = grid.experiment
    tagged = ws.Tags().isin([experiment.name])
    blocks: list[Any] = [
        wr.P(
            f"Runs of {experiment.name}. Points are means over seeds; the table of comparisons says which differences "
            "are real. Scores are in per cent."
        ),
        wr.TableOfContents(),
    ]
    for section in _sections(grid):
        blocks += [wr.H1(section.name), _panel_grid([tagged], section.panels)]
    for model in dict.fromkeys(cell.model.name for cell in grid.cells):
        panels = [panel for part in _sections(grid) for panel in part.panels if part.name in _OF_A_MODEL]
        blocks += [wr.H1(f"Model {model}"), _panel_grid([tagged, ws.Config("model") == model], panels)]
    return wr.Report(
        project=name,
        entity=entity,
        title=f"{experiment.name}: {experiment.title}"[:128],
        description="Made by `qtuning dashboard`.",
        blocks=blocks,
        width="fluid",
    )


_OF_A_MODEL = ("Scores", "Score against cost")


def _panel_grid(filters: list[Any], panels: list[Any]) -> Any:
    from wandb_workspaces.expr import And
    from wandb_workspaces.reports import v2 as wr

    # without entity and project: those of the report. With them, building it would ask the server
    runset = wr.Runset(filters=And(*filters), groupby=[f"config.{key}" for key in BY])
    return wr.PanelGrid(runsets=[runset], panels=panels)


def _sections(grid: Grid) -> list[Any]:
    """The sections of the workspace, their panels new each time: a panel belongs to one place."""
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    def bars(title: str, *keys: str) -> Any:
        metrics = [wr.SummaryMetric(key) for key in keys]
        return wr.BarPlot(title=title, metrics=metrics, groupby=wr.Config("method"), groupby_rangefunc="stderr")

    found: dict[str, list[Any]] = {}
    if grid.evaluation is not None:
        prefix, names = evaluation_id(grid.evaluation), grid.evaluation.benchmarks
        overall = wr.SummaryMetric(f"{prefix}/{AVERAGE}")
        gradient = [wr.GradientPoint(color=colour, offset=offset) for offset, colour in COLOURS]
        columns = [
            wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(f"{prefix}/{name}"), display_name=label_of(name))
            for name in names
        ]
        found["Scores"] = [
            wr.ScatterPlot(title="Average against budget", x=wr.Config("budget_product"), y=overall),
            bars("Average by method", f"{prefix}/{AVERAGE}"),
            wr.ParallelCoordinatesPlot(title="Benchmarks", columns=columns),
            *(bars(label_of(name), f"{prefix}/{name}") for name in names),
        ]
        found["Score against cost"] = [
            wr.ScatterPlot(title=title, x=wr.SummaryMetric(f"cost/{key}"), y=overall, log_x=True)
            for key, title in (("flops_total", "Average against FLOPs"), ("seconds_total", "Average against seconds"))
        ]
        found["Heat map of budgets"] = [
            wr.ScatterPlot(
                title="Average by share of samples and of tokens",
                x=wr.Config("sample_ratio"),
                y=wr.Config("token_ratio"),
                z=overall,
                gradient=gradient,
            )
        ]
        found["Paired comparisons"] = [
            wr.WeavePanelSummaryTable(table_name=name) for name in ("comparisons", "intervals")
        ]
    quadrants = [f"q{number}_share" for number in (1, 2, 3, 4)]
    found["Quadrants over training"] = [
        wr.LinePlot(title=f"Share of {key[:2].upper()}", x="Step", y=[f"selection/{key}"]) for key in quadrants
    ]
    found["Quadrants over training"] += [
        bars("Mean shares of the quadrants", *(f"mean/{key}" for key in quadrants)),
        bars("Decisions whose search converged", "mean/converged"),
        bars("Samples from the supplement", "mean/supplemented"),
    ]
    found["What was spent"] = [
        bars("Samples kept over asked", "kept_over_asked/samples"),
        bars("Tokens kept over asked", "kept_over_asked/tokens"),
        wr.LinePlot(title="Loss", x="Step", y=["loss"]),
    ]
    found["Samples"] = [wr.WeavePanelSummaryTable(table_name=name) for name in ("plane", "scores")]
    return [ws.Section(name=name, panels=panels, is_open=True) for name, panels in found.items()]


def specification(grid: Grid, name: str) -> dict[str, Any]:
    """What W&B is sent to save both, as JSON values. Needs neither network nor login."""
    workspace = build_workspace(grid, "", name)._to_model().model_dump_json(by_alias=True)
    report = build_report(grid, "", name)._to_model().model_dump_json(by_alias=True)
    return {"workspace": json.loads(workspace), "report": json.loads(report)}


def save_dashboard(grid: Grid, results: Path, entity: str | None) -> list[str]:
    """Save workspace and report on W&B, or write their specification where nobody is logged in. Returns what to print.

    A second call changes those that the first one saved: results/wandb/dashboards has their URLs. UserError where
    wandb-workspaces is missing or W&B refuses.
    """
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        raise UserError("dashboard: needs wandb-workspaces: pip install 'qtuning[dashboard]'") from None
    folder, name = results / "wandb" / "dashboards", project()
    file, known = folder / f"{grid.experiment.name}.json", folder / f"{grid.experiment.name}.saved.json"
    write_json(file, specification(grid, name))
    if not logged_in():
        return [f"{file}: what would be saved; `wandb login`, send the runs (`qtuning replay`), and do this again"]
    import wandb

    try:
        owner = str(entity or wandb.Api(timeout=30).default_entity)
        urls = _save(grid, owner, name, read_json(known) if known.exists() else {})
    except Exception as error:  # whatever W&B or its client raises
        raise UserError(f"dashboard: W&B did not save it ({type(error).__name__}: {error})") from None
    write_json(known, urls)
    return [f"{kind}: {url}" for kind, url in urls.items()]


def _save(grid: Grid, entity: str, name: str, known: dict[str, str]) -> dict[str, str]:
    from wandb_workspaces import workspaces as ws
    from wandb_workspaces.reports import v2 as wr

    workspace, report = build_workspace(grid, entity, name), build_report(grid, entity, name)
    if _is_of(known.get("workspace", ""), entity, name):
        saved = ws.Workspace.from_url(known["workspace"])
        saved.sections, saved.runset_settings = workspace.sections, workspace.runset_settings
        workspace = saved
    if _is_of(known.get("report", ""), entity, name):
        old = wr.Report.from_url(known["report"])
        old.blocks, old.title = report.blocks, report.title
        report = old
    workspace.save()
    report.save()
    return {"workspace": workspace.url, "report": report.url}


def _is_of(url: str, entity: str, project: str) -> bool:
    """Whether a page of W&B belongs to this project: https://wandb.ai/ENTITY/PROJECT..."""
    return urlsplit(url).path.split("/")[1:3] == [entity, project]
