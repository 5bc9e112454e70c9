"""`make gpu-check` from its start to the written page, on a CPU at sizes at which its numbers mean nothing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qtuning.plan.machines import MACHINES, find_machine

REPOSITORY = Path(__file__).parent.parent
QUICK = ["--device", "cpu", "--quick"]
WAYS = [
    "plain",
    "naive, 25%",
    *(f"{way}, {ratio}%" for way in ("fresh", "reuse") for ratio in ("12.5", "25.0", "50.0")),
]


@pytest.fixture(scope="module")
def gpu_check() -> Iterator[Any]:
    """The command, which is no part of the package."""
    sys.path.insert(0, str(REPOSITORY))
    from benchmarks import gpu_check

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")  # which it sets
        yield gpu_check
    sys.path.remove(str(REPOSITORY))


@pytest.fixture(scope="module")
def out(gpu_check: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu-check")
    assert gpu_check.main([*QUICK, "--out", str(out)]) == 0
    return out


def tables_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {table["title"]: table["rows"] for table in json.loads((out / "gpu.json").read_text())["tables"]}


def test_without_a_gpu_it_says_so_and_writes_nothing(
    gpu_check: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):  # which it empties, being told to use no GPU
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr(gpu_check, "REPOSITORY", Path("/nonexistent"))
    assert gpu_check.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gpu-check: no GPU here: nothing was measured or written")


def test_numbers_that_mean_nothing_never_reach_the_documentation(gpu_check: Any) -> None:
    for arguments in (QUICK, ["--quick"]):
        with pytest.raises(SystemExit):
            gpu_check.main(arguments)


def test_every_part_reaches_the_page(out: Path) -> None:
    tables, page = tables_of(out), (out / "gpu.md").read_text()
    kernels = tables["Attention kernels"]
    assert {row["kernel"] for row in kernels} == {"segments"} and len(kernels) == 9
    for row in tables["Exactness against the CPU in float32"]:
        exact = row["path"].startswith("float32")
        assert all(value["verdict"] == "met" for key, value in row.items() if key != "path")
        # in bfloat16 something else is computed, or the comparison compares nothing
        assert (row["NLL, largest difference"]["value"] == 0) == exact
    assert {"Generation, batch of 16, HF, bfloat16", "What the plan needs", "The plan with these numbers"} <= set(
        tables
    )
    assert all(f"## {title}" in page for title in tables)
    about = json.loads((out / "gpu.json").read_text())["about"]
    assert {"command", "date", "git", "packages", "device", "duration"} <= about.keys()
    assert "DDP and FSDP: need two GPUs" in page


@pytest.mark.parametrize("title", ["Updates, 135M, LoRA", "Updates, 7B, LoRA", "Updates, 135M, full fine-tuning"])
def test_updates_are_those_of_the_training_loop(out: Path, title: str) -> None:
    rows = tables_of(out)[title]
    assert [row["update"] for row in rows] == WAYS
    found = {row["update"]: row for row in rows}
    assert found["plain"]["tokens trained"] == "100.0%" and found["plain"]["/ plain"] == 1
    for ratio in (12.5, 25.0, 50.0):
        for way in ("fresh", "reuse"):
            trained = float(found[f"{way}, {ratio}%"]["tokens trained"].rstrip("%"))
            assert ratio / 2 < trained < 2 * ratio, "of the tokens, about as many as of the samples"
        # one more forward than what is trained, and it is accounted
        assert found[f"fresh, {ratio}%"]["share of peak"] > 0
    for row in rows:
        assert row["ms"] > 0 and row["by the clock"] >= row["ms"] * 0.99 and row["peak GiB"] > 0
    planned = {row["update"] for row in tables_of(out)["The plan with these numbers"]}
    name, tuning = title.split(", ")[1:]
    assert f"{name}, {'lora' if tuning == 'LoRA' else 'full'}, fresh, 25.0%" in planned


def test_the_plan_takes_what_was_measured(out: Path) -> None:
    found = find_machine("checked-cpu", out)
    rows = {row["what"]: row["measured"] for row in tables_of(out)["What the plan needs"]}
    assert found.rate("bfloat16") == pytest.approx(1e12 * rows["products, bfloat16, TFLOP/s"])
    assert found.streaming is not None
    assert found.streaming * found.bandwidth == pytest.approx(1e9 * rows["elementwise work, GB/s"])
    assert 1e3 * found.layer_seconds == pytest.approx(rows["a layer and token of generation, ms"])
    assert found.update_seconds > 0 and found.decision_seconds >= 0
    assert "gpu_check" in found.measured


def test_what_does_not_fit_is_named(gpu_check: Any, tmp_path: Path) -> None:
    assert gpu_check.main([*QUICK, "--out", str(tmp_path), "--memory", "0.0001", "--minutes", "0"]) == 0
    left_out = [row["what"] for row in tables_of(tmp_path)["Left out"]]
    assert "updates, 7B, lora: needs 0.0 GiB, and 0.0 GiB are free" in left_out
    assert "Exactness against the CPU in float32" in tables_of(tmp_path)
    assert not any(title.startswith("Updates") for title in tables_of(tmp_path))
    # nothing said how long bookkeeping takes, so the plan keeps what it assumed
    assert find_machine("checked-cpu", tmp_path).update_seconds == MACHINES["h100"].update_seconds


def test_time_and_memory_are_asked_before_a_part_runs(gpu_check: Any) -> None:
    import torch

    from benchmarks.gpu_setting import GIB, QUICK, Setting

    setting = Setting(torch.device("cpu"), QUICK, memory=2.0 * GIB, seconds=100)
    assert setting.affords("short", 50) and setting.holds("small", GIB)
    assert not setting.affords("long", 200) and not setting.holds("large", 3 * GIB)
    assert setting.left_out == [
        "long: would take 200 s, and 100 s are left",
        "large: needs 3.0 GiB, and 2.0 GiB are free",
    ]


def test_a_part_that_fails_leaves_the_others(gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu_kernels, gpu_speeds

    def fails(*_: Any) -> None:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(gpu_kernels, "kernels", fails)
    monkeypatch.setattr(gpu_speeds, "speeds", fails)
    assert gpu_check.main([*QUICK, "--out", str(tmp_path)]) == 1
    tables = tables_of(tmp_path)
    assert {"what": "kernels: FAILED: RuntimeError: no such kernel"} in tables["Left out"]
    assert "Exactness against the CPU in float32" in tables and not (tmp_path / "machines").exists()


def test_a_card_is_known_by_what_cuda_calls_it(gpu_check: Any) -> None:
    assert gpu_check._known("NVIDIA H100 80GB HBM3") == ("h100", MACHINES["h100"])
    assert gpu_check._known("NVIDIA GeForce RTX 5090") == ("nvidia-geforce-rtx-5090", None)


def test_the_page_says_whether_anything_was_measured() -> None:
    page = (REPOSITORY / "docs/benchmarks/gpu.md").read_text()
    measured = (REPOSITORY / "docs/benchmarks/gpu.json").exists()
    assert ("Not measured yet; run `make gpu-check`" in page) != measured
    assert ("## Exactness against the CPU" in page) == measured


@pytest.mark.slow
def test_two_processes_train_what_one_does(gpu_check: Any, tmp_path: Path) -> None:
    """Over gloo on a CPU; minutes."""
    import torch

    from benchmarks.gpu_setting import QUICK, Setting
    from benchmarks.gpu_several import several

    (table,) = several(Setting(torch.device("cpu"), QUICK, 1e9, 3600), devices=2, samples=64)
    rows: dict[Any, Any] = {row["training"]: row for row in table.rows}
    assert set(rows) == {"one process", "DDP, two", "FSDP, two"}
    for row in rows.values():
        assert row["updates"] == rows["one process"]["updates"] > 1
        assert row["difference from one"].met
