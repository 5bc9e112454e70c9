"""Commands that draw what the score store holds: tables, figures, reports, and the audit of the paper's claims."""

import json
from pathlib import Path
from typing import Annotated

import typer

from qtuning.cli.options import (
    CONFIGS,
    RESULTS,
    Configs,
    DataDir,
    Experiments,
    MetricOption,
    Results,
    StoredExperiments,
    TrackingOption,
    check_tracking,
    metric_named,
)
from qtuning.errors import UserError


def tables(
    experiments: Experiments,
    metric: MetricOption = "headline",
    configs: Configs = CONFIGS,
    results: Results = RESULTS,
    data_dir: DataDir = None,
    tracking: TrackingOption = "disabled",
) -> None:
    """Collect scores and write the tables of experiments; cells that are missing are visible holes with a reason.

    An experiment of which nothing was ever run has no table, and exit status 2.

    With `--metric` only the table of scores by that metric, EXPERIMENT.METRIC.md: `qtuning tables mini --metric p_gold`
    """
    chosen = metric_named(metric)
    check_tracking(tracking)
    from qtuning.data.contamination import checks_of, notes_of_checks
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.ids import ResultPaths
    from qtuning.hub.notes import notes_of_revisions
    from qtuning.hub.repositories import repositories_of
    from qtuning.paper.beside import paper_files
    from qtuning.paper.efficiency import efficiency_files
    from qtuning.paper.token_kinds import token_kind_files
    from qtuning.plan.efficiency import plan_of_the_paper
    from qtuning.statistics.compare import compare
    from qtuning.statistics.summary import summarise
    from qtuning.store.store import Store, write_store
    from qtuning.tables.by_cost import cost_files
    from qtuning.tables.planted_errors import planted_errors_files
    from qtuning.tables.planted_kinds import planted_kinds_files
    from qtuning.tables.scores import score_files
    from qtuning.tables.terminal import print_page
    from qtuning.tables.write import write_page, write_tables

    grids = ConfigFolder(configs, data_dir).expand(experiments)
    paths = ResultPaths(results)
    for grid in grids:
        if not any(paths.cell(cell).exists() for cell in grid.cells):
            elsewhere = "" if results == RESULTS else f" --config results={results}"
            raise UserError(
                f"{grid.experiment.name}: none of its {len(grid.cells)} cells was ever run in {results}; run it first "
                f"(`snakemake --cores all {grid.experiment.name}{elsewhere}`), or name its folder (--results)"
            )
    write_store(grids, results)
    store, folder = Store(results), results / "tables"
    written: list[Path] = []
    for grid in grids:
        name = grid.experiment.name
        rows = store.cells_of(name)
        pages = [planted_errors_files(store.localisation, rows), token_kind_files(store.token_kinds, rows)]
        pages.append(planted_kinds_files(store.quadrant_kinds, store.found_kinds, rows))
        planned = plan_of_the_paper(configs) if grid.experiment.measure else None
        pages.append(efficiency_files(store.measured, rows, planned))
        for path in (
            path for page in pages if page and chosen == "headline" for path in write_page(page, folder, name)
        ):
            print(path)
        if grid.evaluation is None:
            print(f"{name}: no benchmarks, so no table of scores; its figures: qtuning figures {name}")
            continue
        summary = summarise(store.experiment(name), chosen)
        notes = notes_of_checks(results, checks_of([grid]).values())
        notes += notes_of_revisions(paths.hub, repositories_of([grid]))
        compared = compare(summary, store.answers)
        scores = score_files(summary, compared, notes)
        others = [cost_files(summary), *paper_files(summary)] if chosen == "headline" else []
        written += write_tables(summary, [scores, *others], folder)
        print_page(scores.page)
        if tracking != "disabled" and chosen == "headline":
            from qtuning.dashboard.experiments import mirror_experiment

            mirror_experiment(grid, results, tracking, compared)
    for path in written:
        if path.suffix == ".md":  # the other formats have the same name
            print(path)


def compare(
    experiment: Annotated[str, typer.Argument(help="experiment that is in the store")],
    line: Annotated[str | None, typer.Argument(help="METHOD, METHOD@25x50 or METHOD[VARIANT]@25x50")] = None,
    rival: Annotated[str | None, typer.Argument(help="what it is compared with, written in the same way")] = None,
    metric: MetricOption = "headline",
    benchmark: Annotated[
        list[str] | None, typer.Option(help="benchmark, or avg; repeatable. Default: the average alone")
    ] = None,
    store: Annotated[Path, typer.Option(help="folder of the score store (`qtuning tables` fills it)")] = RESULTS,
) -> None:
    """Print which differences are real: each with its interval over seeds and test items, primary comparisons first.

    `qtuning compare mini-replay` has the comparisons that the experiment is made for, and those of every line with
    random pruning, the full data and no training.

    `qtuning compare mini-replay q-tuning random+random --benchmark gsm8k` compares two lines at each budget;
    `q-tuning@25x50 random+random@50x70` at two budgets; `"random+random[updates=matched-updates]"` has an option.
    """
    chosen = metric_named(metric)
    from qtuning.statistics.compare import compare as compare_all
    from qtuning.statistics.pairs import compare_pairs
    from qtuning.statistics.summary import summarise
    from qtuning.store.store import Store
    from qtuning.tables.comparisons import comparison_page
    from qtuning.tables.terminal import print_page

    if line is not None and rival is None:
        raise UserError(f"compare {experiment} {line!r}: with what? Name a second line, or none")
    read = Store(store)
    summary = summarise(read.experiment(experiment), chosen)
    wanted = benchmark or [summary.overall]
    if unknown := [name for name in wanted if name not in summary.benchmarks]:
        raise UserError(f"--benchmark = {unknown[0]!r}: {experiment} has {', '.join(summary.benchmarks)}")
    if line is None or rival is None:
        frame = compare_all(summary, read.answers)
        frame = frame.filter(frame["family"].is_not_null())
    else:
        frame = compare_pairs(summary, read.answers, line, rival)
    print_page(comparison_page(frame.filter(frame["benchmark"].is_in(wanted)), summary))


def instrument(
    experiments: StoredExperiments,
    store: Annotated[Path, typer.Option(help="folder of the score store (`qtuning tables` fills it)")] = RESULTS,
    out: Annotated[
        Path | None, typer.Option(help="also write EXPERIMENT.instrument.md and .csv to this folder")
    ] = None,
) -> None:
    """Say how well experiments can tell methods apart: signal, noise, and the smallest difference they can find.

    The first line is the verdict. Below it, for each metric, a row per benchmark, read from left to right:

    Spread: how far methods at one budget lie apart, how far a seed moves one of them, and how much of that comes from
    asking so few items. Signal to noise is the first over the second. If it is not above what noise alone reaches, the
    benchmark says nothing about these methods: no row of its table should be believed.

    One seed decides: how often one seed puts two methods in the order that the other seeds do; 50% is guessing. The
    second number asks for the order by the headline metric: a likelihood metric with a high one predicts it.

    Detects: the smallest true difference that a comparison is likely to find; smaller ones need more seeds or more
    items, and the columns after it say how many.

    Controls: where they ran, how many standard errors the best and the worst choice of samples lie from a random one.

    `qtuning instrument table1-mini`
    """
    from qtuning.statistics.instrument import answers_by_metric, control_distances
    from qtuning.statistics.instrument import instrument as measure
    from qtuning.statistics.summary import summarise
    from qtuning.store.store import Store
    from qtuning.tables.instrument import instrument_files
    from qtuning.tables.terminal import print_page
    from qtuning.tables.write import write_tables

    read = Store(store)
    for experiment in experiments:
        scores = read.experiment(experiment)
        summary, answers = summarise(scores), answers_by_metric(scores, read.answers)
        files = instrument_files(measure(answers), control_distances(answers), summary)
        print_page(files.page)
        for path in () if out is None else write_tables(summary, [files], out):
            print(path)


def figures(
    experiments: StoredExperiments,
    store: Annotated[Path, typer.Option(help="folder with scores.parquet, steps.parquet, planes.parquet")] = RESULTS,
    out: Annotated[
        Path, typer.Option(help="folder to write EXPERIMENT/*.svg, .pdf, .png, .csv, captions.json to")
    ] = RESULTS / "figures",
    metric: MetricOption = "headline",
) -> None:
    """Draw the figures that the rows of each experiment allow: SVG, PDF, PNG, the data behind each as CSV, captions.

    With `--metric` only those of scores, by that metric, in EXPERIMENT.METRIC.
    """
    from qtuning.figures.write import write_figures
    from qtuning.store.store import Store

    for experiment in experiments:
        for figure in write_figures(experiment, Store(store), out, metric=metric_named(metric)):
            print(figure.paths[0])


def report(
    experiments: StoredExperiments,
    store: Annotated[Path, typer.Option(help="folder of the score store (`qtuning tables` fills it)")] = RESULTS,
    out: Annotated[
        Path, typer.Option(help="folder to write report.html, audit.md, tables/, figures/ and statistics/ to")
    ] = RESULTS / "report",
) -> None:
    """Draw all tables, comparisons and figures of experiments, the audit, and one self-contained page of them.

    The page begins with what is ahead, of what, how sure, at what cost, and with what the experiment cannot see. It
    has the audit only where an experiment is an edition of a table of the paper. It needs no network and no other file;
    the same store gives the same bytes.
    """
    from qtuning.report.build import write_report

    print(write_report(experiments, store, out))


def export(
    experiments: StoredExperiments,
    out: Annotated[Path, typer.Option(help="folder of the new store")],
    store: Annotated[Path, typer.Option(help="score store, which `qtuning tables` fills")] = RESULTS,
    plane_rows: Annotated[
        int | None, typer.Option(min=1, help="keep so many points of the plane of each cell; default: all")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="metric whose answers are kept beside the headline; repeatable; default: all"),
    ] = None,
) -> None:
    """Copy what the store holds of experiments into a store of their own, with the overlaps that were counted.

    A few megabytes hold a whole grid: tables, statistics, figures and reports can be drawn from it anywhere.
    """
    from qtuning.files import write_text
    from qtuning.store.store import export_store

    kept = None if metric is None else [metric_named(name) for name in metric]
    export_store(experiments, store, out, plane_rows, kept)
    for report in sorted((store / "contamination").glob("*.json")):
        write_text(out / "contamination" / report.name, report.read_text(encoding="utf-8"))
    print(out)


def audit(
    store: Annotated[
        Path | None,
        typer.Option(help="folder with our scores.parquet; published scores alone without it", show_default="results"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead")] = False,
) -> None:
    """Recompute the paper's claims from its own tables, and from our cells where they exist.

    `qtuning audit --store docs/example/store`
    """
    from qtuning.paper.audit import audit_json, audit_page, print_audit
    from qtuning.paper.claims import check_claims
    from qtuning.paper.published import read_published
    from qtuning.paper.recompute import read_ours
    from qtuning.store.store import Store

    if store is not None and not store.is_dir():
        raise UserError(f"--store = {str(store)!r}: no such folder; leave it out for the published scores alone")
    published, store = read_published(), store or Path("results")
    found = (store / "scores.parquet").exists()
    findings = check_claims(published, read_ours(Store(store), published) if found else None)
    if as_json:
        print(json.dumps(audit_json(findings, published), indent=2, ensure_ascii=False, allow_nan=False))
        return
    print_audit(audit_page(findings, published))
    if not found:
        print(f"{store}/scores.parquet: no such file; published scores alone")
