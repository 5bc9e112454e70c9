"""What the rules of the workflow ask for."""

import gzip
from pathlib import Path

import pytest

from qtuning import workflow
from qtuning.data.items import items_file
from qtuning.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
BENCHMARKS = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")


def settings(results: Path, data_dir: Path | None) -> dict[str, object]:
    return {
        "results": str(results),
        "data_dir": None if data_dir is None else str(data_dir),
        "tracking": "disabled",
        "accelerate": "single",
        "threads": 1,
        "checkpoint_seconds": 600,
        "warm": False,
    }


def test_an_overlap_is_counted_again_when_a_benchmark_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local copies of both sides are inputs of the check; of the hub's, neither."""
    monkeypatch.setenv("PATH", "")
    data = tmp_path / "data"
    files = [items_file(data, name) for name in BENCHMARKS]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(gzip.compress(b"{}\n"))
    train_set = data / "wizardlm" / "train.jsonl.gz"
    train_set.parent.mkdir()
    train_set.write_bytes(gzip.compress(b"{}\n"))
    plan = workflow.load(settings(tmp_path / "results", data), CONFIGS)
    (report,) = plan.overlaps("table1")
    assert plan.sources_of_check(report.stem) == [train_set, *files]
    files[0].unlink()
    with pytest.raises(UserError, match="data_dir must hold the benchmarks"):
        plan.sources_of_check(report.stem)
    on_the_hub = workflow.load(settings(tmp_path / "results", None), CONFIGS)
    (report,) = on_the_hub.overlaps("table1")
    assert on_the_hub.sources_of_check(report.stem) == []
    (report,) = on_the_hub.overlaps("mini")
    assert on_the_hub.sources_of_check(report.stem) == []
