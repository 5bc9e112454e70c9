"""What a training writes: nothing lost, nothing twice, whatever kills it. What it warns of: each thing once."""

import json
import math
import random
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet
import pytest

from qtuning.errors import UserError
from qtuning.experiment.cell import Pruning
from qtuning.train import journal
from qtuning.train.journal import TRACE_SCHEMA, Diagnosis, RunLog
from qtuning.train.lines import check_journal


def rows_of(update: int) -> list[tuple[Any, ...]]:
    scored = (update, 0, 100 + update, 1.5, 0.25, 2, True, False, 7, 3, 1.5, 0.75, b"\x94", b"\x01\x02", None)
    return [scored, (update, 0, 200 + update, None, None, 0, False, False, 4, 0, *[None] * 5)]


def run(log: RunLog, start: int, stop: int, every: int) -> dict[int, Any]:
    """Updates start..stop-1 with a checkpoint after each `every`; the journals of the checkpoints."""
    journals = {}
    for update in range(start, stop):
        log.log({"update": update, "loss": update / 7})
        log.trace(rows_of(update))
        if (update + 1) % every == 0:
            journals[update + 1] = log.checkpoint(update + 1)
    return journals


def published(log: RunLog, folder: Path) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    log.publish(folder / "metrics.jsonl", folder / "trace.parquet")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], pl.read_parquet(folder / "trace.parquet")


def complete(count: int) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    rows = [row for update in range(count) for row in rows_of(update)]
    return (
        [{"update": update, "loss": update / 7} for update in range(count)],
        pl.DataFrame(rows, schema=TRACE_SCHEMA, orient="row"),
    )


@pytest.mark.parametrize("every", [1, 3, 100])
def test_without_interruption(tmp_path: Path, every: int) -> None:
    log = RunLog(tmp_path / "state", 0)
    run(log, 0, 8, every)
    metrics, trace = published(log, tmp_path / "out")
    wanted, rows = complete(8)
    assert metrics == wanted and trace.equals(rows)
    assert dict(trace.schema) == TRACE_SCHEMA


def test_the_trace_is_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROW_GROUP", 3)
    log = RunLog(tmp_path / "state", 0)
    run(log, 0, 8, every=3)
    _, trace = published(log, tmp_path / "out")
    assert trace.equals(complete(8)[1])
    assert pyarrow.parquet.ParquetFile(tmp_path / "out" / "trace.parquet").num_row_groups == 6


@pytest.mark.parametrize("killed_after", range(1, 9))
@pytest.mark.parametrize("resume", ["newest", "previous", "start"])
@pytest.mark.parametrize("torn", [b"", b'{"update": 7, "lo', b"{}\n", b"\n", b"[1]\n"])
@pytest.mark.parametrize("journals", ["with digests", "of an older version"])
def test_resumed(tmp_path: Path, killed_after: int, resume: str, torn: bytes, journals: str) -> None:
    """Killed after any update, with any last line, and resumed from any checkpoint: as if nothing had happened."""
    log = RunLog(tmp_path / "state", 0)
    noted = run(log, 0, killed_after, every=3)
    log._metrics.close()
    with (tmp_path / "state" / "metrics.jsonl").open("ab") as handle:
        handle.write(torn)
    checkpoints = [0, *range(3, killed_after + 1, 3)]
    start = {"newest": checkpoints[-1], "previous": checkpoints[max(0, len(checkpoints) - 2)], "start": 0}[resume]

    again = RunLog(tmp_path / "state", start, noted.get(start) if journals == "with digests" else None)
    run(again, start, 8, every=2)
    metrics, trace = published(again, tmp_path / "out")
    wanted, rows = complete(8)
    assert metrics == wanted and trace.equals(rows)


def test_a_training_that_an_older_version_began(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "state", 0)
    run(log, 0, 4, every=2)
    part = tmp_path / "state" / "trace-0000002.parquet"
    pl.read_parquet(part).drop("token_nll", "token_entropy").write_parquet(part)
    _, trace = published(RunLog(tmp_path / "state", 4), tmp_path / "out")
    assert dict(trace.schema) == TRACE_SCHEMA
    assert trace.drop("token_nll").equals(complete(4)[1].drop("token_nll"))
    assert trace.filter(pl.col("update") < 2)["token_nll"].is_null().all()


def test_a_line_torn_inside_a_character(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"update": 0}\n{"update": 1, "note": "\xc3')
    RunLog(tmp_path, 1)._metrics.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"update": 0}\n'


def test_a_line_torn_before_others(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"update": 0}\n{"update": 1, "no\n{"update": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl: damaged \(updates are missing\); delete .* trains afresh"):
        RunLog(tmp_path, 3)


@pytest.mark.parametrize("name", ["metrics.jsonl", "trace-0000002.parquet", "trace-0000004.parquet"])
@pytest.mark.parametrize("when", ["resumed", "running"])
def test_a_byte_that_flips_is_noticed(tmp_path: Path, name: str, when: str) -> None:
    """Anywhere in a file that a checkpoint counts on, before training goes on from it or before it ends."""
    state = tmp_path / "state"
    log = RunLog(state, 0)
    noted = run(log, 0, 4, every=2)[4]
    whole, places = (state / name).read_bytes(), random.Random(name)
    check_journal(state, noted)
    for _ in range(50):
        place = places.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << places.randrange(8)
        for content in (bytes(damaged), whole[:place]):
            (state / name).write_bytes(content)
            if when == "resumed":
                with pytest.raises(ValueError, match=f"{name} is not what training wrote"):
                    check_journal(state, noted)
    if when == "running":
        with pytest.raises(UserError, match=f"state.* damaged .*{name} is not what training wrote"):
            published(log, tmp_path / "out")


def test_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.log({"update": 0, "loss": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"update": 0, "loss": 1.0}


def test_infinity_is_written_as_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.log({"update": 0, "a": math.inf, "b": math.nan, "c": 1.5})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"update": 0, "a": None, "b": None, "c": 1.5}


def test_nothing_at_all(tmp_path: Path) -> None:
    metrics, trace = published(RunLog(tmp_path / "state", 0), tmp_path / "out")
    assert metrics == [] and trace.height == 0 and dict(trace.schema) == TRACE_SCHEMA


def diagnosis(sample_ratio: float = 0.25, token_ratio: float = 0.5) -> Diagnosis:
    pruning = Pruning(
        sample_pruner="q-tuning", token_pruner="q-tuning", sample_ratio=sample_ratio, token_ratio=token_ratio
    )
    return Diagnosis(pruning, samples=80, tokens=1600)


def fed(chosen: Diagnosis, epochs: int = 1, first: int = 0, **changes: Any) -> Diagnosis:
    """Ten updates in each epoch from `first` on that keep what 25x50 asks for, all well, but for the changes."""
    healthy = {"samples_kept": 2, "tokens_kept": 20, "selection/converged": 1.0, "selection/spread": 1.0}
    healthy |= {f"selection/median_q{quadrant}": 0.25 for quadrant in (1, 2, 3, 4)}
    for epoch in range(first, first + epochs):
        for _ in range(10):
            chosen.feed(healthy | changes | {"epoch": epoch})
    return chosen


def test_a_healthy_run_is_told_nothing() -> None:
    assert fed(diagnosis(), epochs=3).warnings() == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection/converged": 0.49}, "converged in 49% of the decisions"),
        ({"selection/median_q2": 0.04}, "Q2 holds 4.0% of the samples"),
        ({"selection/spread": 0.0}, "no variance in 100%"),
        ({"selection/supp_ties": 0.2}, "equal supplement scores decided 20% of the selections"),
        ({"tokens_kept": 30}, "300 response tokens were kept; 200 are 0.125 of the train set's (+50%)"),
        ({"samples_kept": 8}, "80 samples were kept; 20 are 0.25 of the train set's (+300%)"),
    ],
)
def test_each_thing_is_told_once(changes: dict[str, Any], words: str) -> None:
    chosen = fed(diagnosis(), **changes)
    news = chosen.news()
    assert len(news) == 1 and words in news[0]
    assert fed(chosen, first=1, **changes).news() == [], "and not again"
    assert len(chosen.warnings()) == 1, "but it stands in the result"


def test_thresholds_need_not_converge_where_every_sample_stays() -> None:
    changes: dict[str, Any] = {"selection/converged": 0.0, "samples_kept": 8, "tokens_kept": 80}
    assert fed(diagnosis(1.0, 0.5), **changes).warnings() == {}


def test_other_pruners_have_no_quadrants_to_warn_of() -> None:
    chosen = diagnosis()
    for _ in range(10):
        chosen.feed({"epoch": 0, "samples_kept": 2, "tokens_kept": 20, "loss": None})
    assert chosen.warnings() == {}
    assert chosen.summary() == {"samples_available": 80, "tokens_available": 1600}
