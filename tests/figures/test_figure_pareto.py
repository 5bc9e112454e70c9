"""Which points lie on the front."""

from figure_frames import cell_rows, points_of, table

from qtuning.figures.pareto import draw_pareto


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
