"""The Pareto front of score and cost, for the edition by cost and for the figure alike.

Points are trained cells, by their means over the seeds. The model without training costs nothing and would be on every
front; it is no way to train, and is shown as a line of its own.
"""

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each (cost, score) is on the Pareto front: no other point costs at most as much, scores at least as high,
    and is strictly better in one of the two. Equal points are on the front together."""
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front = [False] * len(points)
    best: tuple[float, float] | None = None  # the last point found on the front
    for index in order:
        if best is None or points[index][1] > best[1] or points[index] == best:
            front[index] = True
            best = points[index]
    return front


def front_of(costs: Sequence[float | None], scores: Sequence[float | None]) -> list[bool]:
    """The same for rows of which some know no cost or no score; such a row is on no front."""
    known = [
        (index, (cost, score))
        for index, (cost, score) in enumerate(zip(costs, scores, strict=True))
        if cost is not None and score is not None
    ]
    front = [False] * len(costs)
    for (index, _), best in zip(known, pareto_front([point for _, point in known]), strict=True):
        front[index] = best
    return front
