"""Any two lines: the same numbers as `compare`, and one clear message for a name that means nothing."""

from pathlib import Path

import pytest

from qtuning.errors import UserError
from qtuning.statistics.compare import compare
from qtuning.statistics.pairs import compare_pairs, named_lines
from qtuning.statistics.summary import Summary, summarise
from qtuning.store.store import Store

STORE = Path(__file__).parents[2] / "docs" / "example" / "store"


@pytest.fixture(scope="module")
def store() -> Store:
    return Store(STORE)


@pytest.fixture(scope="module")
def summary(store: Store) -> Summary:
    return summarise(store.experiment("mini"))


def test_pairs_are_rows_of_compare(store: Store, summary: Summary) -> None:
    found = compare_pairs(summary, store.items, "q-tuning", "random+random")
    assert sorted(set(found["sample_ratio"])) == [0.25, 0.5], "at each budget, and at no two"
    everything = compare(summary, store.items)
    columns = ["sample_ratio", "benchmark", "difference", "low", "high", "p", "item_se", "seed_sd"]
    same = everything.filter((everything["method"] == "q-tuning") & (everything["against"] == "random+random"))
    assert found.select(columns).sort(columns[:2]).equals(same.select(columns).sort(columns[:2]))
    assert found["family"].null_count() == found["p_adjusted"].null_count() == len(found)


def test_a_pair_turned_round_turns_its_sign(store: Store, summary: Summary) -> None:
    ours = compare_pairs(summary, store.items, "oracle@25x50", "random+random@50x70")
    theirs = compare_pairs(summary, store.items, "random+random@50x70", "oracle@25x50")
    assert len(ours) == len(theirs) == len(summary.benchmarks)
    assert ours["difference"].to_list() == pytest.approx([-x for x in theirs["difference"].to_list()])
    assert set(ours["against"]) == {"random+random@50x70"}


def test_names(summary: Summary) -> None:
    assert [(line.method, line.sample_ratio) for line in named_lines("q-tuning", summary.lines)] == [
        ("q-tuning", 0.25),
        ("q-tuning", 0.5),
    ]
    assert len(named_lines("q-tuning@25x50", summary.lines)) == 1
    for wrong in ("q-tunin", "q-tuning@25x5", "q-tuning[lambda=0]", "", "@25x50"):
        with pytest.raises(UserError, match=r"no such line; .* of: .*q-tuning@25x50"):
            named_lines(wrong, summary.lines)


def test_two_budgets_must_both_be_named(store: Store, summary: Summary) -> None:
    with pytest.raises(UserError, match="two budgets must both be named"):
        compare_pairs(summary, store.items, "oracle@25x50", "oracle")
    with pytest.raises(UserError, match="the first must prune"):
        compare_pairs(summary, store.items, "full", "oracle")
