"""A limited evaluation asks a stratified draw, the same for all cells, and an evaluation without limit asks all."""

import os
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random

import polars
import pytest
from benchmark_files import math, squad, write_records
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.evaluation.draw import LENGTHS, draw, drawn_items
from qtuning.evaluation.tasks import load_tasks
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Evaluation
from qtuning.experiment.ids import evaluation_id, evaluation_json

SUBJECTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30)), min_size=1, max_size=60)


@given(SUBJECTS, st.integers(1, 70), st.integers(0, 3))
@settings(deadline=None)
def test_every_subject_has_its_share(items: list[tuple[str, int]], count: int, seed: int) -> None:
    subjects, lengths = zip(*items, strict=True)
    found = draw(subjects, lengths, count, Random(seed))
    assert found == sorted(set(found)) and len(found) == min(count, len(items))
    assert found == draw(subjects, lengths, count, Random(seed))
    asked = Counter(subjects[place] for place in found)
    for subject, of_all in Counter(subjects).items():
        assert abs(asked[subject] - Fraction(len(found) * of_all, len(items))) < 1


@given(SUBJECTS, st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_every_item_is_as_likely_as_any_other(items: list[tuple[str, int]], count: int) -> None:
    """Over all starts of the rounding, each class of length of each subject gives exactly its share."""

    class Start(Random):
        def __init__(self, start: int) -> None:
            super().__init__(0)
            self.start = start

        def randrange(self, *_: int) -> int:  # type: ignore[override]
            return self.start

        def sample(self, population, k):  # type: ignore[no-untyped-def,override]
            return list(population)[:k]

    total: Counter[int] = Counter()
    for start in range(len(items)):
        total.update(draw([name for name, _ in items], [size for _, size in items], count, Start(start)))
    for subject in {name for name, _ in items}:
        places = sorted((i for i, (name, _) in enumerate(items) if name == subject), key=lambda i: items[i][1])
        for part in range(LENGTHS):
            group = places[len(places) * part // LENGTHS : len(places) * (part + 1) // LENGTHS]
            assert sum(total[place] for place in group) == min(count, len(items)) * len(group)


@pytest.fixture
def sorted_by_subject(tmp_path: Path) -> Path:
    """Sets in the order of the real ones: all of one subject or article, then all of the next."""
    problems = [item | {"type": f"subject {i // 40}"} for i, item in enumerate(math(120))]
    questions = [item | {"title": f"article {i // 20}"} for i, item in enumerate(squad(120))]
    write_records(tmp_path, "math", "test", problems)
    write_records(tmp_path, "squad", "validation", questions)
    return tmp_path


def drawn(folder: Path, benchmark: str, **options: object) -> tuple[list[int], list[dict]]:
    evaluation = Evaluation(benchmarks=(benchmark,), source="data-dir", fewshot=0, **options)
    task = load_tasks(evaluation, folder)[benchmark]
    places = drawn_items(benchmark, task, evaluation)
    return places, [task.eval_docs[place] for place in places]


def test_the_first_items_are_not_the_draw(sorted_by_subject: Path) -> None:
    """The first 500 of MATH are all algebra, of SQuAD two articles: what a limit used to take."""
    _, problems = drawn(sorted_by_subject, "math", limit=12)
    assert Counter(item["type"] for item in problems) == {f"subject {i}": 4 for i in range(3)}
    _, questions = drawn(sorted_by_subject, "squad", limit=12)
    assert Counter(item["title"] for item in questions) == {f"article {i}": 2 for i in range(6)}


def test_short_and_long_questions_have_their_share(tmp_path: Path) -> None:
    items = [item | {"problem": item["problem"] + "x" * (i % 10) * 20} for i, item in enumerate(math(200))]
    write_records(tmp_path, "math", "test", items)
    _, asked = drawn(tmp_path, "math", limit=20)
    mean = sum(len(item["problem"]) for item in items) / 200
    assert sum(len(item["problem"]) for item in asked) / 20 == pytest.approx(mean, rel=0.1)


def test_the_seed_is_a_part_of_the_identity(sorted_by_subject: Path) -> None:
    first, again, other = (drawn(sorted_by_subject, "math", limit=12, limit_seed=s)[0] for s in (0, 0, 1))
    assert first == again == drawn(sorted_by_subject, "math", limit=12)[0] != other
    names = {
        evaluation_id(Evaluation(benchmarks=("math",), **options))
        for options in ({}, {"limit": 12}, {"limit": 12, "limit_seed": 1}, {"limit": 13})
    }
    assert len(names) == 4
    assert evaluation_id(Evaluation(benchmarks=("math",), limit=12, limit_seed=0)) in names


def test_without_a_limit_nothing_is_drawn_and_the_identity_stays(sorted_by_subject: Path) -> None:
    plain = Evaluation(benchmarks=("math",), source="data-dir")
    assert drawn_items("math", load_tasks(plain, sorted_by_subject)["math"], plain) is None
    assert "limit_seed" not in evaluation_json(plain)
    assert evaluation_id(Evaluation(benchmarks=("math",), limit_seed=5)) == evaluation_id(
        Evaluation(benchmarks=("math",))
    )
    # all keys of an item are in its hash: those that only a draw needs are not read
    assert "type" not in load_tasks(plain, sorted_by_subject)["math"].eval_docs.column_names


def test_drawn_items_of_one_article_are_one_cluster(sorted_by_subject: Path, tiny_model: Path, tmp_path: Path) -> None:
    from qtuning.evaluation.run import evaluate_model

    frames = {}
    for limit in (12, None):
        evaluation = Evaluation(
            benchmarks=("squad",), source="data-dir", fewshot=0, limit=limit, max_new_tokens=1, batch_size=64,
            likelihoods=False,
        )  # fmt: skip
        out = tmp_path / str(limit)
        evaluate_model(
            cell_id="x", base=tiny_model, adapter=None, evaluation=evaluation, out=out, data_dir=sorted_by_subject
        )
        frames[limit] = polars.read_parquet(out / "items.parquet").filter(metric="f1")
    assert frames[12]["cluster"].n_unique() == 6
    assert frames[None]["cluster"].n_unique() == 120, "all items: the passages, as ever"
    both = frames[12].join(frames[None], on="item")
    assert (both["response"] == both["response_right"]).all(), "the items keep their numbers"


@pytest.mark.slow
@pytest.mark.skipif("QTUNING_DATA_DIR" not in os.environ, reason="QTUNING_DATA_DIR: folder of the real benchmarks")
@pytest.mark.parametrize(("benchmark", "groups"), [("math", 7), ("squad", 48)])
def test_draws_of_the_real_benchmarks_reach_every_subject(benchmark: str, groups: int) -> None:
    _, items = drawn(Path(os.environ["QTUNING_DATA_DIR"]), benchmark, limit=500)
    counts = Counter(item[BENCHMARKS[benchmark].subject] for item in items)
    print(benchmark, len(counts), dict(counts.most_common(7)))
    assert len(counts) == groups
