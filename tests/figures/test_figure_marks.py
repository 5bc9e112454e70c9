"""No two methods look alike, and a method looks the same in every figure."""

import polars as pl
from figure_frames import cell_rows, points_of, table, trained

from qtuning.figures.marks import SAMPLE_COLOUR, assign_looks, describe_looks
from qtuning.figures.style import VERMILLION


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


def test_the_row_at_the_default_of_an_ablation_looks_as_q_tuning_does_and_comes_where_it_did() -> None:
    choices: list[dict[str, float]] = [{"lambda": 0.3}, {}, {"lambda": 0.7}]
    frame = points_of(table(*(cell_rows("q-tuning", 0.5, 0.5, seed, **o) for seed in (0, 1) for o in choices)))
    plain = points_of(table(*(cell_rows("q-tuning", 0.5, 0.5, seed) for seed in (0, 1))))
    looks = assign_looks(frame)
    assert list(looks) == ["Q-Tuning (lambda=0.3)", "Q-Tuning (lambda=0.5)", "Q-Tuning (lambda=0.7)"]
    assert looks["Q-Tuning (lambda=0.5)"] == assign_looks(plain)["Q-Tuning"]
    assert looks["Q-Tuning (lambda=0.3)"].width < looks["Q-Tuning (lambda=0.5)"].width
