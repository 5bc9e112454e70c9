"""The benchmarks run, at sizes at which their times mean nothing, and what they compare is exact."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    """The command of the folder `benchmarks`, which is no part of the package."""
    sys.path.insert(0, str(REPOSITORY))
    from benchmarks import command

    yield command
    sys.path.remove(str(REPOSITORY))


@pytest.fixture(scope="module")
def written(benchmarks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of the sections that compute in this process wrote."""
    out = tmp_path_factory.mktemp("benchmarks")
    sections = [text for name in ("steps", "lora", "selection", "gradients") for text in ("--only", name)]
    benchmarks.main(["--quick", "--device", "cpu", "--out", str(out), *sections])
    return out


@pytest.fixture(scope="module")
def tables(written: Path) -> dict[str, list[dict[str, Any]]]:
    """title -> rows."""
    return {table["title"]: table["rows"] for table in json.loads((written / "cpu.json").read_text())["tables"]}


def test_every_step_is_there_beside_plain_training_and_the_limit(tables: dict[str, list[dict[str, Any]]]) -> None:
    rows = tables["Step, full fine-tuning, float32"]
    pruned = [row for row in rows if row["step"].startswith("Q-Tuning, ours")]
    assert [row["step"].split()[-1] for row in pruned] == ["12.5%", "25.0%", "50.0%"]
    reused = [row for row in rows if row["step"].startswith("Q-Tuning, reused graphs")]
    assert [row["step"].split()[-1] for row in reused] == ["12.5%", "25.0%", "50.0%"]
    for row in pruned:
        for column in ("/ plain ours", "/ limit", "/ transformers"):
            assert row[column]["value"] > 0
            assert row[column]["verdict"] == "met" or row[column]["verdict"].startswith("missed by")
    assert {row["step"] for row in rows} > {"plain SFT, ours", "plain SFT, transformers, padded"}
    assert tables["Step, LoRA of rank 16 on all linear layers, float32"][0]["/ plain"] == 1.0


def test_every_path_has_the_gradients_of_the_masked_loss(tables: dict[str, list[dict[str, Any]]]) -> None:
    rows = tables["Gradients against the masked loss"]
    assert len(rows) == 14
    for row in rows:
        assert row["max |g|"] > 1e-3
        assert row["max difference / max |g|"]["value"] > 0, "packed and padded sums never agree to the last bit"
        assert row["max difference / max |g|"]["verdict"] == "met", row
        assert row["norm of difference / norm"]["verdict"] == "met", row


def test_every_target_is_listed_first_and_shown_in_the_document(
    written: Path, tables: dict[str, list[dict[str, Any]]]
) -> None:
    document = (written / "cpu.md").read_text()
    assert next(iter(tables)) == "Targets"
    checked = [v for title, rows in tables.items() if title != "Targets" for r in rows for v in r.values()]
    assert len(tables["Targets"]) == sum(isinstance(value, dict) for value in checked)
    assert all(f"| {row['what']} |" in document for row in tables["Targets"] if "|" not in row["what"])
    about = json.loads((written / "cpu.json").read_text())["about"]
    assert {"command", "date", "git", "processor", "packages"} <= about.keys()


def test_kept_sets_have_the_size_that_the_limit_assumes(benchmarks: Any) -> None:
    from benchmarks import paths, shapes

    samples = shapes.ragged(8, 100, 1.0)
    total = sum(len(sample.tokens) for sample in samples)
    for ratio in (0.125, 0.25, 0.5):
        kept = shapes.keep_share(samples, ratio, paths.TOKEN_RATIO)
        tokens = sum(len(s.tokens) for s, mask in zip(samples, kept.masks, strict=True) if mask.any())
        assert kept.share == pytest.approx(tokens / total)
        assert kept.share == pytest.approx(ratio, abs=0.005)


@pytest.mark.slow
def test_a_quick_run_of_everything_ends_well(benchmarks: Any, tmp_path: Path) -> None:
    benchmarks.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])
    rows = {table["title"]: table["rows"] for table in json.loads((tmp_path / "cpu.json").read_text())["tables"]}
    assert len(rows["Start-up"]) > 4
    assert len(rows["Scoring head over vocabulary and length, float32"]) == 4
    assert rows["Peak memory of a step above the model, float32"][0]["peak MiB"] > 0
    assert len(rows["Decisions by bfloat16 scores against exact ones"]) == 4
