"""Points, Pareto fronts, differences and curves: numbers against hand calculation."""

from statistics import fmean, stdev

import numpy as np
import polars as pl
import pytest
from figure_frames import BENCHMARKS, cell_rows, grid, planted, points_of, steps, table

from qtuning.figures.heatmap import DIVERGING, LIMIT, differences, draw_heatmap, pages
from qtuning.figures.marks import SAMPLE_COLOUR, assign_looks, describe_looks
from qtuning.figures.pareto import draw_pareto
from qtuning.figures.planted_errors import draw_planted_errors
from qtuning.figures.score_curves import (
    describe_changes,
    draw_batch_sizes,
    draw_budgets,
    draw_lambdas,
    draw_ratios,
    pruned_alone,
    varied_batch_size,
    varied_lambda,
)
from qtuning.figures.style import VERMILLION, styled
from qtuning.figures.training import draw_convergence, draw_shares, over_seeds
from qtuning.statistics.summary import summarise
from qtuning.tables.planted_errors import localised


def one(frame: pl.DataFrame, **where: object) -> dict[str, object]:
    """The only row with these values."""
    (row,) = frame.filter(**where).to_dicts()
    return row


def test_a_point_is_the_mean_over_seeds_of_the_average_over_benchmarks() -> None:
    each = [{"arc_easy": 10.0, "gsm8k": 20.0, "squad": 60.0}, {"arc_easy": 40.0, "gsm8k": 20.0, "squad": 33.0}]
    scores = table(
        *(cell_rows("q-tuning", 0.25, 0.5, seed, score=each[seed], flops=2e14 + seed * 1e14) for seed in (0, 1)),
        *(cell_rows("full", seed=seed, flops=1e15 * (1 + seed), seconds=50.0) for seed in (0, 1)),
    )
    row = one(points_of(scores), method="q-tuning")
    averages = [30.0, 31.0]
    assert row["mean"] == pytest.approx(fmean(averages)) and row["sd"] == pytest.approx(stdev(averages))
    assert (row["budget"], row["nominal"], row["n_seeds"]) == ("25×50", 12.5, 2)
    assert row["flops_share"] == pytest.approx(fmean([2e14 / 1e15, 3e14 / 2e15]))  # of the same seed's full data
    assert row["seconds_share"] == pytest.approx(2.0)


def test_a_missing_seed_is_a_hole_and_not_a_mean_over_fewer() -> None:
    scores = table(
        cell_rows("random+random", 0.5, 0.5, 0, score=50.0),
        cell_rows("random+random", 0.5, 0.5, 1, status="diverged", reason="the loss is not finite"),
    )
    row = one(points_of(scores), method="random+random")
    assert row["mean"] is None and "seed 1 diverged: the loss is not finite" in str(row["hole"])
    assert row["flops"] is None  # a training that diverged ended early


def test_without_full_data_costs_have_no_share() -> None:
    frame = points_of(table(cell_rows("random+random", 0.5, 0.5), cell_rows("q-tuning", 0.5, 0.5)))
    assert frame["flops_share"].null_count() == 2 and frame["flops"].null_count() == 0
    assert "% of full data" not in draw_pareto(frame).figure.axes[0].get_xlabel()


def test_the_pareto_data_say_which_points_lie_on_the_front() -> None:
    scores = table(
        cell_rows("full", score=60.0, flops=100.0, seconds=100.0),
        cell_rows("random+random", 0.5, 0.5, score=50.0, flops=50.0, seconds=50.0),
        cell_rows("q-tuning", 0.5, 0.5, score=55.0, flops=80.0, seconds=120.0),
        cell_rows("longest+random", 0.5, 0.5, score=40.0, flops=60.0, seconds=60.0),
    )
    data = draw_pareto(points_of(scores)).data
    assert set(data.filter("flops_front")["method"]) == {"full", "random+random", "q-tuning"}
    assert set(data.filter("seconds_front")["method"]) == {"full", "random+random"}


def test_differences_are_paired_by_seed_and_the_reference_has_none() -> None:
    ours, theirs = (33.0, 40.0), (30.0, 41.0)
    scores = table(
        *(cell_rows("random+random", 0.5, 0.5, seed, score=theirs[seed]) for seed in (0, 1)),
        *(cell_rows("q-tuning", 0.5, 0.5, seed, score=ours[seed]) for seed in (0, 1)),
        cell_rows("longest+random", 0.5, 0.5, 0, score=1.0),
        cell_rows("longest+random", 0.5, 0.5, 1, status="failed", reason="out of memory"),
    )
    frame = differences(summarise(scores))
    row = one(frame, label="Q-Tuning", benchmark="squad")
    assert row["difference"] == pytest.approx(fmean(a - b for a, b in zip(ours, theirs, strict=True)))
    assert one(frame, label="random + random", benchmark="squad")["reference"] is True
    assert "out of memory" in str(one(frame, label="longest + random", benchmark="squad")["hole"])
    panel = draw_heatmap(frame).figure.axes[0]
    hatched = [patch for patch in panel.patches if patch.get_hatch()]
    assert len(hatched) == len(BENCHMARKS) + 1  # every benchmark of the failed method, and its average
    assert "+1.0" in {text.get_text() for text in panel.texts}


def test_pages_cut_between_budgets() -> None:
    methods = ["random+random", *(f"longest+{t}" for t in ("random", "ppl", "fastv"))]
    frame = differences(summarise(grid(methods, [(s / 20, 0.5) for s in range(1, 15)])))
    cut = pages(frame)
    assert len(cut) == 2 and pl.concat(cut).equals(frame)
    for page in cut:
        assert page.select("budget", "label").n_unique() <= LIMIT
    assert not set(cut[0]["budget"]) & set(cut[1]["budget"])


def test_a_hole_breaks_the_curve_and_is_marked() -> None:
    cells = [cell_rows("q-tuning", 0.25, 0.5, score=30 + 5 * value, **{"lambda": value}) for value in (0.0, 0.3, 1.0)]
    cells.append(cell_rows("q-tuning", 0.25, 0.5, status="failed", reason="out of memory", **{"lambda": 0.7}))
    drawing = draw_lambdas(points_of(table(*cells)))
    panel = drawing.figure.axes[0]
    (line,) = [line for line in panel.get_lines() if line.get_label() == "25×50"]
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 0.3, 0.7, 1.0]
    assert [y != y for y in np.asarray(line.get_ydata()).tolist()] == [False, False, True, False]
    (cross,) = [line for line in panel.get_lines() if str(line.get_label()).startswith("missing")]
    assert np.asarray(cross.get_xdata()).tolist() == [0.7]


def test_far_references_are_told_in_words() -> None:
    cells = [cell_rows("q-tuning", 0.25, 0.5, score=30 + value, **{"lambda": value}) for value in (0.0, 1.0)]
    frame = points_of(table(*cells, cell_rows("full", score=80.0), cell_rows("zero-shot", seed=None, score=30.2)))
    panel = draw_lambdas(frame).figure.axes[0]
    assert [text.get_text() for text in panel.texts] == ["Full data 80.0 ↑"]
    assert "Zero-shot" in panel.get_legend_handles_labels()[1]


@pytest.mark.parametrize("zero", [10.0, 20.0, 26.0, 29.0, 31.0, 44.0, 46.0, 47.5, 49.0, 52.0, 57.0, 70.0])
@pytest.mark.parametrize("spread", [0.0, 4.0])
@pytest.mark.parametrize("full", [None, 33.0, 44.0])
def test_a_reference_is_off_the_axis_only_if_it_is(zero: float, spread: float, full: float | None) -> None:
    """Bars, and the band of another line, stretch the axis: what lies on it is a line."""
    scores = {0.0: 34.0, 1.0: 38.0}
    cells = [
        cell_rows("q-tuning", 0.25, 0.5, seed, score=score + spread * seed, **{"lambda": value})
        for seed in (0, 1)
        for value, score in scores.items()
    ]
    if full is not None:
        cells += [cell_rows("full", seed=seed, score=full + 2 * spread * seed) for seed in (0, 1)]
    panel = draw_lambdas(points_of(table(*cells, cell_rows("zero-shot", seed=None, score=zero)))).figure.axes[0]
    low, high = panel.get_ylim()
    told = [text.get_text() for text in panel.texts if "Zero-shot" in text.get_text()]
    line = "Zero-shot" in panel.get_legend_handles_labels()[1]
    assert line == (low <= zero <= high) and len(told) == (not line)
    assert all(("↑" if zero > high else "↓") in text for text in told)


def test_a_lone_value_has_an_axis_too() -> None:
    cells = [cell_rows("q-tuning", 0.25, 0.5, score=40.0, **{"lambda": value}) for value in (0.0, 1.0)]
    panel = draw_lambdas(points_of(table(*cells, cell_rows("full", score=41.0)))).figure.axes[0]
    assert not panel.texts and panel.get_ylim()[1] > 41


def test_lambda_alone_is_varied() -> None:
    cells = [
        cell_rows("q-tuning", 0.25, 0.5, **{"lambda": 0.3}),
        cell_rows("q-tuning", 0.25, 0.5),
        cell_rows("q-tuning", 0.25, 0.5, supplement="rank"),
    ]
    assert sorted(varied_lambda(points_of(table(*cells)))["lambda"]) == [0.3, 0.5]
    assert len(varied_lambda(points_of(table(*cells[1:])))) == 0


def trained(frame: pl.DataFrame, size: int) -> pl.DataFrame:
    """Points as they are where the experiment varies the batch size."""
    text = f"batch_size={size}"
    named = pl.when(pl.col("variant") == "").then(pl.lit(text)).otherwise(text + ", " + pl.col("variant"))
    return frame.with_columns(variant=named, training=pl.lit(text), batch_size=pl.lit(size, pl.Int64))


def test_where_training_varies_too_each_half_of_figure_5_takes_its_own_points() -> None:
    """Three batch sizes at the default lambda, three values of lambda at batch size 8."""
    cells = [cell_rows("q-tuning", 0.25, 0.5, **{"lambda": value}) for value in (0.0, 0.5, 1.0)]
    frame = points_of(table(*cells, cell_rows("full", score=41.0), cell_rows("zero-shot", seed=None)))
    zero = frame.filter(pl.col("method") == "zero-shot")
    rest = frame.filter(pl.col("method") != "zero-shot")
    default = rest.filter(pl.col("variant") == "")
    mixed = pl.concat([zero, trained(rest, 8), trained(default, 16), trained(default, 32)])
    sizes, lambdas = varied_batch_size(mixed), varied_lambda(mixed)
    assert sorted(sizes["batch_size"]) == [8, 16, 32] and set(sizes["lambda"]) == {0.5}
    assert sorted(lambdas["lambda"]) == [0.0, 0.5, 1.0] and set(lambdas["batch_size"]) == {8}
    assert draw_batch_sizes(mixed).figure.axes[0].get_legend_handles_labels()[1] == ["Zero-shot", "Full data", "25×50"]


def test_the_caption_says_what_changes_with_the_batch_size() -> None:
    frame = points_of(table(cell_rows("q-tuning", 0.25, 0.5)))
    sizes = ((32, "0.004"), (8, "0.001"), (16, "0.002"))
    rates = [
        frame.with_columns(
            training=pl.lit(f"batch_size={size}, learning_rate={rate}, epochs=3"), batch_size=pl.lit(size, pl.Int64)
        )
        for size, rate in sizes
    ]
    assert describe_changes(pl.concat(rates)) == "The learning rate changes with it: 0.001, 0.002, 0.004. "
    assert describe_changes(pl.concat([trained(frame, 8), trained(frame, 16)])) == ""


def test_colours_of_differences_are_those_of_the_tables() -> None:
    """Up is blue and down is orange there (assets/tables/tables.css)."""
    below, above = DIVERGING(0.0), DIVERGING(1.0)
    assert below[0] > below[2] and above[2] > above[0]


def test_ratios_take_the_budgets_that_prune_one_way_only() -> None:
    alone = grid(["longest+none", "q-tuning"], [(0.25, 1), (0.5, 1)], seeds=(0,))
    frame = points_of(pl.concat([alone, table(cell_rows("q-tuning", 0.5, 0.5))]))
    chosen = pruned_alone(frame, "sample_ratio", "token_ratio")
    assert sorted(set(chosen["label"])) == ["Q-Tuning", "longest (samples)"]
    assert set(chosen["token_ratio"]) == {1.0}
    assert len(pruned_alone(frame, "token_ratio", "sample_ratio")) == 0
    axes = draw_ratios(frame).figure.axes
    assert len(axes) == 1 and [label.get_text() for label in axes[0].get_xticklabels()] == ["25", "50"]


def test_no_two_methods_look_alike() -> None:
    samples = ("random", "longest", "infobatch", "entropy", "ppl-low", "ppl-mid")
    tokens = ("random", "ppl", "fastv", "sparsevlm", "rho-1")
    rows = [cell_rows(f"{s}+{t}", 0.5, 0.5) for s in samples for t in tokens]
    rows += [cell_rows("q-tuning", 0.5, 0.5, **{"lambda": value / 10}) for value in range(11)]
    look = assign_looks(points_of(table(*rows)))
    assert len(look) == 41
    assert len({(mark.colour, mark.marker) for mark in look.values()}) == 41
    assert len({(mark.colour, str(mark.dashes)) for mark in look.values()}) == 41, "convergence has no markers"


def test_a_colour_means_one_sample_pruner() -> None:
    """Q-Tuning is itself beside whatever else is drawn, and no plug-in or variant looks like a named method."""
    rows = [cell_rows(f"{name}+none", 0.5, 1.0) for name in ("q-tuning", "ppl-low")]
    rows += [cell_rows("q-tuning", 0.5, 0.5, prune_in=text) for text in ("Q4", "Q2+Q4")]
    rows += [cell_rows("q-tuning", 0.5, 0.5)]
    frame = points_of(table(*rows))
    look = assign_looks(frame)
    assert (look["Q-Tuning"].colour, look["Q-Tuning"].marker, look["Q-Tuning"].dashes) == (VERMILLION, "o", "-")
    assert look["Q-Tuning + none"].colour == VERMILLION and look["Q-Tuning + none"].marker != "o"
    others = [mark for label, mark in look.items() if label not in ("Q-Tuning", "Q-Tuning + none")]
    assert len({mark.colour for mark in others}) == 3
    assert not {mark.colour for mark in others} & set(SAMPLE_COLOUR.values())
    assert "variants of a method (in brackets)" in describe_looks(frame)
    assert (
        describe_looks(frame.filter(pl.col("variant") == ""))
        == "Colour: sample pruner; marker and line style: token pruner."
    )


def test_a_variant_alone_does_not_pass_for_its_method() -> None:
    look = assign_looks(points_of(table(cell_rows("q-tuning", 0.5, 0.5, **{"lambda": 0.3}))))
    (mark,) = look.values()
    assert mark.colour not in SAMPLE_COLOUR.values() and mark.marker != "o" and mark.width < 1


def test_variants_differ_in_their_markers_too() -> None:
    rows = [cell_rows("q-tuning", 0.5, 0.5, **{"lambda": value / 10}) for value in range(2, 9)]
    look = assign_looks(points_of(table(*rows)))
    shapes = [mark.marker for mark in look.values()]
    assert len(set(shapes)) == 6 and not {"p", "h"} & set(shapes), "no pentagon or hexagon, which looks like the circle"
    for name in ("marker", "dashes"):
        assert len({(mark.colour, str(getattr(mark, name))) for mark in look.values()}) == 7


def test_of_several_trainings_the_first_has_the_look_of_the_method() -> None:
    frame = points_of(table(cell_rows("q-tuning", 0.5, 0.5), cell_rows("q-tuning", 0.5, 0.5, **{"lambda": 0.3})))
    frames = [trained(frame, size).with_columns(label=pl.col("label") + f" {size}") for size in (8, 16)]
    look = list(assign_looks(pl.concat(frames)).values())
    assert look[0].colour == VERMILLION and VERMILLION not in {mark.colour for mark in look[1:]}
    assert "variants" in describe_looks(pl.concat(frames).filter(pl.col("variant") == pl.col("training")))


def test_budgets_of_the_same_product_share_a_tick() -> None:
    frame = points_of(grid(["random+random"], [(0.5, 0.5), (0.25, 1.0), (0.5, 0.7)], seeds=(0,)))
    labels = [label.get_text() for label in draw_budgets(frame).figure.axes[0].get_xticklabels()]
    assert labels == ["50×50\n25×100", "50×70"]


def test_bands_reach_from_the_lowest_seed_to_the_highest() -> None:
    runs = pl.concat([steps("a", seed=1), steps("b", seed=2), steps("c", bins=10, seed=3)])
    found = over_seeds(runs, ["loss"])
    common = set(steps("a")["update"]) & set(steps("c", bins=10)["update"])
    assert set(found["update"]) == common  # an update that one seed lacks has no mean
    row = found.row(1, named=True)
    at = runs.filter(pl.col("update") == row["update"])["loss"].to_list()
    assert (row["loss_low_seed"], row["loss_high_seed"]) == (min(at), max(at))
    assert row["loss"] == pytest.approx(fmean(at))


@pytest.mark.parametrize("rising", [False, True])
def test_the_legend_of_the_thresholds_lies_on_no_curve(rising: bool) -> None:
    run = steps("a")
    high = run["ppl_high"].reverse() if rising else run["ppl_high"]
    figure = draw_shares(run.with_columns(ppl_high=high, ppl_low=high / 20)).figure
    with styled():
        figure.draw_without_rendering()
    panel = figure.axes[2]
    legend = panel.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for line in panel.get_lines()[:2]:
        assert not line.get_transform().transform_path(line.get_path()).intersects_bbox(box, filled=False)


def test_convergence_has_a_curve_per_method() -> None:
    frame = pl.concat([steps("a", seed=1), steps("b", seed=2)])
    lines = points_of(table(cell_rows("full"), cell_rows("q-tuning", 0.5, 0.5)))
    lines = lines.with_columns(pl.Series("cell", ["a", "b"]))
    drawing = draw_convergence(frame, lines)
    assert drawing.figure.axes[0].get_legend_handles_labels()[1] == ["Full data", "Q-Tuning"]
    assert set(drawing.data["label"]) == {"Full data", "Q-Tuning"}


def test_localisation_has_a_row_per_method_and_none_for_what_prunes_nothing() -> None:
    lines = [("full", {}), ("q-tuning", {"lambda": 0.0}), ("q-tuning", {})]
    cells = table(*(cell_rows(method, 0.5, 0.5, seed, **options) for seed in (0, 1) for method, options in lines))
    answers = planted(cells)
    lost = cells["cell"].unique(maintain_order=True)[-1]  # one seed of Q-Tuning diverged: no answer of its weights
    answers = answers.filter((pl.col("cell") != lost) | (pl.col("model") == "base"))
    frame = localised(answers, cells)
    chosen = frame.filter(score="smoothed score", weights="base")
    assert dict(chosen.select("label", "lambda").iter_rows()) == {
        "Full data": 0.5,
        "Q-Tuning (lambda=0.0)": 0.0,
        "Q-Tuning (lambda=0.5)": 0.5,
    }
    named = cells.filter(pl.col("options").str.contains('"lambda":0.0'))["cell"].unique()
    mine = answers.filter(pl.col("cell").is_in(named.implode()), model="trained", score="pruned tokens")
    row = one(frame, label="Q-Tuning (lambda=0.0)", weights="trained", score="pruned tokens")
    assert row["recall"] == pytest.approx(fmean(mine["recall"]))
    assert row["recall_sd"] == pytest.approx(stdev(mine["recall"]))
    row = one(frame, label="Q-Tuning (lambda=0.5)", weights="trained", score="pruned tokens")
    assert (row["precision"], row["missing"]) == (None, 1), "never a mean over fewer seeds"

    drawing = draw_planted_errors(frame)
    axes = drawing.figure.axes
    assert [panel.get_title("left")[:3] for panel in axes] == ["(a)", "(b)", "(c)", "(d)"]
    assert [text.get_text() for text in axes[1].texts if "λ" in text.get_text()] == ["λ 0.5", "λ 0", "λ 0.5"]
    points = [len(panel.containers) for panel in axes]  # 3 methods x 2 weights x 2 measures, less one hole
    assert points == [10, 10, 6, 6], "no points of the full data, which prune nothing"
    assert [text.get_text() for text in axes[2].texts].count("–") == 2, "only what is missing"
    assert set(drawing.data["score"]) >= {"pruned tokens of kept samples", "kept samples with an error"}


def test_the_row_at_the_default_of_an_ablation_looks_as_q_tuning_does_and_comes_where_it_did() -> None:
    choices: list[dict[str, float]] = [{"lambda": 0.3}, {}, {"lambda": 0.7}]
    frame = points_of(table(*(cell_rows("q-tuning", 0.5, 0.5, seed, **o) for seed in (0, 1) for o in choices)))
    plain = points_of(table(*(cell_rows("q-tuning", 0.5, 0.5, seed) for seed in (0, 1))))
    looks = assign_looks(frame)
    assert list(looks) == ["Q-Tuning (lambda=0.3)", "Q-Tuning (lambda=0.5)", "Q-Tuning (lambda=0.7)"]
    assert looks["Q-Tuning (lambda=0.5)"] == assign_looks(plain)["Q-Tuning"]
    assert looks["Q-Tuning (lambda=0.3)"].width < looks["Q-Tuning (lambda=0.5)"].width
